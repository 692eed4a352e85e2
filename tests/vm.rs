//! The whole road in real virtual machines: both recipes baked, verified as a pair, found again, interrupted, and failed.
//!
//! `make test` prepares a base disk and a stand-in release and names them in `AMIBAKE_TEST_BASE`,
//! `AMIBAKE_TEST_MIRROR` and `AMIBAKE_TEST_LOCK`; without them these tests are ignored, never passed over.

// In a test, an unwrap that fails is the test that fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A project folder of its own with the repository's recipes and assets.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["recipes", "assets"] {
            copy(&root.join(name), &folder.path().join(name));
        }
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `amibake <command> … --provider local` on this project with the prepared base, mirror and lock.
    fn amibake(&self, arguments: &[&str]) -> Command {
        self.amibake_on(arguments, Some(&setting("AMIBAKE_TEST_BASE")))
    }

    /// The same on another base; none for those that recipes name.
    fn amibake_on(&self, arguments: &[&str], base: Option<&str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amibake"));
        command
            .args(arguments)
            .args(["--provider", "local"])
            .args(base.into_iter().flat_map(|base| ["--base", base]))
            .args(["--release-mirror", &setting("AMIBAKE_TEST_MIRROR"), "--lock", &setting("AMIBAKE_TEST_LOCK")])
            .current_dir(self.path())
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("CI", "1")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.amibake(arguments).output().unwrap()
    }

    fn images(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path().join("dist")) else { return Vec::new() };
        let mut images: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        images.retain(|path| path.is_dir());
        images.sort();
        images
    }

    /// Nothing that a bake made is left: no emulator of this project's, no overlay, no half image.
    fn assert_nothing_left(&self) {
        let emulators: Vec<String> = emulators_below(self.path());
        assert!(emulators.is_empty(), "still running: {emulators:?}");
        for path in files(self.path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let stays = path.starts_with(self.path().join("dist")) && !path.to_string_lossy().contains("/dist/.");
            let disk = name.ends_with(".qcow2") || name.ends_with(".raw");
            assert!(!disk || stays, "left behind: {}", path.display());
        }
        let dist = fs::read_dir(self.path().join("dist")).into_iter().flatten();
        for entry in dist.map(|entry| entry.unwrap()) {
            assert!(
                !entry.file_name().to_string_lossy().starts_with('.') || entry.path().is_file(),
                "half an image is left: {}",
                entry.path().display()
            );
        }
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by `make test`"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// Command lines of the emulators that work below `folder`.
fn emulators_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if command.contains("qemu-system") && (here || command.contains(&*folder.to_string_lossy())) {
            found.push(command);
        }
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}\nstdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr)))
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", text(&output.stdout), text(&output.stderr));
}

#[test]
#[ignore = "needs a base disk and a release mirror: run by `make test`"]
fn both_images_are_baked_verified_as_a_pair_and_found_again() {
    let project = Project::new();

    let built = project.run(&["build", "--all", "--json"]);
    assert_exit(&built, 0);
    let images = project.images();
    assert_eq!(images.len(), 2, "{images:?}");
    for image in &images {
        let manifest: Value = serde_json::from_slice(&fs::read(image.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["artifact"]["stand_in"], Value::Bool(true));
        let disk = image.join(Path::new(manifest["image"]["location"].as_str().unwrap()).file_name().unwrap());
        let size = fs::metadata(&disk).unwrap().len();
        assert_eq!(manifest["image"]["size_bytes"], Value::from(size), "{}", disk.display());
        let told = Command::new("qemu-img").args(["info", "--output=json"]).arg(&disk).output().unwrap();
        let told: Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(told["format"], "qcow2");
        assert!(told.get("backing-filename").is_none(), "the image stands on its own");
    }
    project.assert_nothing_left();

    let again = project.run(&["build", "--all", "--json"]);
    assert_exit(&again, 0);
    let results = json(&again)["results"].as_array().unwrap().clone();
    assert!(results.len() == 2 && results.iter().all(|result| result["outcome"] == "existing"), "{results:#?}");

    let verified = project.run(&["verify", "builder", "agent", "--json"]);
    assert_exit(&verified, 0);
    let report = json(&verified);
    let checks = report["checks"].as_array().unwrap();
    let ended = |result: &str| checks.iter().filter(|check| check["result"] == result).count();
    assert_eq!(ended("failed"), 0, "{report:#}");
    assert!(ended("passed") >= 10, "{report:#}");
    assert!(ended("skipped") >= 1, "the stack's own checks are skipped here, visibly: {report:#}");
    let passed = |recipe: &str, part: &str| {
        checks.iter().any(|check| {
            check["recipe"] == recipe && check["result"] == "passed" && check["check"].as_str().unwrap().contains(part)
        })
    };
    assert!(passed("agent", "builder: "), "the agent reaches the builder: {report:#}");
    assert!(passed("builder", "(after a restart)"), "{report:#}");
    assert!(passed("builder", "keeps its content over a restart"), "{report:#}");
    project.assert_nothing_left();
    the_same_pair_with_certificates(&project, &images);
}

/// A builder with `tls`, baked on the one that is there, and its agent: nobody else gets in.
fn the_same_pair_with_certificates(project: &Project, images: &[PathBuf]) {
    let builder = images.iter().find(|image| image.to_string_lossy().contains("/dist/builder-")).unwrap();
    let rewrite = |name: &str, image: &str, change: &dyn Fn(&mut toml::Table)| {
        let recipe = project.path().join("recipes").join(name);
        let mut table: toml::Table = fs::read_to_string(&recipe).unwrap().parse().unwrap();
        let local = toml::Table::from_iter([("image".to_owned(), image.into())]);
        table["base"].as_table_mut().unwrap().insert("local".to_owned(), local.into());
        change(&mut table);
        fs::write(&recipe, toml::to_string(&table).unwrap()).unwrap();
    };
    // What the builder brings already is left out: this is about the daemon. The agent is the one that is there.
    rewrite("builder.toml", &builder.join("disk.qcow2").to_string_lossy(), &|table| {
        table["buildkitd"].as_table_mut().unwrap().insert("tls".to_owned(), true.into());
        table["step"].as_array_mut().unwrap().retain(|step| {
            let asset = step.get("asset").and_then(toml::Value::as_str).unwrap_or_default();
            ["builder/buildkitd.service", "builder/buildkitd.env"].contains(&asset)
        });
    });
    rewrite("agent.toml", &setting("AMIBAKE_TEST_BASE"), &|_| {});

    let run = |arguments: &[&str]| project.amibake_on(arguments, None).output().unwrap();
    assert_exit(&run(&["build", "builder", "--json"]), 0);
    let verified = run(&["verify", "builder", "agent", "--no-restart", "--json"]);
    assert_exit(&verified, 0);
    let report = json(&verified);
    let checks = report["checks"].as_array().unwrap();
    let passed = |part: &str| {
        checks.iter().any(|check| check["result"] == "passed" && check["check"].as_str().unwrap().contains(part))
    };
    assert!(passed("the port lets in only who has a certificate"), "{report:#}");
    assert!(passed("builder: buildctl reaches buildkitd"), "{report:#}");
    // No key of theirs is on a disk: PKCS #8 of a P-256 key, in PEM. Converted, so that nothing is packed.
    for image in project.images() {
        let disk = project.path().join("looked-at");
        let made =
            Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(image.join("disk.qcow2")).arg(&disk).status();
        assert!(made.unwrap().success());
        let grep =
            Command::new("grep").args(["-q", "-a", "-F", "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEH"]).arg(&disk).status();
        assert_eq!(grep.unwrap().code(), Some(1), "a key is in {}", image.display());
        fs::remove_file(&disk).unwrap();
    }
    project.assert_nothing_left();
}

#[test]
#[ignore = "needs a base disk and a release mirror: run by `make test`"]
fn an_interrupted_bake_leaves_nothing() {
    let project = Project::new();
    let mut bake = project.amibake(&["build", "agent"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(bake.stderr.take().unwrap()).lines();
    let step = lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains("step 1/"));
    assert!(step.is_some(), "no step began");
    assert!(!emulators_below(project.path()).is_empty());
    let kill = Command::new("kill").args(["-INT", &bake.id().to_string()]).status().unwrap();
    assert!(kill.success());
    // The pipe must be read on, or the bake blocks while it cleans up.
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert_eq!(bake.wait().unwrap().code(), Some(130), "{rest:#?}");
    assert!(project.images().is_empty());
    project.assert_nothing_left();
}

#[test]
#[ignore = "needs a base disk and a release mirror: run by `make test`"]
fn a_killed_bake_takes_its_emulator_along_and_the_next_one_sweeps() {
    let project = Project::new();
    let mut bake = project.amibake(&["build", "agent"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(bake.stderr.take().unwrap()).lines();
    assert!(lines.map(|line| line.unwrap()).any(|line| line.contains("step 1/")), "no step began");
    bake.kill().unwrap();
    bake.wait().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !emulators_below(project.path()).is_empty() {
        assert!(std::time::Instant::now() < deadline, "the emulator outlived amibake");
        std::thread::yield_now();
    }
    fs::write(
        project.path().join("recipes/failing.toml"),
        "name = \"failing\"\n\n[[step]]\nkind = \"run\"\nname = \"break\"\nscript = \"\"\"\necho before\nls /nowhere\necho after\n\"\"\"\n",
    )
    .unwrap();

    let failed = project.run(&["build", "failing"]);
    assert_exit(&failed, 1);
    let told = text(&failed.stderr);
    assert!(told.contains("break"), "{told}");
    assert!(told.contains("ls /nowhere"), "the failing line is shown: {told}");
    assert!(told.contains("No such file or directory"), "the last output is shown: {told}");
    assert!(told.contains("bake.log"), "the log is named: {told}");
    assert!(project.images().is_empty());
    project.assert_nothing_left();
}
