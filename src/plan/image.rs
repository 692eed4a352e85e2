//! What an image is called and which tags it bears. The same words on every provider: `list`, `prune` and `gc` work from
//! them alone.

use std::collections::BTreeMap;

use super::{ArtifactPlan, BaseImage, Fingerprint, ImageFormat, ImageName};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::release::Arch;
use crate::release::evidence::Level;

/// EC2's limits on a tag, in characters (User Guide, "Tag your Amazon EC2 resources", less the one it may add).
const LONGEST_KEY: usize = 127;
const LONGEST_VALUE: usize = 255;
/// EC2's limit on tags of one resource.
const MOST_TAGS: usize = 50;

/// What is known of the image before it exists.
pub(super) struct Identity<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) arch: Arch,
    pub(super) artifact: &'a ArtifactPlan,
    pub(super) base: &'a BaseImage,
    pub(super) fingerprint: &'a Fingerprint,
}

impl Identity<'_> {
    /// `builder-v0.31.2-amd64-0123456789ab`; with `-standin` behind the version for the release that tests make. Stored
    /// in another way than by default, it says how: one content in two forms is two images.
    pub(super) fn name(&self, format: ImageFormat, standalone: bool) -> ImageName {
        let stand_in = if self.artifact.stand_in { "-standin" } else { "" };
        let digits = self.fingerprint.0.short(12);
        let stored = match (format, standalone) {
            (ImageFormat::Qcow2, true) | (ImageFormat::Ami, _) => "",
            (ImageFormat::Qcow2, false) => "-thin",
            (ImageFormat::Raw, _) => "-raw",
            (ImageFormat::Vmdk, _) => "-vmdk",
        };
        let (recipe, version, arch) = (&self.recipe.name, self.artifact.version, self.arch);
        ImageName(format!("{recipe}-{version}{stand_in}-{arch}-{digits}{stored}"))
    }

    /// amibake's own tags and the recipe's.
    ///
    /// # Errors
    /// Exit 2: a tag that EC2 would not take, whatever the provider: an image must be able to move.
    pub(super) fn tags(&self) -> Result<BTreeMap<String, String>> {
        let own = [
            ("amibake:recipe", self.recipe.name.clone()),
            ("amibake:fingerprint", self.fingerprint.to_string()),
            ("amibake:buildkit", self.artifact.version.to_string()),
            ("amibake:arch", self.arch.to_string()),
            ("amibake:base", self.base.identity.clone()),
            ("amibake:stand-in", self.artifact.stand_in.to_string()),
            ("amibake:evidence", self.artifact.evidence.map_or("none", Level::as_str).to_owned()),
        ];
        let stack = self.base.ami.as_ref().and_then(|ami| ami.stack.clone());
        let own = own.into_iter().chain(stack.map(|version| ("amibake:elastic-ci-stack", version)));
        let mut tags: BTreeMap<String, String> = own.map(|(key, value)| (key.to_owned(), value)).collect();
        let own_tags = tags.len();
        for (key, value) in &self.recipe.tags {
            let lower = key.to_ascii_lowercase();
            if let Some(owner) = ["amibake:", "aws:"].iter().find(|prefix| lower.starts_with(**prefix)) {
                return Err(Error::usage(format!("tag `{key}`: names that start with `{owner}` are taken")));
            }
            tags.insert(key.clone(), value.clone());
        }
        if tags.len() > MOST_TAGS {
            return Err(Error::usage(format!(
                "{} tags: at most {} beside amibake's own",
                self.recipe.tags.len(),
                MOST_TAGS - own_tags
            )));
        }
        for (key, value) in &tags {
            if key.is_empty() || key.chars().count() > LONGEST_KEY {
                return Err(Error::usage(format!("tag `{key}`: a name has 1 to {LONGEST_KEY} characters")));
            }
            if value.chars().count() > LONGEST_VALUE {
                return Err(Error::usage(format!("tag `{key}`: its value has more than {LONGEST_VALUE} characters")));
            }
        }
        Ok(tags)
    }
}
