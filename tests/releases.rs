//! Releases and their evidence through the binary: a mirror with releases of a Sigstore of the tests' own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "releases/mirror.rs"]
mod mirror;

use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

use mirror::Mirror;

/// A project with one recipe, and a mirror that it takes releases from.
struct Project {
    mirror: Mirror,
    folder: tempfile::TempDir,
}

const RECIPE: &str = "name = \"agent\"\n[[step]]\nkind = \"buildkit\"\nmembers = [\"bin/buildctl\"]\n";

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("recipes")).unwrap();
        std::fs::write(folder.path().join("recipes/agent.toml"), RECIPE).unwrap();
        Self { mirror: Mirror::new(), folder }
    }

    fn lock(&self) -> PathBuf {
        self.folder.path().join("amibake.lock")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("amibake").unwrap();
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("AMIBAKE_RELEASE_MIRROR", self.mirror.path())
            .env("AMIBAKE_TRUSTED_ROOT", self.mirror.trusted_root())
            .env("AMIBAKE_PROVIDER", "local")
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("NO_COLOR", "1")
            .env_remove("AMIBAKE_RELEASE_INDEX");
        command.output().unwrap()
    }

    /// Exit status, stdout and stderr, without what differs from run to run.
    fn said(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.run(arguments);
        let hide = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let digests = regex_lite::Regex::new("[0-9a-f]{64}|[0-9]+ B,").unwrap();
            let text = text.replace(self.mirror.path().to_str().unwrap(), "<mirror>");
            let text = text.replace(self.folder.path().to_str().unwrap(), "<project>");
            digests.replace_all(&text, "<digest>").into_owned()
        };
        (output.status.code().unwrap(), hide(&output.stdout), hide(&output.stderr))
    }

    fn done(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Runs it; it must be refused, and the lock be as it was.
    fn refused(&self, arguments: &[&str]) -> String {
        let before = std::fs::read(self.lock()).ok();
        let (code, out, err) = self.said(arguments);
        assert_eq!(code, 3, "{out}{err}");
        assert_eq!(std::fs::read(self.lock()).ok(), before);
        format!("{out}{err}")
    }
}

#[test]
fn update_writes_a_lock_and_moves_it_with_the_evidence() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    let first = project.done(&["update", "--json"]);
    assert_eq!((&first["from"], &first["to"], &first["changed"]), (&Value::Null, &"v0.40.0".into(), &true.into()));
    let evidence = &first["artifacts"][0]["evidence"];
    assert_eq!(evidence["level"], "signature");
    assert!(evidence["identity"].as_str().unwrap().starts_with("https://github.com/docker/github-builder/"));
    assert_eq!(evidence["signed_at"], "2026-03-02T10:15:00Z");
    let written = std::fs::read_to_string(project.lock()).unwrap();
    for part in ["level = \"signature\"", "log_index = 658949562", "size = ", "sbom_sha256 = ", "linux/arm64"] {
        assert!(written.contains(part), "{part}: {written}");
    }
    let sbom = evidence["sbom_sha256"].as_str().unwrap();
    assert!(project.folder.path().join(format!("cache/amibake/releases/sbom/{sbom}.json")).exists());

    // Nothing new: nothing is fetched and nothing changes.
    std::fs::remove_dir_all(project.mirror.path().join("v0.40.0")).unwrap();
    project.mirror.list(&["v0.40.0"]);
    assert_eq!(project.done(&["update", "--json"])["changed"], false);
    assert_eq!(std::fs::read_to_string(project.lock()).unwrap(), written);

    project.mirror.publish("v0.41.0", b"second");
    project.mirror.publish("v0.42.0-rc1", b"candidate");
    assert_eq!(project.done(&["update", "--dry-run", "--json"])["written"], false);
    assert_eq!(std::fs::read_to_string(project.lock()).unwrap(), written);
    let (code, out, _) = project.said(&["update"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
    assert_eq!(project.done(&["update", "--channel", "rc", "--json"])["to"], "v0.42.0-rc1");
    // A lock that is ahead of its channel does not go back by itself.
    assert_eq!(project.done(&["update", "--json"])["to"], "v0.42.0-rc1");
    assert_eq!(project.done(&["update", "--to", "v0.41.0", "--json"])["to"], "v0.41.0");
}

#[test]
fn what_does_not_hold_is_refused_and_the_lock_stays() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    project.done(&["update", "--json"]);
    project.mirror.publish("v0.41.0", b"second");
    let amd64 = |kind: &str| project.mirror.path().join(format!("v0.41.0/buildkit-v0.41.0.linux-amd64.{kind}"));
    let arm64 = |kind: &str| project.mirror.path().join(format!("v0.41.0/buildkit-v0.41.0.linux-arm64.{kind}"));
    let bundle = std::fs::read(amd64("sigstore.json")).unwrap();

    std::fs::remove_file(amd64("sigstore.json")).unwrap();
    let told = project.refused(&["update"]);
    assert!(told.contains("linux/amd64") && told.contains("the release has none"), "{told}");
    assert!(project.refused(&["verify-release", "v0.99.0"]).contains("is there such a release?"));
    // Whatever is demanded: since v0.27 a release is signed.
    project.refused(&["update", "--trust-on-first-use"]);

    std::fs::copy(arm64("sigstore.json"), amd64("sigstore.json")).unwrap();
    let told = project.refused(&["update"]);
    assert!(told.contains("is about `buildkit-v0.41.0.linux-arm64.tar.gz`"), "{told}");
    std::fs::write(amd64("sigstore.json"), &bundle).unwrap();

    let tarball = std::fs::read(amd64("tar.gz")).unwrap();
    std::fs::copy(arm64("tar.gz"), amd64("tar.gz")).unwrap();
    let told = project.refused(&["update"]);
    assert!(told.contains("does not have the digest"), "{told}");
    std::fs::write(amd64("tar.gz"), tarball).unwrap();

    std::fs::write(arm64("provenance.json"), "{}").unwrap();
    let told = project.refused(&["update"]);
    assert!(told.contains("linux/arm64") && told.contains("provenance"), "{told}");
    std::fs::remove_file(arm64("provenance.json")).unwrap();
    project.done(&["update", "--json"]);

    // By another root, nobody signed it.
    let other = Mirror::new();
    let root = other.trusted_root();
    project.refused(&["verify-release", "--trusted-root", root.to_str().unwrap()]);
    project.refused(&["verify-release", "--trusted-root", root.to_str().unwrap(), "--json"]);
}

#[test]
fn a_release_that_changed_behind_the_lock_is_refused() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    project.done(&["update", "--json"]);
    // Signed as it should be, and still not what was pinned.
    project.mirror.publish("v0.40.0", b"replaced");
    for command in [&["update", "--to", "v0.40.0"][..], &["verify-release"]] {
        let told = project.refused(command);
        assert!(told.contains("lock") && told.contains("pinned there"), "{told}");
    }
}

#[test]
fn what_nobody_vouches_for_is_taken_by_asking_and_shown_as_such() {
    let project = Project::new();
    // From before releases were signed, and in nobody's record.
    project.mirror.publish_unsigned("v0.10.9", b"old");
    let told = project.refused(&["update", "--to", "v0.10.9"]);
    assert!(told.contains("--trust-on-first-use"), "{told}");
    let updated = project.done(&["update", "--to", "v0.10.9", "--trust-on-first-use", "--json"]);
    assert_eq!(updated["artifacts"][0]["evidence"]["level"], "first-use");
    let (code, out, _) = project.said(&["verify-release"]);
    assert_eq!(code, 3);
    assert!(out.contains("UNAUTHENTICATED"), "{out}");
    // A project that demands more bakes nothing with it, and no flag undoes what the project says.
    std::fs::write(project.folder.path().join("amibake.toml"), "[trust]\nrequire = \"recorded\"\n").unwrap();
    let told = project.refused(&["plan", "agent"]);
    assert!(told.contains("amibake.toml") && told.contains("`recorded` is demanded"), "{told}");
    let (code, _, err) = project.said(&["update", "--to", "v0.10.9", "--trust-on-first-use"]);
    assert_eq!(code, 2, "{err}");
    std::fs::write(project.folder.path().join("amibake.toml"), "[trust]\nrequire = \"first-use\"\n").unwrap();
    project.done(&["update", "--to", "v0.10.9", "--json"]);
}

#[test]
fn verify_release_shows_everything_that_was_looked_at() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    let (code, out, err) = project.said(&["verify-release", "v0.40.0", "--arch", "amd64"]);
    assert_eq!(code, 0, "{err}");
    insta::assert_snapshot!(out.replace(project.mirror.trusted_root().to_str().unwrap(), "<root>"));
    let json = project.done(&["verify-release", "v0.40.0", "--json"]);
    assert_eq!((&json["accepted"], &json["demanded"]), (&true.into(), &"signature".into()));
    let checks = json["platforms"][1]["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["what"] == "source ref" && check["outcome"] == "holds"), "{json}");
    let (code, _, err) = project.said(&["verify-release"]);
    assert_eq!(code, 2);
    assert!(err.contains("no lock"), "{err}");
}

#[test]
fn releases_lists_what_counts_with_what_it_offers() {
    let project = Project::new();
    for version in ["v0.40.0", "v0.41.0"] {
        project.mirror.publish(version, b"x");
    }
    project.mirror.publish_unsigned("v0.13.2", b"x");
    project.mirror.publish("v0.42.0-rc1", b"x");
    project.done(&["update", "--to", "v0.40.0", "--json"]);
    let (code, out, _) = project.said(&["releases"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
    let json = project.done(&["releases", "--channel", "rc", "--json"]);
    assert_eq!(json["releases"].as_array().unwrap().len(), 4);
    assert_eq!(json["releases"][0]["version"], "v0.42.0-rc1");
}

#[test]
fn check_says_what_it_can_and_what_it_could_not() {
    let project = Project::new();
    let (code, _, err) = project.said(&["check"]);
    assert_eq!(code, 2);
    assert!(err.contains("amibake update"), "{err}");
    project.mirror.publish("v0.40.0", b"first");
    project.done(&["update", "--json"]);
    let (code, out, err) = project.said(&["check"]);
    // Without a base on this machine there is no plan; that is unknown, and not out of date.
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("✓ BuildKit") && out.contains("? agent (amd64)"), "{out}");
    project.mirror.publish("v0.41.0", b"second");
    let (code, out, _) = project.said(&["check"]);
    assert_eq!(code, 10);
    assert!(out.contains("✗ BuildKit") && out.contains("v0.41.0 is newer than v0.40.0"), "{out}");
    // No list of releases: the first question is not answered.
    std::fs::write(project.mirror.path().join("releases.json"), "<html>").unwrap();
    let (code, out, err) = project.said(&["check"]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("? BuildKit"), "{out}");
}
