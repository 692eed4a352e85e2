//! Asks for the states of all instances, agents and images that anybody in this process waits for, in one call each.
//!
//! There is no task in the background: of those who wait, one has the turn, sleeps until the first of them wants to look,
//! asks for all, and hands out the answers. When it goes (its own answer came, or it was dropped), the next has the turn.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Image, Instance};
use aws_sdk_ssm::types::{InstanceInformationStringFilter, PingStatus};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::error::AwsError;
use super::pace::Pace;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::Result;

/// For so long after it was made, what is not found is only not yet known everywhere ("eventual consistency" in EC2's
/// API reference, which suggests retries over a few minutes; in practice it is seconds).
pub(super) const SETTLES: Duration = Duration::from_secs(60);

/// Everything that is waited for in one region.
pub(super) struct Poll {
    /// EC2 instances.
    pub(super) instances: Batch<Instances>,
    /// Agents of Systems Manager.
    pub(super) agents: Batch<Agents>,
    /// AMIs.
    pub(super) images: Batch<Images>,
    /// When to look.
    pace: Pace,
    region: String,
}

impl Poll {
    /// Of the region of `clients`.
    pub(super) fn new(clients: &Clients, pace: Pace) -> Self {
        Self {
            instances: Batch::new(Instances(clients.ec2.clone())),
            agents: Batch::new(Agents(clients.ssm.clone())),
            images: Batch::new(Images(clients.ec2.clone())),
            pace,
            region: clients.region.clone(),
        }
    }

    /// A wait of a kind, as this region has them.
    pub(super) fn kind(&self, kind: &str) -> Kind<'_> {
        Kind { pace: &self.pace, name: format!("{} {kind}", self.region) }
    }
}

/// What a wait learns from, and for.
pub(super) struct Kind<'p> {
    pace: &'p Pace,
    name: String,
}

/// Answers for many ids at once.
pub(super) trait Source: Send + Sync {
    /// What is known of one.
    type State: Clone + Send;
    /// How many ids one call takes.
    const MOST: usize;
    /// Of those that exist.
    fn states(&self, ids: &[String]) -> impl Future<Output = Result<HashMap<String, Self::State>, AwsError>> + Send;
}

/// Those who wait for one kind of thing.
pub(super) struct Batch<S: Source> {
    source: S,
    waiting: Mutex<Vec<Waiter<S::State>>>,
    /// Held by the one who asks.
    turn: tokio::sync::Mutex<()>,
    /// Somebody came who may want to look earlier.
    news: Notify,
}

struct Waiter<T> {
    id: String,
    due: Instant,
    answer: oneshot::Sender<Option<T>>,
}

impl<S: Source> Batch<S> {
    fn new(source: S) -> Self {
        Self { source, waiting: Mutex::default(), turn: tokio::sync::Mutex::default(), news: Notify::new() }
    }

    /// The state of `id` at `due` or, because somebody else looks, earlier; none if there is no such thing.
    ///
    /// # Errors
    /// When the call fails after every retry.
    pub(super) async fn look(&self, id: &str, due: Instant) -> Result<Option<S::State>, AwsError> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push(Waiter { id: id.to_owned(), due, answer });
        self.news.notify_one();
        tokio::select! {
            biased;
            state = &mut answered => Ok(state.unwrap_or_default()),
            _turn = self.turn.lock() => self.ask_for_all(&mut answered).await,
        }
    }

    /// Asks until `own` is answered.
    async fn ask_for_all(&self, own: &mut oneshot::Receiver<Option<S::State>>) -> Result<Option<S::State>, AwsError> {
        loop {
            if let Ok(state) = own.try_recv() {
                return Ok(state);
            }
            self.until_due().await;
            let ids = self.ids();
            for some in ids.chunks(S::MOST) {
                // The others stay where they are when this fails: the next one asks, and hears it in its own call.
                let states = self.source.states(some).await?;
                self.hand_out(some, &states);
            }
        }
    }

    /// Waits for the first who wants to look.
    async fn until_due(&self) {
        loop {
            let due = self.waiting().iter().filter(|waiter| !waiter.answer.is_closed()).map(|waiter| waiter.due).min();
            let Some(due) = due else { return };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => return,
                () = self.news.notified() => {}
            }
        }
    }

    /// The ids that somebody still waits for, each once.
    fn ids(&self) -> Vec<String> {
        let mut waiting = self.waiting();
        waiting.retain(|waiter| !waiter.answer.is_closed());
        let mut ids: Vec<_> = waiting.iter().map(|waiter| waiter.id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn hand_out(&self, ids: &[String], states: &HashMap<String, S::State>) {
        let mut waiting = self.waiting();
        let (answered, rest): (Vec<_>, _) = waiting.drain(..).partition(|waiter| ids.contains(&waiter.id));
        *waiting = rest;
        for waiter in answered {
            // Who has gone meanwhile needs no answer.
            drop(waiter.answer.send(states.get(&waiter.id).cloned()));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiter<S::State>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at `id` until `judge` is satisfied, when a look is worth it for a wait of this `kind`.
    ///
    /// # Errors
    /// What `judge` says; exit 1 after `deadline`; exit 4 when the call fails; interrupted.
    pub(super) async fn until<T: Send>(
        &self,
        what: &str,
        id: &str,
        deadline: Duration,
        kind: &Kind<'_>,
        cancel: &CancellationToken,
        judge: impl Fn(Option<S::State>) -> Result<Probe<T>> + Send + Sync,
    ) -> Result<T> {
        let (started, rhythm) = (Instant::now(), kind.pace.rhythm(&kind.name));
        // How often it was looked, and when nothing was ready yet.
        let looked: Mutex<(u32, Option<Duration>)> = Mutex::default();
        let seen = || looked.lock().unwrap_or_else(PoisonError::into_inner);
        let probe = async || {
            let due = Instant::now() + rhythm.pause(started.elapsed(), seen().0);
            let state = self.look(id, due).await;
            let at = started.elapsed();
            let judged = judge(state.map_err(|error| error.because(format!("cannot ask for the state of {id}")))?)?;
            let mut seen = seen();
            match &judged {
                Probe::Ready(_) => kind.pace.remember(&kind.name, seen.1, at),
                Probe::NotYet(_) => *seen = (seen.0 + 1, Some(at)),
            }
            Ok(judged)
        };
        // The pause is in the probe, where all pause together.
        let schedule = Schedule { first: Duration::ZERO, most: Duration::ZERO, deadline };
        wait::until(what, schedule, cancel, probe).await
    }
}

/// EC2 instances.
pub(super) struct Instances(aws_sdk_ec2::Client);

impl Source for Instances {
    type State = Instance;
    // "DescribeInstances", EC2 API reference.
    const MOST: usize = 1000;

    async fn states(&self, ids: &[String]) -> Result<HashMap<String, Instance>, AwsError> {
        let call = || self.0.describe_instances();
        let answer = call().set_instance_ids(Some(ids.to_vec())).send().await;
        let answer = match answer.map_err(AwsError::of("ec2:DescribeInstances")) {
            // One that is missing fails them all; a filter finds the others.
            Err(error) if error.is(&["InvalidInstanceID.NotFound"]) => {
                let filtered = call().filters(filter("instance-id", ids)).send().await;
                filtered.map_err(AwsError::of("ec2:DescribeInstances"))?
            }
            answer => answer?,
        };
        let instances =
            answer.reservations.unwrap_or_default().into_iter().flat_map(|one| one.instances.unwrap_or_default());
        Ok(by_id(instances, Instance::instance_id))
    }
}

/// AMIs.
pub(super) struct Images(aws_sdk_ec2::Client);

impl Source for Images {
    type State = Image;
    // Of a filter's values, which are used when one is missing ("DescribeImages", EC2 API reference).
    const MOST: usize = 200;

    async fn states(&self, ids: &[String]) -> Result<HashMap<String, Image>, AwsError> {
        let call = || self.0.describe_images();
        let answer = call().set_image_ids(Some(ids.to_vec())).send().await;
        let answer = match answer.map_err(AwsError::of("ec2:DescribeImages")) {
            Err(error) if error.is(&["InvalidAMIID.NotFound"]) => {
                let filtered = call().owners("self").filters(filter("image-id", ids)).send().await;
                filtered.map_err(AwsError::of("ec2:DescribeImages"))?
            }
            answer => answer?,
        };
        Ok(by_id(answer.images.unwrap_or_default(), Image::image_id))
    }
}

/// Agents of Systems Manager.
pub(super) struct Agents(aws_sdk_ssm::Client);

impl Source for Agents {
    type State = PingStatus;
    // On one page of an answer ("DescribeInstanceInformation", Systems Manager API reference).
    const MOST: usize = 50;

    async fn states(&self, ids: &[String]) -> Result<HashMap<String, PingStatus>, AwsError> {
        let filter = InstanceInformationStringFilter::builder().key("InstanceIds").set_values(Some(ids.to_vec()));
        let call = self.0.describe_instance_information().filters(filter.build().map_err(AwsError::unsent(OPERATION))?);
        // The least that it takes is 5; without it, a page may hold fewer than were asked for.
        let answer = call.max_results(Self::MOST as i32).send().await.map_err(AwsError::of(OPERATION))?;
        let agents = answer.instance_information_list.unwrap_or_default().into_iter();
        Ok(agents.filter_map(|agent| Some((agent.instance_id?, agent.ping_status?))).collect())
    }
}

const OPERATION: &str = "ssm:DescribeInstanceInformation";

fn filter(name: &str, values: &[String]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.to_vec())).build()
}

fn by_id<T>(all: impl IntoIterator<Item = T>, id: impl Fn(&T) -> Option<&str>) -> HashMap<String, T> {
    all.into_iter().filter_map(|one| Some((id(&one)?.to_owned(), one))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::Error;

    /// Knows `i-0` to `i-9`, is busy for a second with each call, and fails when it is told to.
    #[derive(Default)]
    struct Fake {
        calls: Mutex<Vec<Vec<String>>>,
        fails: AtomicBool,
    }

    impl Source for Arc<Fake> {
        type State = usize;
        const MOST: usize = 3;

        async fn states(&self, ids: &[String]) -> Result<HashMap<String, usize>, AwsError> {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let number = {
                let mut calls = self.calls.lock().unwrap();
                calls.push(ids.to_vec());
                calls.len()
            };
            if self.fails.swap(false, Ordering::Relaxed) {
                return Err(AwsError::unsent("x:Y")("broken"));
            }
            Ok(ids.iter().filter(|id| id.starts_with("i-")).map(|id| (id.clone(), number)).collect())
        }
    }

    fn batch() -> (Arc<Fake>, Batch<Arc<Fake>>) {
        let fake = Arc::new(Fake::default());
        (fake.clone(), Batch::new(fake))
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_are_answered_by_the_first_look() {
        let (fake, batch) = batch();
        let started = Instant::now();
        let (one, two, gone) =
            tokio::join!(batch.look("i-1", after(30)), batch.look("i-2", after(10)), batch.look("x", after(20)));
        assert_eq!((one.unwrap(), two.unwrap(), gone.unwrap()), (Some(1), Some(1), None));
        assert_eq!(*fake.calls.lock().unwrap(), [["i-1", "i-2", "x"]]);
        assert_eq!(started.elapsed().as_secs(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_one_call_takes_are_split() {
        let (fake, batch) = batch();
        let ids = ["i-1", "i-2", "i-3", "i-4", "i-5"];
        let all = futures_util::future::join_all(ids.iter().map(|id| batch.look(id, after(1)))).await;
        assert!(all.into_iter().all(|state| state.unwrap().is_some()));
        assert_eq!(fake.calls.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_leaves_the_turn_to_the_next() {
        let (fake, batch) = batch();
        let first = tokio::time::timeout(Duration::from_millis(5500), batch.look("i-1", after(5)));
        let (first, second) = tokio::join!(first, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            batch.look("i-2", after(60)).await
        });
        assert!(first.is_err(), "dropped within its call");
        assert_eq!(second.unwrap(), Some(1));
        assert_eq!(*fake.calls.lock().unwrap(), [["i-2"]], "the call that was dropped did not come back");
        assert!(batch.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_fails_for_the_one_who_made_it() {
        let (fake, batch) = batch();
        fake.fails.store(true, Ordering::Relaxed);
        let (one, two) = tokio::join!(batch.look("i-1", after(0)), batch.look("i-2", after(0)));
        assert!(one.is_err());
        assert_eq!(two.unwrap(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_who_wait_look_as_often_as_one() {
        let (fake, batch) = batch();
        let cancel = CancellationToken::new();
        let started = Instant::now();
        let pace = Pace::default();
        let kind = Kind { pace: &pace, name: "it".to_owned() };
        let wait = || {
            batch.until("it", "i-1", Duration::from_secs(600), &kind, &cancel, |state| {
                let waited = started.elapsed().as_secs();
                assert!(state.is_some());
                Ok::<_, Error>(if waited >= 60 { Probe::Ready(waited) } else { Probe::NotYet("not yet".into()) })
            })
        };
        let waits = futures_util::future::join_all((0..20).map(|_| wait())).await;
        assert!(waits.into_iter().all(|waited| waited.unwrap() <= 66));
        let calls = fake.calls.lock().unwrap().len();
        assert!((15..=30).contains(&calls), "{calls}");
    }
}
