//! The third net: what no run will remove any more, found by tags alone, from any machine. It takes nothing that does not
//! bear the tag of a run, no image that is finished, and of other runs only what is past the time that its own tag says.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{Filter, Image as Ami, ImageState, InstanceStateName, Tag};
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::catalog::snapshots;
use super::client::Clients;
use super::error::AwsError;
use super::{removal, staged, tags};
use crate::bake::RunId;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::{Result, in_a_line};
use crate::provider::Resource;

/// What a leftover is. In the order of removal: what lives first, what others hold on to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An EC2 instance that is not terminated.
    Instance,
    /// An AMI that was never finished, with its snapshots.
    Image,
    /// A snapshot that belongs to no image of ours.
    Snapshot,
    /// A volume that no instance has.
    Volume,
    /// A network interface that no instance has.
    NetworkInterface,
    /// A security group.
    SecurityGroup,
    /// A tarball in a bucket of the user's.
    Object,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Instance => "instance",
            Kind::Image => "image",
            Kind::Snapshot => "snapshot",
            Kind::Volume => "volume",
            Kind::NetworkInterface => "network interface",
            Kind::SecurityGroup => "security group",
            Kind::Object => "object",
        })
    }
}

/// Something that a run left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// `i-…`, `ami-…`, `s3://…`
    pub id: String,
    /// Region.
    pub region: String,
    /// The run that made it.
    pub run: String,
    /// The recipe it was made for, as far as its tags say.
    pub recipe: Option<String>,
    /// When it was nobody's any more; none for what an image left behind that was finished.
    pub expires: Option<Timestamp>,
    /// Its state, as EC2 says it.
    pub state: String,
}

impl Found {
    /// Whether it is nobody's any more at `now`. An image that failed is of no use to anybody, whenever it expires.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| expires <= now) || (self.kind == Kind::Image && self.state == "failed")
    }
}

/// Which runs are meant, and what is known of runs on this machine.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    /// Only this one, whatever its time.
    pub named: Option<RunId>,
    /// At work here: nothing of theirs is left behind, whatever its tags say.
    pub living: BTreeSet<RunId>,
    /// Known to be over, whatever the time that their tags say.
    pub dead: BTreeSet<RunId>,
}

/// What was found, by whether it may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Nobody's any more.
    pub due: Vec<Found>,
    /// Not past its time: it may be a bake's at work on another machine.
    pub later: Vec<Found>,
}

impl LeftBehind {
    /// Decides. What a dead run made of an image stays until its time: the next build of the same plan takes it up.
    pub(super) fn of(mut found: Vec<Found>, runs: &Runs, now: Timestamp) -> Self {
        let among = |runs: &BTreeSet<RunId>, one: &Found| runs.iter().any(|run| run.0 == one.run);
        found.retain(|one| runs.named.is_some() || !among(&runs.living, one));
        let adopted = |one: &Found| matches!(one.kind, Kind::Image | Kind::Snapshot);
        let is_due = |one: &Found| runs.named.is_some() || one.is_due(now) || (among(&runs.dead, one) && !adopted(one));
        let (due, later) = found.into_iter().partition(is_due);
        Self { due, later }
    }
}

/// What is looked for.
struct Search<'a> {
    clients: &'a Clients,
    run: Option<&'a RunId>,
}

/// Everything of `run`, or of every run, but finished images and what they hold: six calls, side by side.
///
/// # Errors
/// Exit 4 when one of them fails: half of an answer would look like all of it.
pub(super) async fn find(clients: &Clients, run: Option<&RunId>) -> Result<Vec<Found>> {
    let search = Search { clients, run };
    let (instances, images, volumes, interfaces, groups, all_snapshots) = tokio::try_join!(
        search.instances(),
        search.images(),
        search.volumes(),
        search.interfaces(),
        search.groups(),
        search.snapshots(),
    )?;
    let mut found = [instances, volumes, interfaces, groups].concat();
    found.extend(images.iter().filter_map(|image| search.image(image)));
    let used: Vec<String> = images.iter().flat_map(snapshots).collect();
    found.extend(all_snapshots.into_iter().filter(|snapshot| !used.contains(&snapshot.id)));
    found.sort_by(|one, other| (&one.run, one.kind, &one.id).cmp(&(&other.run, other.kind, &other.id)));
    Ok(found)
}

impl Search<'_> {
    /// Bears the tag of a run: of the one that is asked for, or of any.
    fn ours(&self) -> Filter {
        match self.run {
            Some(run) => Filter::builder().name(format!("tag:{}", tags::RUN)).values(&run.0).build(),
            None => Filter::builder().name("tag-key").values(tags::RUN).build(),
        }
    }

    /// What something with these tags is, if it is left behind.
    fn left(&self, kind: Kind, id: Option<&str>, state: &str, tags: &[Tag]) -> Option<Found> {
        let value = |key: &str| tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value);
        // The filter said so; what is removed depends on it, so it is looked at again.
        let run = value(tags::RUN).filter(|run| self.run.is_none_or(|wanted| wanted.0 == *run))?;
        let expires = value(tags::EXPIRES).and_then(|text| text.parse::<Timestamp>().ok());
        // Without the tag, only a snapshot can be a leftover: its image was finished once, and was deregistered by hand.
        let left =
            expires.is_some() || self.run.is_some() || (kind == Kind::Snapshot && value(tags::EXPIRES).is_none());
        left.then(|| Found {
            kind,
            id: id.unwrap_or_default().to_owned(),
            region: self.clients.region.clone(),
            run: run.to_owned(),
            recipe: value(tags::RECIPE).map(str::to_owned),
            expires,
            state: state.to_owned(),
        })
    }

    /// Only images that were never finished: those are what bakes are for, and nobody's to remove here.
    fn image(&self, image: &Ami) -> Option<Found> {
        image.tags().iter().find(|tag| tag.key() == Some(tags::EXPIRES))?;
        let state = image.state().map_or("unknown", ImageState::as_str);
        self.left(Kind::Image, image.image_id(), state, image.tags())
    }

    async fn instances(&self) -> Result<Vec<Found>> {
        let call = self.clients.ec2.describe_instances().filters(self.ours()).filters(removal::alive());
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of("ec2:DescribeInstances")))?;
            for instance in page.reservations().iter().flat_map(|reservation| reservation.instances()) {
                let state =
                    instance.state().and_then(|state| state.name()).map_or("unknown", InstanceStateName::as_str);
                found.extend(self.left(Kind::Instance, instance.instance_id(), state, instance.tags()));
            }
        }
        Ok(found)
    }

    /// All of ours, finished ones too: they say which snapshots are in use.
    async fn images(&self) -> Result<Vec<Ami>> {
        let call = self.clients.ec2.describe_images().owners("self").filters(self.ours());
        let call = call.include_deprecated(true).include_disabled(true);
        let answer = listed(call.send().await.map_err(AwsError::of("ec2:DescribeImages")))?;
        Ok(answer.images.unwrap_or_default())
    }

    async fn volumes(&self) -> Result<Vec<Found>> {
        // One that is in use goes with its instance.
        let free = ["available", "error"].map(str::to_owned).to_vec();
        let free = Filter::builder().name("status").set_values(Some(free)).build();
        let call = self.clients.ec2.describe_volumes().filters(self.ours()).filters(free);
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of("ec2:DescribeVolumes")))?;
            for volume in page.volumes() {
                let state = volume.state().map_or("unknown", |state| state.as_str());
                found.extend(self.left(Kind::Volume, volume.volume_id(), state, volume.tags()));
            }
        }
        Ok(found)
    }

    async fn interfaces(&self) -> Result<Vec<Found>> {
        let free = Filter::builder().name("status").values("available").build();
        let call = self.clients.ec2.describe_network_interfaces().filters(self.ours()).filters(free);
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of("ec2:DescribeNetworkInterfaces")))?;
            for interface in page.network_interfaces() {
                let state = interface.status().map_or("unknown", |state| state.as_str());
                let id = interface.network_interface_id();
                found.extend(self.left(Kind::NetworkInterface, id, state, interface.tag_set()));
            }
        }
        Ok(found)
    }

    async fn groups(&self) -> Result<Vec<Found>> {
        let mut pages = self.clients.ec2.describe_security_groups().filters(self.ours()).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of("ec2:DescribeSecurityGroups")))?;
            for group in page.security_groups() {
                found.extend(self.left(Kind::SecurityGroup, group.group_id(), "exists", group.tags()));
            }
        }
        Ok(found)
    }

    async fn snapshots(&self) -> Result<Vec<Found>> {
        let call = self.clients.ec2.describe_snapshots().owner_ids("self").filters(self.ours());
        let mut pages = call.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of("ec2:DescribeSnapshots")))?;
            for snapshot in page.snapshots() {
                let state = snapshot.state().map_or("unknown", |state| state.as_str());
                found.extend(self.left(Kind::Snapshot, snapshot.snapshot_id(), state, snapshot.tags()));
            }
        }
        Ok(found)
    }
}

fn listed<T>(answer: Result<T, AwsError>) -> Result<T> {
    answer.map_err(|error| error.because("cannot list what bakes left behind"))
}

/// Removes `found`: what lives first, then what others held on to, each kind side by side. Returns what is still there,
/// and why.
pub(super) async fn clear(clients: &Clients, found: &[Found]) -> Vec<(Found, String)> {
    let mut order: Vec<&Found> = found.iter().collect();
    order.sort_by_key(|one| one.kind);
    let mut remain = Vec::new();
    for kind in order.chunk_by(|one, other| one.kind == other.kind) {
        let removals = kind.iter().map(|one| async move { (*one, remove(clients, one).await) });
        for (one, result) in futures_util::future::join_all(removals).await {
            if let Err(error) = result {
                remain.push((one.clone(), in_a_line(&error)));
            }
        }
    }
    remain
}

async fn remove(clients: &Clients, found: &Found) -> Result<()> {
    let (region, id) = (clients.region.clone(), found.id.clone());
    match found.kind {
        Kind::Instance => removal::remove(clients, &Resource::Instance { region, id }).await,
        Kind::Image => remove_unfinished(clients, found).await,
        Kind::SecurityGroup => removal::remove(clients, &Resource::SecurityGroup { region, id }).await,
        Kind::Object => match staged::place(&id) {
            Some((bucket, key)) => {
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                removal::remove(clients, &Resource::Object { region, bucket, key }).await
            }
            None => Ok(()),
        },
        Kind::Snapshot => {
            delete(id, |id| async move {
                let call = clients.ec2.delete_snapshot().snapshot_id(id).send().await;
                call.map(drop).map_err(AwsError::of("ec2:DeleteSnapshot"))
            })
            .await
        }
        Kind::Volume => {
            delete(id, |id| async move {
                let call = clients.ec2.delete_volume().volume_id(id).send().await;
                call.map(drop).map_err(AwsError::of("ec2:DeleteVolume"))
            })
            .await
        }
        Kind::NetworkInterface => {
            delete(id, |id| async move {
                let call = clients.ec2.delete_network_interface().network_interface_id(id).send().await;
                call.map(drop).map_err(AwsError::of("ec2:DeleteNetworkInterface"))
            })
            .await
        }
    }
}

/// A build may have taken the image up since it was found: then it has lost its tag, and stays.
async fn remove_unfinished(clients: &Clients, found: &Found) -> Result<()> {
    let call = clients.ec2.describe_images().image_ids(&found.id).send().await;
    match call.map_err(AwsError::of("ec2:DescribeImages")) {
        Ok(answer) => {
            let unfinished = |image: &Ami| image.tags().iter().any(|tag| tag.key() == Some(tags::EXPIRES));
            if !answer.images().iter().any(unfinished) {
                return Ok(());
            }
        }
        Err(error) if error.is(&["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"]) => return Ok(()),
        Err(error) => return Err(error.because(format!("cannot look at {}", found.id))),
    }
    removal::remove(clients, &Resource::Ami { region: clients.region.clone(), id: found.id.clone() }).await
}

/// How long something may be held on to by what was removed a moment ago.
const IN_USE: Schedule = Schedule {
    first: std::time::Duration::from_millis(500),
    most: std::time::Duration::from_secs(5),
    deadline: std::time::Duration::from_secs(100),
};
/// Codes that say so, of EC2's API reference ("Error codes").
const HELD: &[&str] = &["InvalidSnapshot.InUse", "VolumeInUse", "IncorrectState", "InvalidNetworkInterface.InUse"];
/// Codes that say that it is gone.
const GONE: &[&str] = &["InvalidSnapshot.NotFound", "InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound"];

async fn delete<F>(id: String, call: impl Fn(String) -> F) -> Result<()>
where
    F: Future<Output = Result<(), AwsError>>,
{
    wait::until(&format!("the removal of {id}"), IN_USE, &CancellationToken::new(), || async {
        match call(id.clone()).await {
            Ok(()) => Ok(Probe::Ready(())),
            Err(error) if error.is(GONE) => Ok(Probe::Ready(())),
            Err(error) if error.is(HELD) => Ok(Probe::NotYet(error.to_string())),
            Err(error) => Err(error.because(format!("cannot delete {id}"))),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::delete_snapshot::{DeleteSnapshotError, DeleteSnapshotOutput};
    use aws_sdk_ec2::operation::delete_volume::DeleteVolumeError;
    use aws_sdk_ec2::operation::describe_images::DescribeImagesOutput;
    use aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput;
    use aws_sdk_ec2::operation::describe_network_interfaces::DescribeNetworkInterfacesOutput;
    use aws_sdk_ec2::operation::describe_security_groups::DescribeSecurityGroupsOutput;
    use aws_sdk_ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
    use aws_sdk_ec2::operation::describe_volumes::DescribeVolumesOutput;
    use aws_sdk_ec2::types::{
        BlockDeviceMapping, EbsBlockDevice, Instance, InstanceState, Reservation, SecurityGroup, Snapshot,
        SnapshotState,
    };
    use aws_smithy_mocks::{Rule, mock};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::provider::aws::testing::mocked;

    const RUN: &str = "20261124t145112-3fa9c1";
    const PAST: Option<&str> = Some("2026-11-24T20:00:00Z");
    const FUTURE: Option<&str> = Some("2026-11-26T00:00:00Z");

    fn now() -> Timestamp {
        "2026-11-25T00:00:00Z".parse().unwrap()
    }

    fn marks(expires: Option<&str>) -> Vec<Tag> {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = [tag(tags::RUN, RUN), tag(tags::RECIPE, "builder")];
        tags.into_iter().chain(expires.map(|at| tag(tags::EXPIRES, at))).collect()
    }

    fn ami(id: &str, state: ImageState, snapshot: &str, expires: Option<&str>) -> Ami {
        let ebs = EbsBlockDevice::builder().snapshot_id(snapshot).build();
        let root = BlockDeviceMapping::builder().device_name("/dev/xvda").ebs(ebs).build();
        Ami::builder().image_id(id).state(state).block_device_mappings(root).set_tags(Some(marks(expires))).build()
    }

    /// An account after some killed runs.
    fn account() -> Vec<Rule> {
        vec![
            mock!(aws_sdk_ec2::Client::describe_instances).then_output(|| {
                let instance = |id: &str, tags: Vec<Tag>| {
                    let state = InstanceState::builder().name(InstanceStateName::Running).build();
                    Instance::builder().instance_id(id).state(state).set_tags(Some(tags)).build()
                };
                // What a filter lets through by mistake is not ours all the same.
                let reservation = Reservation::builder()
                    .instances(instance("i-past", marks(PAST)))
                    .instances(instance("i-lives", marks(FUTURE)))
                    .instances(instance("i-foreign", Vec::new()))
                    .instances(instance("i-odd", marks(Some("tomorrow"))));
                DescribeInstancesOutput::builder().reservations(reservation.build()).build()
            }),
            mock!(aws_sdk_ec2::Client::describe_images).then_output(|| {
                DescribeImagesOutput::builder()
                    .images(ami("ami-finished", ImageState::Available, "snap-finished", None))
                    .images(ami("ami-past", ImageState::Available, "snap-past", PAST))
                    .images(ami("ami-pending", ImageState::Pending, "snap-pending", FUTURE))
                    .images(ami("ami-failed", ImageState::Failed, "snap-failed", FUTURE))
                    .build()
            }),
            mock!(aws_sdk_ec2::Client::describe_snapshots).then_output(|| {
                let snapshot = |id: &str, expires| {
                    let snapshot = Snapshot::builder().snapshot_id(id).state(SnapshotState::Completed);
                    snapshot.set_tags(Some(marks(expires))).build()
                };
                DescribeSnapshotsOutput::builder()
                    .snapshots(snapshot("snap-finished", None))
                    .snapshots(snapshot("snap-past", PAST))
                    .snapshots(snapshot("snap-orphan", None))
                    .snapshots(snapshot("snap-new", FUTURE))
                    .build()
            }),
            mock!(aws_sdk_ec2::Client::describe_security_groups).then_output(|| {
                let group = SecurityGroup::builder().group_id("sg-past").set_tags(Some(marks(PAST))).build();
                DescribeSecurityGroupsOutput::builder().security_groups(group).build()
            }),
            mock!(aws_sdk_ec2::Client::describe_volumes).then_output(|| DescribeVolumesOutput::builder().build()),
            mock!(aws_sdk_ec2::Client::describe_network_interfaces)
                .then_output(|| DescribeNetworkInterfacesOutput::builder().build()),
        ]
    }

    fn ids(found: &[Found]) -> Vec<&str> {
        found.iter().map(|one| one.id.as_str()).collect()
    }

    #[tokio::test]
    async fn what_is_past_its_time_and_nothing_that_is_finished_or_lives() {
        let rules = account();
        let clients = mocked(&rules.iter().collect::<Vec<_>>());
        let found = find(&clients, None).await.unwrap();
        let LeftBehind { due, later } = LeftBehind::of(found, &Runs::default(), now());
        assert_eq!(ids(&due), ["i-past", "ami-failed", "ami-past", "snap-orphan", "sg-past"]);
        assert_eq!(ids(&later), ["i-lives", "ami-pending", "snap-new"]);
        assert_eq!(rules.iter().map(Rule::num_calls).sum::<usize>(), 6);
    }

    #[tokio::test]
    async fn all_of_a_run_whatever_its_time_but_no_finished_image() {
        let rules = account();
        let clients = mocked(&rules.iter().collect::<Vec<_>>());
        let found = find(&clients, Some(&RunId(RUN.to_owned()))).await.unwrap();
        let expected = [
            "i-lives",
            "i-odd",
            "i-past",
            "ami-failed",
            "ami-past",
            "ami-pending",
            "snap-new",
            "snap-orphan",
            "sg-past",
        ];
        assert_eq!(ids(&found), expected);
        let other = find(&clients, Some(&RunId("20261124t145112-000000".to_owned()))).await.unwrap();
        assert_eq!(ids(&other), Vec::<&str>::new());
    }

    #[test]
    fn what_is_known_of_a_run_here_goes_before_its_tags_but_an_image_waits_for_its_next_build() {
        let kinds =
            [(Kind::Instance, "i-1"), (Kind::Image, "ami-1"), (Kind::Snapshot, "snap-1"), (Kind::Object, "s3://x")];
        let found = kinds.map(|(kind, id)| Found { expires: FUTURE.unwrap().parse().ok(), ..leftover(kind, id) });
        let this = || BTreeSet::from([RunId(RUN.to_owned())]);
        let of = |runs: &Runs| LeftBehind::of(found.to_vec(), runs, now());
        let dead = of(&Runs { dead: this(), ..Runs::default() });
        assert_eq!((ids(&dead.due), ids(&dead.later)), (vec!["i-1", "s3://x"], vec!["ami-1", "snap-1"]));
        let living = of(&Runs { living: this(), ..Runs::default() });
        assert_eq!((ids(&living.due), ids(&living.later)), (Vec::new(), Vec::new()));
        let named = of(&Runs { named: Some(RunId(RUN.to_owned())), living: this(), ..Runs::default() });
        assert_eq!((named.due.len(), named.later.len()), (4, 0));
    }

    fn leftover(kind: Kind, id: &str) -> Found {
        let (region, run) = ("us-east-1".to_owned(), RUN.to_owned());
        Found { kind, id: id.to_owned(), region, run, recipe: None, expires: None, state: "available".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_waited_for_and_what_cannot_be_removed_is_told() {
        let failure = |code: &str| ErrorMetadata::builder().code(code).message("the service's own words").build();
        let snapshot = mock!(aws_sdk_ec2::Client::delete_snapshot)
            .sequence()
            .error(move || DeleteSnapshotError::generic(failure("InvalidSnapshot.InUse")))
            .output(|| DeleteSnapshotOutput::builder().build())
            .build();
        let volume = mock!(aws_sdk_ec2::Client::delete_volume)
            .then_error(move || DeleteVolumeError::generic(failure("UnauthorizedOperation")));
        // Taken up by a build meanwhile: it has no time any more at which it expires.
        let image = mock!(aws_sdk_ec2::Client::describe_images).then_output(|| {
            let finished = ami("ami-1", ImageState::Available, "snap-1", None);
            DescribeImagesOutput::builder().images(finished).build()
        });
        let clients = mocked(&[&snapshot, &volume, &image]);
        let found =
            [leftover(Kind::Snapshot, "snap-1"), leftover(Kind::Volume, "vol-1"), leftover(Kind::Image, "ami-1")];
        let remain = clear(&clients, &found).await;
        let told: Vec<_> = remain.iter().map(|(one, reason)| format!("{}: {reason}", one.id)).collect();
        let expected = "vol-1: cannot delete vol-1: ec2:DeleteVolume: UnauthorizedOperation: the service's own words";
        assert_eq!(told, [expected]);
        assert_eq!(snapshot.num_calls(), 2);
    }
}
