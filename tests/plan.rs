//! Plans of the shipped recipes and of a hostile one: what they decide, that every script is sound, and what moves a
//! fingerprint.

// In a test, an unwrap that fails is the test that fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use amibake::plan::{self, BaseImage, Facts, ImageFormat, Options, Plan, wanted_assets};
use amibake::recipe::{self, ProviderKind, Recipe};
use amibake::release::{Arch, Lock, LockedArtifact, Platform, Sha256, Version};
use proptest::prelude::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lock(version: Version) -> Lock {
    let artifact = |arch: Arch| LockedArtifact {
        url: format!("https://example.com/{version}/buildkit-{version}.linux-{arch}.tar.gz"),
        sha256: Sha256::of(arch.as_str().as_bytes()),
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

/// A recipe with every kind of step and values that a shell would trip over.
const HOSTILE: &str = r#####"
name = "hostile"
tags = { team = "it's" }

[[volume]]
name = "data"
mount = "/mnt/data"
size = "1GiB"

[[step]]
kind = "packages"
apt = ["git", "g++"]

[[step]]
kind = "buildkit"
members = ["bin/buildctl"]
prefix = "/opt/a b/$(c)"

[[step]]
kind = "file"
path = "/opt/it's/$HOME/`x`"
content = "'\"$(rm -rf /)`\\\n%h ünïcode"

[[step]]
kind = "file"
path = "/opt/binary"
asset = "binary"

[[step]]
kind = "file"
path = "/opt/template"
content = "{{ volumes[0].mount | sh }} {{ 'a\"b' | toml }} {{ 'a b%c$d' | systemd }} {{ '15m' | seconds }}\n"
template = true

[[step]]
kind = "unit"
unit = "it.service"
content = "[Service]\nExecStart=/bin/true\n"
enable = false

[[step]]
kind = "run"
name = "a 'run' step"
script = "echo one\nfalse # two\n"

[[check]]
name = "a check"
script = "true"
"#####;

fn hostile_recipe(text: &str) -> Recipe {
    recipe::parse("hostile.toml", text, &[]).map_err(|faults| faults.to_string()).unwrap()
}

fn planned(text: &str, asset: &[u8], lock: &Lock, base: BaseImage) -> Plan {
    let assets = BTreeMap::from([("binary".to_owned(), asset.to_vec())]);
    plan::plan(&hostile_recipe(text), lock, &Facts { base, assets }, &options()).unwrap()
}

fn hostile() -> Plan {
    planned(HOSTILE, b"\0\xff'\n", &newest(), base())
}

fn scripts(plan: &Plan) -> Vec<(String, String)> {
    let steps = plan.steps.iter().chain([&plan.seal]).map(|step| (step.name.clone(), step.script.clone()));
    steps.chain(plan.checks.iter().map(|check| (check.name.clone(), check.script.clone()))).collect()
}

#[test]
fn every_script_passes_shellcheck() {
    for plan in [shipped("builder"), shipped("agent"), hostile()] {
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

#[test]
fn a_plan_as_text_and_as_json() {
    let plan = hostile();
    insta::assert_snapshot!("hostile_text", plan::render_text(&plan));
    let json = serde_json::to_value(&plan).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    insta::assert_debug_snapshot!("hostile_json_keys", keys);
}

/// Runs a script as the executor does, in a folder of its own.
fn run(script: &str) -> (Option<i32>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    std::fs::write(&file, script).unwrap();
    let output = Command::new("bash").arg(&file).current_dir(folder.path()).output().unwrap();
    (output.status.code(), [output.stdout, output.stderr].concat())
}

#[test]
fn a_failing_script_tells_its_line() {
    let plan = hostile();
    let step = plan.steps.iter().find(|step| step.kind == "run").unwrap();
    let (code, output) = run(&step.script);
    assert_eq!(code, Some(1));
    let line = plan::failed_line(&output).expect("the line is told");
    assert_eq!(line - step.preamble_lines, 2, "{}", String::from_utf8_lossy(&output));
    assert_eq!(step.script.lines().nth(line as usize - 1), Some("false # two"));
    assert_eq!(plan::failed_line(b"nothing of ours"), None);
}

#[test]
fn a_file_arrives_byte_for_byte_whatever_its_name() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("it's $(here)/a b");
    let text = HOSTILE.replace("path = \"/opt/binary\"", &format!("path = \"{}\"", path.display()));
    let owner = Command::new("id").args(["-un"]).output().unwrap();
    let owner = String::from_utf8(owner.stdout).unwrap().trim().to_owned();
    let text = text
        .replace("asset = \"binary\"", &format!("asset = \"binary\"\nowner = \"{owner}:{owner}\"\nmode = \"0640\""));
    let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let plan = planned(&text, &bytes, &newest(), base());
    let (code, output) = run(&plan.steps[3].script);
    assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&output));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o640);
}

/// The content that a `file` or `unit` step writes.
fn content(plan: &Plan, path: &str) -> String {
    let step = plan.steps.iter().find(|step| step.script.contains(&format!("={path}\n"))).unwrap();
    let code = step.script.split("<<'AMIBAKE_FILE'\n").nth(1).unwrap().split("AMIBAKE_FILE").next().unwrap();
    let decoded = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut decoded = decoded.unwrap();
    decoded.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
    String::from_utf8(decoded.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn the_daemons_configuration_fits_its_version() {
    let keys = |version: Version| {
        let template = content(&shipped_with("builder", &[], &lock(version)), "/etc/amibake/buildkitd.toml.in");
        let number = regex_lite(&template);
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
fn regex_lite(template: &str) -> String {
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

#[test]
fn a_template_that_does_not_render_names_its_line() {
    let text = HOSTILE.replace("{{ volumes[0].mount | sh }}", "one\\n{{ nothing.here }}");
    let facts = Facts { base: base(), assets: BTreeMap::from([("binary".to_owned(), Vec::new())]) };
    let error = plan::plan(&hostile_recipe(&text), &newest(), &facts, &options()).unwrap_err();
    assert_eq!(error.exit().code(), 2);
    assert!(error.to_string().contains("/opt/template:2"), "{error}");
}

#[test]
fn a_fingerprint_covers_content_and_nothing_else() {
    let print = |text: &str| planned(text, b"x", &newest(), base()).fingerprint;
    let same = print(HOSTILE);
    for (what, text) in [
        ("a comment", format!("# comment\n{HOSTILE}")),
        ("a tag", HOSTILE.replace("it's\" }", "other\" }")),
        ("the machine's size", format!("{HOSTILE}\n[machine]\ncpus = 7\nmemory = \"3GiB\"\ntimeout = \"80m\"\n")),
        ("a check", HOSTILE.replace("script = \"true\"", "script = \"false\"")),
        ("a step's name", HOSTILE.replace("a 'run' step", "another name")),
        ("a time-out", HOSTILE.replace("name = \"a 'run' step\"", "name = \"a 'run' step\"\ntimeout = \"5m\"")),
    ] {
        assert_eq!(print(&text), same, "{what} moves the fingerprint");
    }
    for (what, text) in [
        ("a script", HOSTILE.replace("echo one", "echo onf")),
        ("a file's content", HOSTILE.replace("%h", "%i")),
        ("a file's mode", HOSTILE.replace("path = \"/opt/binary\"", "path = \"/opt/binary\"\nmode = \"0600\"")),
        ("a path", HOSTILE.replace("/opt/binary", "/opt/binarz")),
        ("a package", HOSTILE.replace("g++", "gcc")),
        ("a volume's mount", HOSTILE.replace("/mnt/data", "/mnt/date")),
        ("a volume's size", HOSTILE.replace("size = \"1GiB\"", "size = \"2GiB\"")),
        ("the disk", format!("{HOSTILE}\n[machine]\ndisk = \"5GiB\"\n")),
        ("a member", HOSTILE.replace("bin/buildctl", "bin/buildkitd")),
    ] {
        assert_ne!(print(&text), same, "{what} does not move the fingerprint");
    }
    let mut other = base();
    other.identity.push('0');
    assert_ne!(planned(HOSTILE, b"x", &newest(), other).fingerprint, same, "the base");
    assert_ne!(planned(HOSTILE, b"x", &lock(Version::new(0, 31, 1)), base()).fingerprint, same, "the release");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One byte of an asset, anywhere, makes another image; the same bytes make the same one.
    #[test]
    fn one_byte_of_an_asset_moves_the_fingerprint(
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= flip;
        let print = |asset: &[u8]| planned(HOSTILE, asset, &newest(), base()).fingerprint;
        prop_assert_eq!(print(&bytes), print(&bytes));
        prop_assert_ne!(print(&bytes), print(&changed));
    }

    /// Steps in another order make another image.
    #[test]
    fn the_order_of_steps_moves_the_fingerprint(first in 0_usize..5, by in 1_usize..5) {
        let second = (first + by) % 5;
        let step = |number: usize| format!("[[step]]\nkind = \"run\"\nname = \"{number}\"\nscript = \"echo {number}\"\n");
        let text = |order: &[usize]| {
            format!("name = \"order\"\n{}", order.iter().map(|number| step(*number)).collect::<String>())
        };
        let order: Vec<usize> = (0..5).collect();
        let mut swapped = order.clone();
        swapped.swap(first, second);
        let print = |order: &[usize]| planned(&text(order), b"", &newest(), base()).fingerprint;
        prop_assert_ne!(print(&order), print(&swapped));
    }
}
