//! Releases and their evidence through the binary: a mirror with releases of a Sigstore of the tests' own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "releases/mirror.rs"]
mod mirror;

use std::io::{BufRead as _, BufReader, Write as _};
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

impl Project {
    /// A file of a release on the mirror.
    fn file(&self, version: &str, arch: &str, kind: &str) -> PathBuf {
        self.mirror.path().join(format!("{version}/buildkit-{version}.linux-{arch}.{kind}"))
    }

    /// What `verify-release --json` says of each platform; it must end with `code`.
    fn verified(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.run(&[&["verify-release", "--json"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["accepted"], code == 0);
        json
    }
}

/// The row of the tarball in a platform's JSON: how it ended.
fn tarball(platform: &Value) -> &Value {
    &platform["checks"].as_array().unwrap().iter().find(|check| check["what"] == "tarball").unwrap()["outcome"]
}

#[test]
fn a_tarball_that_contradicts_what_is_signed_is_refused_in_the_table_and_by_itself() {
    let project = Project::new();
    project.mirror.publish("v0.41.0", b"second");
    let amd64 = project.file("v0.41.0", "amd64", "tar.gz");
    let good = std::fs::read(&amd64).unwrap();
    let swapped = std::fs::read(project.file("v0.41.0", "arm64", "tar.gz")).unwrap();
    for bad in [[&good[..], b"x"].concat(), good[..good.len() / 2].to_vec(), Vec::new(), swapped] {
        std::fs::write(&amd64, bad).unwrap();
        // Nothing of it is in the cache, and the second time the other one is.
        for _ in 0..2 {
            let (code, out, _) = project.said(&["verify-release", "v0.41.0"]);
            assert_eq!(code, 3, "{out}");
            assert!(out.contains("BuildKit v0.41.0 (linux/amd64): REFUSED\n"), "{out}");
            assert!(out.contains("\n✗ tarball            expected sha256:<digest>, got sha256:<digest>"), "{out}");
            assert!(
                out.contains("BuildKit v0.41.0 (linux/arm64): signature\n") && out.contains("\n✓ tarball"),
                "{out}"
            );
        }
        let json = project.verified(3, &["v0.41.0"]);
        let [bad, other] = [&json["platforms"][0], &json["platforms"][1]];
        assert_eq!((&bad["level"], &bad["evidence"], &bad["accepted"]), (&Value::Null, &Value::Null, &false.into()));
        assert_eq!((tarball(bad), &bad["tarball"]), (&"refused".into(), &Value::Null));
        assert_eq!((&other["level"], &other["accepted"]), (&"signature".into(), &true.into()));
        assert_eq!(tarball(other), "holds");
    }
    // One that is not there tells nothing: what the evidence says is shown all the same.
    std::fs::remove_file(&amd64).unwrap();
    let (code, out, err) = project.said(&["verify-release", "v0.41.0"]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(
        out.contains("(linux/amd64): UNKNOWN") && out.contains("\n- tarball") && out.contains("✓ identity"),
        "{out}"
    );
    assert!(err.contains("and this file in it?"), "{err}");
    let json = project.verified(4, &["v0.41.0"]);
    assert_eq!((&json["platforms"][0]["level"], tarball(&json["platforms"][0])), (&Value::Null, &"absent".into()));
}

#[test]
fn verify_release_reads_the_mirrors_own_bytes_and_not_the_caches() {
    let project = Project::new();
    project.mirror.publish("v0.41.0", b"second");
    project.done(&["update", "--json"]);
    assert_eq!(project.verified(0, &[])["platforms"][0]["tarball"]["from_cache"], false);
    let amd64 = project.file("v0.41.0", "amd64", "tar.gz");
    let changed = [std::fs::read(&amd64).unwrap(), b"x".to_vec()].concat();
    std::fs::write(&amd64, changed).unwrap();
    let told = project.refused(&["verify-release"]);
    assert!(told.contains("(linux/amd64): REFUSED") && told.contains("the cache holds the right one"), "{told}");
    // For a bake, the right bytes are the right bytes.
    project.done(&["fetch", "--json"]);
}

#[test]
fn evidence_that_is_refused_has_no_level() {
    let project = Project::new();
    project.mirror.publish("v0.41.0", b"second");
    let bundle = project.file("v0.41.0", "amd64", "sigstore.json");
    let good = std::fs::read(&bundle).unwrap();
    for bad in [None, Some(&good[..good.len() / 2]), Some(&b"<html>Log in</html>"[..])] {
        match bad {
            None => std::fs::remove_file(&bundle).unwrap(),
            Some(bad) => std::fs::write(&bundle, bad).unwrap(),
        }
        let platform = &project.verified(3, &["v0.41.0"])["platforms"][0];
        assert_eq!((&platform["level"], &platform["evidence"]), (&Value::Null, &Value::Null));
        assert_eq!((&platform["accepted"], tarball(platform)), (&false.into(), &"absent".into()));
    }
    let told = project.refused(&["verify-release", "v0.41.0"]);
    assert!(told.contains("is a web page") && told.contains("a login or a proxy"), "{told}");
    // A file that cannot be read is said of its own platform.
    std::fs::remove_file(&bundle).unwrap();
    std::fs::create_dir(&bundle).unwrap();
    let json = project.verified(4, &["v0.41.0"]);
    assert_eq!((&json["platforms"][0]["level"], &json["platforms"][1]["level"]), (&Value::Null, &"signature".into()));
}

#[test]
fn what_is_not_there_is_missing_and_not_refused() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    project.done(&["update", "--json"]);
    let before = std::fs::read(project.lock()).unwrap();
    for command in [&["verify-release", "v9.9.9"][..], &["update", "--to", "v9.9.9"], &["verify-release", "v0.1.9"]] {
        let (code, out, err) = project.said(command);
        assert_eq!((code, out.as_str()), (4, ""), "{err}");
        assert!(err.contains("the release mirror <mirror> has no BuildKit v"), "{err}");
        assert!(err.contains("for linux/amd64 and linux/arm64") && !err.contains("do not use"), "{err}");
    }
    // One platform of two.
    project.mirror.publish("v0.41.0", b"second");
    for kind in ["tar.gz", "sigstore.json", "provenance.json", "sbom.json"] {
        std::fs::remove_file(project.file("v0.41.0", "arm64", kind)).unwrap();
    }
    project.mirror.list(&["v0.41.0"]);
    let (code, out, err) = project.said(&["verify-release", "v0.41.0"]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("(linux/amd64): signature\n") && !out.contains('✗'), "{out}");
    assert!(err.contains("no BuildKit v0.41.0 for linux/arm64") && err.contains("--arch amd64"), "{err}");
    let (code, _, err) = project.said(&["update", "--to", "v0.41.0"]);
    assert_eq!(code, 4, "{err}");
    // Passed over, and told.
    let (code, out, _) = project.said(&["update"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
    assert_eq!(project.done(&["update", "--json"])["passed_over"][0]["lacks"][0], "linux/arm64");
    let (_, out, _) = project.said(&["check"]);
    assert!(out.contains("v0.40.0 is the newest; v0.41.0 lacks tarballs"), "{out}");
    assert_eq!(std::fs::read(project.lock()).unwrap(), before);
    // A tarball whose evidence was taken away is not missing, listed or not.
    project.mirror.publish_unsigned("v0.42.0", b"third");
    assert!(project.refused(&["verify-release", "v0.42.0"]).contains("the release has none"));
    std::fs::write(project.mirror.path().join("releases.json"), "[]").unwrap();
    project.refused(&["verify-release", "v0.42.0"]);
    project.refused(&["update", "--to", "v0.42.0"]);
}

/// Serves `folder` for ever, and knows no ranges.
fn serve(folder: PathBuf) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            // All of the question, or the answer could be lost with a reset.
            let mut rest = String::from("-");
            while !rest.trim().is_empty() {
                rest.clear();
                reader.read_line(&mut rest).unwrap();
            }
            let path = line.split(' ').nth(1).unwrap().trim_start_matches('/');
            let (status, body) = std::fs::read(folder.join(path))
                .map_or_else(|_| ("404 Not Found", b"<html>not found</html>".to_vec()), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

#[test]
fn a_server_is_asked_whether_a_tarball_without_evidence_is_there() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    project.mirror.publish_unsigned("v0.42.0", b"third");
    std::fs::write(project.mirror.path().join("releases.json"), "[]").unwrap();
    let server = serve(project.mirror.path().to_path_buf());
    let from = |version: &str| {
        let (code, out, err) = project.said(&["verify-release", version, "--release-mirror", &server]);
        (code, format!("{out}{err}"))
    };
    assert_eq!(from("v0.40.0").0, 0);
    let (code, told) = from("v0.41.0");
    assert!(code == 4 && told.contains("has no BuildKit v0.41.0"), "{told}");
    let (code, told) = from("v0.42.0");
    assert!(code == 3 && told.contains("the release has none"), "{told}");
    // The cache has the right one by now; the server is asked all the same.
    std::fs::write(project.file("v0.40.0", "arm64", "tar.gz"), "changed").unwrap();
    let (code, told) = from("v0.40.0");
    assert!(code == 3 && told.contains("(linux/arm64): REFUSED"), "{told}");
}

#[test]
fn update_pins_the_architectures_that_are_named_and_says_what_it_drops() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    project.mirror.publish("v0.41.0", b"second");
    project.done(&["update", "--json"]);
    let both = std::fs::read(project.lock()).unwrap();
    assert_eq!(project.done(&["update", "--to", "v0.40.0", "--arch", "amd64", "--json"])["dropped"][0], "linux/arm64");
    std::fs::write(project.lock(), both).unwrap();
    // The same without a new version.
    let (code, out, _) = project.said(&["update", "--arch", "amd64"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
    assert!(!std::fs::read_to_string(project.lock()).unwrap().contains("arm64"));
    let (_, out, _) = project.said(&["update"]);
    assert!(out.starts_with("v0.41.0 is the newest: nothing to change\n"), "{out}");
    // What is rendered for an architecture that is not pinned fails each night.
    let (code, _, err) = project.said(&["pipeline"]);
    assert_eq!(code, 0);
    assert!(err.contains("the lock pins no tarball for linux/arm64"), "{err}");
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
    assert!(out.contains("UNAUTHENTICATED") && !out.contains('✓'), "{out}");
    assert!(out.contains("~ tarball") && out.contains("for which nobody vouches"), "{out}");
    // A project that demands more bakes nothing with it, and no flag undoes what the project says.
    std::fs::write(project.folder.path().join("amibake.toml"), "[trust]\nrequire = \"recorded\"\n").unwrap();
    let told = project.refused(&["plan", "agent"]);
    assert!(told.contains("amibake.toml") && told.contains("`recorded` is demanded"), "{told}");
    assert!(!told.contains("--to v0.10.9"), "{told}");
    let (code, out, _) = project.said(&["check"]);
    assert!(code == 10 && out.contains("✗ BuildKit") && out.contains("trust"), "{out}");
    let (code, _, err) = project.said(&["update", "--to", "v0.10.9", "--trust-on-first-use"]);
    assert_eq!(code, 2, "{err}");
    std::fs::write(project.folder.path().join("amibake.toml"), "[trust]\nrequire = \"first-use\"\n").unwrap();
    project.done(&["update", "--to", "v0.10.9", "--json"]);
    project.verified(0, &[]);
}

#[test]
fn a_trusted_root_that_the_project_names_is_named_with_it() {
    let project = Project::new();
    project.mirror.publish("v0.40.0", b"first");
    let configured = |text: &str| {
        std::fs::write(project.folder.path().join("amibake.toml"), text).unwrap();
        let mut command = Command::cargo_bin("amibake").unwrap();
        command.args(["verify-release", "v0.40.0"]).current_dir(project.folder.path());
        command.env("AMIBAKE_RELEASE_MIRROR", project.mirror.path()).env_remove("AMIBAKE_TRUSTED_ROOT");
        let output = command.env("XDG_CACHE_HOME", project.folder.path().join("cache")).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = configured("[trust]\ntrusted_root = \"gone.json\"\n");
    assert!(code == 2 && err.contains("`[trust] trusted_root` in amibake.toml"), "{err}");
    // Without one it is Sigstore's, by which nobody signed this.
    let (code, err) = configured("");
    assert!(code == 3 && err.contains("believed was Sigstore's public one") && err.contains("--trusted-root"), "{err}");
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
    project.mirror.publish_unsigned("v0.10.9", b"x");
    project.mirror.publish("v0.42.0-rc1", b"x");
    project.done(&["update", "--to", "v0.40.0", "--json"]);
    let (code, out, _) = project.said(&["releases"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!(out);
    let json = project.done(&["releases", "--channel", "rc", "--json"]);
    assert_eq!(json["releases"].as_array().unwrap().len(), 5);
    assert_eq!(json["releases"][0]["version"], "v0.42.0-rc1");
    let strongest: Vec<&Value> = json["releases"].as_array().unwrap().iter().map(|one| &one["strongest"]).collect();
    assert_eq!(strongest, ["signature", "signature", "signature", "recorded", "first-use"]);
    // Nothing at all is no answer, in either form.
    std::fs::write(project.mirror.path().join("releases.json"), "[]").unwrap();
    let (code, out, err) = project.said(&["releases"]);
    assert!(code == 4 && out.is_empty() && err.contains("the list holds no release"), "{err}");
    let (code, out, _) = project.said(&["releases", "--json"]);
    assert!(code == 4 && out.contains("the list holds no release"), "{out}");
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
