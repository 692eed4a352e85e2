//! Recipes: raw TOML → a valid [`Recipe`], with every fault of the file told at once, by line and column.
//!
//! Owns the recipe format, its JSON Schema and `--set`. Does not know plans, providers or releases.

mod types;

pub use types::*;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A recipe as read from its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The valid recipe, `--set` applied.
    pub recipe: Recipe,
    /// Its file.
    pub path: PathBuf,
    /// Absolute folder that its assets are relative to.
    pub assets_dir: PathBuf,
    /// The file's folder, absolute: what `base.local.image` is relative to.
    pub dir: PathBuf,
}

/// Reads, overrides and validates one recipe. `name` is a recipe's name (`builder` → `recipes/builder.toml` below
/// `project_dir`) or a path to a file. `overrides` are `key=value` as given with `--set`.
///
/// # Errors
/// Exit 2 with every fault of the file.
pub fn load(project_dir: &Path, name: &str, overrides: &[String]) -> Result<Loaded> {
    let _ = (project_dir, overrides);
    Err(Error::usage(format!("no recipe `{name}`")))
}

/// Names of the recipes in `project_dir`'s `recipes/`, sorted: what `--all` means.
///
/// # Errors
/// Exit 2 when there is no such folder or it holds none.
pub fn all(project_dir: &Path) -> Result<Vec<String>> {
    Err(Error::usage(format!("no recipes in {}", project_dir.display())))
}

/// The JSON Schema of a recipe file (draft 2020-12).
#[must_use]
pub fn schema() -> serde_json::Value {
    serde_json::Value::Null
}
