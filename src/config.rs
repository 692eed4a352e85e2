//! `amibake.toml`: what a project decides for all of its commands. Optional; lies beside the lock's folder, in the project's.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Context as _, Error, Result};
use crate::release::evidence::Level;

/// The file's name.
pub const FILE: &str = "amibake.toml";

/// What the project decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Which releases are believed.
    pub trust: Trust,
}

/// Which releases are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The least that must vouch for a release. By default the strongest that releases of its time offer.
    pub require: Option<Level>,
    /// Whom signatures are believed from, instead of Sigstore's public root.
    pub trusted_root: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    trust: RawTrust,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTrust {
    require: Option<Spanned<String>>,
    trusted_root: Option<Spanned<PathBuf>>,
}

impl Config {
    /// Reads the file of `project`; where there is none, nothing is decided.
    ///
    /// # Errors
    /// Exit 2 with line and column.
    pub fn load(project: &Path) -> Result<Self> {
        let path = project.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).or_usage(|| format!("cannot read {}", path.display())),
        }
    }

    /// Reads `text`, the content of `path`. Paths in it are from its folder on.
    fn parse(text: &str, path: &Path) -> Result<Self> {
        let fault = |span: Option<Range<usize>>, message: &str| Error::at(path, text, span, message);
        let raw: Raw = toml::from_str(text).map_err(|error| fault(error.span(), error.message()))?;
        let require = raw.trust.require.map(|word| {
            let span = word.span();
            word.get_ref().parse().map_err(|message: String| fault(Some(span), &message))
        });
        let folder = path.parent().unwrap_or(Path::new("."));
        let trusted_root = raw.trust.trusted_root.map(|root| match root.get_ref() {
            // Joined to the folder, nothing would be the folder itself.
            nothing if nothing.as_os_str().is_empty() => {
                Err(fault(Some(root.span()), "a trusted root is a file, not nothing"))
            }
            root => Ok(folder.join(root)),
        });
        Ok(Self { trust: Trust { require: require.transpose()?, trusted_root: trusted_root.transpose()? } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::render;

    #[test]
    fn what_it_says_is_read_and_paths_are_from_its_folder_on() {
        let text = "[trust]\nrequire = \"recorded\"\ntrusted_root = \"keys/root.json\"\n";
        let config = Config::parse(text, Path::new("/p/amibake.toml")).unwrap();
        let trusted_root = Some(PathBuf::from("/p/keys/root.json"));
        assert_eq!(config.trust, Trust { require: Some(Level::Recorded), trusted_root });
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(empty.path()).unwrap(), Config::default());
    }

    #[test]
    fn faults_name_the_place() {
        let texts = [
            "[trust]\nrequire = \"strong\"\n",
            "[trust]\nrequires = 1\n",
            "[trust]\ntrusted_root = \"\"\n",
            "[trusts]\n",
            "[trust\n",
        ];
        let told = texts.map(|text| render(&Config::parse(text, Path::new("amibake.toml")).unwrap_err()));
        insta::assert_snapshot!(told.join("\n"));
    }
}
