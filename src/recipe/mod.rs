//! Recipes: raw TOML → a valid [`Recipe`], with every fault of the file told at once, by line and column.
//!
//! Owns the recipe format, its JSON Schema and `--set`. Does not know plans, providers or releases.
//!
//! A file is read into a tree that knows its places (`tree`), `--set` is put in (`overrides`), and three judges collect
//! faults side by side: `shape` against the schema that the types generate, `rules` for what several values must agree
//! on, `disk` for files that must exist. Only a tree without faults is decoded.

mod aws;
mod disk;
mod fault;
mod format;
mod overrides;
mod quantity;
mod rules;
mod schema;
mod shape;
mod source;
mod suggest;
mod tree;
mod types;

pub use aws::*;
pub use fault::Faults;
pub use quantity::{Invalid, parse_duration, parse_size};
pub use schema::schema;
pub use types::*;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use self::fault::Fault;
use self::source::{MOST_BYTES, Sources, Span};
use self::tree::{Node, Trust};
use crate::error::{Context as _, Error, Result};

/// Folder of the recipes in a project.
const FOLDER: &str = "recipes";

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

/// Judges a string that is no recipe's by the format of a recipe's definition: `SubnetId`, `Bucket`.
///
/// # Errors
/// What was expected, with what was found.
pub(crate) fn judge(format: &str, text: &str) -> std::result::Result<(), String> {
    let Some(format) = format::Format::named(format) else { return Err(format!("there is no format `{format}`")) };
    format.check(text).map_err(|invalid| format!("{invalid}; expected {}", format.expected))
}

/// Reads, overrides and validates one recipe. `name` is a recipe's name (`builder` → `recipes/builder.toml` below
/// `project_dir`) or, with a `/` in it or `.toml` at its end, the path of a file, relative to `project_dir`.
/// `overrides` are `key=value` as given with `--set`.
///
/// # Errors
/// Exit 2 with every fault of the file, or when there is no such file (with the name that was likely meant).
pub fn load(project_dir: &Path, name: &str, overrides: &[String]) -> Result<Loaded> {
    let path = find(project_dir, name)?;
    let told = told(&path);
    let bytes = read_bounded(&path, &told)?;
    let absolute = std::path::absolute(&path).or_usage(|| format!("cannot find the folder of {told}"))?;
    let dir = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let (recipe, root) = examine(&told, &bytes, overrides, Some(&dir))?;
    let assets_dir = disk::assets_dir(&dir, &root).unwrap_or_else(|| dir.clone());
    Ok(Loaded { recipe, path, assets_dir, dir })
}

/// Judges the text of a recipe without touching the disk: everything [`load`] does, but for what must lie beside the
/// file (assets, the recipes of peers). `file_name` is what faults are told by.
///
/// # Errors
/// Every fault of the text and of `overrides`.
pub fn parse(file_name: &str, text: impl AsRef<[u8]>, overrides: &[String]) -> Result<Recipe, Faults> {
    examine(file_name, text.as_ref(), overrides, None).map(|(recipe, _)| recipe)
}

/// Names of the recipes in `project_dir`'s `recipes/`, sorted: what `--all` means.
///
/// # Errors
/// Exit 2 when there is no such folder or it holds none.
pub fn all(project_dir: &Path) -> Result<Vec<String>> {
    let folder = project_dir.join(FOLDER);
    let hint = "run amibake in the project's folder, or name a recipe's file";
    if !folder.is_dir() {
        return Err(Error::usage(format!("no folder {}", told(&folder))).with_hint(hint));
    }
    match disk::names(&folder) {
        names if names.is_empty() => Err(Error::usage(format!("no recipes in {}", told(&folder))).with_hint(hint)),
        names => Ok(names),
    }
}

fn find(project_dir: &Path, name: &str) -> Result<PathBuf> {
    let by_path = name.contains('/') || name.ends_with(".toml");
    let path = if by_path { project_dir.join(name) } else { project_dir.join(FOLDER).join(format!("{name}.toml")) };
    if path.try_exists().or_usage(|| format!("cannot read {}", told(&path)))? {
        return Ok(path);
    }
    if by_path {
        let folder = path.parent().unwrap_or(project_dir);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let names = disk::names(folder);
        let error = Error::usage(format!("no recipe file {}", told(&path)));
        return Err(match suggest::nearest(stem, names.iter().map(String::as_str)) {
            Some(guess) => error.with_hint(format!("did you mean {}?", told(&folder.join(format!("{guess}.toml"))))),
            None => error,
        });
    }
    let names = all(project_dir)?;
    let error = Error::usage(format!("no recipe `{}` in {}", quantity::shown(name), told(&project_dir.join(FOLDER))));
    Err(match suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(guess) => error.with_hint(format!("did you mean `{guess}`?")),
        None => error.with_hint(format!("there are {}", names.join(", "))),
    })
}

/// `path` as the user most likely thinks of it: relative to the working folder where it is below it.
fn told(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    let short = short.strip_prefix(".").unwrap_or(short);
    short.display().to_string().chars().flat_map(quantity::printable).collect()
}

fn read_bounded(path: &Path, told: &str) -> Result<Vec<u8>> {
    let kind = path.metadata().or_usage(|| format!("cannot read {told}"))?;
    if kind.is_dir() {
        return Err(Faults::whole_file(told, "a folder, not a recipe").into());
    }
    // A pipe could block for ever, a device never end.
    if !kind.is_file() {
        return Err(Faults::whole_file(told, "not a regular file").into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).or_usage(|| format!("cannot read {told}"))?;
    match file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(Error::interrupted()),
        Err(error) => Err(Error::usage(format!("cannot read {told}")).with_source(error)),
    }
}

/// The text of a recipe, or why it is none.
fn decode<'b>(name: &str, bytes: &'b [u8]) -> Result<&'b str, Faults> {
    if bytes.len() > MOST_BYTES {
        return Err(Faults::whole_file(name, "larger than 1 MiB: not a recipe"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Faults::whole_file(name, "UTF-16 text: save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let broken = |text: &str, at: usize, width: usize, message: &str| {
        Faults::new(&Sources::new(name, text, &[]), vec![Fault::new(Span::file(at..at + width), message)])
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let mark = char::REPLACEMENT_CHARACTER.len_utf8();
        broken(&String::from_utf8_lossy(bytes), error.valid_up_to(), mark, "not UTF-8 text")
    })?;
    match text.find('\0') {
        Some(at) => Err(broken(text, at, 1, "a NUL byte: not a text file")),
        None => Ok(text),
    }
}

/// Judges a recipe; `dir` is its folder when the disk may be asked.
fn examine(name: &str, bytes: &[u8], overrides: &[String], dir: Option<&Path>) -> Result<(Recipe, Node), Faults> {
    let sources = Sources::new(name, decode(name, bytes)?, overrides);
    let schema = schema();
    let tree::Document { mut root, syntax: mut faults, trust } = tree::read(&sources);
    let empty = root.entries().is_empty() && faults.is_empty();
    let mut found = Vec::new();
    if !matches!(trust, Trust::Until(_)) {
        found = overrides::apply(&schema, &sources, &mut root);
    }
    if empty {
        faults.push(Fault::new(root.span, "an empty recipe").expected("at least `name = \"…\"`"));
    } else {
        found.extend(shape::check(&schema, &sources, &root));
        found.extend(rules::check(&sources, &root));
        found.extend(dir.into_iter().flat_map(|dir| disk::check(dir, &root)));
    }
    found.retain(|fault| match trust {
        Trust::Whole => true,
        Trust::Holes => !fault.missing,
        Trust::Until(end) => !fault.missing && fault.span.end <= end && !fault.span.is_override(),
    });
    faults.extend(found);
    if !faults.is_empty() {
        return Err(Faults::new(&sources, faults));
    }
    match serde_json::from_value(root.to_json()) {
        Ok(recipe) => Ok((recipe, root)),
        // The schema is made from the same types, so this is a gap between the two and a bug here, not the user's.
        Err(error) => Err(Faults::whole_file(name, &format!("cannot be decoded: {error}"))),
    }
}
