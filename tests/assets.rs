//! What the recipes put on a machine, as files: scripts against shellcheck, the unit that is no template against
//! systemd. Templates are checked where they are rendered.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a tool that `make test` asks for; a machine without it fails here rather than skips in silence.
fn run(command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("{name} is needed by this test: {error}"))
}

fn shellcheck(name: &str, script: &str) {
    let scratch = tempfile::tempdir().expect("scratch and repository are readable");
    let file = scratch.path().join("script");
    std::fs::write(&file, script).expect("scratch and repository are readable");
    // SC1091: files that exist on the baked machine only.
    let output = run(Command::new("shellcheck").args(["--exclude=SC1091"]).arg(&file).stdin(Stdio::null()));
    assert!(output.status.success(), "{name}:\n{}", String::from_utf8_lossy(&output.stdout));
}

fn recipe(name: &str) -> toml::Table {
    let path = repository().join("recipes").join(format!("{name}.toml"));
    std::fs::read_to_string(&path)
        .expect("scratch and repository are readable")
        .parse()
        .expect("scratch and repository are readable")
}

fn entries<'a>(recipe: &'a toml::Table, kind: &str) -> impl Iterator<Item = &'a toml::Table> {
    recipe[kind]
        .as_array()
        .expect("scratch and repository are readable")
        .iter()
        .map(|entry| entry.as_table().expect("scratch and repository are readable"))
}

#[test]
fn scripts_of_the_builder_pass_shellcheck() {
    let mut scripts = 0;
    for entry in std::fs::read_dir(repository().join("assets/builder")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.starts_with("#!") {
            shellcheck(&path.display().to_string(), &text);
            scripts += 1;
        }
    }
    assert!(scripts >= 5, "only {scripts} scripts found");
}

#[test]
fn scripts_of_the_recipes_pass_shellcheck() {
    for name in ["builder", "agent"] {
        let recipe = recipe(name);
        let mut scripts = 0;
        for entry in entries(&recipe, "step").chain(entries(&recipe, "check")) {
            if let Some(script) = entry.get("script") {
                let what = format!("{name}: {}", entry["name"]);
                shellcheck(&what, &format!("#!/bin/bash\nset -Eeuo pipefail\n{}", script.as_str().unwrap()));
                scripts += 1;
            }
        }
        assert!(scripts >= 5, "only {scripts} scripts found in {name}");
    }
}

#[test]
fn every_asset_of_a_recipe_exists_and_every_asset_is_used() {
    let recipe = recipe("builder");
    let mut used: Vec<PathBuf> = entries(&recipe, "step")
        .filter_map(|step| step.get("asset"))
        .map(|asset| repository().join("assets").join(asset.as_str().unwrap()))
        .collect();
    let mut present: Vec<PathBuf> =
        std::fs::read_dir(repository().join("assets/builder")).unwrap().map(|entry| entry.unwrap().path()).collect();
    used.sort();
    present.sort();
    assert_eq!(used, present);
}

/// systemd-analyze exits 0 for a directive it ignores, so any word from it counts.
#[test]
fn the_volume_unit_is_valid() {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("etc/systemd/system");
    let programs = root.path().join("usr/local/libexec/amibake");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::create_dir_all(&programs).unwrap();
    executable(&programs.join("volume"));
    copy_units(Path::new("/usr/lib/systemd/system"), &root.path().join("usr/lib/systemd/system"));
    let unit = units.join("amibake-volume@.service");
    std::fs::copy(repository().join("assets/builder/amibake-volume@.service"), &unit).unwrap();
    let root = format!("--root={}", root.path().display());
    let output = run(Command::new("systemd-analyze").args(["verify", "--man=no", &root]).arg(&unit));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

fn executable(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path)
        .expect("scratch and repository are readable");
}

/// The distribution's own units, copied: a link would lead out of the root that systemd-analyze is given.
fn copy_units(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("scratch and repository are readable");
    for entry in std::fs::read_dir(from).expect("scratch and repository are readable") {
        let path = entry.expect("scratch and repository are readable").path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().expect("scratch and repository are readable")))
                .expect("scratch and repository are readable");
        }
    }
}
