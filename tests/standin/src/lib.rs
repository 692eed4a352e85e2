//! What the stand-in programs share: the part of BuildKit's API that they speak, and the version they claim.
//!
//! A stand-in release has the layout of a real one and programs that run, so that everything around BuildKit can be
//! tried where no real release can be had. It builds nothing. Its revision is always `stand-in`, it says so on stderr,
//! and its tarball holds a member named [`MARKER`], which amibake refuses unless the lock says `stand_in = true`.

pub mod api;
pub mod version;

/// Member of the tarball that no real release has.
pub const MARKER: &str = "bin/amibake-stand-in";

/// What stands where a real program names its commit.
pub const REVISION: &str = "stand-in";

/// BuildKit's package path, as its programs print it.
pub const PACKAGE: &str = "github.com/moby/buildkit";
