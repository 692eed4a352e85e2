//! Processes of ours on this host: programs on PATH, starting QEMU so that it dies with amibake, and ending a process
//! that may have been started by another run. Knows no QEMU and no disk.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

use super::host;
use crate::error::{Context as _, Error, Result};

/// How long a process may take to end itself after SIGTERM. QEMU closes its disks in well under a second.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// How long the kernel may take after SIGKILL: a process in uninterruptible I/O on a slow disk ends late.
const KILL_GRACE: Duration = Duration::from_secs(30);

/// The program called `name` on PATH, absolute.
///
/// # Errors
/// Exit 4 with what to install.
pub(super) fn program(name: &str, package: &str) -> Result<PathBuf> {
    host::program(name).ok_or_else(|| {
        Error::host(format!("{name} is not installed"))
            .with_hint(format!("install it: on Debian, `apt-get install {package}`"))
    })
}

/// A command that runs `program` and, unless `outlive`, has the kernel kill it when amibake ends, however it ends.
/// The second value is false when this host has no means to do so.
pub(super) fn mortal(program: &std::path::Path, outlive: bool) -> (Command, bool) {
    if outlive {
        return (Command::new(program), true);
    }
    match host::program("setpriv").filter(|setpriv| knows_pdeathsig(setpriv)) {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            let amibake = std::process::id().to_string();
            command.args(["--pdeathsig", "KILL", "--no-new-privs", "--"]).args(["sh", "-c", STILL_OURS, &amibake]);
            command.arg(program);
            (command, true)
        }
        None => (Command::new(program), false),
    }
}

/// Between the fork and the request for the signal amibake may have ended: then no signal comes, but the parent is
/// another.
const STILL_OURS: &str = r#"[ "$PPID" = "$0" ] || exit 1; exec "$@""#;

/// BusyBox's setpriv, for one, does not.
fn knows_pdeathsig(setpriv: &std::path::Path) -> bool {
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--no-new-privs", "--", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A process that was started here.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: u32,
    /// When it was started, in clock ticks since boot.
    pub(super) started: u64,
    exit: watch::Receiver<Option<Ended>>,
}

/// How it ended; none when that could not be learnt.
type Ended = Option<ExitStatus>;

impl Process {
    /// Starts `command` in a process group of its own, so that the terminal's Ctrl-C does not reach it.
    ///
    /// A parent-death signal is sent when the *thread* that forked ends, and threads of a runtime's pool end when they
    /// idle. So a thread of its own starts the process, stays until it has ended, and reaps it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(mut command: Command) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (ended, exit) = watch::channel(None);
        let body = move || {
            let spawned = command.spawn();
            // With the command go our copies of the ends of pipes and sockets that are the child's.
            drop(command);
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => return drop(tell.send(Err(error))),
            };
            // Not reaped before the wait below: until then the number is this child's.
            let pid = child.id();
            drop(tell.send(Ok((pid, started(pid)))));
            ended.send_replace(Some(child.wait().ok()));
        };
        std::thread::Builder::new().name("machine".to_owned()).spawn(body)?;
        let (pid, started) = told.recv().map_err(std::io::Error::other)??;
        Ok(Self { pid, started: started.unwrap_or_default(), exit })
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> Ended {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(ended) => ended.flatten(),
            Err(_) => None,
        }
    }
}

/// When process `pid` was started: field 22 of /proc/PID/stat (proc(5)).
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    started_in(&String::from_utf8_lossy(&text))
}

/// The program's name, the second field, is in parentheses and may hold anything: count from the last one.
fn started_in(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Ends the process that had this number and start time, if it is still there, and waits until it is gone.
///
/// # Errors
/// When it cannot be ended.
pub(super) async fn end(pid: u32, ticks: u64) -> Result<()> {
    let context = || format!("cannot end process {pid}");
    let Some(number) = i32::try_from(pid).ok().filter(|&number| number > 1).and_then(Pid::from_raw) else {
        return Err(Error::host(format!("{pid} is not a process amibake can have started")));
    };
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).or_host(context),
    };
    // Looked at after the handle was opened: what has this start time now is what the handle means.
    if started(pid) != Some(ticks) {
        return Ok(());
    }
    let handle = Arc::new(handle);
    for (signal, grace) in [(Signal::TERM, TERM_GRACE), (Signal::KILL, KILL_GRACE)] {
        match pidfd_send_signal(&handle, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error).or_host(context),
        }
        if gone(handle.clone(), grace).await.or_host(context)? {
            return Ok(());
        }
    }
    Err(Error::host(format!("process {pid} is still there {} s after SIGKILL", KILL_GRACE.as_secs())))
}

/// Whether it ends in time: a pidfd becomes readable when its process ends.
async fn gone(handle: Arc<OwnedFd>, grace: Duration) -> std::io::Result<bool> {
    let wait = move || {
        let deadline = Instant::now() + grace;
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
            match poll(&mut [PollFd::new(&*handle, PollFlags::IN)], left.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    tokio::task::spawn_blocking(wait).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        Process::start(command).unwrap()
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 9 0 0 0 1 2 3 4 20 0 1 0 424242 1000 5 18446744073709551615 1";
        assert_eq!(started_in(stat), Some(424_242));
        assert_eq!(started_in("7 (sh) S 1"), None);
        assert_eq!(started_in(""), None);
        assert!(started(std::process::id()).is_some());
    }

    #[tokio::test]
    async fn ends_the_very_process_and_no_other_with_its_number() {
        let process = sleeper();
        end(process.pid, process.started + 1).await.unwrap();
        assert!(!process.has_ended(), "another process had the number");
        end(process.pid, process.started).await.unwrap();
        assert_eq!(process.ended().await.unwrap().signal(), Some(15));
        end(process.pid, process.started).await.unwrap();
        end(0, 0).await.unwrap_err();
        end(1, 0).await.unwrap_err();
        end(u32::MAX, 0).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed() {
        let mut command = Command::new("bash");
        // An ignored signal stays ignored over an exec.
        command.args(["-c", "trap '' TERM; echo ready; exec sleep 600"]);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        command.stdin(Stdio::null()).stdout(OwnedFd::from(theirs));
        let process = Process::start(command).unwrap();
        let mut line = [0; 6];
        std::io::Read::read_exact(&mut &ours, &mut line).unwrap();
        end(process.pid, process.started).await.unwrap();
        assert_eq!(process.ended().await.unwrap().signal(), Some(9));
    }

    #[test]
    fn a_process_that_outlives_has_nothing_that_ends_it() {
        let program = std::path::Path::new("/usr/bin/sleep");
        let (command, bound) = mortal(program, true);
        assert_eq!((command.get_program(), bound), (program.as_os_str(), true));
    }

    const HELPER: &str = "AMIBAKE_TEST_MORTAL";

    /// Not a test of its own: the process that the next one kills.
    #[test]
    fn helper_with_a_mortal_process() {
        if std::env::var_os(HELPER).is_none() {
            return;
        }
        let (mut command, bound) = mortal(&host::program("sleep").unwrap(), false);
        assert!(bound);
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start(command).unwrap();
        println!("\n{HELPER} {} {}", process.pid, process.started);
        loop {
            std::thread::park();
        }
    }

    #[tokio::test]
    async fn when_amibake_is_killed_its_machine_dies() {
        use std::io::BufRead as _;
        assert!(
            mortal(std::path::Path::new("true"), false).1,
            "needs a setpriv that knows --pdeathsig (util-linux 2.33)"
        );
        let helper = "provider::local::process::tests::helper_with_a_mortal_process";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", helper, "--nocapture"])
            .env(HELPER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
        let told = lines.find_map(|line| line.strip_prefix(HELPER).map(str::to_owned)).unwrap();
        let (pid, ticks) = told.trim().split_once(' ').unwrap();
        let (pid, ticks): (u32, u64) = (pid.parse().unwrap(), ticks.parse().unwrap());
        let handle = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
        assert_eq!(started(pid), Some(ticks));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(gone(Arc::new(handle), Duration::from_secs(30)).await.unwrap());
    }
}
