//! The one downloader: http(s) URL → a file whose bytes are exactly the ones expected. Used for releases and for base
//! images. Owns retries, resuming, time-outs, proxies and certificates; knows nothing of what it downloads.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use url::Url;

use crate::bake::Reporter;
use crate::error::{Error, Result};
use crate::release::Sha256;

/// What the bytes must hash to: `sha256:…` or `sha512:…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// One download.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// http or https.
    pub url: &'a Url,
    /// What the bytes must hash to.
    pub digest: Digest,
    /// Where the verified file goes. It appears there complete or not at all; a partial download lies beside it.
    pub destination: &'a Path,
}

/// Downloads what `request` names.
///
/// # Errors
/// Exit 3 when the bytes are not the ones expected; exit 4 when the server cannot be reached or gives up.
pub async fn fetch(request: &Request<'_>, reporter: &Reporter, cancel: &CancellationToken) -> Result<PathBuf> {
    let _ = (request, reporter, cancel);
    Err(Error::host("not written yet"))
}
