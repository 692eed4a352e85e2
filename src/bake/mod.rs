//! The executor: plan × machine → image. Owns the order of a bake, the undo stack, the journal, the events and the one
//! wait loop. Decides nothing a plan should have decided, and does not know which provider it drives.

mod event;
mod undo;
pub mod wait;

pub use event::{Event, Reporter, Sink};
pub use undo::{Leftover, RunId, Undo};
