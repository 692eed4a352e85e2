//! Plans: recipe + lock + facts → everything a bake will do, with nothing left to decide.
//!
//! PURE: time, randomness, environment, network and disk come in as [`Facts`]. What `amibake plan` prints is what
//! `amibake build` executes, to the byte.

mod types;

pub use types::*;

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::release::Lock;

/// Names of the assets that `recipe`'s steps refer to: what [`Facts::assets`] must hold.
#[must_use]
pub fn wanted_assets(recipe: &Recipe) -> BTreeSet<String> {
    let _ = recipe;
    BTreeSet::new()
}

/// Decides everything.
///
/// # Errors
/// Exit 2: a template that does not render, a lock without the architecture, a value with nothing for it, a disk
/// smaller than the base's.
pub fn plan(recipe: &Recipe, lock: &Lock, facts: &Facts, options: &Options) -> Result<Plan> {
    let _ = (recipe, lock, facts, options);
    Err(Error::usage("not written yet"))
}
