//! The command line through its binary: help, exit statuses, what goes to stdout and what to stderr.

// In a test, an unwrap that fails is the test that fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::OutputAssertExt as _;

fn amibake(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amibake"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent/home");
    command
}

fn stdout(arguments: &[&str]) -> String {
    let output = amibake(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Exit status and stderr.
fn failure(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "data although it failed: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A project with one recipe of this text.
fn project(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("recipes")).unwrap();
    fs::write(folder.path().join("recipes/image.toml"), recipe).unwrap();
    folder
}

fn lock(folder: &Path) {
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("amibake.lock"), folder.join("amibake.lock")).unwrap();
}

#[test]
fn help_of_every_command() {
    let mut text = String::new();
    for command in [
        &[][..],
        &["build"],
        &["plan"],
        &["validate"],
        &["verify"],
        &["fetch"],
        &["base", "create"],
        &["base", "list"],
        &["schema"],
        &["completions"],
        &["check"],
        &["doctor"],
        &["init"],
        &["releases"],
        &["update"],
        &["verify-release"],
        &["pipeline"],
        &["render", "schedule"],
        &["render", "env-hook"],
        &["render", "pipeline"],
        &["render", "cloudformation"],
        &["man"],
        &["certs", "issue"],
        &["version"],
    ] {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        text.push_str(&format!("$ amibake {}\n{}\n", arguments.join(" "), stdout(&arguments)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn version_in_words_and_as_json() {
    let told = stdout(&["version"]);
    assert!(told.starts_with(&stdout(&["--version"])), "{told}");
    // Whom signatures are believed from, and since when.
    assert!(told.contains("trusted root") && told.contains("2025-"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&stdout(&["version", "--json"])).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_committed_schema_is_the_one_it_prints() {
    let committed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/schema.json")).unwrap();
    assert_eq!(stdout(&["schema"]), committed, "run: amibake schema > recipes/schema.json");
}

#[test]
fn the_shipped_recipes_are_valid() {
    assert_eq!(stdout(&["validate"]), "recipes/agent.toml: fine\nrecipes/builder.toml: fine\n");
}

#[test]
fn completions_are_read_by_their_shell() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions");
    fs::write(&script, stdout(&["completions", "bash"])).unwrap();
    Command::new("bash").arg("-n").arg(&script).assert().success();
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&["completions", shell]).contains("amibake"), "{shell}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &["--nonsense"][..],
        &["build"],
        &["plan"],
        &["build", "--all", "x"],
        &["fetch", "--extract", "bin/buildctl"],
        &["plan", "nothing"],
        &["-C", "/nonexistent", "validate"],
        &["validate", "nothing"],
        &["build", "agent", "--thin"],
        &["build", "agent", "--provider", "local", "--region", "eu-west-1"],
        &["fetch", "--lock", "/nonexistent/amibake.lock"],
        &["fetch", "--arch", "amd64", "--arch", "arm64", "--extract", "bin/buildctl", "--to", "/nonexistent"],
    ] {
        let (code, said) = failure(&mut amibake(arguments));
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains("error:"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_misspelt_recipe_is_guessed() {
    let (_, said) = failure(&mut amibake(&["plan", "bilder"]));
    assert!(said.contains("builder"), "{said}");
}

#[test]
fn faults_of_several_recipes_are_told_at_once() {
    let folder = project("nam = \"image\"\n");
    fs::write(folder.path().join("recipes/other.toml"), "name = \"Other\"\n").unwrap();
    let (code, said) = failure(amibake(&["validate"]).current_dir(folder.path()));
    assert_eq!(code, 2);
    assert!(said.contains("recipes/image.toml:1:1") && said.contains("recipes/other.toml:1:8"), "{said}");
}

#[test]
fn a_failure_as_json_is_one_object_on_stdout() {
    let output = amibake(&["plan", "nothing", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["error"]["exit"], 2);
    assert!(json["error"]["message"].as_str().unwrap().contains("nothing"), "{json}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let script = format!("{} schema | head -n 1", env!("CARGO_BIN_EXE_amibake"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_answer_that_is_lost_on_a_full_disk_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = amibake(&["schema"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to stdout"));
}

#[test]
fn colours_only_where_they_are_wanted() {
    let (_, plain) = failure(&mut amibake(&["plan", "nothing"]));
    assert!(!plain.contains('\x1b'), "{plain}");
    let (_, always) = failure(&mut amibake(&["--color", "always", "plan", "nothing"]));
    assert!(always.contains('\x1b'), "{always}");
    let (_, never) = failure(amibake(&["--color", "never", "plan", "nothing"]).env("CLICOLOR_FORCE", "1"));
    assert!(!never.contains('\x1b'), "{never}");
}

#[test]
fn no_base_says_how_to_get_one() {
    let folder = project("name = \"image\"\n");
    lock(folder.path());
    let cache = folder.path().join("cache");
    let (code, said) = failure(
        amibake(&["build", "image", "--provider", "local"]).current_dir(folder.path()).env("AMIBAKE_CACHE_DIR", &cache),
    );
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("amibake base create"), "{said}");
    let (code, said) = failure(
        amibake(&["build", "image", "--provider", "local", "--base", "nothing.raw"]).current_dir(folder.path()),
    );
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("nothing.raw"), "{said}");
}

#[test]
fn a_lock_without_the_architecture_is_said_before_anything_is_fetched() {
    let folder = project("name = \"image\"\n");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("amibake.lock")).unwrap();
    let only: String = text.split("\n[artifact.\"linux/arm64\"]").next().unwrap().to_owned();
    fs::write(folder.path().join("amibake.lock"), only).unwrap();
    let (code, said) = failure(amibake(&["fetch", "--arch", "arm64"]).current_dir(folder.path()));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("arm64"), "{said}");
}

#[test]
fn the_environment_names_the_cache_and_the_mirror() {
    let folder = tempfile::tempdir().unwrap();
    lock(folder.path());
    let mirror = folder.path().join("mirror");
    fs::create_dir_all(mirror.join("v0.31.2")).unwrap();
    fs::write(mirror.join("v0.31.2/buildkit-v0.31.2.linux-amd64.tar.gz"), b"not a release").unwrap();
    let mut command = amibake(&["fetch", "--arch", "amd64"]);
    command.current_dir(folder.path()).env("AMIBAKE_RELEASE_MIRROR", &mirror);
    let (code, said) = failure(command.env("AMIBAKE_CACHE_DIR", folder.path().join("cache")));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("fbabdb72433a"), "the digest that was expected: {said}");
}
