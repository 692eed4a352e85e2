//! Answers that every bake of a process needs, asked for once: four bakes that begin at the same moment make one call,
//! and the other three wait for its answer. A call that fails is made again by the next who asks.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Answers by what was asked.
pub(super) struct Shared<V>(Mutex<HashMap<String, Arc<OnceCell<V>>>>);

impl<V> Default for Shared<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V: Clone> Shared<V> {
    /// The answer to `question`, from `ask` if nobody has asked yet.
    ///
    /// # Errors
    /// What `ask` ends with.
    pub(super) async fn get<E, F>(&self, question: impl Into<String>, ask: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let cell = {
            let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            cells.entry(question.into()).or_default().clone()
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// The answer to `question`, if it is known.
    pub(super) fn peek(&self, question: &str) -> Option<V> {
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cells.get(question)?.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Result};

    #[tokio::test]
    async fn one_call_for_all_who_ask_and_another_after_a_failure() {
        let shared = Shared::default();
        let failed: Result<u8> = shared.get("a", || async { Err(Error::host("no")) }).await;
        assert!(failed.is_err());
        let calls = std::cell::Cell::new(0);
        let ask = || async {
            calls.set(calls.get() + 1);
            tokio::task::yield_now().await;
            Ok::<_, Error>(7)
        };
        let (one, other) = tokio::join!(shared.get("a", ask), shared.get("a", ask));
        assert_eq!((one.unwrap(), other.unwrap(), calls.get()), (7, 7, 1));
    }
}
