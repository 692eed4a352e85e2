//! The one downloader: http(s) URL or local file → a file whose bytes are exactly the ones expected. Used for releases
//! and for base images. Owns retries, resuming, time-outs, proxies, certificates and the lock that keeps two processes
//! from fetching one file at once; knows nothing of what it downloads.
//!
//! A download grows in `<destination>.partial`. Whoever wants the bytes reads that file while it grows (`Growing`), the
//! hash among them: so network, disk, hash and a caller's own reading overlap, and memory stays bounded.
//!
//! Proxies: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` and their lower-case forms. Certificates:
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's store.

mod digest;
mod file_lock;
mod growing;
mod http;
mod limits;
pub(crate) mod page;
mod tls;
mod transfer;

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use url::Url;

pub use digest::{BadDigest, Digest};
pub(crate) use file_lock::FileLock;
pub(crate) use growing::Growing;
pub use limits::Limits;
pub(crate) use transfer::{Source, Transfer, hash};

use crate::bake::Reporter;
use crate::error::Result;

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

/// Downloads what `request` names, unless the destination holds it already (it is hashed to find out; a file with other
/// bytes is replaced). Emits [`Progress`](crate::bake::Event::Progress), notes and warnings; the phase is the caller's.
///
/// # Errors
/// Exit 3 when the bytes are not the ones expected; exit 4 when the server cannot be reached or gives up, or the file
/// cannot be written; interrupted when cancelled (what came so far stays as `<destination>.partial` and is resumed).
pub async fn fetch(request: &Request<'_>, reporter: &Reporter, cancel: &CancellationToken) -> Result<PathBuf> {
    let transfer = Transfer {
        source: Source::Http(request.url.clone()),
        digest: request.digest,
        destination: request.destination,
        limits: &Limits::default(),
        durable: true,
    };
    transfer.run(&mut |_| {}, reporter, cancel).await?;
    Ok(request.destination.to_path_buf())
}

/// A URL as it may be shown: without user, password, query and fragment, any of which can be a secret.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let secret = url.query().is_some();
    // Both fail only for URLs that cannot have a user at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    if secret { format!("{url}?…") } else { url.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        let url = Url::parse("https://me:pa55@h.example:8443/a/b.tar.gz?X-Signature=s3cret#frag").unwrap();
        assert_eq!(shown(&url), "https://h.example:8443/a/b.tar.gz?…");
    }
}
