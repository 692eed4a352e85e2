//! The tags that everything of ours bears from the call that makes it: what `gc` and a policy's conditions work from.

/// The run that made it.
pub(super) const RUN: &str = "amibake:run";
/// The recipe it was made for.
pub(super) const RECIPE: &str = "amibake:recipe";
/// The fingerprint of the plan it was made for.
pub(super) const FINGERPRINT: &str = "amibake:fingerprint";
/// When it is nobody's any more (RFC 3339, UTC). A finished image has none.
pub(super) const EXPIRES: &str = "amibake:expires";
