//! What we baked, what is in use, and what can go. PURE: entries in, choices out. Providers fill the entries
//! ([`crate::provider::Catalog`]); nothing here asks or removes anything.

mod currency;
mod distribute;
mod promote;
mod select;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::release::evidence::Level;
use crate::release::{Arch, Version};

pub use currency::{Finding, Standing, newest_image, of_image, of_pair, of_release};
pub use distribute::{Act, Has, Users, Wish, missing};
pub use promote::{CHANNELS, before, channel, check_channel, mismatch, newest, parameter, refusal};
pub use select::{Choice, Filter, Policy, Why, choose};

/// What snapshots cost: US dollars for a GiB and a month ("Amazon EBS pricing", standard tier in us-east-1, 2026).
pub const SNAPSHOT_PRICE: f64 = 0.05;

/// A finished or unfinished image of ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// `ami-…`, or the path of a local image's folder.
    pub id: String,
    /// Name.
    pub name: String,
    /// Region; none for a local image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Recipe.
    pub recipe: String,
    /// BuildKit in it.
    pub buildkit: Version,
    /// True for the stand-in release that tests make.
    pub stand_in: bool,
    /// How well its BuildKit was vouched for; none if nothing says.
    pub evidence: Option<Level>,
    /// Architecture.
    pub arch: Arch,
    /// Fingerprint of the plan it was baked by.
    pub fingerprint: String,
    /// The run that made it.
    pub run: String,
    /// When it was made.
    pub created: Timestamp,
    /// What it was baked from.
    pub base: Base,
    /// How far it is.
    pub state: State,
    /// When its boot checks passed on an instance of its own; none if they were not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// The image it is a copy of: `region/ami-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it is stored in.
    pub snapshots: Vec<Snapshot>,
    /// Whether it may not be deregistered (EC2's own protection), or bears the tag `amibake:keep`.
    pub protected: bool,
    /// Channels that it is promoted to.
    pub promoted: BTreeSet<String>,
    /// Channels that it was promoted to before the image that is: what `rollback` returns to.
    pub promoted_before: BTreeSet<String>,
    /// Who uses it.
    pub uses: BTreeSet<Use>,
}

/// What an image was baked from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    /// `ami-…`, or a digest.
    pub id: String,
    /// When it was made, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can be used.
    Finished,
    /// A run is at it, or left it: the next build of the same plan takes it up, `gc` removes it once it is overdue.
    Unfinished,
    /// It can not be used: it failed, or was disabled.
    Unusable,
}

/// A part of what an image is stored in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// `snap-…`, or a file.
    pub id: String,
    /// Its size in bytes: what EC2 says its blocks are, or else the size of its volume, which is more than that.
    pub bytes: u64,
}

/// A user of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Use {
    /// An EC2 instance that is not terminated.
    Instance {
        /// `i-…`
        id: String,
    },
    /// A version of a launch template.
    LaunchTemplate {
        /// Its name.
        name: String,
        /// Which version.
        version: i64,
    },
    /// A launch configuration of an auto scaling group.
    LaunchConfiguration {
        /// Its name.
        name: String,
    },
    /// An SSM parameter that is none of ours.
    Parameter {
        /// Its name.
        name: String,
    },
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Use::Instance { id } => f.write_str(id),
            Use::LaunchTemplate { name, version } => write!(f, "{name}:{version}"),
            Use::LaunchConfiguration { name } => f.write_str(name),
            Use::Parameter { name } => f.write_str(name),
        }
    }
}

impl Entry {
    /// Bytes of all its snapshots.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.snapshots.iter().map(|snapshot| snapshot.bytes).sum()
    }

    /// What it costs a month, at `price` for a GiB. Snapshots share blocks with those they came from, so it is less.
    #[must_use]
    pub fn cost(&self, price: f64) -> f64 {
        self.bytes() as f64 / f64::from(1 << 30) * price
    }

    /// How old it is, in seconds; none of an image of the future (a clock is wrong).
    #[must_use]
    pub fn age(&self, now: Timestamp) -> u64 {
        u64::try_from(now.as_second() - self.created.as_second()).unwrap_or(0)
    }

    /// Whether somebody uses it, or is told to.
    #[must_use]
    pub fn in_use(&self) -> bool {
        !self.uses.is_empty() || !self.promoted.is_empty()
    }

    /// What it is in all regions: its source's place, or its own.
    #[must_use]
    pub fn family(&self) -> String {
        match (&self.source, &self.region) {
            (Some(source), _) => source.clone(),
            (None, Some(region)) => format!("{region}/{}", self.id),
            (None, None) => self.id.clone(),
        }
    }
}

/// Whether there is, in the same place, a finished image of another recipe with the same BuildKit for the same
/// architecture: what a builder and an agent must be.
#[must_use]
pub fn matched(entry: &Entry, all: &[Entry]) -> bool {
    all.iter().any(|other| {
        other.recipe != entry.recipe
            && other.state == State::Finished
            && (&other.region, other.arch, &other.buildkit) == (&entry.region, entry.arch, &entry.buildkit)
    })
}
