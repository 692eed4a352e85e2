//! Recipes: raw TOML → a valid [`Recipe`], with every fault of the file told at once, by line and column.
//!
//! Owns the recipe format, its JSON Schema and `--set`. Does not know plans, providers or releases. A file is read into a
//! tree that knows every value's place; the tree is checked against the schema that the types give, then decoded, then
//! checked for how its values go together.

pub mod fault;
mod kinds;
mod rules;
mod shape;
mod tree;
mod types;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;

pub use fault::{Fault, Faults, Origin};
pub use kinds::{parse_duration, parse_size};
pub use types::*;

use crate::error::{Context as _, Error, Result};

/// The longest recipe that is read: a hundred times the shipped ones.
const MOST_BYTES: u64 = 1 << 20;

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
    let path = find(project_dir, name)?;
    let shown = path.strip_prefix(project_dir).unwrap_or(&path).display().to_string();
    let text = read(&path, &shown)?;
    let absolute = std::path::absolute(&path).or_usage(|| format!("cannot resolve {shown}"))?;
    let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let (recipe, tree, mut faults) = decode(&text, overrides);
    let mut assets_dir = dir.clone();
    if let Some(recipe) = &recipe {
        assets_dir = normal(&dir.join(&recipe.assets));
        faults.extend(missing_assets(recipe, &tree, &assets_dir));
    }
    let Some(recipe) = recipe.filter(|_| faults.is_empty()) else {
        return Err(Faults { file: shown, text, overrides: overrides.to_vec(), faults }.into());
    };
    Ok(Loaded { recipe, path: absolute, assets_dir, dir })
}

/// Reads one recipe from `text`; `file` is what messages call it. Pure.
///
/// # Errors
/// Every fault.
pub fn parse(file: &str, text: &str, overrides: &[String]) -> Result<Recipe, Faults> {
    let (recipe, _, faults) = decode(text, overrides);
    recipe.filter(|_| faults.is_empty()).ok_or_else(|| Faults {
        file: file.to_owned(),
        text: text.to_owned(),
        overrides: overrides.to_vec(),
        faults,
    })
}

/// The recipe as far as it can be decoded, its tree, and all faults.
fn decode(text: &str, overrides: &[String]) -> (Option<Recipe>, tree::Node, Vec<Fault>) {
    let (mut tree, mut faults) = tree::parse(text);
    let broken = !faults.is_empty();
    for (number, given) in overrides.iter().enumerate() {
        faults.extend(tree::set(&mut tree, number, given).err());
    }
    let shape = shape::check(&tree, &raw_schema());
    // After a syntax fault much is missing that is not missing: only what is there is judged.
    faults.extend(shape.into_iter().filter(|fault| !broken || !fault.message.contains(" has no `")));
    let plain = tree.plain(&|origin| shape::is_faulty(&faults, origin));
    let recipe = match Recipe::deserialize(plain) {
        Ok(recipe) => recipe,
        Err(error) if faults.is_empty() => {
            faults.push(Fault::new(&tree.origin, error.message()));
            return (None, tree, faults);
        }
        // What keeps it from being decoded has been told.
        Err(_) => return (None, tree, faults),
    };
    if !broken {
        faults.extend(rules::check(&recipe, &tree));
    }
    (Some(recipe), tree, faults)
}

fn missing_assets(recipe: &Recipe, tree: &tree::Node, assets_dir: &Path) -> Vec<Fault> {
    let assets = recipe.steps.iter().enumerate().filter_map(|(at, step)| match step {
        StepSpec::File { asset: Some(asset), .. } | StepSpec::Unit { asset: Some(asset), .. } => Some((at, asset)),
        _ => None,
    });
    assets
        .filter(|(_, asset)| !assets_dir.join(asset).is_file())
        .map(|(at, asset)| {
            Fault::new(&tree.locate(&["step", &at.to_string(), "asset"]), format!("there is no asset `{asset}`"))
                .note(format!("expected the file {}", assets_dir.join(asset).display()))
        })
        .collect()
}

impl From<Faults> for Error {
    fn from(faults: Faults) -> Self {
        let count = match faults.count() {
            1 => "1 fault".to_owned(),
            many => format!("{many} faults"),
        };
        Error::usage(format!("{} has {count}", faults.file)).with_detail(faults.render())
    }
}

/// Names of the recipes in `project_dir`'s `recipes/`, sorted: what `--all` means.
///
/// # Errors
/// Exit 2 when there is no such folder or it holds none.
pub fn all(project_dir: &Path) -> Result<Vec<String>> {
    let folder = project_dir.join("recipes");
    let hint = "run amibake in a project folder, or name one with -C";
    let entries = std::fs::read_dir(&folder)
        .or_usage(|| format!("there are no recipes in {}", project_dir.display()))
        .map_err(|error| error.with_hint(hint))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    if names.is_empty() {
        return Err(Error::usage(format!("there are no recipes in {}", folder.display())).with_hint(hint));
    }
    Ok(names)
}

fn find(project_dir: &Path, name: &str) -> Result<PathBuf> {
    if name.contains('/') || name.ends_with(".toml") {
        return Ok(project_dir.join(name));
    }
    let path = project_dir.join("recipes").join(format!("{name}.toml"));
    if path.exists() {
        return Ok(path);
    }
    let names = all(project_dir)?;
    let hint = match fault::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", names.join(", ")),
    };
    Err(Error::usage(format!("there is no recipe `{name}`")).with_hint(hint))
}

fn read(path: &Path, shown: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).or_usage(|| format!("cannot read {shown}"))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).or_usage(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::usage(format!("{shown} is longer than 1 MiB, which no recipe is")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::usage(format!("{shown}:{line}: this is not UTF-8 text"))
    })?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text),
    }
}

/// `path` without `.` and `..`, by its letters alone.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// The schema with amibake's own `x-amibake` words in it.
fn raw_schema() -> serde_json::Value {
    schemars::schema_for!(Recipe).to_value()
}

/// The JSON Schema of a recipe file (draft 2020-12).
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = raw_schema();
    patterns(&mut schema, None);
    schema["title"] = "amibake recipe".into();
    schema
}

/// Turns `x-amibake` words into patterns for editors.
fn patterns(schema: &mut serde_json::Value, inherited: Option<&'static kinds::Kind>) {
    match schema {
        serde_json::Value::Object(fields) => {
            let own = fields.shift_remove("x-amibake");
            let kind = own.as_ref().and_then(|name| kinds::kind(name.as_str()?)).or(inherited);
            let is_string = match fields.get("type") {
                Some(serde_json::Value::String(name)) => name == "string",
                Some(serde_json::Value::Array(names)) => names.iter().any(|name| name == "string"),
                _ => false,
            };
            if let Some(pattern) = kind.and_then(|kind| kind.pattern)
                && is_string
            {
                fields.insert("pattern".to_owned(), pattern.into());
            }
            for (key, value) in fields.iter_mut() {
                let inherits = matches!(key.as_str(), "items" | "anyOf" | "oneOf");
                patterns(value, kind.filter(|_| inherits));
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| patterns(item, inherited)),
        _ => {}
    }
}
