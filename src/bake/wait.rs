//! The one wait loop.

use std::future::Future;
use std::time::Duration;

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
    let started = tokio::time::Instant::now();
    let mut delay = schedule.first;
    loop {
        let probed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::interrupted()),
            probed = probe() => probed?,
        };
        let reason = match probed {
            Probe::Ready(value) => return Ok(value),
            Probe::NotYet(reason) => reason,
        };
        if started.elapsed() + delay > schedule.deadline {
            return Err(Error::failed(format!("{what} took longer than {} s: {reason}", schedule.deadline.as_secs())));
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::interrupted()),
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay + delay / 2).min(schedule.most);
    }
}
