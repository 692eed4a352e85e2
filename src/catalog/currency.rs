//! What is out of date. PURE: what was found out comes in, verdicts go out.

use jiff::Timestamp;
use serde::Serialize;

use super::{Entry, State};
use crate::plan::Plan;
use crate::release::{Arch, Version};

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Up to date.
    Current,
    /// Something newer exists, or it no longer fits.
    OutOfDate,
    /// It could not be found out.
    Unknown,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `BuildKit`, `builder (amd64)`.
    pub about: String,
    /// What was looked at: `release`, `base`, `recipe`, `age`, `pair`, `image`, `trust`.
    pub what: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// Why, for a person.
    pub found: String,
}

impl Finding {
    /// One with these words.
    #[must_use]
    pub fn new(about: &str, what: &'static str, standing: Standing, found: impl Into<String>) -> Self {
        Self { about: about.to_owned(), what, standing, found: found.into() }
    }
}

/// The lock against the newest release of its channel.
#[must_use]
pub fn of_release(locked: Version, newest: Option<Version>) -> Finding {
    let (standing, found) = match newest {
        Some(newest) if newest > locked => (Standing::OutOfDate, format!("{newest} is newer than {locked}")),
        Some(_) => (Standing::Current, format!("{locked} is the newest")),
        None => (Standing::Unknown, "the list of releases has none for the lock's platforms".to_owned()),
    };
    Finding::new("BuildKit", "release", standing, found)
}

/// The newest finished image of a recipe and an architecture. A copy of another region is as old as what it copies.
#[must_use]
pub fn newest_image<'e>(entries: &'e [Entry], recipe: &str, arch: Arch) -> Option<&'e Entry> {
    let ours = entries.iter().filter(|entry| entry.recipe == recipe && entry.arch == arch);
    let baked = ours.filter(|entry| entry.state == State::Finished && entry.source.is_none());
    baked.max_by_key(|entry| (entry.created, &entry.id))
}

/// An image against the plan of what would be baked now.
#[must_use]
pub fn of_image(plan: &Plan, image: Option<&Entry>, oldest: Option<Timestamp>) -> Vec<Finding> {
    let about = format!("{} ({})", plan.recipe, plan.arch);
    let finding = |what, standing, found: String| Finding::new(&about, what, standing, found);
    let Some(image) = image else {
        return vec![finding("image", Standing::OutOfDate, "there is none yet".to_owned())];
    };
    let stands = |good: bool| if good { Standing::Current } else { Standing::OutOfDate };
    let same_version = image.buildkit == plan.artifact.version;
    let same_base = image.base.id == plan.base.identity;
    let mut findings = vec![
        finding(
            "release",
            stands(same_version),
            if same_version {
                format!("BuildKit {}, as the lock says", image.buildkit)
            } else {
                format!("BuildKit {}, and the lock says {}", image.buildkit, plan.artifact.version)
            },
        ),
        finding(
            "base",
            stands(same_base),
            if same_base {
                format!("{} is the newest", plan.base.name)
            } else {
                format!("baked from {}, the newest is {} ({})", image.base.id, plan.base.identity, plan.base.name)
            },
        ),
    ];
    // Where release or base differ, so does the fingerprint, and says nothing of the recipe.
    findings.push(if image.fingerprint == plan.fingerprint.to_string() {
        finding("recipe", Standing::Current, format!("{} is what would be baked now", image.id))
    } else if same_version && same_base {
        let found = format!("recipe, assets or what amibake makes of them changed since {} was baked", image.id);
        finding("recipe", Standing::OutOfDate, found)
    } else {
        finding("recipe", Standing::Unknown, "cannot be told while release or base differ".to_owned())
    });
    if let Some(oldest) = oldest {
        let made = image.created.strftime("%Y-%m-%d");
        findings.push(finding("age", stands(image.created >= oldest), format!("made on {made}")));
    }
    findings
}

/// Whether the newest images of one architecture hold the same BuildKit: an agent and a builder that differ are no pair.
#[must_use]
pub fn of_pair(arch: Arch, images: &[&Entry]) -> Option<Finding> {
    let [first, rest @ ..] = images else { return None };
    if rest.is_empty() {
        return None;
    }
    let names = |entry: &&Entry| format!("{} has {}", entry.recipe, entry.buildkit);
    let same = rest.iter().all(|entry| entry.buildkit == first.buildkit);
    let found = if same {
        format!("all have BuildKit {}", first.buildkit)
    } else {
        images.iter().map(names).collect::<Vec<_>>().join(", ")
    };
    let standing = if same { Standing::Current } else { Standing::OutOfDate };
    Some(Finding::new(&format!("images ({arch})"), "pair", standing, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Base;
    use crate::catalog::select::testing::{NOW, at, entry};
    use crate::provider::aws::planned_for_tests;

    fn standings(findings: &[Finding]) -> Vec<(&'static str, Standing)> {
        findings.iter().map(|finding| (finding.what, finding.standing)).collect()
    }

    #[test]
    fn a_release_is_out_of_date_when_a_higher_one_exists_and_never_when_it_is_ahead() {
        let of = |newest: Option<Version>| of_release(Version::new(0, 31, 2), newest).standing;
        assert_eq!(of(Some(Version::new(0, 31, 10))), Standing::OutOfDate);
        assert_eq!(of(Some(Version::new(0, 31, 2))), Standing::Current);
        assert_eq!(of(Some(Version::new(0, 30, 0))), Standing::Current);
        assert_eq!(of(None), Standing::Unknown);
    }

    #[test]
    fn an_image_is_held_against_lock_base_recipe_and_age() {
        let plan = planned_for_tests("");
        let mut image = entry(1, "r", 10);
        image.buildkit = plan.artifact.version;
        image.base = Base { id: plan.base.identity.clone(), created: None };
        image.fingerprint = plan.fingerprint.to_string();
        let current = |what| (what, Standing::Current);
        let old = |what| (what, Standing::OutOfDate);
        let of = |image: &Entry| standings(&of_image(&plan, Some(image), None));
        assert_eq!(of(&image), [current("release"), current("base"), current("recipe")]);
        assert_eq!(standings(&of_image(&plan, None, None)), [old("image")]);
        let age = |days: i64| standings(&of_image(&plan, Some(&image), Some(at(NOW - days * 86_400))));
        assert_eq!((age(9)[3], age(11)[3]), (old("age"), current("age")));
        let other = Entry { fingerprint: "another".to_owned(), ..image.clone() };
        assert_eq!(of(&other), [current("release"), current("base"), old("recipe")]);
        let base = Base { id: "ami-older".to_owned(), created: None };
        assert_eq!(
            of(&Entry { base, ..other.clone() }),
            [current("release"), old("base"), ("recipe", Standing::Unknown)]
        );
        let older = Entry { buildkit: Version::new(0, 13, 2), ..other };
        assert_eq!(of(&older), [old("release"), current("base"), ("recipe", Standing::Unknown)]);
    }

    #[test]
    fn the_newest_is_finished_of_its_kind_and_no_copy() {
        let mut entries = vec![entry(1, "r", 5), entry(2, "r", 4), entry(3, "r", 3), entry(4, "other", 1)];
        entries[1].source = Some("eu-west-1/ami-9".to_owned());
        entries[2].state = State::Unfinished;
        assert_eq!(newest_image(&entries, "r", Arch::Amd64).unwrap().id, "ami-1");
        assert_eq!(newest_image(&entries, "r", Arch::Arm64), None);
    }

    #[test]
    fn images_of_two_versions_are_no_pair() {
        let (one, mut other) = (entry(1, "agent", 1), entry(2, "builder", 1));
        assert_eq!(of_pair(Arch::Amd64, &[&one, &other]).unwrap().standing, Standing::Current);
        assert_eq!(of_pair(Arch::Amd64, &[&one]), None);
        other.buildkit = Version::new(0, 13, 2);
        assert_eq!(of_pair(Arch::Amd64, &[&one, &other]).unwrap().standing, Standing::OutOfDate);
    }
}
