//! Recipes: raw TOML → a valid [`Recipe`], with every fault of the file told at once, by line and column.
//!
//! Owns the recipe format, its JSON Schema and `--set`. Does not know plans, providers or releases.

mod types;

pub use types::*;
