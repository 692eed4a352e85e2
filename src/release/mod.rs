//! Releases: versions, the lock, fetching and verifying. The only place that speaks to a release server, and the only
//! one that makes an `Artifact`: code that holds one may trust its bytes.

mod digest;
mod platform;
mod version;

pub use digest::{BadSha256, Sha256};
pub use platform::{Arch, Platform, UnknownPlatform};
pub use version::{BadVersion, Stage, Version};

pub mod evidence;

mod archive;
mod artifact;
mod fetch;
mod gather;
mod index;
mod lock;
mod mirror;
mod store;

pub use artifact::Artifact;
#[cfg(test)]
pub(crate) use artifact::unverified_for_tests;
pub use fetch::{Extract, Fetch, fetch};
pub use gather::{Gather, Gathered, Renewed, Seen};
pub use index::{Channel, Index, Listed, Place, Token};
pub use lock::{Lock, LockedArtifact};
pub use mirror::Mirror;
pub use store::{forget, unpinned};
