//! The executor: plan × machine → image. Owns the order of a bake, the undo stack, the journal, the events and the one
//! wait loop. Decides nothing a plan should have decided, and does not know which provider it drives.

mod event;
mod guard;
mod image_lock;
mod inspect;
mod journal;
mod owner;
mod publish;
mod run;
mod run_id;
mod schedule;
mod script;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod undo;
mod verify;
mod volume;
pub mod wait;

pub use event::{Event, Reporter, Sink};
pub use run::{Job, LOG, Outcome, bake};
pub use run_id::RunId;
pub use schedule::side_by_side;
pub use sweep::{dead, living, outstanding, sweep};
pub use undo::{Leftover, Undo};
pub use verify::{Checked, Group, Verified, verify, verify_existing};

/// Name of a run's journal in its folder.
const JOURNAL: &str = "journal.jsonl";
