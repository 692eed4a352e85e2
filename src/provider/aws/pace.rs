//! When a look is worth its call. How long waits of one kind took lately is remembered beside the cache's other files: an
//! image that took a minute three times is not asked for twenty times in that minute. A wrong memory costs calls or
//! seconds, never more: every wait goes on at the usual pace when what was expected does not come.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first look after the one at once.
const SHORTEST: Duration = Duration::from_millis(300);
/// From 50 s on.
const LONGEST: Duration = Duration::from_secs(5);
/// No longer without a look, whatever is expected: something may have failed long before.
const BLIND: Duration = Duration::from_secs(60);
/// How many waits of a kind are remembered.
const REMEMBERED: usize = 5;
/// Kinds that are remembered; more are a sign of a file that only grows.
const MOST_KINDS: usize = 1000;

/// One wait of the past, in seconds: still nothing at the first, done at the second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Took(f64, f64);

type Memory = BTreeMap<String, VecDeque<Took>>;

/// What is remembered, in a file that other processes write too.
#[derive(Default)]
pub(super) struct Pace {
    path: Option<PathBuf>,
    memory: Mutex<Memory>,
}

impl Pace {
    /// With the memory at `path`: what cannot be read is not remembered.
    pub(super) fn at(path: PathBuf) -> Self {
        let memory = Mutex::new(read(&path));
        Self { path: Some(path), memory }
    }

    /// What is known of waits called `kind`.
    pub(super) fn rhythm(&self, kind: &str) -> Rhythm {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        Rhythm::of(memory.get(kind).into_iter().flatten())
    }

    /// A wait called `kind` found nothing at `before` and was over at `after`.
    pub(super) fn remember(&self, kind: &str, before: Option<Duration>, after: Duration) {
        // Over at the first look: it may have been over for long, so the next one looks earlier.
        let before = before.unwrap_or(after.mul_f64(0.9));
        let took = Took(before.as_secs_f64(), after.as_secs_f64());
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        // What others learned meanwhile is kept, as far as this file is not written at this very moment.
        if let Some(path) = &self.path {
            *memory = read(path);
        }
        if memory.len() >= MOST_KINDS {
            memory.clear();
        }
        let kind = memory.entry(kind.to_owned()).or_default();
        kind.push_back(took);
        while kind.len() > REMEMBERED {
            kind.pop_front();
        }
        if let Some(path) = &self.path {
            // Nothing depends on it.
            drop(write(path, &memory));
        }
    }
}

fn read(path: &Path) -> Memory {
    let memory: Memory =
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let sound = |took: &Took| took.0 >= 0.0 && took.0 <= took.1 && took.1 < 86_400.0;
    memory.into_iter().filter(|(_, all)| all.iter().all(sound)).collect()
}

fn write(path: &Path, memory: &Memory) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(memory)?)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// When a wait looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rhythm {
    /// Nothing was ready before, and the first that was.
    expected: Option<(Duration, Duration)>,
}

impl Rhythm {
    /// Of the past, the quickest.
    fn of<'t>(past: impl Iterator<Item = &'t Took>) -> Self {
        let quickest = past.min_by(|one, other| one.1.total_cmp(&other.1));
        Self { expected: quickest.map(|took| (Duration::from_secs_f64(took.0), Duration::from_secs_f64(took.1))) }
    }

    /// How long to pause before the next look, after having waited for so long; `looks` were made already.
    ///
    /// Without a past: at once, then after a tenth of the time that has passed, 0.3 to 5 s. With one: when it was not
    /// quite over the last time, then twice as often until it is later than ever.
    pub(super) fn pause(&self, waited: Duration, looks: u32) -> Duration {
        let usual = (waited / 10).clamp(SHORTEST, LONGEST);
        match self.expected {
            Some((before, _)) if waited < before => (before - waited).min(BLIND),
            Some((_, after)) if waited < after.mul_f64(1.2) => (after / 20).clamp(SHORTEST, LONGEST),
            None if looks == 0 => Duration::ZERO,
            _ => usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Looks until `done`: how many, and when the last one was. Remembered.
    fn wait(pace: &Pace, done: f64) -> (u32, f64) {
        let rhythm = pace.rhythm("image");
        let (mut waited, mut before, mut looks) = (Duration::ZERO, None, 0);
        loop {
            waited += rhythm.pause(waited, looks);
            looks += 1;
            if waited >= seconds(done) {
                pace.remember("image", before, waited);
                return (looks, waited.as_secs_f64());
            }
            before = Some(waited);
        }
    }

    #[test]
    fn without_a_past_pauses_grow_with_the_wait() {
        let rhythm = Pace::default().rhythm("image");
        assert_eq!(rhythm.pause(Duration::ZERO, 0), Duration::ZERO);
        let pauses = [0.0, 1.0, 3.0, 10.0, 50.0, 3600.0].map(|waited| rhythm.pause(seconds(waited), 1).as_millis());
        assert_eq!(pauses, [300, 300, 300, 1000, 5000, 5000]);
    }

    #[test]
    fn what_takes_as_long_as_ever_is_found_by_a_look_or_two() {
        for done in [1.5, 12.0, 60.0, 400.0] {
            let pace = Pace::default();
            let first = wait(&pace, done);
            assert!(first.0 >= 5, "{first:?}");
            for _ in 0..3 {
                wait(&pace, done);
            }
            let (looks, waited) = wait(&pace, done);
            assert!(looks <= 3 + (done / BLIND.as_secs_f64()) as u32, "{done}: {looks}");
            assert!(waited <= done * 1.05 + 0.3, "{done}: {waited}");
        }
    }

    #[test]
    fn what_takes_longer_or_shorter_than_ever_is_found_all_the_same() {
        let pace = Pace::default();
        wait(&pace, 60.0);
        let (looks, waited) = wait(&pace, 600.0);
        assert!(looks < 150 && waited <= 606.0, "{looks} {waited}");
        let (_, waited) = wait(&pace, 20.0);
        assert!(waited <= 60.0, "{waited}");
        // Learned, look by look.
        let waited = (0..30).map(|_| wait(&pace, 20.0).1).last().unwrap();
        assert!(waited <= 22.0, "{waited}");
    }

    #[test]
    fn the_memory_outlives_the_process_and_survives_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/aws-waits.json");
        Pace::at(path.clone()).remember("online", Some(seconds(20.0)), seconds(21.0));
        let pace = Pace::at(path.clone());
        assert_eq!(pace.rhythm("online").pause(Duration::ZERO, 0), seconds(20.0));
        for _ in 0..9 {
            pace.remember("online", Some(seconds(30.0)), seconds(31.0));
        }
        assert_eq!(pace.rhythm("online").pause(Duration::ZERO, 0), seconds(30.0), "the old is forgotten");
        for nonsense in ["", "{\"online\":[[-1,2]]}", "{\"online\":[[5,2]]}", "{\"online\":[[0,1e300]]}", "[1]"] {
            std::fs::write(&path, nonsense).unwrap();
            assert_eq!(Pace::at(path.clone()).rhythm("online"), Pace::default().rhythm("online"), "{nonsense}");
        }
    }
}
