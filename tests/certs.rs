//! `amibake certs` in a folder: what is made, for whose eyes, and what is never replaced unasked.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
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

/// What a command says on stderr that ends with `code`.
fn says(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = certs(dir, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    says(dir, arguments, 2)
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap()
}

/// Every file with its contents.
fn all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(self::all(&path));
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// What is wrong with each certificate of a folder, and how many days are left.
fn standing(dir: &Path, code: i32) -> Vec<(String, Value, Value)> {
    let output = certs(dir, &["show", "--json"]);
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let each = json["certificates"].as_array().unwrap().iter();
    each.map(|one| {
        let place = Path::new(one["place"].as_str().unwrap()).strip_prefix(dir).unwrap().display().to_string();
        (place, one["fault"].clone(), one["days_left"].clone())
    })
    .collect()
}

/// A folder with an authority that holds for `days`, and what it signed.
fn fleet(dir: &Path, days: &str) {
    done(dir, &["init", "--days", days]);
    done(dir, &["issue", "--name", "builder.ci.internal"]);
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

#[test]
fn nothing_outlives_its_authority_and_another_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    done(&dir, &["init", "--days", "1"]);
    let said = says(&dir, &["issue", "--name", "b", "--days", "397"], 0);
    assert!(said.contains("the authority itself ends on") && said.contains("--rotate"), "{said}");
    for (place, fault, left) in standing(&dir, 0) {
        // Within the second in which it was made there are two.
        assert!(fault.is_null() && left.as_i64() <= Some(2), "{place}: {fault} {left}");
    }
    assert!(says(&dir, &["show"], 0).contains("`amibake certs init --rotate`"));
    // There is nothing to be had by signing again.
    let before = read(&dir, "server/cert.pem");
    let said = says(&dir, &["renew"], 0);
    assert!(said.contains("nothing was made anew") && said.contains("--rotate"), "{said}");
    assert_eq!(read(&dir, "server/cert.pem"), before);

    let (old, client) = (read(&dir, "ca/cert.pem"), read(&dir, "client/cert.pem"));
    let said = says(&dir, &["init", "--rotate"], 0);
    assert!(said.contains("before it is trusted until"), "{said}");
    let bundle = read(&dir, "ca/cert.pem") + &old;
    assert_ne!(read(&dir, "ca/cert.pem"), old);
    for whose in ["server", "client"] {
        // What is there is of the old one, and goes on: both are trusted.
        assert_eq!(read(&dir, &format!("{whose}/ca.pem")), bundle);
    }
    assert_eq!((read(&dir, "server/cert.pem"), read(&dir, "client/cert.pem")), (before.clone(), client));
    let places: Vec<_> = standing(&dir, 0).into_iter().map(|(place, ..)| place).collect();
    assert_eq!(places, ["ca/cert.pem", "ca/old.pem", "server/cert.pem", "client/cert.pem"]);
    done(&dir, &["renew"]);
    assert_ne!(read(&dir, "server/cert.pem"), before);
    assert_eq!(read(&dir, "server/ca.pem"), bundle);
    for (place, fault, left) in standing(&dir, 0) {
        assert_eq!((fault, left.as_i64() > Some(300)), (Value::Null, place != "ca/old.pem"), "{place}");
    }
}

#[test]
fn a_new_authority_signs_when_the_builder_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    fleet(&dir, "3650");
    let before = (read(&dir, "server/cert.pem"), read(&dir, "client/cert.pem"));
    done(&dir, &["init", "--rotate"]);
    assert!(says(&dir, &["renew", "--within", "3650"], 0).contains("a day after it was made"));
    assert_eq!((read(&dir, "server/cert.pem"), read(&dir, "client/cert.pem")), before);
    // An `init --rotate` that was cut short.
    std::fs::copy(dir.join("ca/cert.pem"), dir.join("client/ca.pem")).unwrap();
    done(&dir, &["renew"]);
    assert_eq!(read(&dir, "client/ca.pem"), read(&dir, "server/ca.pem"));
}

#[test]
fn a_key_that_is_not_the_authoritys_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, other) = (folder.path().join("tls"), folder.path().join("other"));
    fleet(&dir, "3650");
    fleet(&other, "3650");
    std::fs::copy(other.join("ca/key.pem"), dir.join("ca/key.pem")).unwrap();
    let before = all(&dir);
    for arguments in [&["renew", "--within", "400"][..], &["issue", "--force", "--name", "b"]] {
        let said = refused(&dir, arguments);
        assert!(said.contains("ca/cert.pem: the key beside it is not its own") && said.contains("--rotate"), "{said}");
    }
    assert_eq!(all(&dir), before);
    assert_eq!(standing(&dir, 1)[0].1, "other_key");
    // The way out: what was signed stays good until all know the new one.
    done(&dir, &["init", "--rotate"]);
    done(&dir, &["renew", "--within", "400"]);
    assert!(standing(&dir, 0).iter().all(|(_, fault, _)| fault.is_null()));
}

#[test]
fn what_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    fleet(&dir, "3650");
    let keep = folder.path().join("keep");
    let whole = || {
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(std::process::Command::new("cp").arg("-a").args([&keep, &dir]).status().unwrap().success());
    };
    assert!(std::process::Command::new("cp").arg("-a").args([&dir, &keep]).status().unwrap().success());
    let fault = |of: &str| standing(&dir, 1).into_iter().find(|(place, ..)| place == of).unwrap().1;

    std::fs::write(dir.join("server/cert.pem"), "").unwrap();
    let said = refused(&dir, &["renew"]);
    assert!(said.contains("tls/server/cert.pem") && said.contains("issue --force"), "{said}");
    assert_eq!(fault("server/cert.pem"), "unreadable");
    assert!(says(&dir, &["show"], 1).contains("tls/server/cert.pem: it holds no certificate"));

    whole();
    std::fs::write(dir.join("ca/key.pem"), "-----BEGIN PRIVATE KEY-----\nx").unwrap();
    let said = refused(&dir, &["issue", "--force", "--name", "b"]);
    assert!(said.contains("tls/ca/cert.pem: its key cannot be read") && said.contains("hint:"), "{said}");
    std::fs::remove_file(dir.join("ca/key.pem")).unwrap();
    let said = refused(&dir, &["renew"]);
    assert!(said.contains("tls/ca/key.pem is not there"), "{said}");
    assert_eq!(fault("ca/cert.pem"), "no_key");
    std::fs::copy(keep.join("ca/key.pem"), dir.join("ca/key.pem")).unwrap();
    std::fs::remove_file(dir.join("ca/cert.pem")).unwrap();
    let said = refused(&dir, &["renew"]);
    assert!(said.contains("tls/ca/cert.pem is not there"), "{said}");
    assert!(refused(&dir, &["init"]).contains("already at"));

    // A key that is gone: the certificate is of no use, however long it holds.
    whole();
    std::fs::remove_file(dir.join("server/key.pem")).unwrap();
    std::fs::remove_file(dir.join("client/cert.pem")).unwrap();
    assert_eq!(fault("server/cert.pem"), "no_key");
    let said = says(&dir, &["renew"], 0);
    assert!(said.contains("server/cert.pem: its key is not there"), "{said}");
    assert!(said.contains("client/cert.pem is not there"), "{said}");
    assert!(standing(&dir, 0).iter().all(|(_, fault, _)| fault.is_null()));
}

#[test]
fn all_is_replaced_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    fleet(&dir, "3650");
    // In the way of the last file.
    std::fs::remove_file(dir.join("client/cert.pem")).unwrap();
    std::fs::create_dir(dir.join("client/cert.pem")).unwrap();
    let before = all(&dir);
    says(&dir, &["issue", "--force", "--name", "b"], 4);
    assert_eq!(all(&dir), before);
}

#[test]
fn two_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    let at_once = |arguments: &'static [&'static str]| -> usize {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let dir = dir.clone();
                std::thread::spawn(move || certs(&dir, arguments).status.success())
            })
            .collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    };
    assert_eq!(at_once(&["init"]), 1);
    assert_eq!(at_once(&["issue", "--force", "--name", "b"]), 8);
    assert!(standing(&dir, 0).iter().all(|(_, fault, _)| fault.is_null()));
    assert!(all(&dir).iter().all(|(path, _)| path.extension().unwrap() == "pem"), "something is left");
}

#[test]
fn what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tls");
    let mut command = Command::cargo_bin("amibake").unwrap();
    let output = command.args(["certs", "init"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("<--ssm <PREFIX>|--s3 <PLACE>|--dir <DIR>>"), "{said}");
    let long = "n".repeat(65);
    for bad in ["", " ", "a\nb", &long] {
        assert!(refused(&dir, &["init", "--name", bad]).contains("cannot be the name of an authority"), "{bad:?}");
    }
    assert!(!dir.exists());
    done(&dir, &["init"]);
    let said = refused(&dir, &["issue", "--name", "a\nb"]);
    assert!(said.contains(r"`a\nb` is no host name"), "{said}");
}
