//! `amibake.toml`: what a project decides for all of its commands. Optional; lies beside the lock's folder, in the project's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml_edit::{DocumentMut, Item, Table, TomlError};

use crate::error::{Context as _, Error, Result};
use crate::release::evidence::Level;

/// The file's name.
pub const FILE: &str = "amibake.toml";

/// What the project decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Which releases are believed.
    pub trust: Trust,
    /// Region of AWS, where neither a flag nor the environment names one.
    pub region: Option<String>,
    /// Who connects to the builder.
    pub agents: Agents,
    /// What recipes are given before `--set`: `key=value`, or `recipe:key=value` for one of them.
    pub set: Vec<String>,
}

/// Who connects to the builder: the Elastic CI Stack's agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agents {
    /// Their security group.
    pub security_group: Option<String>,
    /// The bucket that their env hook is in.
    pub secrets_bucket: Option<String>,
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
    #[serde(default)]
    aws: RawAws,
    #[serde(default)]
    agents: Agents,
    #[serde(default)]
    set: BTreeMap<String, toml::Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename = "aws")]
struct RawAws {
    region: Option<String>,
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
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self> {
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
        let mut set = Vec::new();
        for (key, value) in raw.set {
            leaves(&key, value, &mut set);
        }
        // What is for one recipe comes after what is for all, and so wins. (A stable sort: else as in the alphabet.)
        set.sort_by_key(|text| scope(text).is_some());
        Ok(Self {
            trust: Trust { require: require.transpose()?, trusted_root: trusted_root.transpose()? },
            region: raw.aws.region,
            agents: raw.agents,
            set,
        })
    }
}

/// `key=value` for each value below `key`: `machine.cpus = 4` under `[set]` is about that one value, and not about the rest of
/// the table.
fn leaves(key: &str, value: toml::Value, set: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let bare = name.chars().all(|char| char.is_ascii_alphanumeric() || "_-".contains(char));
                let name = if bare { name } else { format!("\"{name}\"") };
                leaves(&format!("{key}.{name}"), value, set);
            }
        }
        toml::Value::String(text) => set.push(format!("{key}={text}")),
        value => set.push(format!("{key}={value}")),
    }
}

/// The name of a recipe that `recipe:key=value` is for, and the rest; none for what is for all. No key of a recipe has a colon
/// outside of quotes.
#[must_use]
pub fn scope(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(scope, _)| !scope.contains(['.', '=', '"']))
}

/// What is to stand in the file: a table's name (`aws`, `agents`, `set`), a key of it, and its value.
pub type Wanted<'w> = (&'static str, &'w str, &'w str);

/// `text`, the content of such a file, with `wanted` in it: what else is there stays as it is, comments too.
///
/// # Errors
/// Exit 2 when `text` is no TOML, or has something else where a table must be.
pub fn with(text: &str, path: &Path, wanted: &[Wanted<'_>]) -> Result<String> {
    let parsed = text.parse::<DocumentMut>();
    let mut document = parsed.map_err(|error: TomlError| Error::at(path, text, error.span(), error.message()))?;
    for (table, key, value) in wanted {
        let entry = document.entry(table).or_insert_with(|| Item::Table(Table::new()));
        let Some(entry) = entry.as_table_like_mut() else {
            return Err(Error::usage(format!("{}: `{table}` is no table", path.display())));
        };
        // In place, so that a comment beside it stays.
        match entry.get_mut(key).and_then(Item::as_value_mut) {
            Some(there) => {
                let decor = there.decor().clone();
                *there = (*value).into();
                *there.decor_mut() = decor;
            }
            None => drop(entry.insert(key, toml_edit::value(*value))),
        }
    }
    Ok(document.to_string())
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
    fn what_recipes_are_given_is_as_with_set() {
        let text = "[aws]\nregion = \"eu-central-1\"\n[agents]\nsecurity_group = \"sg-1\"\n[set]\n\
                    \"builder:buildkitd.tls\" = true\n\"machine.aws.subnet\" = \"subnet-1\"\n\"machine.cpus\" = 4\n";
        let config = Config::parse(text, Path::new("/p/amibake.toml")).unwrap();
        // What is for one recipe wins, whatever the alphabet says; a table is about its values.
        assert_eq!(config.set, ["machine.aws.subnet=subnet-1", "machine.cpus=4", "builder:buildkitd.tls=true"]);
        let nested =
            "[set]\nmachine.cpus = 4\nmachine.aws.spot = true\n[set.buildkitd.registry.\"docker.io\"]\nhttp = true\n";
        let config = Config::parse(nested, Path::new("/p/amibake.toml")).unwrap();
        assert_eq!(
            config.set,
            ["buildkitd.registry.\"docker.io\".http=true", "machine.aws.spot=true", "machine.cpus=4"]
        );
        let config = Config::parse(text, Path::new("/p/amibake.toml")).unwrap();
        assert_eq!(
            (config.region.as_deref(), config.agents.security_group.as_deref()),
            (Some("eu-central-1"), Some("sg-1"))
        );
    }

    #[test]
    fn what_is_put_in_leaves_everything_else() {
        let before = "# ours\n[trust] # strict\nrequire = \"signature\"\n\n[set]\n\"machine.cpus\" = \"2\" # few\n";
        let wanted = [
            ("aws", "region", "eu-central-1"),
            ("set", "machine.cpus", "4"),
            ("set", "machine.aws.subnet", "subnet-1"),
        ];
        let after = with(before, Path::new("amibake.toml"), &wanted).unwrap();
        insta::assert_snapshot!(after);
        // Again it is the same.
        assert_eq!(with(&after, Path::new("amibake.toml"), &wanted).unwrap(), after);
        assert!(Config::parse(&after, Path::new("amibake.toml")).is_ok());
        assert!(with("[aws\n", Path::new("amibake.toml"), &wanted).is_err());
        assert!(with("aws = 1\n", Path::new("amibake.toml"), &wanted).is_err());
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
