//! Recipes on disk: found by name or path, with their assets and peers, and what is told when they are not there.

use std::fmt::Write as _;
use std::path::Path;

use amibake::error::{Result, render};
use amibake::recipe::{Loaded, all, load};

/// A project with a recipe that uses one asset and has a peer.
fn project() -> tempfile::TempDir {
    let project = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = project.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a path below the project")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write("assets/units/buildkitd.service", "[Service]\n");
    write(
        "recipes/builder.toml",
        "name = \"builder\"\n[[step]]\nkind = \"unit\"\nunit = \"buildkitd.service\"\nasset = \"units/buildkitd.service\"\n",
    );
    write(
        "recipes/agent.toml",
        "name = \"agent\"\n[[check]]\nname = \"pair\"\nscript = \"true\"\npeer = \"builder\"\n",
    );
    write("recipes/schema.json", "{}");
    project
}

fn told_by(outcome: Result<Loaded>, project: &Path) -> String {
    let error = outcome.expect_err("a refusal");
    assert_eq!(error.exit(), amibake::Exit::Usage);
    render(&error).replace(&project.display().to_string(), "PROJECT")
}

#[test]
fn a_recipe_is_found_by_name_and_by_path() {
    let project = project();
    let here = project.path();
    assert_eq!(all(here).unwrap(), ["agent", "builder"]);
    let loaded = load(here, "builder", &[]).unwrap();
    assert_eq!(loaded.recipe.name, "builder");
    assert_eq!(loaded.path, here.join("recipes/builder.toml"));
    assert_eq!(loaded.dir, here.join("recipes"));
    assert_eq!(loaded.assets_dir, here.join("assets"));
    assert_eq!(load(here, "recipes/builder.toml", &[]).unwrap().recipe, loaded.recipe);
    assert_eq!(load(here, &loaded.path.display().to_string(), &[]).unwrap().recipe, loaded.recipe);
    assert_eq!(load(here, "agent", &["name=agent2".to_owned()]).unwrap().recipe.name, "agent2");
}

#[test]
fn what_cannot_be_read_is_told_with_what_may_be_meant() {
    let project = project();
    let here = project.path();
    let mut told = String::new();
    std::fs::create_dir(here.join("recipes/folder.toml")).unwrap();
    writeln!(told, "{}", told_by(load(here, "bilder", &[]), here)).unwrap();
    writeln!(told, "{}", told_by(load(here, "nothing-like-it", &[]), here)).unwrap();
    writeln!(told, "{}", told_by(load(here, "recipes/agnet.toml", &[]), here)).unwrap();
    writeln!(told, "{}", told_by(load(here, "folder", &[]), here)).unwrap();
    writeln!(told, "{}", told_by(load(&here.join("recipes"), "builder", &[]), here)).unwrap();
    writeln!(told, "{}", told_by(load(here, "recipes/builder.toml/x", &[]), here)).unwrap();
    insta::assert_snapshot!("unreadable", told);
}

#[test]
fn what_must_lie_on_disk_is_looked_for() {
    let project = project();
    let here = project.path();
    let mut told = String::new();
    std::os::unix::fs::symlink("/", here.join("assets/out")).unwrap();
    let asset = |name: &str| told_by(load(here, "builder", &[format!("step.0.asset={name}")]), here);
    writeln!(told, "{}", asset("units/buildkit.service")).unwrap();
    writeln!(told, "{}", asset("units")).unwrap();
    writeln!(told, "{}", asset("out/proc/version")).unwrap();
    writeln!(told, "{}", told_by(load(here, "builder", &["assets=nowhere".to_owned()]), here)).unwrap();
    writeln!(told, "{}", told_by(load(here, "agent", &["check.pair.peer=bilder".to_owned()]), here)).unwrap();
    insta::assert_snapshot!("not_on_disk", told);
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let project = project();
    let here = project.path();
    let listener = std::os::unix::net::UnixListener::bind(here.join("recipes/socket.toml")).unwrap();
    assert!(told_by(load(here, "socket", &[]), here).contains("not a regular file"));
    drop(listener);
}
