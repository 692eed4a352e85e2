//! Which process a journal belongs to, and whether that process still lives.

use serde::{Deserialize, Serialize};

/// A process, told from a later one with the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) pid: u32,
    /// Clock ticks since boot (field 22 of /proc/PID/stat, proc(5)); none where there is no /proc.
    pub(super) started: Option<u64>,
}

impl Owner {
    /// This process.
    pub(super) fn current() -> Self {
        let pid = std::process::id();
        Self { pid, started: stat(pid).map(|(_, started)| started) }
    }

    /// Whether it still runs. A zombie does not: it can neither use nor remove anything any more.
    pub(super) fn alive(self) -> bool {
        match (self.started, stat(self.pid)) {
            (Some(started), Some((state, now))) => started == now && !matches!(state, 'Z' | 'X'),
            (Some(_), None) => false,
            // Without a start time a reused number looks alive: the mistake that removes nothing.
            (None, _) => i32::try_from(self.pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
                .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)),
        }
    }
}

/// State and start time of a process.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The program's name is in parentheses and may hold anything, parentheses and blanks too: count from the last one.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_an_ended_or_reused_one_does_not() {
        let me = Owner::current();
        assert!(me.alive());
        assert!(!Owner { started: me.started.map(|ticks| ticks + 1), ..me }.alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let started = stat(pid).map(|(_, started)| started);
        child.wait().unwrap();
        assert!(!Owner { pid, started }.alive());
        assert!(!Owner { pid, started: None }.alive());
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let owner = Owner { pid, started: stat(pid).map(|(_, started)| started) };
        // Not reaped yet: once it has exited it is a zombie, so this ends.
        while owner.alive() {
            std::thread::yield_now();
        }
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        child.wait().unwrap();
    }
}
