//! What ends a bake early: the user, the deadline, a panic. Every await of a bake's body goes through here.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// How long a call that makes something may take to return after it was told to stop. A request on its way to a cloud
/// may have made what its lost answer would have named; a few seconds let it be recorded, and are short for a person.
const GRACE: Duration = Duration::from_secs(5);

/// Ends what it guards when the user interrupts or the deadline passes.
pub(super) struct Guard<'a> {
    what: &'static str,
    cancel: &'a CancellationToken,
    timeout: Duration,
    deadline: Instant,
}

impl<'a> Guard<'a> {
    /// A guard whose deadline is `timeout` from now; `what` has it, in messages: `the bake`.
    pub(super) fn new(what: &'static str, timeout: Duration, cancel: &'a CancellationToken) -> Self {
        Self { what, cancel, timeout, deadline: Instant::now() + timeout }
    }

    /// Waits for `work`; drops it when it must end.
    pub(super) async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            error = self.ended() => Err(error),
            result = work => result,
        }
    }

    /// Waits for `work` that makes resources; when it must end, lets it come to an end by itself for a moment first.
    pub(super) async fn run_making<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(work);
        let error = tokio::select! {
            biased;
            error = self.ended() => error,
            result = &mut work => return result,
        };
        // Whatever comes of it is on the undo stack.
        drop(tokio::time::timeout(GRACE, work).await);
        Err(error)
    }

    async fn ended(&self) -> Error {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Error::interrupted(),
            () = tokio::time::sleep_until(self.deadline) => {
                Error::failed(format!("{} took longer than {} s", self.what, self.timeout.as_secs()))
                    .with_hint("a recipe sets its deadline with `timeout` in `[machine]`")
            }
        }
    }
}

/// Waits for `work`; a panic in it becomes an error, so that what follows (the undo) runs.
pub(super) async fn catching<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(Error::failed(format!("amibake panicked: {}", words(&*panic)))
            .with_hint("this is a bug in amibake: please report it with the lines above")),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
