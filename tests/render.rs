//! What `amibake render` and `amibake pipeline` print, before the tools of those who read it: Buildkite's published schema,
//! actionlint, cfn-lint, shellcheck. Needs what `scripts/test` sets up.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::Command;

const ROLE: &str = "arn:aws:iam::123456789012:role/images";

/// Prints `arguments`' text into `name` of `folder`.
fn render(folder: &Path, name: &str, arguments: &[&str]) {
    let output = assert_cmd::Command::cargo_bin("amibake").unwrap().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(folder.join(name), output.stdout).unwrap();
}

/// What the tools say of `kind` files in `folder`.
fn judge(kind: &str, folder: &Path) {
    let python = std::env::var("AMIBAKE_TEST_CLOUD_PYTHON").expect("run `make test`");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render/judge.py");
    let output = Command::new(python).arg(script).arg(kind).arg(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
#[ignore = "needs Buildkite's schema"]
fn buildkite_pipelines_are_what_its_schema_and_shellcheck_allow() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["render", "schedule", "--for", "buildkite"];
    render(folder.path(), "bare.yml", &schedule);
    let all = ["--role", ROLE, "--region", "eu-central-1", "--queue", "images", "--branch", "amibake/lock"];
    let more = ["--update-stack", "buildkite", "--install", "curl -fsS \"https://example.com/$NAME\" | sh && true"];
    render(folder.path(), "full.yml", &[&schedule[..], &all, &more].concat());
    render(folder.path(), "steps.json", &["pipeline", "--lock-artifact", "--role", ROLE, "--queue", "images"]);
    render(folder.path(), "one.json", &["pipeline", "builder", "--arch", "arm64", "--no-promote"]);
    judge("buildkite", folder.path());
}

#[test]
#[ignore = "needs actionlint"]
fn workflows_are_what_actionlint_and_shellcheck_allow() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["render", "schedule", "--for", "github-actions", "--role", ROLE, "--region", "eu-central-1"];
    render(folder.path(), "bare.yml", &schedule);
    let more = ["--branch", "amibake/lock", "--update-stack", "buildkite", "--runner", "self-hosted"];
    render(folder.path(), "full.yml", &[&schedule[..], &more, &["builder", "--arch", "arm64"]].concat());
    judge("github", folder.path());
}

#[test]
#[ignore = "needs cfn-lint"]
fn the_stack_for_eventbridge_is_what_cfn_lint_and_shellcheck_allow() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["render", "schedule", "--for", "eventbridge"];
    render(folder.path(), "bare.yml", &schedule);
    let more = ["--region", "eu-central-1", "--cron", "0 3 * * 1-5", "--install", "echo \"${HOME}\" && true"];
    render(folder.path(), "full.yml", &[&schedule[..], &more].concat());
    judge("cloudformation", folder.path());
}
