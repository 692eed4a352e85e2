//! The aws provider: machines are EC2 instances that Systems Manager runs scripts on, images are AMIs.
//!
//! `client` holds the service clients and the one retry policy, `error` the one error type of all calls; both know every
//! operation by its name. Before a bake: `base` resolves AMIs (`stack` reads the Elastic CI Stack's template), `catalog`
//! finds images of ours, `preflight` looks at everything that would fail later (`network` at the way to Systems Manager).
//! A bake: `launch` starts the instance (`shape` decides what is asked for, `group` what may reach it), `machine` uses it
//! (`command` runs scripts, `deliver` brings the tarball, `diagnose` says why it does not answer), `image` captures,
//! `removal` removes; `poll` asks for the states of all instances and images of this process in one call, `pace` says when.
//! Afterwards: `inventory` lists images and who uses them, `channel` promotes, `stack_update` tells a stack, `distribute` brings
//! images to other regions. `policy` is the least that any of it must be allowed; `gc` finds leftovers by tag alone, `staged`
//! those in buckets. `surroundings` reads what is around a builder, for `doctor`; `stacks` what stacks there are, for `init`. No type of an SDK leaves here.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Catalog, Finding, Launch, Machine, Provider, Resource};
use crate::bake::{Reporter, Undo};
use crate::catalog::{Entry, Wish};
use crate::error::Result;
use crate::plan::{BaseImage, Image, Plan};
use crate::recipe::Recipe;
use crate::release::{Arch, Mirror};

mod base;
mod catalog;
mod channel;
mod client;
mod command;
mod deliver;
mod diagnose;
mod distribute;
mod error;
mod gc;
mod group;
mod image;
mod inventory;
mod launch;
mod machine;
mod network;
mod pace;
pub mod policy;
mod poll;
mod preflight;
mod removal;
mod secrets;
mod shape;
mod shared;
mod stack;
mod stack_update;
pub mod stacks;
mod staged;
pub mod surroundings;
mod tags;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) use testing::planned as planned_for_tests;

use client::Clients;
pub use distribute::Placed;
pub use gc::{Found, LeftBehind, Runs};
use group::Groups;
use pace::Pace;
use poll::Poll;
pub use secrets::Text;

/// Which account and region.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// `--region`; else as aws-config finds it.
    pub region: Option<String>,
    /// `--profile`; else as aws-config finds it.
    pub profile: Option<String>,
}

/// EC2 and Systems Manager in one region of one account.
pub struct Aws {
    clients: Clients,
    /// `--release-mirror`: where machines fetch the tarball instead of where the lock says.
    mirror: Option<Mirror>,
    reporter: Reporter,
    /// Shared by all bakes of this process.
    poll: Arc<Poll>,
    groups: Arc<Groups>,
    /// Other regions that images go to.
    regions: Mutex<HashMap<String, Arc<InRegion>>>,
}

/// A region that images go to.
struct InRegion {
    clients: Clients,
    poll: Poll,
    /// Copies that may be under way there.
    turn: Arc<Semaphore>,
}

impl Aws {
    /// Reads the account's configuration: profiles, SSO, web identity, instance roles, `AWS_ENDPOINT_URL` and its kind.
    /// Makes no call but those that credentials need.
    ///
    /// # Errors
    /// Exit 4 when no region is configured.
    pub async fn connect(account: &Account, mirror: Option<Mirror>, reporter: Reporter) -> Result<Self> {
        let clients = Clients::connect(account).await?;
        let poll = Arc::new(Poll::new(&clients, Pace::default()));
        Ok(Self { clients, mirror, reporter, poll, groups: Arc::default(), regions: Mutex::default() })
    }

    /// Remembers how long waits take in the file at `path`, and looks when a look is worth its call.
    #[must_use]
    pub fn remembering(mut self, path: PathBuf) -> Self {
        // Nobody waits yet.
        self.poll = Arc::new(Poll::new(&self.clients, Pace::at(path)));
        self
    }

    /// The id that a channel's parameter holds; none if there is no such parameter.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn channel(&self, parameter: &str) -> Result<Option<String>> {
        channel::read(&self.clients, parameter).await
    }

    /// Every id that it held, oldest first.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn channel_history(&self, parameter: &str) -> Result<Vec<String>> {
        channel::history(&self.clients, parameter).await
    }

    /// Gives it the id of an image.
    ///
    /// # Errors
    /// Exit 4 when it cannot be written, or is not taken.
    pub async fn set_channel(&self, parameter: &str, image: &str, recipe: &str) -> Result<()> {
        channel::write(&self.clients, parameter, image, recipe).await
    }

    /// Puts back what it held before: an id, or nothing.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn put_back_channel(&self, parameter: &str, before: Option<&str>, recipe: &str) -> Result<()> {
        channel::put_back(&self.clients, parameter, before, recipe).await
    }

    /// Updates a CloudFormation stack that reads a channel; whether there was anything to do.
    ///
    /// # Errors
    /// Exit 4 when that is refused; exit 1 when it fails, with the reasons.
    pub async fn update_stack(&self, name: &str, cancel: &CancellationToken) -> Result<bool> {
        stack_update::update(&self.clients, name, cancel).await
    }

    /// Brings an image of this region to where it should be, and to whom it is for: all regions side by side, each with
    /// what came of it.
    pub async fn distribute(
        &self,
        source: &Entry,
        wish: &Wish,
        cancel: &CancellationToken,
    ) -> Vec<(String, Result<Placed>)> {
        let home = self.clients.region.clone();
        let tags = match distribute::tags_of(&self.clients, &source.id).await {
            Ok(tags) => tags,
            Err(error) => return vec![(home, Err(error))],
        };
        let regions = wish.regions.iter().filter(|region| **region != home).cloned();
        let places = std::iter::once(home.clone()).chain(regions).map(|region| {
            let tags = &tags;
            async move {
                let region = self.region(&region);
                let place = distribute::Place {
                    clients: &region.clients,
                    poll: &region.poll,
                    source,
                    tags,
                    wish,
                    turn: &region.turn,
                    reporter: &self.reporter,
                    cancel,
                };
                (region.clients.region.clone(), place.fulfil(Timestamp::now()).await)
            }
        });
        futures_util::future::join_all(places).await
    }

    /// What all work in a region shares.
    fn region(&self, name: &str) -> Arc<InRegion> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let clients = removal::in_region(&self.clients, name);
            let poll = Poll::new(&clients, Pace::default());
            Arc::new(InRegion { clients, poll, turn: Arc::new(Semaphore::new(distribute::COPIES)) })
        };
        regions.entry(name.to_owned()).or_insert_with(make).clone()
    }

    /// What bakes made in this region and in `buckets` and did not remove, by tags and keys alone.
    ///
    /// # Errors
    /// Exit 4 when it cannot be listed.
    pub async fn left_behind(&self, runs: &Runs, buckets: &BTreeSet<String>) -> Result<LeftBehind> {
        let named = runs.named.as_ref();
        let (mut found, objects) =
            tokio::try_join!(gc::find(&self.clients, named), staged::find(&self.clients, buckets, named))?;
        found.extend(objects);
        Ok(LeftBehind::of(found, runs, Timestamp::now()))
    }

    /// Removes what [`Aws::left_behind`] found; of each that is still there, why.
    pub async fn clear(&self, found: &[Found]) -> Vec<(Found, String)> {
        gc::clear(&self.clients, found).await
    }
}

#[async_trait]
impl Catalog for Aws {
    fn region(&self) -> Option<&str> {
        Some(&self.clients.region)
    }

    async fn images(&self) -> Result<Vec<Entry>> {
        inventory::list(&self.clients).await
    }

    async fn delete(&self, entry: &Entry) -> Result<()> {
        inventory::delete(&self.clients, entry).await
    }
}

#[async_trait]
impl Provider for Aws {
    async fn base(&self, recipe: &Recipe, _recipe_dir: &Path, arch: Arch) -> Result<BaseImage> {
        base::resolve(&self.clients, recipe, arch).await
    }

    async fn find(&self, plan: &Plan) -> Result<Option<Image>> {
        catalog::find(&self.clients, plan, &self.reporter).await
    }

    fn memory(&self) -> Option<u64> {
        None
    }

    async fn preflight(&self, plan: &Plan) -> Vec<Finding> {
        preflight::preflight(&self.clients, plan, self.mirror.as_ref()).await
    }

    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>> {
        launch::launch(self, launch, undo).await
    }

    async fn vouch(&self, image: &Image) -> Result<()> {
        let at = tags::rfc3339(Timestamp::now());
        channel::vouch(&self.clients, &image.location.display().to_string(), &at).await
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        removal::remove(&self.clients, resource).await
    }
}
