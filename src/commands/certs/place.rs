//! Where certificates and keys are kept: a folder, SSM parameters, or a bucket. Decides nothing: it reads, and writes all or none as
//! far as the place allows.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::CA;
use crate::bake::Reporter;
use crate::bake::wait::{self, Probe, Schedule};
use crate::certs::{self, Described, Fault, Pair, Purpose, Trusted};
use crate::download::FileLock;
use crate::error::{Context as _, Error, Exit, Result};
use crate::provider::aws::Aws;

/// How long another process may take that writes to the same folder: a few small files.
const OTHERS: Duration = Duration::from_secs(60);
/// How long SSM may go on giving what was there before.
const SETTLES: Schedule =
    Schedule { first: Duration::from_millis(200), most: Duration::from_secs(1), deadline: Duration::from_secs(5) };

/// Where they are.
pub(super) enum Place {
    Dir(PathBuf),
    Aws { aws: Box<Aws>, at: At, key: Option<String> },
}

/// Where in AWS: below which prefix.
pub(super) enum At {
    /// Of SSM parameters.
    Parameters(String),
    /// In a bucket.
    Bucket(String, String),
}

/// What is to be kept: whose, what, and its text.
pub(super) type Kept = (&'static str, &'static str, String);

/// A pair, and whom its holder trusts: in the order in which they may become known one by one. A new certificate is of use
/// only to who has its key and trusts its authority.
pub(super) fn kept(whose: &'static str, pair: &Pair, trusted: &Trusted) -> [Kept; 3] {
    [(whose, "ca", trusted.bundle()), (whose, "key", pair.key().to_owned()), (whose, "cert", pair.certificate.clone())]
}

impl Place {
    pub(super) fn shown(&self, whose: &str, what: &str) -> String {
        match self {
            Place::Dir(dir) => dir.join(whose).join(format!("{what}.pem")).display().to_string(),
            Place::Aws { at: At::Parameters(prefix), .. } => format!("{prefix}/{whose}/{what}"),
            Place::Aws { at: At::Bucket(bucket, prefix), .. } => format!("s3://{bucket}/{prefix}/{whose}/{what}"),
        }
    }

    /// Nobody else writes to a folder as long as this is held. AWS has no such thing: see [`Place::keep`].
    pub(super) async fn alone(&self) -> Result<Option<FileLock>> {
        match self {
            Place::Dir(dir) if dir.exists() => {
                let (talk, cancel) = (Reporter::silent(), CancellationToken::new());
                FileLock::acquire(&dir.join("certs"), OTHERS, &talk, &cancel).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) async fn get(&self, whose: &str, what: &str) -> Result<Option<String>> {
        match self {
            Place::Dir(_) => {
                let path = self.shown(whose, what);
                match fs::read_to_string(&path) {
                    Ok(text) => Ok(Some(text)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error).or_host(|| format!("cannot read {path}")),
                }
            }
            Place::Aws { aws, at: At::Parameters(_), .. } => aws.secret(&self.shown(whose, what)).await,
            Place::Aws { aws, at: At::Bucket(bucket, prefix), .. } => {
                let text = aws.text(bucket, &format!("{prefix}/{whose}/{what}")).await?;
                Ok(text.map(|text| text.text))
            }
        }
    }

    /// Keeps all of it, or in a folder nothing. AWS takes one value after the other, and two who write at once may leave one's
    /// key beside the other's certificate: that is looked at afterwards.
    pub(super) async fn keep(&self, files: &[Kept]) -> Result<()> {
        let Place::Aws { aws, at, key } = self else {
            let files = files.iter().map(|(whose, what, text)| {
                // Private from its first byte on; certificates are for everybody.
                (PathBuf::from(self.shown(whose, what)), text.as_str(), if *what == "key" { 0o600 } else { 0o644 })
            });
            return replace(&files.collect::<Vec<_>>());
        };
        let key = match key {
            Some(key) => Some(key.clone()),
            None => self.key_of_what_is_there(files).await?,
        };
        let mut written = Vec::new();
        for (whose, what, text) in files {
            let name = self.shown(whose, what);
            let key = key.as_deref();
            let put = match at {
                At::Parameters(_) => aws.put_secret(&name, text, key).await,
                At::Bucket(bucket, prefix) => {
                    aws.put_object(bucket, &format!("{prefix}/{whose}/{what}"), text, key).await
                }
            };
            if let Err(error) = put {
                return Err(match written.is_empty() {
                    true => error,
                    false => error.with_detail(format!("  written before that: {}", written.join(", "))),
                });
            }
            written.push(name);
        }
        for (whose, ..) in files.iter().filter(|(_, what, _)| *what == "key") {
            self.settled(whose).await?;
        }
        Ok(())
    }

    /// The key of KMS that encrypts what is replaced: what nobody says otherwise stays as it is.
    async fn key_of_what_is_there(&self, files: &[Kept]) -> Result<Option<String>> {
        let Place::Aws { aws, at, .. } = self else { return Ok(None) };
        let Some((whose, what, _)) = files.iter().find(|(_, what, _)| *what == "key") else { return Ok(None) };
        let found = match at {
            At::Parameters(_) => aws.secret_key(&self.shown(whose, what)).await,
            At::Bucket(bucket, prefix) => aws.object_key(bucket, &format!("{prefix}/{whose}/{what}")).await,
        };
        found.map_err(|error| error.with_hint("--kms-key says which key is to encrypt it"))
    }

    async fn settled(&self, whose: &str) -> Result<()> {
        let (cert, key) = (self.shown(whose, "cert"), self.shown(whose, "key"));
        let cancel = CancellationToken::new();
        let found = wait::until(&cert, SETTLES, &cancel, || async {
            let pair = self.pair(whose).await?;
            let fits = pair.is_some_and(|pair| pair.fault().is_none());
            Ok(if fits { Probe::Ready(()) } else { Probe::NotYet(Fault::OtherKey.to_string()) })
        });
        found.await.map_err(|error| match error.exit() {
            Exit::Failed => Error::host(format!("{key} is not the key of {cert}: somebody else wrote there at once"))
                .with_hint(repair(whose)),
            _ => error,
        })
    }

    async fn pair(&self, whose: &str) -> Result<Option<Pair>> {
        Ok(match (self.get(whose, "cert").await?, self.get(whose, "key").await?) {
            (Some(certificate), Some(key)) => Some(Pair::of(certificate, key)),
            _ => None,
        })
    }

    pub(super) async fn described(&self, whose: &str) -> Result<Option<Described>> {
        let Some(pem) = self.get(whose, "cert").await? else { return Ok(None) };
        let described = certs::describe(&pem).map_err(|_| self.useless(whose, "cert", Fault::Unreadable))?;
        Ok(Some(described))
    }

    fn useless(&self, whose: &str, what: &str, fault: Fault) -> Error {
        // What cannot be read cannot be followed either.
        let hint = match (whose, fault) {
            (CA, Fault::Unreadable) => {
                "put it back from where you keep a copy; without one, remove all that is kept there, then `amibake certs init` \
                 and `amibake certs issue`"
            }
            _ => repair(whose),
        };
        Error::usage(format!("{}: {fault}", self.shown(whose, what))).with_hint(hint)
    }

    /// Who is trusted, if there is an authority.
    pub(super) async fn trusted(&self, now: Timestamp) -> Result<Option<Trusted>> {
        let Some(signing) = self.get(CA, "cert").await? else { return Ok(None) };
        let former = self.get(CA, "old").await?.unwrap_or_default();
        certs::describe(&signing).map_err(|_| self.useless(CA, "cert", Fault::Unreadable))?;
        if !former.is_empty() {
            certs::describe(&former).map_err(|_| self.useless(CA, "old", Fault::Unreadable))?;
        }
        Trusted::new(&signing, &former, now).map(Some)
    }

    /// The authority that signs, and all that are trusted. Refused before anything is written if it cannot sign.
    pub(super) async fn authority(&self, now: Timestamp) -> Result<(Pair, Trusted)> {
        let there = (self.get(CA, "key").await?, self.get(CA, "cert").await?, self.trusted(now).await?);
        let (key, certificate, trusted) = match there {
            (Some(key), Some(certificate), Some(trusted)) => (key, certificate, trusted),
            (None, Some(_), _) => {
                return Err(Error::usage(format!("{} is not there: nothing can be signed", self.shown(CA, "key")))
                    .with_hint(repair(CA)));
            }
            (Some(_), ..) => {
                return Err(Error::usage(format!("{} is not there, and its key is", self.shown(CA, "cert")))
                    .with_hint(repair(CA)));
            }
            (None, ..) => {
                return Err(Error::usage(format!("there is no authority at {}", self.shown(CA, "cert")))
                    .with_hint("`amibake certs init` makes one"));
            }
        };
        let pair = Pair::of(certificate, key);
        let is_one = trusted.signing().filter(|described| described.purpose == Purpose::Authority);
        match (pair.fault(), is_one) {
            (Some(fault), _) => Err(self.useless(CA, "cert", fault)),
            (None, None) => Err(Error::usage(format!("{} is no authority's certificate", self.shown(CA, "cert")))),
            (None, Some(described)) if described.not_after <= now => Err(self.useless(CA, "cert", Fault::Ended)),
            (None, Some(_)) => Ok((pair, trusted)),
        }
    }
}

fn repair(whose: &str) -> &'static str {
    match whose {
        CA => {
            "put its files back from where you keep a copy, or make another with `amibake certs init --rotate`, then `renew`"
        }
        _ => "`amibake certs issue --force` makes it anew",
    }
}

/// Replaces files, all or none: each is written beside its place, and what is there copied, before the first is renamed.
fn replace(files: &[(PathBuf, &str, u32)]) -> Result<()> {
    let context = |path: &Path| format!("cannot write {}", path.display());
    let mut made = Vec::new();
    for (path, text, mode) in files {
        made.push((path, beside(path, text, *mode).or_host(|| context(path))?));
    }
    let mut replaced = Vec::new();
    for (path, (new, old)) in made {
        if let Err(error) = new.persist(path) {
            for (path, old) in replaced {
                put_back(path, old);
            }
            return Err(error.error).or_host(|| context(path));
        }
        replaced.push((path, old));
    }
    Ok(())
}

/// A file that is to take a place, and a copy of what has it.
fn beside(path: &Path, text: &str, mode: u32) -> std::io::Result<(NamedTempFile, Option<NamedTempFile>)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = NamedTempFile::new_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    let old = NamedTempFile::new_in(folder)?;
    match fs::copy(path, old.path()) {
        Ok(_) => Ok((new, Some(old))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((new, None)),
        Err(error) => Err(error),
    }
}

/// As far as it goes: what failed first is what is told.
fn put_back(path: &Path, old: Option<NamedTempFile>) {
    let _ = match old {
        Some(old) => old.persist(path).map(drop).map_err(|error| error.error),
        None => fs::remove_file(path),
    };
}
