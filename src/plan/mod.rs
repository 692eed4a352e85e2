//! Plans: recipe + lock + facts → everything a bake will do, with nothing left to decide.
//!
//! PURE: time, randomness, environment, network and disk come in as [`Facts`]. What `amibake plan` prints is what
//! `amibake build` executes, to the byte.

mod types;

pub use types::*;
