//! `amibake.lock`: the pinned release, one for both images. Reads, checks, writes it; knows nothing of how a tarball is
//! got.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::evidence::{self, Evidence, FIRST_SIGNED, Level, Signed};
use super::{Arch, Platform, Sha256, Version};
use crate::error::{Context, Error, Result};

/// The form of the file that this amibake reads and writes.
const SCHEMA: i64 = 1;

/// The name under which only real releases are locked.
const COMMITTED: &str = "amibake.lock";

/// The pinned release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Version of BuildKit.
    pub version: Version,
    /// True for the stand-in release that tests make; a file called `amibake.lock` may not say so.
    pub stand_in: bool,
    /// One tarball for each platform.
    pub artifacts: BTreeMap<Platform, LockedArtifact>,
}

/// One tarball of the pinned release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedArtifact {
    /// Where it is published: `…/<version>/buildkit-<version>.<os>-<arch>.tar.gz`.
    pub url: String,
    /// What its bytes hash to.
    pub sha256: Sha256,
    /// Its size in bytes, if that was noted.
    pub size: Option<u64>,
    /// Why the digest was believed; none in a lock that was written by hand.
    pub evidence: Option<Evidence>,
}

impl LockedArtifact {
    /// Pinned by hand: nothing says why.
    #[must_use]
    pub fn pinned(url: String, sha256: Sha256) -> Self {
        Self { url, sha256, size: None, evidence: None }
    }
}

/// The file as it is written; everything with its place, for messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: Spanned<i64>,
    #[serde(default)]
    stand_in: Option<Spanned<bool>>,
    version: Version,
    artifact: BTreeMap<Spanned<String>, RawArtifact>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArtifact {
    url: Spanned<String>,
    sha256: Sha256,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    evidence: Option<Spanned<RawEvidence>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvidence {
    level: Level,
    identity: Option<String>,
    builder_commit: Option<String>,
    log_index: Option<u64>,
    signed_at: Option<Timestamp>,
    recorded: Option<String>,
    sbom_sha256: Option<Sha256>,
}

impl RawEvidence {
    /// None when it says less, or more, than its level needs.
    fn checked(self) -> Option<Evidence> {
        let Self { level, recorded, sbom_sha256, .. } = self;
        let signed = match (self.identity, self.builder_commit, self.log_index, self.signed_at) {
            (Some(identity), Some(builder_commit), Some(log_index), Some(signed_at)) => {
                Some(Signed { identity, builder_commit, log_index, signed_at })
            }
            (None, None, None, None) => None,
            _ => return None,
        };
        let fits = match level {
            Level::Signature => signed.is_some(),
            Level::Recorded => signed.is_none() && recorded.is_some(),
            Level::FirstUse => signed.is_none() && recorded.is_none(),
        };
        fits.then_some(Evidence { level, signed, recorded, sbom_sha256 })
    }
}

impl Lock {
    /// Reads the lock at `path`.
    ///
    /// # Errors
    /// Exit 2 with line and column when it is not a lock, exit 2 with a hint when there is none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).or_usage(|| format!("cannot read the lock {}", path.display())).map_err(
            |error| error.with_hint("run amibake where `amibake.lock` lies, or name another lock with --lock"),
        )?;
        Self::parse(&text, path)
    }

    /// Reads `text`, the content of the lock at `path`.
    ///
    /// # Errors
    /// Exit 2 with line and column when it is not a lock, or one that may not have this name.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let fault = |span: Option<Range<usize>>, message: &str| Error::at(path, text, span, message);
        let raw: Raw = toml::from_str(text).map_err(|error| fault(error.span(), error.message()))?;
        if *raw.schema.get_ref() != SCHEMA {
            let message = format!("unknown schema {}, this amibake reads {SCHEMA}", raw.schema.get_ref());
            return Err(fault(Some(raw.schema.span()), &message));
        }
        let stand_in = raw.stand_in.as_ref().is_some_and(|flag| *flag.get_ref());
        if stand_in && is_committed(path) {
            let span = raw.stand_in.map(|flag| flag.span());
            return Err(fault(span, &format!("a stand-in release may not be locked in a file called `{COMMITTED}`")));
        }
        if raw.artifact.is_empty() {
            return Err(fault(None, "no [artifact.\"linux/…\"]: a lock pins at least one tarball"));
        }
        let mut artifacts = BTreeMap::new();
        for (key, value) in raw.artifact {
            let platform =
                key.get_ref().parse::<Platform>().map_err(|error| fault(Some(key.span()), &error.to_string()))?;
            check_url(value.url.get_ref(), raw.version, platform)
                .map_err(|message| fault(Some(value.url.span()), &message))?;
            let evidence = value.evidence.map(|evidence| {
                let span = evidence.span();
                let incomplete = "evidence that does not say what its level needs: `signature` needs identity, \
                                  builder_commit, log_index and signed_at, `recorded` needs recorded";
                evidence.into_inner().checked().ok_or_else(|| fault(Some(span), incomplete))
            });
            let evidence = evidence.transpose()?;
            let (url, sha256, size) = (value.url.into_inner(), value.sha256, value.size);
            artifacts.insert(platform, LockedArtifact { url, sha256, size, evidence });
        }
        Ok(Self { version: raw.version, stand_in, artifacts })
    }

    /// The lock as a file: what [`parse`](Self::parse) reads, the same for the same lock.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        text.push_str(if self.stand_in {
            "# A stand-in release for tests: not BuildKit.\n"
        } else {
            "# The BuildKit release that is in both images. Written by amibake; commit it.\n"
        });
        let _ = writeln!(text, "schema = {SCHEMA}");
        if self.stand_in {
            text.push_str("stand_in = true\n");
        }
        let _ = writeln!(text, "version = \"{}\"", self.version);
        for (platform, artifact) in &self.artifacts {
            // Only URLs that were checked come here: nothing in them needs an escape, but a quote would.
            let url = toml::Value::from(artifact.url.as_str());
            let _ = write!(text, "\n[artifact.\"{platform}\"]\nurl = {url}\nsha256 = \"{}\"\n", artifact.sha256);
            if let Some(size) = artifact.size {
                let _ = writeln!(text, "size = {size}");
            }
            if let Some(evidence) = &artifact.evidence {
                let _ = write!(text, "\n[artifact.\"{platform}\".evidence]\n{}", evidence_toml(evidence));
            }
        }
        text
    }

    /// Writes the lock to `path`, which has either its old content or all of the new one at any moment.
    ///
    /// # Errors
    /// Exit 2 for a stand-in under the name `amibake.lock` and for a lock that could not be read again; exit 4 when the
    /// file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = self.to_toml();
        // The same rules as for reading, so that nothing can be saved that will be refused later.
        Self::parse(&text, path)?;
        let write = || -> std::io::Result<()> {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let mut new = tempfile::Builder::new()
                .prefix(".amibake-lock-")
                // A temporary file is private by default, a committed one is not; the umask still applies.
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(folder)?;
            new.write_all(text.as_bytes())?;
            new.as_file().sync_all()?;
            new.persist(path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().or_host(|| format!("cannot write the lock {}", path.display()))
    }

    /// Demands that everything in it is vouched for by `least`.
    ///
    /// # Errors
    /// Exit 3.
    pub fn demand(&self, least: Level) -> Result<()> {
        for (platform, artifact) in &self.artifacts {
            let level = artifact.evidence.as_ref().map(|evidence| evidence.level);
            if level.is_none_or(|level| level < least) {
                let said = level.map_or("nothing that the lock says".to_owned(), |level| format!("`{level}`"));
                let message = format!(
                    "BuildKit {} ({platform}) is vouched for by {said}, and `{least}` is demanded",
                    self.version
                );
                let hint = self.way_to(least, *platform);
                return Err(Error::refused(message).with_hint(hint));
            }
        }
        Ok(())
    }

    /// How to get to a lock that `least` vouches for. What this release never had is not looked for.
    fn way_to(&self, least: Level, platform: Platform) -> String {
        let signed = self.version.is_signed_era();
        if !signed && least == Level::Signature {
            return format!("releases are signed since {FIRST_SIGNED}: `amibake update` moves to one of those");
        }
        if !signed && least == Level::Recorded && evidence::recorded(self.version, platform).is_none() {
            return format!(
                "this amibake knows no second record of it: `amibake update` moves to a release that is signed, as all \
                 since {FIRST_SIGNED} are"
            );
        }
        format!("`amibake update --to {}` looks for it and writes what it finds", self.version)
    }

    /// The tarball for `arch`, if the lock has it.
    #[must_use]
    pub fn artifact(&self, arch: Arch) -> Option<&LockedArtifact> {
        self.artifacts.get(&Platform(arch))
    }
}

fn evidence_toml(evidence: &Evidence) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = format!("level = \"{}\"\n", evidence.level);
    if let Some(Signed { identity, builder_commit, log_index, signed_at }) = &evidence.signed {
        let (identity, commit) = (quoted(identity), quoted(builder_commit));
        let _ = write!(text, "identity = {identity}\nbuilder_commit = {commit}\nlog_index = {log_index}\n");
        let _ = writeln!(text, "signed_at = \"{signed_at}\"");
    }
    if let Some(recorded) = &evidence.recorded {
        let _ = writeln!(text, "recorded = {}", quoted(recorded));
    }
    if let Some(sbom) = evidence.sbom_sha256 {
        let _ = writeln!(text, "sbom_sha256 = \"{sbom}\"");
    }
    text
}

/// The file name of a release's tarball.
pub(super) fn file_name(version: Version, platform: Platform) -> String {
    format!("buildkit-{version}.{}.tar.gz", platform.file_part())
}

/// By its own name or by the name of what a link of another name leads to.
fn is_committed(path: &Path) -> bool {
    let named = |path: &Path| path.file_name().is_some_and(|name| name.eq_ignore_ascii_case(COMMITTED));
    named(path) || fs::canonicalize(path).is_ok_and(|real| named(&real))
}

fn check_url(text: &str, version: Version, platform: Platform) -> std::result::Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("expected an http or https URL".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a lock is committed: no user or password belongs in it".into());
    }
    let mut parts = url.path_segments().into_iter().flatten().rev();
    let file = file_name(version, platform);
    if parts.next() != Some(&file) || parts.next() != Some(&version.to_string()) {
        return Err(format!("the URL of {version} for {platform} must end in `/{version}/{file}`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::render;

    const SHIPPED: &str = include_str!("../../amibake.lock");

    fn refused(text: &str) -> String {
        render(&Lock::parse(text, Path::new("amibake.lock")).unwrap_err())
    }

    #[test]
    fn the_shipped_lock_is_the_known_release_and_is_written_as_amibake_writes() {
        let lock = Lock::parse(SHIPPED, Path::new("amibake.lock")).unwrap();
        assert_eq!((lock.version.to_string().as_str(), lock.stand_in), ("v0.31.2", false));
        let digest = |arch| lock.artifact(arch).unwrap().sha256.to_string();
        assert_eq!(digest(Arch::Amd64), "fbabdb72433a35f5bb646e4cd424bf8567e5d055710cf55840f7af2020640791");
        assert_eq!(digest(Arch::Arm64), "41fba1eed480376934fa4c8177ddd7021036b5168a0eb8e7ab5eccdf75d47a05");
        assert_eq!(lock.to_toml(), SHIPPED);
    }

    #[test]
    fn faults_name_the_place_and_show_the_line() {
        let cases = [
            SHIPPED.replacen("sha256 =", "sha255 =", 1),
            SHIPPED.replacen("schema = 1", "schema = 2", 1),
            SHIPPED.replacen("schema = 1\n", "", 1),
            SHIPPED.replacen("version = \"v0.31.2\"", "version = \"0.31.2\"", 1),
            SHIPPED.replacen("version = \"v0.31.2\"", "version = \"v0.31.1\"", 1),
            SHIPPED.replace("linux/amd64", "linux/riscv64"),
            SHIPPED.replacen("linux-amd64", "linux-arm64", 1),
            SHIPPED.replacen("https://", "ftp://", 1),
            SHIPPED.replacen("https://", "https://me:geheim@", 1),
            SHIPPED.replacen("fbabdb", "fbabd", 1),
            SHIPPED.replacen("schema = 1", "schema = 1\nstand_in = true", 1),
            SHIPPED.replacen("sha256 = ", "sha256 = 'unclosed", 1),
            SHIPPED.replacen("[artifact.\"linux/arm64\"]", "[artifact.\"linux/amd64\"]", 1),
            "schema = 1\nversion = \"v0.31.2\"\n[artifact]\n".to_owned(),
            String::new(),
        ];
        insta::assert_snapshot!(cases.iter().map(|text| refused(text)).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn evidence_is_written_and_read_back_and_says_what_its_level_needs() {
        let signed = Signed {
            identity: "https://github.com/docker/github-builder/.github/workflows/bake.yml@refs/tags/v1.4.0".into(),
            builder_commit: "0e0d465c6dca36f73e0798e31e691990f99e6ec4".into(),
            log_index: 658_949_562,
            signed_at: "2026-03-02T10:15:00Z".parse().unwrap(),
        };
        let recorded = Some("a \"quoted\" record".to_owned());
        let sbom_sha256 = Some(Sha256::of(b"sbom"));
        let mut lock = Lock::parse(SHIPPED, Path::new("amibake.lock")).unwrap();
        for evidence in [
            Evidence { level: Level::Signature, signed: Some(signed), recorded: recorded.clone(), sbom_sha256 },
            Evidence { level: Level::Recorded, signed: None, recorded, sbom_sha256: None },
            Evidence { level: Level::FirstUse, signed: None, recorded: None, sbom_sha256 },
        ] {
            for artifact in lock.artifacts.values_mut() {
                (artifact.size, artifact.evidence) = (Some(67_108_864), Some(evidence.clone()));
            }
            let text = lock.to_toml();
            assert_eq!(Lock::parse(&text, Path::new("amibake.lock")).unwrap(), lock, "{text}");
            // A level that somebody wrote over another is not believed.
            for level in Level::ALL.into_iter().filter(|level| *level != evidence.level) {
                let edited = text.replace(&format!("level = \"{}\"", evidence.level), &format!("level = \"{level}\""));
                assert!(Lock::parse(&edited, Path::new("amibake.lock")).is_err(), "{edited}");
            }
        }
    }

    #[test]
    fn what_a_release_never_had_is_not_looked_for() {
        let pinned =
            |version: &str| Lock::parse(&SHIPPED.replace("v0.31.2", version), Path::new("amibake.lock")).unwrap();
        let hint = |version: &str, least| {
            let mut lock = pinned(version);
            lock.artifacts.values_mut().for_each(|artifact| artifact.evidence = None);
            lock.demand(least).unwrap_err().hint().unwrap().to_owned()
        };
        for least in [Level::Signature, Level::Recorded] {
            assert!(hint("v0.10.9", least).contains("since v0.27.0"));
            assert!(hint("v0.31.2", least).contains("--to v0.31.2"));
        }
        assert!(hint("v0.13.2", Level::Recorded).contains("--to v0.13.2"));
        assert!(hint("v0.10.9", Level::FirstUse).contains("--to v0.10.9"));
    }

    #[test]
    fn saving_replaces_the_whole_file_and_reads_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("amibake.lock");
        let lock = Lock::parse(SHIPPED, &path).unwrap();
        fs::write(&path, "x".repeat(10_000)).unwrap();
        lock.save(&path).unwrap();
        assert_eq!(Lock::load(&path).unwrap(), lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o600, 0o600);
    }

    #[test]
    fn a_stand_in_never_gets_into_the_committed_lock_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let (committed, other) = (folder.path().join("amibake.lock"), folder.path().join("standin.lock"));
        let real = Lock::parse(SHIPPED, &committed).unwrap();
        let stand_in = Lock { stand_in: true, ..real.clone() };
        assert_eq!(stand_in.save(&committed).unwrap_err().exit().code(), 2);
        assert!(!committed.exists());
        stand_in.save(&other).unwrap();
        assert_eq!(Lock::load(&other).unwrap(), stand_in);
        fs::rename(&other, &committed).unwrap();
        assert_eq!(Lock::load(&committed).unwrap_err().exit().code(), 2);
        std::os::unix::fs::symlink(&committed, &other).unwrap();
        assert_eq!(Lock::load(&other).unwrap_err().exit().code(), 2);
        assert_eq!(stand_in.save(&other).unwrap_err().exit().code(), 2);
    }
}
