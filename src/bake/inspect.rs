//! Checks: which apply, how one runs, and what is said of those that failed. Used at the end of a bake and by `verify`.

use std::time::Duration;

use super::script::{Script, broken};
use super::{Event, Reporter};
use crate::error::{Error, Exit, Result};
use crate::plan::{Check, Plan};
use crate::provider::Machine;

/// Where a check finds the machine beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Host name or address: the script's `$AMIBAKE_PEER`.
    pub(super) address: String,
    /// Port of its daemon: the script's `$AMIBAKE_PEER_PORT`.
    pub(super) port: Option<u16>,
    /// Folder with the client's certificate, on this machine, that its daemon asks for: the script's `$AMIBAKE_PEER_TLS`.
    pub(super) tls: Option<&'static str>,
}

/// A check that said no.
#[derive(Debug)]
pub(super) struct Failure {
    /// Its name and how it ended.
    pub(super) message: String,
    /// Its line and the end of its output.
    pub(super) detail: String,
}

/// The checks that run at the end of a bake, and those that would but do not apply here, with the reason.
pub(super) fn applicable(plan: &Plan) -> (Vec<&Check>, Vec<(&Check, String)>) {
    let (mut run, mut skipped) = (Vec::new(), Vec::new());
    for check in plan.checks.iter().filter(|check| check.at_bake) {
        match (&check.skipped, &check.peer) {
            (Some(reason), _) => skipped.push((check, reason.clone())),
            (None, Some(peer)) => skipped.push((check, format!("it needs a booted `{peer}` beside it"))),
            (None, None) => run.push(check),
        }
    }
    (run, skipped)
}

/// Runs one check, number `number` of `total`.
///
/// # Errors
/// When the channel to the machine breaks; a check that says no, or not in time, is no error.
pub(super) async fn run(
    check: &Check,
    number: usize,
    total: usize,
    peer: Option<&Peer>,
    machine: &dyn Machine,
    reporter: &Reporter,
) -> Result<(Duration, Option<Failure>)> {
    reporter.event(&Event::StepStarted { number, total, name: check.name.clone(), kind: "check" });
    // On the script's first line, so that the numbers of its lines stay what they are.
    let text = match peer.and_then(|peer| Some((peer.port?, peer.tls.unwrap_or_default()))) {
        Some((port, tls)) => format!("export AMIBAKE_PEER_PORT={port} AMIBAKE_PEER_TLS={tls}; {}", check.script),
        None => check.script.clone(),
    };
    let peer = peer.map(|peer| peer.address.as_str());
    let script = Script { text: &text, preamble_lines: check.preamble_lines, timeout: check.timeout, peer };
    let ran = script.run(machine, reporter).await.map_err(|error| match error.exit() {
        Exit::Interrupted => error,
        _ => broken(format!("check `{}` did not come to an end", check.name), error),
    })?;
    reporter.event(&Event::StepEnded { success: ran.success(), elapsed: ran.elapsed });
    let failure = (!ran.success()).then(|| Failure {
        message: format!("check `{}` failed: {}", check.name, ran.end),
        detail: script.explain(&ran),
    });
    Ok((ran.elapsed, failure))
}

/// The error for the checks that failed, of `total` that ran; none when all passed.
pub(super) fn failed(failures: &[Failure], total: usize) -> Option<Error> {
    match failures {
        [] => None,
        [only] => Some(Error::failed(only.message.clone()).with_detail(only.detail.clone())),
        many => {
            let detail: String =
                many.iter().map(|failure| format!("{}\n{}", failure.message, failure.detail)).collect();
            Some(Error::failed(format!("{} of {total} checks failed", many.len())).with_detail(detail))
        }
    }
}
