//! What a recipe needs to find on disk: its assets, and the recipes of its checks' peers.
//!
//! Reads folders and the kind of files, never a file's content.

use std::path::{Path, PathBuf};

use super::fault::Fault;
use super::quantity::shown;
use super::suggest::nearest;
use super::tree::{Node, Value};
use super::types::default_assets;

/// The folder that `root`'s assets are in, for a recipe in `dir`; `None` when the recipe does not say it rightly.
pub(super) fn assets_dir(dir: &Path, root: &Node) -> Option<PathBuf> {
    let default = default_assets();
    let text = root.get("assets").map_or(Some(default.as_str()), Node::text)?;
    (!text.contains('\0')).then(|| plain(&dir.join(text)))
}

/// `path` without `.` and `..`; symbolic links are not followed.
fn plain(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Collects what is not there.
pub(super) fn check(dir: &Path, root: &Node) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(assets) = assets_dir(dir, root) {
        assets_exist(&assets, root, &mut faults);
    }
    for check in root.items_of("check") {
        let Some((peer, name)) = check.get("peer").and_then(|peer| Some((peer, peer.text()?))) else { continue };
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain && !name.is_empty() && !dir.join(format!("{name}.toml")).is_file() {
            let others = names(dir);
            let guess = nearest(name, others.iter().map(String::as_str));
            let fault = Fault::new(peer.span, format!("no recipe `{name}` beside this one"));
            faults.push(fault.did_you_mean(guess).expected(format!("a file {name}.toml in {}", dir.display())));
        }
    }
    faults
}

fn assets_exist(assets: &Path, root: &Node, faults: &mut Vec<Fault>) {
    let used: Vec<_> = root.items_of("step").iter().filter_map(|step| step.get("asset")).collect();
    let Ok(home) = assets.canonicalize() else {
        if let Some(first) = used.first() {
            let at = root.get("assets").unwrap_or(first);
            let fault = Fault::new(at.span, format!("no assets folder {}", assets.display()));
            faults.push(fault.help(Some("`assets` is relative to the recipe file")));
        }
        return;
    };
    for node in used {
        let Value::String(name) = &node.value else { continue };
        if super::format::Format::named("AssetName").is_none_or(|format| format.check(name).is_err()) {
            continue;
        }
        let path = assets.join(name);
        let message = match path.canonicalize() {
            Ok(real) if !real.starts_with(&home) => {
                format!("asset `{}` is a link out of the assets folder", shown(name))
            }
            Ok(real) if real.is_file() => continue,
            Ok(_) => format!("asset `{}` is not a file", shown(name)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                format!("no asset `{}` in {}", shown(name), assets.display())
            }
            Err(error) => format!("asset `{}` cannot be read: {error}", shown(name)),
        };
        // Only a name that is not there can be a misspelling of one that is.
        let siblings = if path.exists() { Vec::new() } else { siblings(assets, name) };
        faults.push(Fault::new(node.span, message).did_you_mean(nearest(name, siblings.iter().map(String::as_str))));
    }
}

/// The files in the folder of the asset `name`, as asset names.
fn siblings(assets: &Path, name: &str) -> Vec<String> {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let Ok(entries) = assets.join(folder).read_dir() else { return Vec::new() };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let mut names: Vec<_> =
        files.filter_map(|entry| Some(format!("{prefix}{}", entry.file_name().to_str()?))).collect();
    names.sort();
    names
}

/// Names of the recipes in `dir`, sorted.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = dir.read_dir() else { return Vec::new() };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file())
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}
