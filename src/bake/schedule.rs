//! Several bakes side by side, as many as the memory for machines holds.

use std::future::Future;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

/// Runs `jobs`, each with the bytes of memory its machine takes: in order, as soon as it fits beside those that run
/// within `budget` bytes (none: all at once); one that is larger than the budget runs alone. Results come in the order of the jobs; what
/// one job comes to does not touch the others.
pub async fn side_by_side<T, F: Future<Output = T>>(jobs: Vec<(u64, F)>, budget: Option<u64>) -> Vec<T> {
    let budget = budget.unwrap_or(u64::MAX);
    let mut results: Vec<Option<T>> = jobs.iter().map(|_| None).collect();
    let mut waiting = jobs.into_iter().enumerate().peekable();
    let mut running = FuturesUnordered::new();
    let mut used = 0_u64;
    loop {
        while let Some((index, (memory, job))) =
            waiting.next_if(|(_, (memory, _))| running.is_empty() || used.saturating_add(*memory) <= budget)
        {
            used = used.saturating_add(memory);
            running.push(async move { (index, memory, job.await) });
        }
        let Some((index, memory, result)) = running.next().await else { break };
        used = used.saturating_sub(memory);
        results[index] = Some(result);
    }
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    /// Runs jobs of (memory, seconds); what they returned, and the most memory that was used at once.
    async fn run(jobs: &[(u64, u64)], budget: u64) -> (Vec<usize>, u64, Duration) {
        let (used, most) = (Cell::new(0), Cell::new(0));
        let started = tokio::time::Instant::now();
        let futures = jobs.iter().enumerate().map(|(index, &(memory, seconds))| {
            let (used, most) = (&used, &most);
            let work = async move {
                used.set(used.get() + memory);
                most.set(most.get().max(used.get()));
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                used.set(used.get() - memory);
                index
            };
            (memory, work)
        });
        let results = side_by_side(futures.collect(), Some(budget)).await;
        (results, most.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_fits_runs_at_once_and_results_keep_their_order() {
        let (results, most, elapsed) = run(&[(2, 9), (2, 1), (2, 1)], 4).await;
        assert_eq!((results, most), (vec![0, 1, 2], 4));
        assert_eq!(elapsed.as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn at_least_one_runs_whatever_the_budget() {
        let (results, most, elapsed) = run(&[(u64::MAX, 1), (3, 1), (3, 1)], 0).await;
        assert_eq!((results, most), (vec![0, 1, 2], u64::MAX));
        assert_eq!(elapsed.as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_do() {
        assert_eq!(run(&[], 1).await.0, Vec::<usize>::new());
    }
}
