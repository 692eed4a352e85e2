//! Runs mmdebstrap: streams what it says, and ends all of it when the user interrupts or the future is dropped.

use std::collections::VecDeque;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::bake::{Event, Reporter};
use crate::error::{Context as _, Error, Result};

/// Lines of the output kept for a failure.
const TAIL_LINES: usize = 20;
/// How long the kernel may take to end killed processes.
const REAPING: Duration = Duration::from_secs(10);

/// How it ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// `name version` of every package the root has, sorted.
    pub(super) packages: Vec<String>,
    /// The last lines it printed, for a person.
    pub(super) tail: String,
}

/// Runs `command`, the leader of a process group of its own with both streams piped. When cancelled, it is asked to
/// end within `patience`, if that is given, and then killed; this returns once none of its processes is left.
pub(super) async fn run(
    mut command: Command,
    patience: Option<Duration>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Ended> {
    let mut child = command.spawn().or_host(|| "cannot start mmdebstrap".to_owned())?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(leader.and_then(Pid::from_raw));
    let mut output = Output::of(&mut child, reporter);
    let unreadable = || "cannot read mmdebstrap's output".to_owned();
    let cancelled = tokio::select! {
        biased;
        () = cancel.cancelled() => true,
        read = output.read() => read.or_host(unreadable).map(|()| false)?,
    };
    if cancelled {
        // The streams end when the last process that holds them does.
        if let Some(patience) = patience {
            group.send(Signal::TERM);
            let _ = tokio::time::timeout(patience, output.read()).await;
        }
        group.send(Signal::KILL);
        let _ = tokio::time::timeout(REAPING, output.read()).await;
    }
    let status = child.wait().await.or_host(|| "mmdebstrap did not end".to_owned())?;
    group.0 = None;
    if cancelled {
        return Err(Error::interrupted());
    }
    output.packages.sort();
    Ok(Ended { status, packages: output.packages, tail: output.tail.make_contiguous().join("\n") })
}

/// Kills its process group when dropped, unless the leader has been waited for.
struct Group(Option<Pid>);

impl Group {
    fn send(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}

type Lines = tokio::io::Split<BufReader<Box<dyn AsyncRead + Unpin + Send>>>;

/// What mmdebstrap and its hook say.
struct Output<'a> {
    reporter: &'a Reporter,
    streams: [Option<Lines>; 2],
    packages: Vec<String>,
    tail: VecDeque<String>,
}

impl<'a> Output<'a> {
    fn of(child: &mut Child, reporter: &'a Reporter) -> Self {
        let stdout = child.stdout.take().map(|stream| lines(Box::new(stream)));
        let stderr = child.stderr.take().map(|stream| lines(Box::new(stream)));
        Self { reporter, streams: [stdout, stderr], packages: Vec::new(), tail: VecDeque::new() }
    }

    /// Reads both streams to their ends. May be dropped and called again.
    async fn read(&mut self) -> std::io::Result<()> {
        while self.streams.iter().any(Option::is_some) {
            let [stdout, stderr] = &mut self.streams;
            let (which, line) = tokio::select! {
                line = next(stdout), if stdout.is_some() => (0, line?),
                line = next(stderr), if stderr.is_some() => (1, line?),
            };
            match line {
                Some(line) => self.line(&String::from_utf8_lossy(&line)),
                None => self.streams[which] = None,
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if let Some(package) = line.strip_prefix("amibake-package ") {
            self.packages.push(package.to_owned());
            return;
        }
        self.reporter.event(&Event::Output { bytes: format!("{line}\n").into_bytes() });
        self.tail.push_back(format!("  | {line}"));
        if self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }
}

fn lines(stream: Box<dyn AsyncRead + Unpin + Send>) -> Lines {
    BufReader::new(stream).split(b'\n')
}

async fn next(stream: &mut Option<Lines>) -> std::io::Result<Option<Vec<u8>>> {
    match stream {
        Some(lines) => lines.next_segment().await,
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    #[tokio::test]
    async fn packages_are_collected_and_the_tail_is_kept() {
        let script =
            "echo amibake-package b 2; echo amibake-package a 1; for i in $(seq 30); do echo line $i >&2; done; exit 3";
        let ended = run(shell(script), None, &Reporter::silent(), &CancellationToken::new()).await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!(ended.packages, ["a 1", "b 2"]);
        assert_eq!(ended.tail.lines().count(), TAIL_LINES);
        assert!(ended.tail.ends_with("  | line 30"));
    }

    #[tokio::test]
    async fn cancelling_ends_children_too() {
        // The child ignores SIGTERM, so that only the kill at the end of the patience reaches it.
        let script = "(trap '' TERM; exec sleep 600) & echo started; wait";
        let cancel = CancellationToken::new();
        struct OnStart(CancellationToken);
        impl crate::bake::Sink for OnStart {
            fn event(&self, _: &str, _: &Event) {
                self.0.cancel();
            }
        }
        let reporter = Reporter::new("", vec![std::sync::Arc::new(OnStart(cancel.clone()))]);
        let patience = Some(Duration::from_millis(200));
        let started = std::time::Instant::now();
        let error = run(shell(script), patience, &reporter, &cancel).await.err().unwrap();
        assert_eq!(error.exit().code(), 130);
        // Had the child lived on, its end of the streams would have kept this waiting.
        assert!(started.elapsed() < REAPING);
    }
}
