//! Whether a data volume's content outlives a restart: the two scripts that find out.

use std::time::Duration;

use super::RunId;
use crate::plan::{Check, VolumePlan, sh};

/// A small file, a sync; a disk that is slow under emulation needs its time.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Writes a marker on the volume, with the identity of its file system.
pub(super) fn mark(volume: &VolumePlan, run: &RunId) -> Check {
    let act = r#"{ echo "$run"; findmnt --noheadings --output UUID --mountpoint "$mount"; } >"$marker"
sync -f "$marker"
"#;
    check(format!("volume `{}` can be written", volume.name), volume, run, act)
}

/// Looks for the marker, and for the same file system under it.
pub(super) fn look(volume: &VolumePlan, run: &RunId) -> Check {
    let act = r#"[ -f "$marker" ] || { echo "what was written to $mount before the restart is gone"; exit 1; }
now=$(echo "$run"; findmnt --noheadings --output UUID --mountpoint "$mount")
before=$(cat "$marker")
[ "$now" = "$before" ] || { printf 'before the restart:\n%s\nnow:\n%s\n' "$before" "$now"; exit 1; }
"#;
    check(format!("volume `{}` keeps its content over a restart", volume.name), volume, run, act)
}

fn check(name: String, volume: &VolumePlan, run: &RunId, act: &str) -> Check {
    let script = format!(
        "set -euo pipefail\nmount={}\nrun={}\nmarker=\"$mount/.amibake-verify\"\n\
         mountpoint -q \"$mount\" || {{ echo \"$mount is not a mount point\"; exit 1; }}\n{act}",
        sh(&volume.mount),
        sh(&run.0),
    );
    let preamble_lines = 0;
    Check { name, script, preamble_lines, timeout: TIMEOUT, at_bake: false, at_boot: true, peer: None, skipped: None }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::recipe::Filesystem;

    fn volume(mount: &str) -> VolumePlan {
        VolumePlan {
            name: "cache".into(),
            mount: mount.into(),
            size_bytes: 1,
            volume_type: "gp3".into(),
            filesystem: Filesystem::Ext4,
        }
    }

    /// Runs the script with stand-ins for the two programs that look at mounts: a folder is a mount point when it
    /// holds `uuid`.
    fn run(script: &str) -> (bool, String) {
        let programs = "mountpoint() { [ -f \"$2/uuid\" ]; }\nfindmnt() { cat \"$5/uuid\"; }\n";
        let output =
            Command::new("bash").args(["-c", &format!("{programs}{script}")]).stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_volume_that_stays_passes_and_any_other_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("it's mounted");
        std::fs::create_dir(&mount).unwrap();
        let (volume, id) = (volume(mount.to_str().unwrap()), RunId("20261124t145112-3fa9c1".into()));
        let (mark, look) = (mark(&volume, &id).script, look(&volume, &id).script);
        let uuid = mount.join("uuid");
        assert_eq!(run(&mark), (false, format!("{} is not a mount point\n", mount.display())));
        std::fs::write(&uuid, "A\n").unwrap();
        assert!(run(&look).1.ends_with("before the restart is gone\n"));
        assert_eq!(run(&mark), (true, String::new()));
        assert_eq!(run(&look), (true, String::new()));
        std::fs::write(&uuid, "B\n").unwrap();
        assert!(!run(&look).0, "another file system");
        std::fs::remove_file(&uuid).unwrap();
        assert!(!run(&look).0, "not mounted");
    }

    #[test]
    fn shellcheck_finds_nothing() {
        let (volume, id) = (volume("/var/lib/buildkit"), RunId("r".into()));
        for check in [mark(&volume, &id), look(&volume, &id)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("script");
            std::fs::write(&path, check.script).unwrap();
            let output = Command::new("shellcheck").args(["--shell=bash"]).arg(&path).output();
            let output = output.expect("this program, which `scripts/setup test` installs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
