//! `amibake validate`.

use serde_json::json;

use super::prepare::{load, names_or_all};
use crate::cli::{Settings, ValidateArgs};
use crate::error::{Exit, Result};
use crate::report;

pub(crate) fn run(settings: &Settings, args: &ValidateArgs) -> Result<Exit> {
    let loaded = load(&settings.project, &names_or_all(settings, &args.names)?, &args.set)?;
    let shown = |path: &std::path::Path| path.strip_prefix(&settings.project).unwrap_or(path).display().to_string();
    if args.json {
        let recipes: Vec<_> =
            loaded.iter().map(|one| json!({ "recipe": one.recipe.name, "path": shown(&one.path) })).collect();
        report::print_json(&json!({ "recipes": recipes }));
    } else {
        for one in &loaded {
            report::print(&format!("{}: fine", shown(&one.path)));
        }
    }
    Ok(Exit::Done)
}
