//! The executor: plan × machine → image. Owns the order of a bake, the undo stack, the journal, the events and the one
//! wait loop. Decides nothing a plan should have decided, and does not know which provider it drives.

mod event;
mod run;
mod undo;
mod verify;
pub mod wait;

pub use event::{Event, Reporter, Sink};
pub use run::{Job, Outcome, bake, sweep};
pub use undo::{Leftover, RunId, Undo};
pub use verify::{Checked, Group, Verified, verify};
