//! Placeholder.

mod log;
mod manifest;

pub use log::FileLog;
pub(crate) use manifest::milliseconds;
pub use manifest::{CheckRecord, MANIFEST, Manifest, StepRecord, Times};
