//! Removing what a run left: believed only as far as a run of ours could have made it. Every path a run makes has the
//! run's name in it, its own or a folder's; nothing else is touched, whatever a journal says.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use super::process;
use crate::bake::RunId;
use crate::error::{Context as _, Error, Result};
use crate::provider::Resource;

/// Characters of a run's name: `20261124t145112-3fa9c1`.
const RUN_ID_LENGTH: usize = 22;

/// Removes `resource`; what is gone already is removed.
///
/// # Errors
/// When it is not one of ours, or still there afterwards.
pub(in crate::provider) async fn remove(resource: &Resource) -> Result<()> {
    match resource {
        Resource::Process { pid, started } => process::end(*pid, *started).await,
        Resource::Path { path } => {
            let (owned, shown) = (path.clone(), path.display().to_string());
            let removed = tokio::task::spawn_blocking(move || remove_path(&owned)).await;
            removed.or_host(|| format!("cannot remove {shown}"))?
        }
        Resource::Tagged { .. }
        | Resource::Instance { .. }
        | Resource::SecurityGroup { .. }
        | Resource::Ami { .. }
        | Resource::Command { .. }
        | Resource::Object { .. } => Err(Error::host(format!("{resource} is not on this machine"))
            .with_hint("remove it with `--provider aws`, or `amibake gc`")),
    }
}

fn remove_path(path: &Path) -> Result<()> {
    if !is_of_a_run(path) {
        return Err(Error::host(format!("{} is not removed: no run of amibake makes it", path.display())));
    }
    let context = || format!("cannot remove {}", path.display());
    // Of a link, the link is removed and not what it leads to; so for every link below a folder (remove_dir_all).
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error).or_host(context),
    };
    let removed = if meta.is_dir() {
        let parent = path.parent().unwrap_or(path);
        if std::fs::metadata(parent).or_host(context)?.dev() != meta.dev() {
            return Err(Error::host(format!("{} is not removed: something is mounted there", path.display())));
        }
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if !is_gone(&error) => Err(error).or_host(context),
        _ => Ok(()),
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Whether a run can have made `path`: absolute, plain, and with the name of a run in it.
fn is_of_a_run(path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => has_run_id(&name.to_string_lossy()),
        _ => false,
    };
    path.is_absolute() && plain && path.components().any(named)
}

fn has_run_id(name: &str) -> bool {
    (0..name.len()).filter_map(|start| name.get(start..start + RUN_ID_LENGTH)).any(RunId::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "20261124t145112-3fa9c1";

    fn refused(path: &str) -> bool {
        remove_path(Path::new(path)).is_err_and(|error| error.to_string().contains("no run of amibake"))
    }

    #[test]
    fn nothing_without_a_runs_name_is_ever_touched() {
        // Only looked at: is_of_a_run decides before anything is done, and these must not get past it.
        for path in ["/", "", ".", "/nowhere", "/home/someone", "relative/20261124t145112-3fa9c1"] {
            assert!(!is_of_a_run(Path::new(path)), "{path}");
        }
        assert!(!is_of_a_run(Path::new(&format!("/runs/{RUN}/../../x"))));
        assert!(refused("/nowhere/of/ours"));
        for path in [format!("/c/runs/{RUN}/machine"), format!("/dist/.builder-v1.{RUN}"), format!("/d/.x.{RUN}.old")] {
            assert!(is_of_a_run(Path::new(&path)), "{path}");
        }
    }

    #[tokio::test]
    async fn folders_files_and_links_go_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        std::fs::create_dir(&precious).unwrap();
        std::fs::write(precious.join("file"), "x").unwrap();
        let run = dir.path().join(RUN);
        std::fs::create_dir_all(run.join("machine/deep")).unwrap();
        std::fs::write(run.join("machine/disk"), "x").unwrap();
        std::os::unix::fs::symlink(&precious, run.join("machine/link")).unwrap();
        std::os::unix::fs::symlink(&precious, run.join("link")).unwrap();
        for name in ["link", "machine", "machine/disk", "gone"] {
            remove(&Resource::Path { path: run.join(name) }).await.unwrap();
            assert!(std::fs::symlink_metadata(run.join(name)).is_err(), "{name}");
        }
        assert!(precious.join("file").exists());
        remove(&Resource::Path { path: precious.clone() }).await.unwrap_err();
        assert!(precious.join("file").exists());
    }
}
