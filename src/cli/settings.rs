//! What flags, the environment and `amibake.toml` come to: the same for every command.

use std::path::{Path, PathBuf};

use super::{Global, Planning};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::provider::aws::Account;
use crate::report::Talk;

/// Where things are and how to talk: the same for every command. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The project folder.
    pub project: PathBuf,
    /// The lock.
    pub lock: PathBuf,
    /// Downloads and base disks.
    pub cache: PathBuf,
    /// Journals and logs, one folder a run.
    pub runs: PathBuf,
    /// How talk is shown.
    pub talk: Talk,
    /// What `amibake.toml` decides.
    pub config: Config,
}

impl Settings {
    /// From flags and environment. `variable` looks up the environment.
    ///
    /// # Errors
    /// Exit 2 when there is no such project folder, or no folder for the cache.
    pub(super) fn new(global: &Global, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let shown = global.directory.display();
        let project =
            std::fs::canonicalize(&global.directory).or_usage(|| format!("cannot open the folder {shown}"))?;
        if !project.is_dir() {
            return Err(Error::usage(format!("{shown} is not a folder")));
        }
        let cache = match &global.cache_dir {
            Some(cache) => absolute(cache)?,
            None => default_cache(&variable).ok_or_else(|| {
                Error::usage("neither XDG_CACHE_HOME nor HOME is set").with_hint("name a folder with --cache-dir")
            })?,
        };
        let lock = global.lock.as_deref().map_or_else(|| Ok(project.join("amibake.lock")), absolute)?;
        let runs = project.join(".amibake").join("runs");
        let talk = Talk { color: global.color, verbose: global.verbose, quiet: global.quiet };
        let mut config = Config::load(&project)?;
        if ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| variable(name).is_some_and(|value| !value.is_empty()))
        {
            config.region = None;
        }
        Ok(Self { project, lock, cache, runs, talk, config })
    }

    /// The account and region that are meant: a flag comes first, then the environment, then `amibake.toml`, then the
    /// profile's own region.
    pub(crate) fn account(&self, region: Option<String>, profile: Option<String>) -> Account {
        Account { region: region.or_else(|| self.config.region.clone()), profile }
    }

    /// The folder of finished images.
    pub(crate) fn dist(&self, planning: &Planning) -> Result<PathBuf> {
        planning.dist.as_deref().map_or_else(|| Ok(self.project.join("dist")), absolute)
    }
}

/// The folder for caches by the XDG Base Directory Specification, whose paths must be absolute.
fn default_cache(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("amibake"))
}

/// `path` from the root on, without `..`: what a run makes is only removed from a path that says plainly where it is. What
/// exists of it is resolved by the system, since `..` behind a link is not what its letters say.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let cannot = || format!("cannot resolve {}", path.display());
    let path = std::path::absolute(path).or_usage(cannot)?;
    let here = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let rest = path.strip_prefix(here).unwrap_or(Path::new(""));
    if rest.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::usage(format!("{} leads through a folder that does not exist", path.display())));
    }
    let resolved = std::fs::canonicalize(here).or_usage(cannot)?;
    Ok(if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn paths_are_absolute_and_plain() {
        let folder = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(folder.path()).unwrap();
        std::fs::create_dir(real.join("project")).unwrap();
        assert_eq!(absolute(&real.join("project/../out/dist")).unwrap(), real.join("out/dist"));
        assert_eq!(absolute(&real.join("project")).unwrap(), real.join("project"));
        assert_eq!(absolute(&real.join("nothing/../out")).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn the_cache_follows_the_xdg_specification() {
        let with = |pairs: &'static [(&str, &str)]| {
            default_cache(&|name: &str| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), Some("/c/amibake".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]), Some("/h/.cache/amibake".into()));
        assert_eq!(with(&[]), None);
    }
}
