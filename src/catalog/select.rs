//! Which entries are shown, and which may go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{Entry, State};
use crate::release::Arch;

/// Nothing younger than this goes, whatever is asked for: whoever baked it may be about to use it.
const YOUNG: u64 = 24 * 3600;

/// Which entries are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this recipe.
    pub recipe: Option<String>,
    /// Of these architectures; all if there are none.
    pub archs: Vec<Arch>,
    /// Older than this, in seconds.
    pub older_than: Option<u64>,
    /// That nobody uses.
    pub unused: bool,
}

impl Filter {
    /// Whether it means `entry`.
    #[must_use]
    pub fn admits(&self, entry: &Entry, now: Timestamp) -> bool {
        self.recipe.as_ref().is_none_or(|recipe| *recipe == entry.recipe)
            && (self.archs.is_empty() || self.archs.contains(&entry.arch))
            && self.older_than.is_none_or(|seconds| entry.age(now) > seconds)
            && !(self.unused && entry.in_use())
    }
}

/// What may go.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Of each recipe and architecture, the newest so many stay.
    pub keep_last: usize,
    /// Of what the filter means only. Its `older_than` is a second condition, not another way to go.
    pub filter: Filter,
}

/// Why an entry stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was not asked for.
    NotMeant,
    /// It is not finished: a build takes it up, or `gc` removes it.
    Unfinished,
    /// EC2's protection, or our tag.
    Protected,
    /// To these channels.
    Promoted(String),
    /// Rollback returns to it.
    PromotedBefore(String),
    /// By these.
    InUse(String),
    /// It is younger than a day.
    Young,
    /// It is among the newest.
    Newest,
    /// A copy of it, or what it is a copy of, stays for a reason of its own.
    Family(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::NotMeant => f.write_str("not asked for"),
            Why::Unfinished => f.write_str("not finished"),
            Why::Protected => f.write_str("protected"),
            Why::Promoted(channels) => write!(f, "promoted to {channels}"),
            Why::PromotedBefore(channels) => write!(f, "promoted to {channels} before"),
            Why::InUse(users) => write!(f, "used by {users}"),
            Why::Young => f.write_str("younger than a day"),
            Why::Newest => f.write_str("among the newest"),
            Why::Family(id) => write!(f, "{id} stays, and is the same image"),
        }
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It goes.
    Goes,
    /// It stays.
    Stays(Why),
}

/// Chooses for every entry, in their order. An image and its copies go together or not at all. What was chosen to go can be
/// removed in any order: what is left then is what another choice by the same policy would leave.
#[must_use]
pub fn choose(entries: &[Entry], policy: &Policy, now: Timestamp) -> Vec<Choice> {
    let newest = newest(entries, policy.keep_last);
    let alone: Vec<Option<Why>> =
        entries.iter().enumerate().map(|(index, entry)| reason(entry, newest.contains(&index), policy, now)).collect();
    // Who holds a family together.
    let mut staying: BTreeMap<String, &str> = BTreeMap::new();
    for (entry, why) in entries.iter().zip(&alone) {
        if why.is_some() {
            staying.entry(entry.family()).or_insert(&entry.id);
        }
    }
    let choice = |(entry, why): (&Entry, Option<Why>)| match (why, staying.get(&entry.family())) {
        (Some(why), _) => Choice::Stays(why),
        (None, Some(other)) => Choice::Stays(Why::Family((*other).to_owned())),
        (None, None) => Choice::Goes,
    };
    entries.iter().zip(alone).map(choice).collect()
}

/// Of each recipe and architecture the newest families that can be used, by when their first member was made: where they
/// lie among `entries`.
fn newest(entries: &[Entry], keep: usize) -> BTreeSet<usize> {
    type Families = BTreeMap<String, (Timestamp, Vec<usize>)>;
    let mut groups: BTreeMap<(&str, Arch), Families> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.state == State::Finished) {
        let group = groups.entry((&entry.recipe, entry.arch)).or_default();
        let family = group.entry(entry.family()).or_insert((entry.created, Vec::new()));
        family.0 = family.0.min(entry.created);
        family.1.push(index);
    }
    let mut newest = BTreeSet::new();
    for families in groups.into_values() {
        let mut families: Vec<_> = families.into_iter().collect();
        families.sort_by(|(one, (early, _)), (other, (late, _))| (late, other).cmp(&(early, one)));
        newest.extend(families.into_iter().take(keep).flat_map(|(_, (_, members))| members));
    }
    newest
}

/// Why an entry stays for its own sake.
fn reason(entry: &Entry, newest: bool, policy: &Policy, now: Timestamp) -> Option<Why> {
    let listed = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    if entry.state == State::Unfinished {
        Some(Why::Unfinished)
    } else if entry.protected {
        Some(Why::Protected)
    } else if !entry.promoted.is_empty() {
        Some(Why::Promoted(listed(&entry.promoted)))
    } else if !entry.promoted_before.is_empty() {
        Some(Why::PromotedBefore(listed(&entry.promoted_before)))
    } else if !entry.uses.is_empty() {
        Some(Why::InUse(entry.uses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
    } else if entry.age(now) < YOUNG {
        Some(Why::Young)
    } else if newest {
        Some(Why::Newest)
    } else if !policy.filter.admits(entry, now) {
        Some(Why::NotMeant)
    } else {
        None
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::catalog::{Base, Snapshot};

    pub(in crate::catalog) const NOW: i64 = 1_800_000_000;

    pub(in crate::catalog) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    pub(in crate::catalog) fn entry(number: usize, recipe: &str, days: i64) -> Entry {
        Entry {
            id: format!("ami-{number}"),
            name: format!("{recipe}-{number}"),
            region: Some("us-east-1".to_owned()),
            recipe: recipe.to_owned(),
            buildkit: crate::release::Version::new(0, 31, 2),
            stand_in: false,
            evidence: None,
            arch: Arch::Amd64,
            fingerprint: number.to_string(),
            run: "run".to_owned(),
            created: at(NOW - days * 86_400),
            base: Base { id: "ami-base".to_owned(), created: None },
            state: State::Finished,
            verified: None,
            source: None,
            snapshots: vec![Snapshot { id: format!("snap-{number}"), bytes: 10 << 30 }],
            protected: false,
            promoted: BTreeSet::new(),
            promoted_before: BTreeSet::new(),
            uses: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{NOW, at, entry};
    use super::*;
    use crate::catalog::Use;

    fn policy(keep_last: usize) -> Policy {
        Policy { keep_last, filter: Filter::default() }
    }

    fn gone(entries: &[Entry], policy: &Policy) -> Vec<String> {
        let choices = choose(entries, policy, at(NOW));
        let gone = entries.iter().zip(choices).filter(|(_, choice)| *choice == Choice::Goes);
        gone.map(|(entry, _)| entry.id.clone()).collect()
    }

    #[test]
    fn the_newest_of_each_recipe_stay() {
        let entries = [
            entry(1, "builder", 9),
            entry(2, "builder", 5),
            entry(3, "builder", 2),
            entry(4, "agent", 30),
            entry(5, "agent", 40),
        ];
        assert_eq!(gone(&entries, &policy(1)), ["ami-1", "ami-2", "ami-5"]);
        assert_eq!(gone(&entries, &policy(2)), ["ami-1"]);
        let only = Policy { filter: Filter { recipe: Some("agent".to_owned()), ..Filter::default() }, ..policy(0) };
        assert_eq!(gone(&entries, &only), ["ami-4", "ami-5"]);
        let old = Policy { filter: Filter { older_than: Some(35 * 86_400), ..Filter::default() }, ..policy(0) };
        assert_eq!(gone(&entries, &old), ["ami-5"]);
    }

    #[test]
    fn a_copy_that_is_used_keeps_the_whole_family() {
        let mut copy = entry(2, "builder", 9);
        copy.region = Some("eu-central-1".to_owned());
        copy.source = Some("us-east-1/ami-1".to_owned());
        copy.uses.insert(Use::Instance { id: "i-1".to_owned() });
        let entries = [entry(1, "builder", 10), copy, entry(3, "builder", 5)];
        let choices = choose(&entries, &policy(0), at(NOW));
        assert_eq!(choices[0], Choice::Stays(Why::Family("ami-2".to_owned())));
        assert_eq!(choices[2], Choice::Goes);
        // A copy is no second image to keep.
        let mut entries = entries.to_vec();
        entries[1].uses.clear();
        assert_eq!(gone(&entries, &policy(1)), ["ami-1", "ami-2"]);
    }

    #[test]
    fn costs_and_pairs() {
        let one = entry(1, "builder", 1);
        assert!((one.cost(0.05) - 0.5).abs() < 1e-9);
        let mut other = entry(2, "agent", 1);
        assert!(crate::catalog::matched(&one, &[one.clone(), other.clone()]));
        other.arch = Arch::Arm64;
        assert!(!crate::catalog::matched(&one, &[one.clone(), other]));
    }

    prop_compose! {
        fn any_entry()(
            number in 0_usize..1000, recipe in prop::sample::select(vec!["builder", "agent"]), days in -2_i64..60, arm in any::<bool>(),
            state in 0..6, protected in prop::bool::weighted(0.1), promoted in prop::bool::weighted(0.1),
            before in prop::bool::weighted(0.1), used in prop::bool::weighted(0.2), source in prop::option::weighted(0.3, 0_usize..1000),
        ) -> Entry {
            let mut entry = entry(number, recipe, days);
            if arm { entry.arch = Arch::Arm64; }
            entry.state = match state { 0 => State::Unfinished, 1 => State::Unusable, _ => State::Finished };
            entry.protected = protected;
            if promoted { entry.promoted.insert("stable".to_owned()); }
            if before { entry.promoted_before.insert("stable".to_owned()); }
            if used { entry.uses.insert(Use::LaunchTemplate { name: "builders".to_owned(), version: 3 }); }
            if let Some(source) = source {
                entry.region = Some("eu-central-1".to_owned());
                entry.source = Some(format!("us-east-1/ami-{source}"));
            }
            entry
        }
    }

    proptest! {
        #[test]
        fn nothing_that_anybody_needs_goes_and_a_second_choice_takes_nothing_more(
            entries in prop::collection::vec(any_entry(), 0..40), keep in 0_usize..4, days in prop::option::of(0_u64..50),
        ) {
            let policy = Policy { keep_last: keep, filter: Filter { older_than: days.map(|days| days * 86_400), ..Filter::default() } };
            let choices = choose(&entries, &policy, at(NOW));
            prop_assert_eq!(choices.len(), entries.len());
            let mut left = Vec::new();
            for (entry, choice) in entries.iter().zip(&choices) {
                if *choice == Choice::Goes {
                    prop_assert!(!entry.protected && !entry.in_use() && entry.promoted_before.is_empty());
                    prop_assert!(entry.state != State::Unfinished && entry.age(at(NOW)) >= YOUNG);
                    let family = entry.family();
                    let relatives = entries.iter().zip(&choices).filter(|(other, _)| other.family() == family);
                    prop_assert!(relatives.into_iter().all(|(_, choice)| *choice == Choice::Goes));
                } else {
                    left.push(entry.clone());
                }
            }
            for recipe in ["builder", "agent"] {
                for arch in Arch::ALL {
                    let of = |entries: &[Entry]| -> BTreeSet<String> {
                        let ours = entries.iter().filter(|one| one.recipe == recipe && one.arch == arch && one.state == State::Finished);
                        ours.map(Entry::family).collect()
                    };
                    prop_assert!(of(&left).len() >= keep.min(of(&entries).len()));
                }
            }
            prop_assert_eq!(gone(&left, &policy), Vec::<String>::new());
        }
    }
}
