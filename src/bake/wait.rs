//! The one wait loop.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// What a probe found.
pub enum Probe<T> {
    /// It is so.
    Ready(T),
    /// Not yet; why, for the message when time runs out.
    NotYet(String),
}

/// When to look again and when to give up.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// First delay.
    pub first: Duration,
    /// The delay grows by half each time, up to this.
    pub most: Duration,
    /// Give up after this.
    pub deadline: Duration,
}

/// Probes until it is so.
///
/// # Errors
/// The probe's own error at once; exit 1 after the deadline, with the last reason; interrupted when cancelled.
pub async fn until<T, F, Fut>(what: &str, schedule: Schedule, cancel: &CancellationToken, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Probe<T>>>,
{
    let deadline = Instant::now() + schedule.deadline;
    let mut delay = schedule.first;
    let mut reason = "no answer".to_owned();
    loop {
        let probed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::interrupted()),
            // A probe that hangs must not outlive the deadline.
            () = tokio::time::sleep_until(deadline) => return Err(too_long(what, schedule, &reason)),
            probed = probe() => probed?,
        };
        match probed {
            Probe::Ready(value) => return Ok(value),
            Probe::NotYet(why) => reason = why,
        }
        let next = Instant::now() + delay;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::interrupted()),
            () = tokio::time::sleep_until(next.min(deadline)) => {}
        }
        delay = (delay + delay / 2).min(schedule.most);
    }
}

fn too_long(what: &str, schedule: Schedule, reason: &str) -> Error {
    Error::failed(format!("{what} took longer than {} s: {reason}", schedule.deadline.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SCHEDULE: Schedule =
        Schedule { first: Duration::from_secs(2), most: Duration::from_secs(4), deadline: Duration::from_secs(60) };

    async fn wait(ready_after: u64, probes: &Cell<usize>, cancel: &CancellationToken) -> Result<u64> {
        let started = Instant::now();
        until("the start", SCHEDULE, cancel, async || {
            probes.set(probes.get() + 1);
            let elapsed = started.elapsed().as_secs();
            Ok(if elapsed >= ready_after { Probe::Ready(elapsed) } else { Probe::NotYet(format!("{elapsed} s")) })
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn looks_at_once_and_then_less_and_less_often() {
        let (probes, cancel) = (Cell::new(0), CancellationToken::new());
        assert_eq!(wait(0, &probes, &cancel).await.unwrap(), 0);
        assert_eq!(probes.take(), 1);
        // At 0, 2, 5, 9, 13 …
        assert_eq!(wait(10, &probes, &cancel).await.unwrap(), 13);
        assert_eq!(probes.take(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline_with_the_last_reason() {
        let started = Instant::now();
        let error = wait(100, &Cell::new(0), &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "the start took longer than 60 s: 57 s");
        assert_eq!(started.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_does_not_outlive_the_deadline() {
        let hang = || std::future::pending::<Result<Probe<()>>>();
        let error = until("the start", SCHEDULE, &CancellationToken::new(), hang).await.unwrap_err();
        assert_eq!(error.to_string(), "the start took longer than 60 s: no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_interruption_ends_probe_and_pause() {
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let probes = Cell::new(0);
        let interrupt = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            token.cancel();
        };
        let (result, ()) = tokio::join!(wait(100, &probes, &cancel), interrupt);
        assert_eq!(result.unwrap_err().exit(), crate::Exit::Interrupted);
        assert_eq!(probes.get(), 2);
    }
}
