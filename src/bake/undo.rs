//! The undo stack and its journal: what a run made, and its removal on every path. Rust has no async drop, so whoever
//! holds an [`Undo`] calls [`Undo::unwind`] on success, error, cancel and panic; its `Drop` only complains.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

use super::Reporter;
use super::journal::{Journal, Record};
use crate::error::Result;
use crate::provider::{Provider, Resource};

/// How long the removal of one resource may take. Killing a process and deleting a disk take a second; what is slow in
/// a cloud (an instance that shuts down first) takes about a minute.
const DEADLINE: Duration = Duration::from_secs(120);

/// Something that should be gone and is not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leftover {
    /// What.
    pub resource: Resource,
    /// Why it could not be removed.
    pub reason: String,
}

/// What a run made so far, last in, first out; every change is in the journal before it matters.
pub struct Undo {
    state: Mutex<State>,
    reporter: Reporter,
}

struct State {
    journal: Journal,
    stack: Vec<Entry>,
    next: Mark,
}

struct Entry {
    resource: Resource,
    since: Mark,
    /// Its failure to go away was returned by an unwind: the drop need not complain about it again.
    told: bool,
}

/// A moment in the life of an [`Undo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

impl Mark {
    /// Before everything.
    pub(super) const START: Self = Self(0);
}

impl Undo {
    /// An empty stack with its journal (JSON lines) at `journal`, in a folder that exists; the file must not exist.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written.
    pub fn open(journal: &Path) -> Result<Self> {
        Ok(Self::over(Journal::create(journal)?))
    }

    pub(super) fn over(journal: Journal) -> Self {
        Self::resume(journal, Vec::new())
    }

    /// The stack of another run, whose journal has `armed` already.
    pub(super) fn resume(journal: Journal, armed: Vec<Resource>) -> Self {
        let marks = (0..).map(Mark);
        let stack: Vec<_> =
            armed.into_iter().zip(marks).map(|(resource, since)| Entry { resource, since, told: false }).collect();
        let next = Mark(stack.len() as u64);
        Self { state: Mutex::new(State { journal, stack, next }), reporter: Reporter::silent() }
    }

    /// Complaints go to `reporter`.
    #[must_use]
    pub fn reporting(mut self, reporter: &Reporter) -> Self {
        self.reporter = reporter.clone();
        self
    }

    /// Arms the removal of `resource`. For something whose name is known beforehand (a path), call this before it is
    /// made; for something that is named by being made (a process, an instance), on the line after.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written; the resource is on the stack all the same.
    pub fn arm(&self, resource: Resource) -> Result<()> {
        let mut state = self.state();
        let since = state.next;
        state.next.0 += 1;
        state.stack.push(Entry { resource: resource.clone(), since, told: false });
        state.journal.append(&Record::Armed { resource })
    }

    /// Takes `resource` off the stack: it stays, on purpose.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written; the resource is still on the stack then.
    pub fn keep(&self, resource: &Resource) -> Result<()> {
        self.release(resource, Record::Kept { resource: resource.clone() })
    }

    /// Takes `resource` off the stack: whoever armed it has removed it already.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written; the resource is still on the stack then, and removed once more.
    pub fn removed(&self, resource: &Resource) -> Result<()> {
        self.release(resource, Record::Removed { resource: resource.clone() })
    }

    /// Takes `resource` off the stack: it is left for a person to look at, and swept once its machine has ended.
    pub(super) fn leave(&self, resource: &Resource) -> Result<()> {
        self.release(resource, Record::Left { resource: resource.clone() })
    }

    fn release(&self, resource: &Resource, record: Record) -> Result<()> {
        let mut state = self.state();
        // Journal first: off the stack but armed in the journal, a later sweep would remove what was meant to stay.
        state.journal.append(&record)?;
        state.stack.retain(|entry| entry.resource != *resource);
        Ok(())
    }

    /// Writes a record that arms nothing.
    pub(super) fn record(&self, record: &Record) -> Result<()> {
        self.state().journal.append(record)
    }

    /// Now.
    pub(super) fn mark(&self) -> Mark {
        self.state().next
    }

    /// What was armed since `mark` and still is, in that order.
    pub(super) fn armed_since(&self, mark: Mark) -> Vec<Resource> {
        let state = self.state();
        state.stack.iter().filter(|entry| entry.since >= mark).map(|entry| entry.resource.clone()).collect()
    }

    /// Removes everything armed, last in, first out, each with its own deadline; what could not be removed is tried
    /// once more after all the others (a disk is busy until its process is gone), then returned, not hidden. May be
    /// called again, and may be dropped half-way: what is not removed is still on the stack.
    pub async fn unwind(&self, provider: &dyn Provider) -> Vec<Leftover> {
        let leftovers = self.unwind_since(provider, Mark::START).await;
        let mut state = self.state();
        for entry in &mut state.stack {
            entry.told = true;
        }
        if leftovers.is_empty() {
            let written = state.journal.append(&Record::Done);
            drop(state);
            self.complain(written);
        }
        leftovers
    }

    /// Removes what was armed since `mark`, as [`Undo::unwind`] does; what could not be removed is still on the stack.
    pub(super) async fn unwind_since(&self, provider: &dyn Provider, mark: Mark) -> Vec<Leftover> {
        let leftovers = self.pass(provider, mark).await;
        if leftovers.is_empty() { leftovers } else { self.pass(provider, mark).await }
    }

    async fn pass(&self, provider: &dyn Provider, mark: Mark) -> Vec<Leftover> {
        let entries: Vec<_> = {
            let state = self.state();
            let since = state.stack.iter().filter(|entry| entry.since >= mark);
            since.map(|entry| (entry.since, entry.resource.clone())).collect()
        };
        let mut leftovers = Vec::new();
        for (since, resource) in entries.into_iter().rev() {
            let outcome = remove(provider, &resource).await;
            let mut state = self.state();
            let written = match outcome {
                Ok(()) => {
                    state.stack.retain(|entry| entry.since != since);
                    state.journal.append(&Record::Removed { resource })
                }
                Err(reason) => {
                    leftovers.push(Leftover { resource: resource.clone(), reason: reason.clone() });
                    state.journal.append(&Record::Failed { resource, reason })
                }
            };
            drop(state);
            self.complain(written);
        }
        leftovers
    }

    /// A journal that cannot be written does not stop an unwind: a later sweep finds gone what it would remove.
    fn complain(&self, written: Result<()>) {
        if let Err(error) = written {
            self.reporter.warn(format!("{error} while cleaning up"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not keep anything from being removed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes one resource; the reason if it could not be done.
async fn remove(provider: &dyn Provider, resource: &Resource) -> Result<(), String> {
    let removal = AssertUnwindSafe(provider.remove(resource)).catch_unwind();
    match tokio::time::timeout(DEADLINE, removal).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(reason(&error)),
        Ok(Err(_panic)) => Err("its removal panicked".to_owned()),
        Err(_elapsed) => Err(format!("its removal took longer than {} s", DEADLINE.as_secs())),
    }
}

/// An error and its causes on one line.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text.push_str(": ");
        text.push_str(&current.to_string());
        cause = current.source();
    }
    text
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("armed", &self.armed_since(Mark::START)).finish_non_exhaustive()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let forgotten: Vec<_> =
            state.stack.iter().filter(|entry| !entry.told).map(|entry| entry.resource.to_string()).collect();
        if !forgotten.is_empty() {
            self.reporter.warn(format!("not removed: {}; the next build will", forgotten.join(", ")));
        }
    }
}
