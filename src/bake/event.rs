//! What a bake tells the world while it runs: one stream, many listeners.

use std::sync::Arc;
use std::time::Duration;

/// Something that happened. `scope` in [`Sink::event`] says in which bake.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A phase began: `fetch`, `launch`, `wait`, `seal`, `stop`, `image`, `clean up` …
    PhaseStarted {
        /// What is being done, as a person would say it.
        name: String,
    },
    /// How far a phase is, in bytes.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// The phase that began last ended well. One that did not is followed by what the bake does next.
    PhaseEnded {
        /// How long it took.
        elapsed: Duration,
    },
    /// A step or check began.
    StepStarted {
        /// 1, 2, …
        number: usize,
        /// How many there are.
        total: usize,
        /// Its name.
        name: String,
        /// `packages`, `run`, `check`, …
        kind: &'static str,
    },
    /// Output of the running step, as it came.
    Output {
        /// Any bytes.
        bytes: Vec<u8>,
    },
    /// The running step or check ended.
    StepEnded {
        /// Whether it succeeded.
        success: bool,
        /// How long it took.
        elapsed: Duration,
    },
    /// A check that does not apply here.
    StepSkipped {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Something worth a line.
    Note {
        /// A lower-case fragment.
        text: String,
    },
    /// Something the user should know about.
    Warning {
        /// A lower-case fragment.
        text: String,
    },
    /// The bake is over.
    Finished {
        /// Whether it succeeded.
        success: bool,
        /// What came out, or what failed, in a line.
        summary: String,
        /// How long it took.
        elapsed: Duration,
    },
}

/// Listens to events. Called in order, on the thread that caused them: must be quick and must not fail.
pub trait Sink: Send + Sync {
    /// `scope` names the bake: `builder (amd64)`.
    fn event(&self, scope: &str, event: &Event);
}

/// Hands the events of one bake to every listener.
#[derive(Clone)]
pub struct Reporter {
    scope: Arc<str>,
    sinks: Arc<[Arc<dyn Sink>]>,
}

impl Reporter {
    /// A reporter for the bake called `scope`.
    #[must_use]
    pub fn new(scope: &str, sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self { scope: scope.into(), sinks: sinks.into() }
    }

    /// The same listeners, and one more.
    #[must_use]
    pub fn and(&self, sink: Arc<dyn Sink>) -> Self {
        Self { scope: self.scope.clone(), sinks: self.sinks.iter().cloned().chain([sink]).collect() }
    }

    /// The same listeners for a part of the work, called `scope`.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        Self { scope: scope.into(), sinks: self.sinks.clone() }
    }

    /// A reporter nobody listens to.
    #[must_use]
    pub fn silent() -> Self {
        Self::new("", Vec::new())
    }

    /// Tells every listener.
    pub fn event(&self, event: &Event) {
        for sink in self.sinks.iter() {
            sink.event(&self.scope, event);
        }
    }

    /// Tells every listener something worth a line.
    pub fn note(&self, text: impl Into<String>) {
        self.event(&Event::Note { text: text.into() });
    }

    /// Tells every listener something the user should know about.
    pub fn warn(&self, text: impl Into<String>) {
        self.event(&Event::Warning { text: text.into() });
    }
}
