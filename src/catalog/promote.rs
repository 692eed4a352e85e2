//! Which image a channel may be given. PURE.

use super::{Entry, State};
use crate::release::Arch;

/// Below it are the parameters of channels: `/amibake/<recipe>/<arch>/<channel>`.
pub const CHANNELS: &str = "/amibake/";

/// Where the images of a recipe, an architecture and a channel are told: an SSM parameter of the data type
/// `aws:ec2:image`, which launch templates (`resolve:ssm:`) and the Elastic CI Stack's `ImageIdParameter` read.
#[must_use]
pub fn parameter(recipe: &str, arch: Arch, channel: &str) -> String {
    format!("{CHANNELS}{recipe}/{arch}/{channel}")
}

/// The channel of a parameter's name, if it is one that [`parameter`] makes.
#[must_use]
pub fn channel(name: &str) -> Option<&str> {
    let mut parts = name.strip_prefix(CHANNELS)?.split('/');
    let (_recipe, arch, channel) = (parts.next()?, parts.next()?, parts.next()?);
    let known = Arch::ALL.iter().any(|one| one.to_string() == arch);
    (known && parts.next().is_none() && !channel.is_empty()).then_some(channel)
}

/// A name of a channel: a part of a parameter's name ("PutParameter", Systems Manager API reference).
///
/// # Errors
/// What is wrong with it.
pub fn check_channel(name: &str) -> Result<(), String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        Ok(())
    } else {
        Err("a channel is called by letters, digits, `_`, `.` and `-`: stable".to_owned())
    }
}

/// Why an image may not be promoted, and what to do about it; none if it may.
#[must_use]
pub fn refusal(entry: &Entry) -> Option<(String, String)> {
    let id = &entry.id;
    match entry.state {
        State::Unfinished => {
            Some((format!("{id} is not finished"), format!("`amibake build {}` takes it up", entry.recipe)))
        }
        State::Unusable => {
            Some((format!("{id} cannot be used: it failed, or was disabled"), "bake another".to_owned()))
        }
        State::Finished if entry.verified.is_none() => Some((
            format!("{id} was never seen to boot and pass its checks"),
            format!("`amibake verify {}` boots it; `amibake build --verify` does so for a new one", entry.recipe),
        )),
        State::Finished => None,
    }
}

/// The newest image of a recipe and an architecture that may be promoted.
#[must_use]
pub fn newest<'e>(entries: &'e [Entry], recipe: &str, arch: Arch) -> Option<&'e Entry> {
    let ours = entries.iter().filter(|entry| entry.recipe == recipe && entry.arch == arch);
    ours.filter(|entry| refusal(entry).is_none()).max_by_key(|entry| (entry.created, &entry.id))
}

/// What stands against promoting these together: images of one architecture whose BuildKit differs.
#[must_use]
pub fn mismatch(entries: &[&Entry]) -> Option<String> {
    let differs = |one: &&&Entry| entries.iter().any(|other| other.arch == one.arch && other.buildkit != one.buildkit);
    let odd: Vec<String> = entries
        .iter()
        .filter(differs)
        .map(|entry| format!("{} ({}, {}) has BuildKit {}", entry.id, entry.recipe, entry.arch, entry.buildkit))
        .collect();
    (!odd.is_empty()).then(|| odd.join(", "))
}

/// The newest value before `current`, in a history that begins with the oldest, of an image that can still be used; and
/// how many newer ones cannot.
#[must_use]
pub fn before<'e>(history: &[String], current: &str, entries: &'e [Entry]) -> (Option<&'e Entry>, usize) {
    let mut skipped = 0;
    let mut seen = vec![current];
    for value in history.iter().rev() {
        if seen.contains(&value.as_str()) {
            continue;
        }
        seen.push(value);
        let found = entries.iter().find(|entry| entry.id == *value && entry.state == State::Finished);
        if found.is_some() {
            return (found, skipped);
        }
        skipped += 1;
    }
    (None, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::select::testing::{at, entry};
    use crate::release::Version;

    fn verified(number: usize, recipe: &str, days: i64) -> Entry {
        Entry { verified: Some(at(0)), ..entry(number, recipe, days) }
    }

    #[test]
    fn only_what_was_seen_to_boot_is_promoted() {
        assert_eq!(refusal(&verified(1, "builder", 1)), None);
        assert!(refusal(&entry(1, "builder", 1)).unwrap().0.contains("was never seen to boot"));
        let unfinished = Entry { state: State::Unfinished, ..verified(1, "builder", 1) };
        assert!(refusal(&unfinished).unwrap().0.contains("not finished"));
        let entries =
            [verified(1, "builder", 3), entry(2, "builder", 1), verified(3, "builder", 2), verified(4, "agent", 1)];
        assert_eq!(newest(&entries, "builder", Arch::Amd64).unwrap().id, "ami-3");
        assert_eq!(newest(&entries, "builder", Arch::Arm64), None);
    }

    #[test]
    fn a_pair_has_one_version() {
        let (one, mut other) = (verified(1, "builder", 1), verified(2, "agent", 1));
        assert_eq!(mismatch(&[&one, &other]), None);
        other.buildkit = Version::new(0, 30, 0);
        let told = mismatch(&[&one, &other]).unwrap();
        assert!(told.contains("ami-1") && told.contains("v0.30.0"), "{told}");
        other.arch = Arch::Arm64;
        assert_eq!(mismatch(&[&one, &other]), None, "another architecture is another pair");
    }

    #[test]
    fn rollback_goes_to_the_newest_one_that_is_still_there() {
        let entries = [entry(1, "builder", 3), entry(2, "builder", 2), entry(4, "builder", 1)];
        let history = |ids: &[usize]| ids.iter().map(|id| format!("ami-{id}")).collect::<Vec<_>>();
        let found = |ids: &[usize], current| {
            let (found, skipped) = before(&history(ids), current, &entries);
            (found.map(|entry| entry.id.as_str()), skipped)
        };
        assert_eq!(found(&[1, 2, 4], "ami-4"), (Some("ami-2"), 0));
        assert_eq!(found(&[1, 2, 3, 3, 4], "ami-4"), (Some("ami-2"), 1));
        assert_eq!(found(&[4, 2, 4], "ami-4"), (Some("ami-2"), 0));
        assert_eq!(found(&[4], "ami-4"), (None, 0));
    }

    #[test]
    fn names() {
        assert_eq!(parameter("builder", Arch::Arm64, "stable"), "/amibake/builder/arm64/stable");
        assert!(check_channel("canary-2").is_ok());
        for name in ["", "a/b", "ä", "a b"] {
            assert!(check_channel(name).is_err(), "{name}");
        }
    }
}
