//! Ctrl-C and its like: the first cleans up, the second says what is left and leaves.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::bake;
use crate::error::{Context as _, Exit, Result};
use crate::report;

/// Cancels the returned token at the first SIGINT, SIGTERM or SIGHUP; one that this process was started to ignore (by
/// nohup, or in the background of a script) stays ignored. At the second, names what the runs of this process
/// below `runs` still hold, and ends the process.
pub(super) fn cancel_on_signal(runs: &Path) -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let ignored = ignored();
    let listen = |kind: SignalKind| match ignored >> (kind.as_raw_value() - 1) & 1 {
        1 => Ok(None),
        _ => signal(kind).map(Some).or_host(|| "cannot listen to signals".to_owned()),
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (cancel, runs) = (token.clone(), runs.to_owned());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = next(&mut interrupt) => {}
                () = next(&mut terminate) => {}
                () = next(&mut hangup) => {}
            }
            if cancel.is_cancelled() {
                leave(&runs);
            }
            report::say("interrupted: cleaning up (once more to leave at once)");
            cancel.cancel();
        }
    });
    Ok(token)
}

/// The next signal of a kind; never, for one that is ignored.
async fn next(signals: &mut Option<Signal>) {
    match signals {
        Some(signals) => drop(signals.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that this process ignores, number N as bit N - 1: `SigIgn` of /proc/self/status (proc(5)). None where there
/// is no such file.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn leave(runs: &Path) -> ! {
    report::say("leaving at once; what may be left behind:");
    for run in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        for resource in bake::outstanding(&run.path()).unwrap_or_default() {
            report::say(&format!("  {resource}"));
        }
    }
    report::say("the next `amibake build` removes it");
    std::process::exit(Exit::Interrupted.code().into())
}
