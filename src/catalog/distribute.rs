//! What is missing until an image is where it should be, and may be used by whom it should. PURE: a wish and what a region
//! has in, acts out. A wish that is fulfilled has none.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;

/// Where an image is to be, and who may use it. What is there beyond it is left as it is: nobody loses what they have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Regions beside its own.
    pub regions: BTreeSet<String>,
    /// Keys of copies, by region.
    pub keys: BTreeMap<String, String>,
    /// Who may use it.
    pub users: Users,
    /// Days from the image's making until its deprecation.
    pub deprecate_after_days: Option<u32>,
    /// Whether it is kept from being deregistered.
    pub protect: bool,
}

/// Who may launch an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Users {
    /// Accounts.
    pub accounts: BTreeSet<String>,
    /// Organizations, by ARN.
    pub organizations: BTreeSet<String>,
    /// Organizational units, by ARN.
    pub units: BTreeSet<String>,
    /// Everybody.
    pub public: bool,
}

impl Users {
    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are not among `others`.
    #[must_use]
    pub fn without(&self, others: &Users) -> Users {
        let left = |own: &BTreeSet<String>, others: &BTreeSet<String>| own.difference(others).cloned().collect();
        Users {
            accounts: left(&self.accounts, &others.accounts),
            organizations: left(&self.organizations, &others.organizations),
            units: left(&self.units, &others.units),
            public: self.public && !others.public,
        }
    }
}

/// What a region has of an image that is available there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Has {
    /// Who may launch it.
    pub users: Users,
    /// Accounts that may make volumes of all its snapshots.
    pub snapshot_accounts: BTreeSet<String>,
    /// When it is deprecated.
    pub deprecated: Option<Timestamp>,
    /// Whether it is kept from being deregistered.
    pub protected: bool,
}

/// One thing to do to an image that is available.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Let these launch it.
    Share(Users),
    /// Let these accounts make volumes of its snapshots.
    ShareSnapshots(BTreeSet<String>),
    /// Deprecate it then.
    Deprecate(Timestamp),
    /// Keep it from being deregistered.
    Protect,
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Act::Share(users) => {
                let named = users.accounts.iter().chain(&users.organizations).chain(&users.units).map(String::as_str);
                let all: Vec<&str> = named.chain(users.public.then_some("everybody")).collect();
                write!(f, "shared with {}", all.join(", "))
            }
            Act::ShareSnapshots(accounts) => {
                let all: Vec<&str> = accounts.iter().map(String::as_str).collect();
                write!(f, "snapshots shared with {}", all.join(", "))
            }
            Act::Deprecate(at) => write!(f, "deprecated from {} on", at.strftime("%F")),
            Act::Protect => f.write_str("protected"),
        }
    }
}

/// What is missing of an image that was made at `created`. EC2 deprecates at whole minutes, and not in the past.
#[must_use]
pub fn missing(wish: &Wish, has: &Has, created: Timestamp, now: Timestamp) -> Vec<Act> {
    let mut acts = Vec::new();
    let users = wish.users.without(&has.users);
    if !users.is_empty() {
        acts.push(Act::Share(users));
    }
    let accounts: BTreeSet<String> = wish.users.accounts.difference(&has.snapshot_accounts).cloned().collect();
    if !accounts.is_empty() {
        acts.push(Act::ShareSnapshots(accounts));
    }
    let wanted = wish.deprecate_after_days.and_then(|days| {
        let at = created.checked_add((i64::from(days) * 24).hours()).ok()?;
        Timestamp::from_second(at.as_second() - at.as_second().rem_euclid(60)).ok()
    });
    if let Some(at) = wanted.filter(|at| *at > now && has.deprecated != Some(*at)) {
        acts.push(Act::Deprecate(at));
    }
    if wish.protect && !has.protected {
        acts.push(Act::Protect);
    }
    acts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|&one| one.to_owned()).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_missing_and_nothing_the_second_time() {
        let wish = Wish {
            users: Users { accounts: set(&["111111111111", "222222222222"]), public: true, ..Users::default() },
            deprecate_after_days: Some(90),
            protect: true,
            ..Wish::default()
        };
        let mut has = Has {
            users: Users { accounts: set(&["111111111111", "333333333333"]), ..Users::default() },
            ..Has::default()
        };
        let (made, now) = (at("2026-11-01T10:20:30Z"), at("2026-11-25T00:00:00Z"));
        let acts = missing(&wish, &has, made, now);
        assert_eq!(
            acts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "shared with 222222222222, everybody",
                "snapshots shared with 111111111111, 222222222222",
                "deprecated from 2027-01-30 on",
                "protected",
            ]
        );
        has.users =
            Users { accounts: set(&["111111111111", "222222222222", "333333333333"]), public: true, ..has.users };
        has.snapshot_accounts = wish.users.accounts.clone();
        has.deprecated = Some(at("2027-01-30T10:20:00Z"));
        has.protected = true;
        assert_eq!(missing(&wish, &has, made, now), []);
        // A day that has passed is none to set.
        has.deprecated = None;
        assert_eq!(missing(&wish, &has, made, at("2027-06-01T00:00:00Z")), []);
    }
}
