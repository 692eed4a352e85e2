//! A release mirror in a folder, whose releases are signed by a Sigstore of its own.

use std::path::{Path, PathBuf};

use amibake_notary::{Claim, Notary};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ARCHES: [&str; 2] = ["amd64", "arm64"];

pub struct Mirror {
    notary: Notary,
    folder: tempfile::TempDir,
}

impl Mirror {
    pub fn new() -> Self {
        let (notary, folder) = (Notary::new(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("root.json"), notary.trusted_root()).unwrap();
        Self { notary, folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn trusted_root(&self) -> PathBuf {
        self.folder.path().join("root.json")
    }

    /// A release for both architectures, as BuildKit publishes one since v0.27: tarball, bundle, provenance, SBOM.
    pub fn publish(&self, version: &str, content: &[u8]) {
        self.publish_unsigned(version, content);
        for arch in ARCHES {
            let name = format!("buildkit-{version}.linux-{arch}.tar.gz");
            let digest = hex(&std::fs::read(self.path().join(version).join(&name)).unwrap());
            let write = |kind: &str, value: &Value| {
                let name = format!("buildkit-{version}.linux-{arch}.{kind}.json");
                std::fs::write(self.path().join(version).join(name), value.to_string()).unwrap();
            };
            write("sigstore", &self.notary.sign(&Claim::release(version, &[(&name, &digest)])));
            write(
                "provenance",
                &json!({
                    "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v1",
                    "subject": [{ "name": name, "digest": { "sha256": digest } }], "predicate": {},
                }),
            );
            write("sbom", &json!({ "spdxVersion": "SPDX-2.3", "name": name }));
        }
        self.list(&[version]);
    }

    /// The tarballs alone.
    pub fn publish_unsigned(&self, version: &str, content: &[u8]) {
        let folder = self.path().join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for arch in ARCHES {
            let name = format!("buildkit-{version}.linux-{arch}.tar.gz");
            std::fs::write(folder.join(name), tarball(&[content, b"# ", arch.as_bytes()].concat())).unwrap();
        }
        self.list(&[version]);
    }

    /// Adds versions to the mirror's list, as GitHub's API would have them.
    pub fn list(&self, versions: &[&str]) {
        let path = self.path().join("releases.json");
        let mut list: Vec<Value> =
            std::fs::read(&path).map(|bytes| serde_json::from_slice(&bytes).unwrap()).unwrap_or_default();
        for version in versions {
            list.retain(|release| release["tag_name"] != *version);
            let kinds = ["tar.gz", "sigstore.json", "provenance.json", "sbom.json"];
            let names =
                ARCHES.iter().flat_map(|arch| kinds.map(|kind| format!("buildkit-{version}.linux-{arch}.{kind}")));
            // A release that is only announced lists its tarballs.
            let announced = !self.path().join(version).exists();
            let there = |name: &String| {
                self.path().join(version).join(name).exists() || (announced && name.ends_with("tar.gz"))
            };
            let assets: Vec<Value> = names.filter(there).map(|name| json!({ "name": name, "digest": null })).collect();
            list.push(json!({
                "tag_name": version, "draft": false, "prerelease": version.contains('-'),
                "published_at": "2026-03-02T11:00:00Z", "assets": assets,
            }));
        }
        std::fs::write(path, serde_json::to_vec(&list).unwrap()).unwrap();
    }
}

/// A tarball whose `buildctl` is `content`.
fn tarball(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzBuilder::new().write(Vec::new(), Compression::fast()));
    let mut add = |name: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    add("bin/buildctl", 0o755, content);
    tar.into_inner().unwrap().finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
