//! The executor on a fake world: it fails, is interrupted, panics and is killed at every node, and nothing is left.

mod bakes;
pub(crate) mod fake;
mod kills;
mod verifies;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::error::Result;
use crate::plan::*;
use crate::recipe::{Filesystem, ProviderKind};
use crate::release::{Arch, Sha256, Version, unverified_for_tests};

const RUN: &str = "20261124t145112-3fa9c1";
const IMAGE: &str = "builder-v0.31.2-amd64-ba7816bf8f01";

fn step(name: &str) -> Step {
    let timeout = Duration::from_secs(600);
    Step { name: name.into(), kind: "run", script: format!("preamble\n{name}"), preamble_lines: 1, timeout }
}

fn check(name: &str) -> Check {
    Check {
        name: name.into(),
        script: name.into(),
        preamble_lines: 0,
        timeout: Duration::from_secs(60),
        at_bake: true,
        at_boot: true,
        peer: None,
        skipped: None,
    }
}

fn plan(recipe: &str) -> Plan {
    let skipped = Check { skipped: Some("only on aws".into()), ..check("stack's own set-up") };
    let cross = Check { at_bake: false, peer: Some("builder".into()), ..check("reaches the builder") };
    let checks = vec![check("version matches"), skipped, check("port answers")];
    Plan {
        schema: 1,
        recipe: recipe.into(),
        provider: ProviderKind::Local,
        arch: Arch::Amd64,
        fingerprint: Fingerprint(Sha256::of(b"abc")),
        image: ImagePlan {
            name: ImageName(format!("{recipe}-v0.31.2-amd64-ba7816bf8f01")),
            format: ImageFormat::Qcow2,
            standalone: true,
            tags: BTreeMap::from([("amibake:recipe".to_owned(), recipe.to_owned())]),
        },
        base: BaseImage {
            name: "debian-12".into(),
            identity: "sha256:00".into(),
            location: "/cache/base.qcow2".into(),
            arch: Arch::Amd64,
            disk_bytes: 1 << 30,
            ami: None,
        },
        artifact: ArtifactPlan {
            version: Version::new(0, 31, 2),
            url: "https://releases.example/v0.31.2/buildkit.tar.gz".into(),
            sha256: Sha256::of(b"buildkit"),
            stand_in: true,
            evidence: None,
            members: Vec::new(),
        },
        machine: MachinePlan {
            cpus: 2,
            memory_bytes: 2 << 30,
            disk_bytes: 10 << 30,
            timeout: Duration::from_secs(5400),
            start_timeout: Duration::from_secs(600),
            image_timeout: Duration::from_secs(600),
        },
        aws: None,
        port: None,
        tls: false,
        volumes: if recipe == "builder" {
            vec![VolumePlan {
                name: "cache".into(),
                mount: "/var/lib/buildkit".into(),
                size_bytes: 100 << 30,
                volume_type: "gp3".into(),
                filesystem: Filesystem::Ext4,
            }]
        } else {
            Vec::new()
        },
        steps: vec![step("install git"), step("unpack buildkit")],
        checks: if recipe == "agent" { [checks, vec![cross]].concat() } else { checks },
        seal: Step { kind: "seal", ..step("seal") },
        overrides: vec!["machine.cpus=2".into()],
    }
}

/// Folders of one test.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix(fake::PLACE).tempdir().unwrap() }
    }

    fn runs(&self) -> PathBuf {
        self.dir.path().join("runs")
    }

    fn run_dir(&self) -> PathBuf {
        self.runs().join(RUN)
    }

    fn dist(&self) -> PathBuf {
        self.dir.path().join("dist")
    }

    fn job(&self) -> Job {
        Job {
            plan: plan("builder"),
            artifact: unverified_for_tests(),
            run: RunId(RUN.into()),
            run_dir: self.run_dir(),
            dist_dir: self.dist(),
            keep: false,
            // With more that can go wrong.
            test_boot: true,
        }
    }

    fn group(&self) -> Group {
        let member = |recipe: &str| {
            let plan = plan(recipe);
            let image = Image {
                name: plan.image.name.clone(),
                location: "/dist/x/disk.qcow2".into(),
                format: ImageFormat::Qcow2,
                size_bytes: 1,
                sha256: None,
                region: None,
                verified: false,
                created: None,
            };
            (plan, image)
        };
        Group {
            members: vec![member("builder"), member("agent")],
            run: RunId(RUN.into()),
            run_dir: self.run_dir(),
            restart: true,
            keep: false,
        }
    }

    /// An image of an earlier bake under the same name.
    fn older_image(&self) {
        std::fs::create_dir_all(self.dist().join(IMAGE)).unwrap();
        std::fs::write(self.dist().join(IMAGE).join("disk.qcow2"), "older image").unwrap();
    }

    fn image_content(&self) -> Option<String> {
        std::fs::read_to_string(self.dist().join(IMAGE).join("disk.qcow2")).ok()
    }

    /// Asserts that a run that came to no image left nothing but its log and journal, and what was there before.
    fn assert_clean(&self, world: &fake::World, context: &str) {
        assert!(world.live().is_empty(), "{context}: lives: {:?}", world.live());
        let run: Vec<_> = fake::tree(&self.run_dir());
        let expected = |name: &String| name == "bake.log" || name == "verify.log" || name == "journal.jsonl";
        assert!(run.iter().all(expected), "{context}: {run:?}");
        let dist = fake::tree(&self.dist());
        assert!(dist.iter().all(|name| !name.starts_with('.')), "{context}: {dist:?}");
        if dist.is_empty() {
            return;
        }
        assert_eq!(dist, [IMAGE.to_owned(), format!("{IMAGE}/disk.qcow2")], "{context}");
        assert_eq!(self.image_content().unwrap(), "older image", "{context}");
    }

    /// Asserts that nothing but a whole image and its snapshots is there.
    fn assert_baked(&self, world: &fake::World, context: &str) {
        let live = world.live();
        assert_eq!(live.len(), fake::SNAPSHOTS, "{context}: the snapshots and nothing else: {live:?}");
        let file = |name: &str| format!("{IMAGE}/{name}");
        let expected = [IMAGE.to_owned(), file("bake.log"), file("disk.qcow2"), file("manifest.json")];
        assert_eq!(fake::tree(&self.dist()), expected, "{context}");
        assert_eq!(self.image_content().unwrap(), "whole image", "{context}");
        assert_eq!(fake::tree(&self.run_dir()), ["bake.log", "journal.jsonl"], "{context}");
    }
}

/// Bakes `job` in `world`.
async fn run(job: &Job, world: &Arc<fake::World>, cancel: &CancellationToken) -> Result<Outcome> {
    bake(job, &world.provider(), &Reporter::silent(), cancel).await
}

/// A sink that remembers.
#[derive(Default)]
struct Memory(Mutex<Vec<(String, Event)>>);

impl Memory {
    fn warnings(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let warning = |event: &Event| match event {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        };
        events.iter().filter_map(|(_, event)| warning(event)).collect()
    }

    fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }
}

impl Sink for Memory {
    fn event(&self, scope: &str, event: &Event) {
        self.0.lock().unwrap().push((scope.to_owned(), event.clone()));
    }
}

/// Interrupts at the event of a chosen number.
struct Interrupter {
    at: usize,
    seen: Mutex<usize>,
    cancel: CancellationToken,
}

impl Sink for Interrupter {
    fn event(&self, _: &str, _: &Event) {
        let mut seen = self.seen.lock().unwrap();
        if *seen == self.at {
            self.cancel.cancel();
        }
        *seen += 1;
    }
}

fn journal(run_dir: &Path) -> String {
    std::fs::read_to_string(run_dir.join(JOURNAL)).unwrap()
}
