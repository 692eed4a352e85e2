//! The aws provider, through the binary, against the test cloud: instances that really run what they are sent, images
//! that can be looked into. Needs what `scripts/test` sets up, so `cargo test` alone leaves them out.
#![allow(clippy::unwrap_used, missing_docs)]

mod around;
mod bakes;
mod catalog;
mod cloud;
mod distribute;
mod faults;
mod follow;
mod gc;
mod hook;
mod kills;
mod options;
mod promote;
mod setup;

#[path = "../releases/mirror.rs"]
mod releases;
