//! `amibake certs` in a folder: what is made, for whose eyes, and what is never replaced unasked.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

fn certs(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("amibake").unwrap();
    let command = command.arg("certs").args(arguments).arg("--dir").arg(dir).current_dir(dir.parent().unwrap());
    command.env("XDG_CACHE_HOME", dir.parent().unwrap()).output().unwrap()
}

fn done(dir: &Path, arguments: &[&str]) -> Value {
    let output = certs(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for said in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(said).contains("PRIVATE"), "a key was shown");
    }
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = certs(dir, arguments);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_authority_a_builder_and_its_agents() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    assert!(refused(&dir, &["issue", "--name", "b"]).contains("certs init"));
    done(&dir, &["init"]);
    let names = ["issue", "--name", "builder.ci.internal", "--name", "10.0.1.7"];
    done(&dir, &names);
    // The agents' folder is what `buildctl --tlsdir` reads.
    for (file, mode) in [("ca.pem", 0o644), ("cert.pem", 0o644), ("key.pem", 0o600)] {
        let metadata = std::fs::metadata(dir.join("client").join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
    assert_eq!(std::fs::metadata(dir.join("ca/key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!dir.join("client/ca-key.pem").exists());
    let shown = done(&dir, &["show", "--json"]);
    let found = shown["certificates"].as_array().unwrap();
    let purposes: Vec<_> = found.iter().map(|one| one["purpose"].as_str().unwrap()).collect();
    assert_eq!(purposes, ["authority", "server", "client"]);
    assert_eq!(found[1]["names"], serde_json::json!(["builder.ci.internal", "10.0.1.7"]));
    assert!([396, 397].contains(&found[2]["days_left"].as_i64().unwrap()), "{shown}");

    // What others hold is not taken from them unasked.
    let server = || std::fs::read_to_string(dir.join("server/cert.pem")).unwrap();
    let before = server();
    assert!(refused(&dir, &["init"]).contains("already"));
    assert!(refused(&dir, &names).contains("--force"));
    done(&dir, &["renew"]);
    assert_eq!(server(), before);
    done(&dir, &["renew", "--within", "400"]);
    assert_ne!(server(), before);
    let shown = done(&dir, &["show", "--json"]);
    assert_eq!(shown["certificates"][1]["names"], serde_json::json!(["builder.ci.internal", "10.0.1.7"]));
    refused(&dir, &["issue", "--force", "--name", "not a name"]);
    done(&dir, &["issue", "--force", "--name", "other.internal"]);
}
