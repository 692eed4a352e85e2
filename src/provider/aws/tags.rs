//! The tags that everything of ours bears from the call that makes it: what `gc` and a policy's conditions work from.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use jiff::Timestamp;

use crate::bake::RunId;
use crate::plan::{ImageName, Plan};

/// The run that made it.
pub(super) const RUN: &str = "amibake:run";
/// The recipe it was made for.
pub(super) const RECIPE: &str = "amibake:recipe";
/// The fingerprint of the plan it was made for.
pub(super) const FINGERPRINT: &str = "amibake:fingerprint";
/// When it is nobody's any more (RFC 3339, UTC). A finished image has none.
pub(super) const EXPIRES: &str = "amibake:expires";
/// When an image passed its boot checks on an instance of its own (RFC 3339, UTC).
pub(super) const VERIFIED: &str = "amibake:verified";
/// What an image is a copy of: `region/ami-…`.
pub(super) const SOURCE: &str = "amibake:source";
/// Whoever sets it keeps an image from `prune`; whatever its value.
pub(super) const KEEP: &str = "amibake:keep";
/// Version of the amibake that made an image.
pub(super) const VERSION: &str = "amibake:version";

/// EC2's limit on a tag's value, in characters (User Guide, "Tag your Amazon EC2 resources").
const LONGEST_VALUE: usize = 256;

/// Tags of what `run` makes for `plan` and removes again.
pub(super) fn of_run(plan: &Plan, run: &RunId, expires: Timestamp) -> BTreeMap<String, String> {
    let name = format!("amibake {} {run}", plan.recipe);
    let tags = [
        (RUN, run.to_string()),
        (RECIPE, plan.recipe.clone()),
        (FINGERPRINT, plan.fingerprint.to_string()),
        (EXPIRES, rfc3339(expires)),
        ("Name", name.chars().take(LONGEST_VALUE).collect()),
    ];
    tags.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Tags of the image that `run` makes for `plan`, and of its snapshots. [`EXPIRES`] is for as long as it is not finished.
pub(super) fn of_image(plan: &Plan, name: &ImageName, run: &RunId, expires: Timestamp) -> BTreeMap<String, String> {
    let mut tags = plan.image.tags.clone();
    tags.insert(RUN.to_owned(), run.to_string());
    tags.insert(EXPIRES.to_owned(), rfc3339(expires));
    tags.insert(VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    tags.entry("Name".to_owned()).or_insert_with(|| name.to_string());
    tags
}

/// The same tags for each of `kinds`, as a creating call takes them.
pub(super) fn specifications(
    tags: &BTreeMap<String, String>,
    kinds: impl IntoIterator<Item = ResourceType>,
) -> Vec<TagSpecification> {
    let tags: Vec<_> = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
    let of = |kind| TagSpecification::builder().resource_type(kind).set_tags(Some(tags.clone())).build();
    kinds.into_iter().map(of).collect()
}

/// Whole seconds: `2026-11-24T14:51:12Z`.
pub(super) fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whether what bears these tags is not finished yet.
pub(super) fn unfinished(tags: &[Tag]) -> bool {
    tags.iter().any(|tag| tag.key() == Some(EXPIRES))
}
