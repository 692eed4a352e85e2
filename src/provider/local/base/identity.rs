//! The digests of disk images, remembered: hashing a few GB at every plan would take longer than the plan.
//!
//! A remembered digest counts only while the file is the very one that was hashed: device, inode, size, modification
//! and change time are all as they were. (A program can set a file's modification time, but not its change time.) Times
//! tick only every few milliseconds, so the digest of a file that changed just now is not remembered.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::bake::{Event, Reporter};
use crate::download::Digest;
use crate::error::{Context as _, Error, Result};
use crate::release::Sha256;

/// The digests of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) sha256: Sha256,
    /// Only where a recipe pins it: no CPU helps with it, and it takes longer than the other.
    sha512: Option<String>,
}

impl Digests {
    /// Whether the file has this digest.
    pub(super) fn are(&self, wanted: &Digest) -> bool {
        match wanted {
            Digest::Sha256(sha256) => self.sha256 == *sha256,
            Digest::Sha512(sha512) => self.sha512.as_ref() == Some(&hex(sha512)),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    stamp: String,
    sha256: Sha256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha512: Option<String>,
}

/// `sha256:<64 digits>` or `sha512:<128 digits>`.
///
/// # Errors
/// Exit 2 when it is neither.
pub(super) fn parse_digest(text: &str) -> Result<Digest> {
    let parsed = match text.split_once(':') {
        Some(("sha256", digits)) => digits.parse().ok().map(Digest::Sha256),
        Some(("sha512", digits)) => unhex(digits).map(Digest::Sha512),
        // `--base-sha256` says the algorithm by its name.
        None => text.parse().ok().map(Digest::Sha256),
        Some(_) => None,
    };
    parsed.ok_or_else(|| {
        Error::usage(format!("`{text}` is not the digest of a base"))
            .with_hint("`sha256:` and 64 hexadecimal digits, or `sha512:` and 128")
    })
}

/// The digest as it stands in a recipe.
pub(super) fn show(digest: &Digest) -> String {
    match digest {
        Digest::Sha256(sha256) => format!("sha256:{sha256}"),
        Digest::Sha512(sha512) => format!("sha512:{}", hex(sha512)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<[u8; 64]> {
    let mut bytes = [0; 64];
    if digits.len() != 128 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The digests of the file at `path`, with SHA-512 if `wanted` is one: remembered below `folder`, or computed and
/// remembered.
///
/// # Errors
/// Exit 4 when the file cannot be read or changes meanwhile.
pub(super) async fn digests(
    folder: &Path,
    path: &Path,
    wanted: Option<&Digest>,
    reporter: &Reporter,
) -> Result<Digests> {
    let long = matches!(wanted, Some(Digest::Sha512(_)));
    if let Some(known) = remembered(folder, path).filter(|known| known.sha512.is_some() || !long) {
        return Ok(known);
    }
    let (folder, path, reporter) = (folder.to_owned(), path.to_owned(), reporter.clone());
    let work = move || {
        let before = stamp_of(&path)?;
        let digests = hash(&path, long, &reporter)?;
        if stamp_of(&path)? != before {
            return Err(Error::host(format!("{} changes while it is read", path.display())));
        }
        // What cannot be remembered is computed again next time.
        if settled(&path)
            && let Err(error) = remember(&folder, &path, before, &digests)
        {
            reporter.note(format!("the digest of {} could not be remembered: {error}", path.display()));
        }
        Ok(digests)
    };
    tokio::task::spawn_blocking(work).await.or_host(|| "hashing the base was broken off".to_owned())?
}

fn stamp_of(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).or_host(|| format!("cannot read the base {}", path.display()))?;
    Ok(stamp(&metadata))
}

/// Whether the file's last change lies so far back that a next one would get another time.
fn settled(path: &Path) -> bool {
    // Kernels tick every 1 to 10 ms.
    const TICKS: Duration = Duration::from_millis(50);
    let Ok(file) = std::fs::metadata(path) else { return false };
    let changed =
        Duration::new(u64::try_from(file.ctime()).unwrap_or(0), u32::try_from(file.ctime_nsec()).unwrap_or(0));
    SystemTime::now().duration_since(UNIX_EPOCH + changed).is_ok_and(|age| age > TICKS)
}

fn stamp(file: &Metadata) -> String {
    let (mtime, ctime) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    format!("{}:{} {} {}.{:09} {}.{:09}", file.dev(), file.ino(), file.len(), mtime.0, mtime.1, ctime.0, ctime.1)
}

fn record_path(folder: &Path, path: &Path) -> PathBuf {
    let name = Sha256::of(path.as_os_str().as_encoded_bytes()).short(32);
    folder.join("identities").join(format!("{name}.json"))
}

fn remembered(folder: &Path, path: &Path) -> Option<Digests> {
    let text = std::fs::read(record_path(folder, path)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let same = record.path == path && record.stamp == stamp(&std::fs::metadata(path).ok()?);
    same.then_some(Digests { sha256: record.sha256, sha512: record.sha512 })
}

fn remember(folder: &Path, path: &Path, stamp: String, digests: &Digests) -> std::io::Result<()> {
    let record = Record { path: path.to_owned(), stamp, sha256: digests.sha256, sha512: digests.sha512.clone() };
    let target = record_path(folder, path);
    super::write_whole(&target, &serde_json::to_vec_pretty(&record)?)
}

fn hash(path: &Path, long: bool, reporter: &Reporter) -> Result<Digests> {
    // Progress at every buffer would be thousands of events.
    const TELL_EVERY: u64 = 64 << 20;
    let failed = || format!("cannot read the base {}", path.display());
    let mut file = File::open(path).or_host(failed)?;
    let total = file.metadata().or_host(failed)?.len();
    let started = Instant::now();
    reporter.event(&Event::PhaseStarted { name: format!("hash {}", path.display()) });
    let mut sha256 = sha2::Sha256::new();
    let mut sha512 = long.then(sha2::Sha512::new);
    let mut buffer = vec![0; 1 << 20];
    let (mut done, mut told) = (0, 0);
    loop {
        let count = file.read(&mut buffer).or_host(failed)?;
        if count == 0 {
            break;
        }
        sha256.update(&buffer[..count]);
        if let Some(sha512) = &mut sha512 {
            sha512.update(&buffer[..count]);
        }
        done += count as u64;
        if done - told >= TELL_EVERY {
            told = done;
            reporter.event(&Event::Progress { done, total: Some(total) });
        }
    }
    reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
    Ok(Digests {
        sha256: Sha256::from_bytes(sha256.finalize().into()),
        sha512: sha512.map(|sha512| hex(&sha512.finalize())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_a_recipe_are_read() {
        let sha256 = Sha256::of(b"abc");
        assert_eq!(parse_digest(&format!("sha256:{sha256}")).unwrap(), Digest::Sha256(sha256));
        assert_eq!(parse_digest(&sha256.to_string()).unwrap(), Digest::Sha256(sha256));
        let long = "0aF".repeat(50)[..128].to_owned();
        assert_eq!(show(&parse_digest(&format!("sha512:{long}")).unwrap()), format!("sha512:{}", long.to_lowercase()));
        for bad in ["sha512:00", "md5:00", "", &format!("sha512:{}", "é".repeat(64)), &format!("sha256:{long}")] {
            assert_eq!(parse_digest(bad).unwrap_err().exit().code(), 2, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_digest_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, b"abc").unwrap();
        // Not remembered while the file is as young as a tick of the clock.
        let until_remembered = async || {
            loop {
                let long = Digest::Sha512([0; 64]);
                let found = digests(folder.path(), &disk, Some(&long), &Reporter::silent()).await.unwrap();
                if remembered(folder.path(), &disk).is_some() {
                    return found;
                }
            }
        };
        let first = until_remembered().await;
        assert_eq!(first.sha256, Sha256::of(b"abc"));
        assert!(first.are(&Digest::Sha256(Sha256::of(b"abc"))) && !first.are(&Digest::Sha256(Sha256::of(b"abd"))));
        // SHA-512("abc") begins so (FIPS 180-4).
        assert!(first.sha512.as_ref().unwrap().starts_with("ddaf35a193617aba"));
        assert_eq!(remembered(folder.path(), &disk), Some(first));
        // The same length and the same modification time, by a program that sets it back.
        let before = std::fs::metadata(&disk).unwrap().modified().unwrap();
        std::fs::write(&disk, b"abd").unwrap();
        File::options().write(true).open(&disk).unwrap().set_modified(before).unwrap();
        assert_eq!(remembered(folder.path(), &disk), None);
        assert_eq!(until_remembered().await.sha256, Sha256::of(b"abd"));
    }
}
