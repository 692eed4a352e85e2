//! Images that follow BuildKit: a mirror gains a version, `check` says so, `update` and `build` follow, `check` is content.

use serde_json::Value;

use crate::cloud::{Cloud, RECIPE, Server, served};
use crate::releases::Mirror;

/// A cloud and a project with a builder and an agent, whose releases come from a mirror that is signed.
struct Project {
    cloud: Cloud,
    mirror: Mirror,
    address: String,
    _server: Server,
}

impl Project {
    fn start() -> Self {
        let (cloud, mirror) = (Cloud::start(0.05), Mirror::new());
        std::fs::remove_file(cloud.path().join("recipes/tiny.toml")).unwrap();
        for name in ["builder", "agent"] {
            cloud.recipe(name, &RECIPE.replace("tiny", name));
        }
        let (server, address) = served(mirror.path().to_str().unwrap());
        Self { cloud, mirror, address, _server: server }
    }

    fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        let mut command = self.cloud.amibake_without_lock(arguments);
        command.env("AMIBAKE_RELEASE_MIRROR", &self.address).env("AMIBAKE_TRUSTED_ROOT", self.mirror.trusted_root());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
    }

    /// Publishes a release whose buildctl says its version.
    fn publish(&self, version: &str) {
        let buildctl = format!("#!/bin/sh\necho buildctl github.com/moby/buildkit {version} 0123abcd\n");
        self.mirror.publish(version, buildctl.as_bytes());
    }

    fn done(&self, arguments: &[&str]) -> Value {
        let (code, json, said) = self.run(arguments);
        assert_eq!(code, 0, "{json} {said}");
        json
    }

    /// What `check` says is out of date, as `about: what`.
    fn out_of_date(&self, arguments: &[&str]) -> Vec<String> {
        let (code, json, said) = self.run(&[&["check", "--json"], arguments].concat());
        let findings = json["findings"].as_array().unwrap_or_else(|| panic!("{json} {said}"));
        let old: Vec<String> = findings
            .iter()
            .filter(|finding| finding["standing"] == "out_of_date")
            .map(|finding| format!("{}: {}", finding["about"].as_str().unwrap(), finding["what"].as_str().unwrap()))
            .collect();
        assert_eq!(code, if old.is_empty() { 0 } else { 10 }, "{json} {said}");
        assert_eq!(json["out_of_date"], !old.is_empty());
        old
    }
}

#[test]
#[ignore = "needs the test cloud"]
fn a_new_release_is_found_verified_baked_and_then_all_is_current() {
    let project = Project::start();
    project.publish("v0.40.0");
    project.done(&["update", "--json"]);
    assert_eq!(project.out_of_date(&[]), ["agent (amd64): image", "builder (amd64): image"]);
    project.done(&["build", "--all", "--json"]);
    assert_eq!(project.out_of_date(&[]), [] as [&str; 0]);
    let images = project.done(&["images", "--json"]);
    assert_eq!(images["images"][0]["evidence"], "signature", "{images}");

    project.publish("v0.41.0");
    assert_eq!(project.out_of_date(&[]), ["BuildKit: release"]);
    let updated = project.done(&["update", "--json"]);
    assert_eq!((&updated["from"], &updated["to"]), (&"v0.40.0".into(), &"v0.41.0".into()));
    assert_eq!(project.out_of_date(&[]), ["agent (amd64): release", "builder (amd64): release"]);
    // One of the two is no pair.
    project.done(&["build", "agent", "--json"]);
    assert_eq!(project.out_of_date(&[]), ["builder (amd64): release", "images (amd64): pair"]);
    project.done(&["build", "--all", "--json"]);
    assert_eq!(project.out_of_date(&[]), [] as [&str; 0]);

    // A recipe that changed, and images that are too old.
    let changed = RECIPE.replace("tiny", "agent").replace("id -u", "id -un");
    project.cloud.recipe("agent", &changed);
    assert_eq!(project.out_of_date(&[]), ["agent (amd64): recipe"]);
    project.done(&["build", "agent", "--json"]);
    assert_eq!(project.out_of_date(&["--max-age", "0m"]), ["agent (amd64): age", "builder (amd64): age"]);
    assert_eq!(project.out_of_date(&["--max-age", "1d"]), [] as [&str; 0]);
    // What is too old is baked anew, though nothing that it is made of has changed.
    let old = project.done(&["build", "agent", "--max-age", "1d", "--json"]);
    assert_eq!(old["results"][0]["outcome"], "existing", "{old}");
    let new = project.done(&["build", "agent", "--max-age", "0m", "--json"]);
    assert_eq!(new["results"][0]["outcome"], "baked", "{new}");
    assert_ne!(new["results"][0]["image"]["location"], old["results"][0]["image"]["location"]);
    // Certificates end, too.
    project.done(&["certs", "init", "--ssm", "/builder/tls"]);
    project.done(&["certs", "issue", "--ssm", "/builder/tls", "--name", "builder.internal", "--days", "20"]);
    let ending = ["/builder/tls/server/cert: certificate", "/builder/tls/client/cert: certificate"];
    assert_eq!(project.out_of_date(&["--certs", "/builder/tls"]), ending);
    project.done(&["certs", "renew", "--ssm", "/builder/tls"]);
    assert_eq!(project.out_of_date(&["--certs", "/builder/tls"]), [] as [&str; 0]);
    assert_eq!(project.cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn without_aws_check_answers_what_it_can() {
    let project = Project::start();
    project.publish("v0.40.0");
    project.done(&["update", "--json"]);
    let run = || {
        let mut command = project.cloud.amibake_without_lock(&["check"]);
        command.env("AMIBAKE_RELEASE_MIRROR", &project.address).env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, told) = run();
    assert!(code == 0 && told.contains("✓ BuildKit") && told.contains("? images"), "{code} {told}");
    project.publish("v0.41.0");
    let (code, told) = run();
    assert!(code == 10 && told.contains("v0.41.0 is newer") && told.contains("? images"), "{code} {told}");
}
