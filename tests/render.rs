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

#[test]
#[ignore = "needs cfn-lint and moto"]
fn the_builders_stack_and_what_baking_needs_are_what_cfn_lint_allows_and_moto_makes_of_them() {
    let folder = tempfile::tempdir().unwrap();
    render(folder.path(), "builder.yml", &["render", "cloudformation"]);
    let tls = ["--set", "buildkitd.tls=true"];
    render(folder.path(), "tls.yml", &[&["render", "cloudformation"][..], &tls].concat());
    let bucket = ["--set", "buildkitd.tls_from=s3://secrets/builder/tls"];
    render(folder.path(), "bucket.yml", &[&["render", "cloudformation"][..], &tls, &bucket].concat());
    render(folder.path(), "prerequisites.yml", &["render", "prerequisites"]);
    let arm = ["render", "cloudformation", "builder", "--arch", "arm64", "--channel", "canary", "--set"];
    render(folder.path(), "arm64.yml", &[&arm[..], &["buildkitd.port=2345"]].concat());
    judge("cloudformation", folder.path());
    let arm = std::fs::read_to_string(folder.path().join("arm64.yml")).unwrap();
    assert!(arm.contains("/amibake/builder/arm64/canary") && arm.contains("m7g.") && arm.contains("Default: 2345"));
    let python = std::env::var("AMIBAKE_TEST_CLOUD_PYTHON").expect("run `make test`");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render/stacks.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
#[ignore = "needs a parser of HCL"]
fn the_builders_stack_for_terraform_is_hcl() {
    let folder = tempfile::tempdir().unwrap();
    render(folder.path(), "builder.tf", &["render", "terraform"]);
    render(folder.path(), "arm64.tf", &["render", "terraform", "--arch", "arm64", "--instance-type", "c7g.xlarge"]);
    render(folder.path(), "tls.tf", &["render", "terraform", "--set", "buildkitd.tls=true"]);
    let bucket = ["--set", "buildkitd.tls=true", "--set", "buildkitd.tls_from=s3://secrets/builder/tls"];
    render(folder.path(), "bucket.tf", &[&["render", "terraform"][..], &bucket].concat());
    judge("terraform", folder.path());
}

#[test]
#[ignore = "needs Buildkite's schema"]
fn steps_that_build_are_what_the_schema_and_shellcheck_allow() {
    let folder = tempfile::tempdir().unwrap();
    let ecr = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/app";
    let step = ["render", "pipeline", "--repository"];
    render(folder.path(), "ecr.yml", &[&step[..], &[ecr, "--platform", "linux/amd64,linux/arm64"]].concat());
    render(folder.path(), "push.yml", &[&step[..], &[ecr, "--login", "image-push", "--tls", "--queue", "q"]].concat());
    let login = ["docker.io/me/app", "--login", "docker-login", "--username", "me", "--tls"];
    render(folder.path(), "login.yml", &[&step[..], &login].concat());
    judge("buildkite", folder.path());
    for file in ["ecr.yml", "push.yml", "login.yml"] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(!text.contains("type=registry,name"), "no exporter of buildctl's: {text}");
    }
}

/// A job's environment after the hook was evaluated as the stack's own hook does it, and what was said.
fn evaluated(hook: &Path, aws: &str) -> (String, String) {
    let bin = hook.parent().unwrap().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(bin.join("aws"), format!("#!/bin/bash\n{aws}\n")).unwrap();
    std::fs::set_permissions(bin.join("aws"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let job = "set -euo pipefail; hook=$(cat \"$1\"); set -o allexport; eval \"$hook\"; set +o allexport; \
               env | grep -E '^BUILDKIT' || true; declare -F | grep -c amibake || true";
    let output = Command::new("bash")
        .args(["-c", job, "job"])
        .arg(hook)
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("HOME", hook.parent().unwrap())
        .env_remove("BUILDKIT_HOST")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_env_hook_sets_what_jobs_need_and_never_fails_one_that_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("env");
    render(folder.path(), "env", &["render", "env-hook", "--address", "tcp://builder.internal:1234"]);
    assert_eq!(evaluated(&hook, "exit 1").0, "BUILDKIT_HOST=tcp://builder.internal:1234\n0\n");

    render(
        folder.path(),
        "env",
        &["render", "env-hook", "--ssm-parameter", "/builder/address", "--region", "eu-central-1"],
    );
    let asked = "[[ \"$*\" == *'--name /builder/address --region eu-central-1 '* ]] && echo tcp://10.0.1.7:1234";
    assert_eq!(evaluated(&hook, asked).0, "BUILDKIT_HOST=tcp://10.0.1.7:1234\n0\n");
    let (set, said) = evaluated(&hook, "echo nonsense");
    assert!(set == "0\n" && said.contains("expected tcp://HOST:PORT"), "{set} {said}");
    let (set, said) = evaluated(&hook, "echo denied >&2; exit 254");
    assert!(set == "0\n" && said.contains("ssm:GetParameter on /builder/address"), "{set} {said}");

    let tls = ["--address", "tcp://b:1", "--tls-from", "/builder/tls"];
    render(folder.path(), "env", &[&["render", "env-hook"][..], &tls].concat());
    let (set, said) =
        evaluated(&hook, "for word; do [[ $word == /builder/tls/client/* ]] && echo \"pem of $word\"; done; exit 0");
    let kept = folder.path().join(".amibake");
    let place = set.lines().find_map(|line| line.strip_prefix("BUILDKIT_TLS_DIR=")).unwrap_or_else(|| panic!("{said}"));
    let place = Path::new(place).to_owned();
    assert!(place.starts_with(&kept), "{set} {said}");
    for name in ["ca", "cert", "key"] {
        let file = place.join(format!("{name}.pem"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("pem of /builder/tls/client/{name}\n"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
    let (set, said) = evaluated(&hook, "exit 1");
    // Better no builder than one that is reached without a certificate; and no half of a key.
    assert!(set == "0\n" && said.contains("client's certificate"), "{set} {said}");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1, "and nothing is left of it");
    // A job has a folder of its own, and those of long ago go.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(5 * 24 * 3600);
    std::fs::File::open(&place).unwrap().set_times(std::fs::FileTimes::new().set_modified(old)).unwrap();
    render(
        folder.path(),
        "env",
        &["render", "env-hook", "--address", "tcp://b:1", "--tls-from", "s3://secrets/builder"],
    );
    let (set, said) = evaluated(&hook, "[[ \"$*\" == *' s3://secrets/builder/client/'*' -' ]] && echo \"$*\"");
    assert!(set.contains("BUILDKIT_TLS_DIR=") && !place.exists(), "{set} {said}");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1);
}

#[test]
#[ignore = "needs shellcheck"]
fn env_hooks_are_what_shellcheck_allows() {
    let folder = tempfile::tempdir().unwrap();
    let hook = ["render", "env-hook"];
    render(folder.path(), "one.sh", &[&hook[..], &["--address", "tcp://[fd00::1]:1234"]].concat());
    let all = ["--ssm-parameter", "/a/b", "--region", "eu-central-1", "--tls-from", "/builder/tls"];
    render(folder.path(), "two.sh", &[&hook[..], &all].concat());
    judge("shell", folder.path());
}

#[test]
fn what_is_no_address_or_repository_is_refused() {
    let refused = |arguments: &[&str]| {
        let output = assert_cmd::Command::cargo_bin("amibake").unwrap().arg("render").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    };
    for address in
        ["builder:1234", "tcp://builder", "tcp://:1", "tcp://a b:1", "tcp://$(id):1", "tcp://b:70000", "unix:///x"]
    {
        refused(&["env-hook", "--address", address]);
    }
    for name in ["builder", "/a/", "/a b", "/$(id)"] {
        refused(&["env-hook", "--ssm-parameter", name]);
    }
    for repository in ["app", "docker.io/", "docker.io/app:latest", "docker.io/$(id)", "docker.io/app"] {
        refused(&["pipeline", "--repository", repository]);
    }
    refused(&["pipeline", "--repository", "docker.io/app", "--login", "docker-login"]);
    let both = ["--login", "image-push", "--platform", "linux/amd64,linux/arm64"];
    refused(
        &[&["pipeline", "--repository", "123456789012.dkr.ecr.eu-central-1.amazonaws.com/app"][..], &both].concat(),
    );
    refused(&["cloudformation", "agent"]);
    refused(&["cloudformation", "--instance-type", "m7i.large; rm"]);
    refused(&["cloudformation", "--instance-type", "m7g.large"]);
}

#[test]
fn the_daemons_certificate_is_waited_for_fetched_and_followed() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render/tls.sh");
    let output = Command::new(script).arg(env!("CARGO_BIN_EXE_amibake")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_schedule_that_could_never_do_what_was_asked_is_refused() {
    let refused = |arguments: &[&str], told: &str| {
        let output = assert_cmd::Command::cargo_bin("amibake").unwrap().args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty() && said.contains(told), "{said}");
    };
    let schedule = ["render", "schedule", "--for"];
    for cron in ["61 4 * * *", "0 0 31 2 *"] {
        for target in ["buildkite", "github-actions", "eventbridge"] {
            refused(&[&schedule[..], &[target, "--cron", cron]].concat(), "--cron");
        }
    }
    refused(&[&schedule[..], &["github-actions"]].concat(), "--role and --region are needed");
    refused(&[&schedule[..], &["eventbridge", "--role", ROLE]].concat(), "--role means nothing to eventbridge");
    refused(&["pipeline", "--no-promote", "--update-stack", "buildkite"], "--update-stack");
    refused(&["pipeline", "agent", "agent"], "`agent` is named twice");
}

#[test]
fn an_architecture_that_a_recipe_has_no_base_for_is_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("recipes")).unwrap();
    let recipe = "name = \"simple\"\n[base.aws]\nami = { amd64 = \"ami-0123456789abcdef0\" }\n\
                  [[step]]\nkind = \"run\"\nname = \"nothing\"\nscript = \"true\"\n";
    std::fs::write(folder.path().join("recipes/simple.toml"), recipe).unwrap();
    let warned = |arguments: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("amibake").unwrap();
        let output = command.args(["pipeline", "simple"]).args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(warned(&[]).contains("recipe `simple` names no base for arm64"), "{}", warned(&[]));
    assert_eq!(warned(&["--arch", "amd64,amd64"]), "");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_units_that_a_builder_writes_at_boot_are_what_systemd_allows() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render/units.sh");
    let output = Command::new(script).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
