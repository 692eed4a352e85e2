//! Scripts of plans, for real: shellcheck over all of them, and those that can run in a folder of the test's own are run
//! there, with what should be refused as well. Nothing here touches a path outside its temporary folder.

#[cfg(test)]
mod plan_support;

#[cfg(test)]
mod scripts {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use crate::plan_support::{facts, lock, nasty, options, recipe};
    use amibake::plan::{Plan, failed_line, plan};
    use amibake::recipe::{AllMembers, Members, StepSpec};
    use amibake::release::{Arch, Platform, Sha256};
    use tempfile::TempDir;

    /// Scripts of a plan with their names: of steps, checks and the seal.
    fn scripts(plan: &Plan) -> Vec<(&str, &str)> {
        let steps = plan.steps.iter().chain([&plan.seal]).map(|step| (step.name.as_str(), step.script.as_str()));
        steps.chain(plan.checks.iter().map(|check| (check.name.as_str(), check.script.as_str()))).collect()
    }

    /// Runs a tool that `make test` asks for; a machine without it fails here rather than skips in silence.
    fn judged(tool: &str, arguments: &[&str], script: &str) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script).unwrap();
        let output = Command::new(tool).args(arguments).arg(file.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{tool} is needed by this test: {error}"));
        let said = [output.stdout, output.stderr].concat();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
    }

    #[test]
    fn every_script_passes_shellcheck() {
        let plan = nasty();
        assert_eq!(scripts(&plan).len(), 16);
        for (name, script) in scripts(&plan) {
            // SC2016: values that look like shell stand in single quotes because they must not be taken for it.
            for (tool, arguments) in [("shellcheck", &["--shell=bash", "--exclude=SC2016"][..]), ("bash", &["-n"])] {
                judged(tool, arguments, script).unwrap_or_else(|said| panic!("{name}: {said}"));
            }
        }
        assert!(judged("shellcheck", &["--shell=bash"], "#!/bin/bash\necho $1\n").is_err());
    }

    #[test]
    fn the_line_of_a_users_script_can_be_found_again() {
        let plan = planned(StepSpec::Run {
            name: "fails".to_owned(),
            script: "cd /\n# remark\nls /nonexistent\necho never\n".to_owned(),
            timeout: None,
        });
        let (status, output) = run(&plan, 0, &[]);
        assert_eq!((status, failed_line(output.as_bytes())), (Some(2), Some(3)), "{output}");
        let step = &plan.steps[0];
        assert_eq!(step.script.lines().nth((step.preamble_lines + 3 - 1) as usize), Some("ls /nonexistent"));
    }

    fn planned(step: StepSpec) -> Plan {
        planned_with(step, lock().artifact(Arch::Amd64).unwrap().sha256)
    }

    fn planned_with(step: StepSpec, sha256: Sha256) -> Plan {
        let mut recipe = recipe("name = \"sample\"");
        recipe.steps.push(step);
        let mut lock = lock();
        lock.artifacts.get_mut(&Platform(Arch::Amd64)).unwrap().sha256 = sha256;
        plan(&recipe, &lock, &facts(), &options()).unwrap()
    }

    /// Runs a step's script as root, or as what passes for root in a user name space; exit status and output.
    fn run(plan: &Plan, step: usize, environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), &plan.steps[step].script).unwrap();
        let mut command = if rustix::process::geteuid().is_root() {
            Command::new("bash")
        } else {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "bash"]);
            command
        };
        command.args(["-c", "exec bash \"$0\" 2>&1 </dev/null"]).arg(script.path());
        let output =
            command.env_clear().env("PATH", "/usr/bin:/bin").envs(environment.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn text(path: &Path) -> String {
        path.to_str().unwrap().to_owned()
    }

    fn file(path: &Path, content: &str, mode: &str) -> Plan {
        planned(StepSpec::File {
            name: None,
            path: text(path),
            content: Some(content.to_owned()),
            asset: None,
            template: false,
            owner: "0:0".to_owned(),
            mode: mode.to_owned(),
        })
    }

    #[test]
    fn a_file_is_written_whole_with_its_mode_and_folders() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("it's $(new)\n/a \"deep\" one/-rf %n é");
        for (content, mode) in [("one $(two) 'three'\nno end", "4755"), ("", "0600"), ("\u{1b}[31m\r\0", "0644")] {
            assert_eq!(run(&file(&path, content, mode), 0, &[]), (Some(0), String::new()));
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(format!("{:04o}", fs::metadata(&path).unwrap().mode() & 0o7777), mode);
        }
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o755);
        // Nothing temporary is left.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_replaces_a_link_and_refuses_a_folder() {
        let folder = TempDir::new().unwrap();
        let (path, elsewhere) = (folder.path().join("file"), folder.path().join("elsewhere"));
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(run(&file(&path, "new\n", "0644"), 0, &[]).0, Some(0));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "untouched");
        let (status, output) = run(&file(folder.path(), "x", "0644"), 0, &[]);
        assert!(status == Some(1) && output.contains("is a folder"), "{output}");
    }

    #[test]
    fn a_failing_file_leaves_what_was_there() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut recipe = recipe("name = \"sample\"");
        recipe.steps.push(StepSpec::File {
            name: None,
            path: text(&path),
            content: Some("new".to_owned()),
            asset: None,
            template: false,
            owner: "no-such-user:no-such-group".to_owned(),
            mode: "0644".to_owned(),
        });
        let plan = plan(&recipe, &lock(), &facts(), &options()).unwrap();
        let (status, output) = run(&plan, 0, &[]);
        assert_eq!(status, Some(1), "{output}");
        let line = failed_line(output.as_bytes()).unwrap();
        let script = &plan.steps[0].script;
        assert!(script.lines().nth((plan.steps[0].preamble_lines + line - 1) as usize).unwrap().starts_with("chown"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// A folder that becomes a tarball, and the prefix it is installed under.
    struct Release {
        folder: TempDir,
    }

    impl Release {
        /// `bin/` with buildctl, buildkitd and a helper; the programs are scripts that say `said` for a version.
        fn new(said: &str) -> Self {
            let folder = TempDir::new().unwrap();
            let release = Self { folder };
            fs::create_dir_all(release.path("tree/bin")).unwrap();
            fs::create_dir(release.path("it's $(here)")).unwrap();
            for program in ["buildctl", "buildkitd"] {
                let script = format!("#!/bin/sh\necho {program} github.com/moby/buildkit {said} 0123abc\n");
                fs::write(release.path("tree/bin").join(program), script).unwrap();
            }
            fs::write(release.path("tree/bin/buildkit-runc"), "helper").unwrap();
            for program in fs::read_dir(release.path("tree/bin")).unwrap() {
                fs::set_permissions(program.unwrap().path(), fs::Permissions::from_mode(0o4777)).unwrap();
            }
            release
        }

        fn path(&self, name: &str) -> PathBuf {
            // Links on the way to the temporary folder are none of the test's business.
            self.folder.path().canonicalize().unwrap().join(name)
        }

        fn prefix(&self) -> PathBuf {
            self.path("it's $(here)/prefix")
        }

        /// Packs the tree and makes the plan that installs `members` of it.
        fn pack(&self, members: Members) -> Plan {
            let (tree, tarball) = (self.path("tree"), self.path("artifact"));
            let packed =
                Command::new("tar").arg("-czf").arg(&tarball).arg("-C").arg(&tree).arg("bin").status().unwrap();
            assert!(packed.success());
            let bytes = fs::read(&tarball).unwrap();
            planned_with(
                StepSpec::Buildkit { name: None, members, prefix: text(&self.prefix()), timeout: None },
                Sha256::of(&bytes),
            )
        }

        fn install(&self, plan: &Plan) -> (Option<i32>, String) {
            let artifact = self.path("artifact");
            let size = fs::metadata(&artifact).unwrap().len().to_string();
            self.install_from(plan, &artifact, &size)
        }

        fn install_from(&self, plan: &Plan, artifact: &Path, size: &str) -> (Option<i32>, String) {
            run(plan, 0, &[("AMIBAKE_ARTIFACT", &text(artifact)), ("AMIBAKE_ARTIFACT_SIZE", size)])
        }

        /// What is below the prefix, hidden files too.
        fn installed(&self) -> Vec<String> {
            let mut names = Vec::new();
            let mut folders = vec![self.prefix()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten() {
                    let path = entry.unwrap().path();
                    if path.is_dir() && !path.is_symlink() {
                        folders.push(path);
                    } else {
                        names.push(text(path.strip_prefix(self.prefix()).unwrap()));
                    }
                }
            }
            names.sort();
            names
        }

        fn refused(&self, plan: &Plan, reason: &str) {
            let before = self.installed();
            let (status, output) = self.install(plan);
            assert!(status != Some(0) && output.contains(reason), "{status:?} {output}");
            assert_eq!(self.installed(), before);
        }
    }

    fn all() -> Members {
        Members::All(AllMembers::All)
    }

    fn only(member: &str) -> Members {
        Members::Named(vec![member.to_owned()])
    }

    #[test]
    fn buildkit_is_installed_whole() {
        let release = Release::new("v0.31.2");
        let plan = release.pack(all());
        // A block device is longer than the tarball on it.
        let device = release.path("device");
        let mut bytes = fs::read(release.path("artifact")).unwrap();
        let size = bytes.len().to_string();
        bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
        fs::write(&device, bytes).unwrap();
        for _ in 0..2 {
            let (status, output) = release.install_from(&plan, &device, &size);
            assert_eq!(status, Some(0), "{output}");
            assert_eq!(release.installed(), ["bin/buildctl", "bin/buildkit-runc", "bin/buildkitd"]);
        }
        for name in release.installed() {
            assert_eq!(fs::metadata(release.prefix().join(name)).unwrap().mode(), 0o100_755);
        }
        assert_eq!(fs::metadata(release.prefix().join("bin")).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn one_member_is_installed_alone_and_in_the_place_of_a_link() {
        let release = Release::new("v0.31.2");
        let plan = release.pack(only("bin/buildctl"));
        fs::create_dir_all(release.prefix().join("bin")).unwrap();
        let elsewhere = release.path("elsewhere");
        fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, release.prefix().join("bin/buildctl")).unwrap();
        let (status, output) = release.install(&plan);
        assert_eq!(status, Some(0), "{output}");
        assert_eq!(release.installed(), ["bin/buildctl"]);
        assert_eq!(fs::symlink_metadata(release.prefix().join("bin/buildctl")).unwrap().mode(), 0o100_755);
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "untouched");
    }

    #[test]
    fn buildkit_is_refused_when_its_bytes_are_others() {
        let release = Release::new("v0.31.2");
        let plan = release.pack(all());
        let artifact = release.path("artifact");
        let size = fs::metadata(&artifact).unwrap().len();
        for size in [size - 1, 0] {
            let (status, output) = release.install_from(&plan, &artifact, &size.to_string());
            assert!(status == Some(1) && output.contains("refused: the artifact's sha256"), "{output}");
        }
        for (artifact, size, reason) in [
            (text(&artifact), "1; reboot".to_owned(), "not a number"),
            (text(&release.path("none")), size.to_string(), "refused"),
        ] {
            let (status, output) = release.install_from(&plan, Path::new(&artifact), &size);
            assert!(status == Some(1) && output.contains(reason), "{output}");
        }
        let (status, output) = run(&plan, 0, &[]);
        assert!(status != Some(0) && output.contains("the machine has no artifact"), "{output}");
        let mut bytes = fs::read(&artifact).unwrap();
        bytes[100] ^= 1;
        fs::write(&artifact, bytes).unwrap();
        release.refused(&plan, "the lock pins");
        assert!(!release.prefix().exists());
    }

    #[test]
    fn buildkit_is_refused_for_links_of_any_kind() {
        let release = Release::new("v0.31.2");
        symlink("/etc/passwd", release.path("tree/bin/link")).unwrap();
        release.refused(&release.pack(all()), "bin/link of the artifact is not a plain file");
        release.refused(&release.pack(only("bin/link")), "is not a plain file");
        fs::remove_file(release.path("tree/bin/link")).unwrap();
        fs::hard_link(release.path("tree/bin/buildctl"), release.path("tree/bin/second")).unwrap();
        release.refused(&release.pack(all()), "is not a plain file");
        fs::remove_file(release.path("tree/bin/second")).unwrap();
        let plan = release.pack(all());
        fs::create_dir_all(release.prefix()).unwrap();
        fs::create_dir(release.path("elsewhere")).unwrap();
        symlink(release.path("elsewhere"), release.prefix().join("bin")).unwrap();
        release.refused(&plan, "is reached through a link");
        assert_eq!(fs::read_dir(release.path("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn buildkit_is_refused_without_the_member_or_with_another_version() {
        let release = Release::new("v0.31.2");
        release.refused(&release.pack(only("bin/none")), "Not found in archive");
        release.refused(&release.pack(only("bin/b*")), "Not found in archive");
        for said in ["v0.31.1", "v0.31.20", "v0.31.2-rc1", ""] {
            let release = Release::new(said);
            let (status, output) = release.install(&release.pack(all()));
            assert!(status == Some(1) && output.contains("buildctl should be v0.31.2"), "{said}: {output}");
        }
    }
}
