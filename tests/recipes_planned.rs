//! Plans of the shipped recipes: what they decide, that every script is sound, and that what their templates become fits
//! systemd and BuildKit.

// In a test, an unwrap that fails is the test that fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use amibake::plan::{self, BaseImage, Facts, ImageFormat, Options, Plan, wanted_assets};
use amibake::recipe::{self, ProviderKind};
use amibake::release::{Arch, Lock, LockedArtifact, Platform, Sha256, Version};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lock(version: Version) -> Lock {
    let artifact = |arch: Arch| {
        let url = format!("https://example.com/{version}/buildkit-{version}.linux-{arch}.tar.gz");
        LockedArtifact::pinned(url, Sha256::of(arch.as_str().as_bytes()))
    };
    let artifacts = Arch::ALL.into_iter().map(|arch| (Platform(arch), artifact(arch))).collect();
    Lock { version, stand_in: false, artifacts }
}

fn newest() -> Lock {
    lock(Version::new(0, 31, 2))
}

fn base() -> BaseImage {
    BaseImage {
        name: "debian-12".to_owned(),
        identity: format!("sha256:{}", Sha256::of(b"base")),
        location: "/base.qcow2".to_owned(),
        arch: Arch::Amd64,
        disk_bytes: 4 << 30,
        ami: None,
    }
}

fn options() -> Options {
    Options {
        provider: ProviderKind::Local,
        arch: Arch::Amd64,
        format: ImageFormat::Qcow2,
        standalone: true,
        overrides: Vec::new(),
    }
}

fn shipped_with(name: &str, overrides: &[&str], lock: &Lock) -> Plan {
    let overrides: Vec<String> = overrides.iter().map(|given| (*given).to_owned()).collect();
    let loaded = recipe::load(root(), name, &overrides).unwrap();
    let assets = wanted_assets(&loaded.recipe)
        .into_iter()
        .map(|name| (name.clone(), std::fs::read(loaded.assets_dir.join(name)).unwrap()))
        .collect();
    plan::plan(&loaded.recipe, lock, &Facts { base: base(), assets }, &options()).unwrap()
}

fn shipped(name: &str) -> Plan {
    shipped_with(name, &[], &newest())
}

fn scripts(plan: &Plan) -> Vec<(String, String)> {
    let steps = plan.steps.iter().chain([&plan.seal]).map(|step| (step.name.clone(), step.script.clone()));
    steps.chain(plan.checks.iter().map(|check| (check.name.clone(), check.script.clone()))).collect()
}

#[test]
fn every_script_passes_shellcheck() {
    for plan in [shipped("builder"), shipped("agent")] {
        for (name, script) in scripts(&plan) {
            let mut child = Command::new("shellcheck")
                // SC2034: a head that serves several bodies sets what one of them does not use. SC1091: files that are
                // on the baked machine only. SC2317: the trap's function, where a script ends with `exit`.
                .args(["--shell=bash", "--exclude=SC2034,SC1091,SC2317", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("shellcheck is needed: apt-get install shellcheck");
            child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}: {name}\n{}\n{script}",
                plan.recipe,
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }
}

#[test]
fn what_the_shipped_recipes_do() {
    let mut text = String::new();
    for name in ["builder", "agent"] {
        let plan = shipped(name);
        let _ = writeln!(text, "{name}: {} volumes {:?}", plan.volumes.len(), plan.artifact.members);
        for step in &plan.steps {
            let _ = writeln!(text, "  step [{}] {} ({} s)", step.kind, step.name, step.timeout.as_secs());
        }
        for check in &plan.checks {
            let when = (check.at_bake, check.at_boot, check.peer.as_deref(), check.skipped.as_deref());
            let _ = writeln!(text, "  check {} {when:?}", check.name);
        }
    }
    insta::assert_snapshot!(text);
}

/// The content that a `file` or `unit` step writes: what its function `content` prints.
fn content(plan: &Plan, of: &str) -> String {
    let step = plan.steps.iter().find(|step| matches!(step.kind, "file" | "unit") && step.name.contains(of)).unwrap();
    let start = step.script.find("content() {").unwrap();
    let length = step.script[start..].find("\n}\n").unwrap() + 3;
    let script = format!("{}\ncontent", &step.script[start..start + length]);
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_daemons_configuration_fits_its_version() {
    let keys = |version: Version| {
        let template = content(&shipped_with("builder", &[], &lock(version)), "/etc/amibake/buildkitd.toml.in");
        let number = filled_in(&template);
        let table: toml::Table = number.parse().unwrap_or_else(|error| panic!("{version}: {error}\n{number}"));
        let policies = table["worker"]["oci"]["gcpolicy"].as_array().unwrap().clone();
        assert!(policies.len() >= 2, "{version}");
        policies.last().unwrap().as_table().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    for version in [Version::new(0, 13, 2), Version::new(0, 16, 0)] {
        assert_eq!(keys(version), ["all", "keepBytes"], "{version}");
    }
    for version in [Version::new(0, 17, 0), Version::new(0, 31, 2)] {
        assert_eq!(keys(version), ["all", "maxUsedSpace", "minFreeSpace", "reservedSpace"], "{version}");
    }
}

/// The template with numbers where `configure` puts them at boot.
fn filled_in(template: &str) -> String {
    let mut text = template.replace("@cpus@", "4");
    while let Some(start) = text.find("@percent:") {
        let end = start + 1 + text[start + 1..].find('@').unwrap();
        text.replace_range(start..=end, "1000");
    }
    text
}

#[test]
fn the_daemons_unit_is_sound_and_takes_what_the_recipe_says() {
    let overrides = ["buildkitd.port=2345", "buildkitd.extra_flags=[\"--debug\", \"--log-format=json\"]"];
    let unit = content(&shipped_with("builder", &overrides, &newest()), "buildkitd.service");
    assert!(unit.contains("--addr tcp://0.0.0.0:2345"), "{unit}");
    assert!(unit.contains("    --log-format=json\n"), "{unit}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("buildkitd.service");
    // Programs that are only in the image.
    let here =
        unit.replace("/usr/local/bin/buildkitd", "/bin/true").replace("/usr/local/libexec/amibake/", "/bin/true ");
    std::fs::write(&file, here).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    let output = output.expect("systemd-analyze is needed: apt-get install systemd");
    let said = String::from_utf8_lossy(&output.stderr);
    let about: Vec<&str> = said.lines().filter(|line| line.contains("buildkitd.service")).collect();
    assert!(about.is_empty(), "{about:#?}");
}

#[test]
fn a_bridge_needs_a_release_that_has_one() {
    let loaded = recipe::load(root(), "builder", &[]).unwrap();
    let facts = Facts { base: base(), assets: BTreeMap::new() };
    let error = plan::plan(&loaded.recipe, &lock(Version::new(0, 12, 5)), &facts, &options()).unwrap_err();
    assert_eq!(error.exit().code(), 2);
    assert!(error.hint().unwrap().contains("network = \"host\""));
}
