//! Ctrl-C and its like: the first cleans up, the second says what is left and leaves.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::bake;
use crate::error::{Context as _, Exit, Result};
use crate::report;

/// Cancels the returned token at the first SIGINT, SIGTERM or SIGHUP. At the second, names what the runs of this process
/// below `runs` still hold, and ends the process.
pub(super) fn cancel_on_signal(runs: &Path) -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let listen = |kind| signal(kind).or_host(|| "cannot listen to signals".to_owned());
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (cancel, runs) = (token.clone(), runs.to_owned());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
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
