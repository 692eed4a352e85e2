//! Images of ours: finished ones, and those that a run left unfinished.
//!
//! An image is unfinished for as long as it bears `amibake:expires`, from the call that makes it until [`finish`]. It was
//! asked for after every check had passed, so whoever finds one may wait for it and finish it, whether or not its run
//! still lives: nobody can know that from another machine, and taking the tag away twice is taking it away once. What
//! keeps two builds from harming each other is the other side's rule: **an image without the tag is nobody's to remove**.
//! A run that is interrupted looks for the tag before it removes its image, and so does `gc`; and who adopts one looks
//! again after it took the tag away, for the moment in between.

use std::time::Duration;

use aws_sdk_ec2::types::{AttributeValue, Filter, Image as Ami, ImageState, ImdsSupportValues, Snapshot, Tag};
use tokio_util::sync::CancellationToken;

use super::base::ec2_name;
use super::client::Clients;
use super::error::AwsError;
use super::tags;
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Event, Reporter};
use crate::error::{Error, Result};
use crate::plan::{Image, ImageFormat, ImageName, Plan};

const DESCRIBE: &str = "ec2:DescribeImages";

/// The finished image of `plan`: newest of those with its fingerprint. If there is none, but one that an earlier run left
/// unfinished, that is waited for, as long as the plan gives an image, and finished. One call if nothing is waited for.
///
/// It is found by its name, which holds the recipe, the version, the architecture and twelve digits of the fingerprint:
/// two recipes of the same content are two images. Its tag has all of the fingerprint, and is what counts.
///
/// # Errors
/// Exit 4 when the images cannot be listed; exit 1 when one is not available in time: it stays.
pub(super) async fn find(clients: &Clients, plan: &Plan, reporter: &Reporter) -> Result<Option<Image>> {
    let name = &plan.image.name;
    let by = |key: &str| Filter::builder().name(key);
    let call = clients
        .ec2
        .describe_images()
        .owners("self")
        // Beside a name that was taken, a bake puts a number.
        .filters(by("name").values(&name.0).values(format!("{name}-*")).build())
        .filters(by("architecture").values(ec2_name(plan.arch)).build())
        .include_deprecated(true);
    let answer = call.send().await.map_err(AwsError::of(DESCRIBE));
    let answer = answer.map_err(|error| error.because(format!("cannot look for images called {name}")))?;
    let (finished, unfinished) = sort(answer.images.unwrap_or_default(), plan);
    if let Some(image) = finished.first() {
        return Ok(Some(describe(clients, image)));
    }
    for image in &unfinished {
        if let Some(adopted) = adopt(clients, image, plan, reporter).await? {
            return Ok(Some(describe(clients, &adopted)));
        }
    }
    Ok(None)
}

/// Those that are finished and those that may yet be, newest first.
fn sort(mut images: Vec<Ami>, plan: &Plan) -> (Vec<Ami>, Vec<Ami>) {
    let fingerprint = plan.fingerprint.to_string();
    images.retain(|image| tag(image, tags::FINGERPRINT) == Some(&fingerprint));
    images.sort_by(|one, other| other.creation_date().cmp(&one.creation_date()));
    let (unfinished, mut finished): (Vec<_>, Vec<_>) =
        images.into_iter().partition(|image| tag(image, tags::EXPIRES).is_some());
    finished.retain(|image| image.state() == Some(&ImageState::Available));
    let may_be = |image: &Ami| matches!(image.state(), Some(ImageState::Available | ImageState::Pending));
    (finished, unfinished.into_iter().filter(may_be).collect())
}

/// Waits for an image that a run left unfinished, and finishes it; none if it came to nothing.
async fn adopt(clients: &Clients, image: &Ami, plan: &Plan, reporter: &Reporter) -> Result<Option<Ami>> {
    let Some(id) = image.image_id() else { return Ok(None) };
    let run = tag(image, tags::RUN).unwrap_or("of another machine");
    reporter.note(format!("run {run} left the image {id} unfinished: taking it up"));
    let schedule =
        Schedule { first: Duration::from_secs(1), most: Duration::from_secs(5), deadline: plan.machine.image_timeout };
    let mut known = Some(image.clone());
    // Who does not want to wait drops the future.
    let (what, never) = (format!("the image {id}"), CancellationToken::new());
    let available = wait::until(&what, schedule, &never, || {
        let known = known.take();
        async {
            let image = match known {
                Some(image) => Some(image),
                None => look(clients, id).await?,
            };
            let Some(image) = image else { return Ok(Probe::Ready(None)) };
            match image.state() {
                Some(ImageState::Available) => Ok(Probe::Ready(Some(image))),
                Some(ImageState::Pending | ImageState::Transient) => {
                    show_progress(clients, &image, reporter).await;
                    Ok(Probe::NotYet("it is still pending".to_owned()))
                }
                _ => Ok(Probe::Ready(None)),
            }
        }
    });
    let available = available.await.map_err(|error| {
        error.with_hint(format!(
            "{id} stays: the next build of the same plan takes it up; `image_timeout` in `[machine]` is how long that waits"
        ))
    })?;
    let Some(image) = available else {
        reporter.note(format!("the image {id} came to nothing: baking it anew"));
        return Ok(None);
    };
    finish(clients, id, &image).await?;
    // Its run may have been on the way to remove it.
    let still = look(clients, id).await?;
    Ok(still.filter(|image| image.state() == Some(&ImageState::Available)))
}

pub(super) async fn look(clients: &Clients, id: &str) -> Result<Option<Ami>> {
    let answer =
        clients.ec2.describe_images().image_ids(id).include_disabled(true).send().await.map_err(AwsError::of(DESCRIBE));
    match answer {
        Ok(answer) => Ok(answer.images.unwrap_or_default().into_iter().find(|image| image.image_id() == Some(id))),
        Err(error) if error.is(&["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"]) => Ok(None),
        Err(error) => Err(error.because(format!("cannot look up the image {id}"))),
    }
}

/// How far the snapshots of `image` are: only for show, and only where they are known.
async fn show_progress(clients: &Clients, image: &Ami, reporter: &Reporter) {
    let ids: Vec<_> = snapshots(image).collect();
    if ids.is_empty() {
        return;
    }
    let Ok(answer) = clients.ec2.describe_snapshots().set_snapshot_ids(Some(ids)).send().await else { return };
    let (done, total) = progress(answer.snapshots());
    reporter.event(&Event::Progress { done, total: Some(total) });
}

/// Bytes of the volumes that are copied, and all.
pub(super) fn progress(snapshots: &[Snapshot]) -> (u64, u64) {
    let (mut done, mut total) = (0, 0);
    for snapshot in snapshots {
        let percent = snapshot.progress().and_then(|text| text.trim_end_matches('%').parse::<u64>().ok());
        let size = bytes(snapshot.volume_size());
        done += size / 100 * percent.unwrap_or(0).min(100);
        total += size;
    }
    (done, total)
}

/// Finishes an image that is available: it requires IMDSv2 (inherited from most bases, asked for where it is not), and it
/// and its snapshots no longer bear the tag that says when they expire. What was finished before is finished again.
///
/// # Errors
/// Exit 4.
pub(super) async fn finish(clients: &Clients, id: &str, ami: &Ami) -> Result<()> {
    if ami.imds_support() != Some(&ImdsSupportValues::V20) {
        let v2 = AttributeValue::builder().value(ImdsSupportValues::V20.as_str()).build();
        let call = clients.ec2.modify_image_attribute().image_id(id).imds_support(v2);
        let done = call.send().await.map_err(AwsError::of("ec2:ModifyImageAttribute"));
        done.map_err(|error| error.because(format!("cannot have the image {id} require IMDSv2")))?;
    }
    let resources = snapshots(ami).chain([id.to_owned()]).collect();
    let call = clients.ec2.delete_tags().set_resources(Some(resources)).tags(Tag::builder().key(tags::EXPIRES).build());
    let done = call.send().await.map_err(AwsError::of("ec2:DeleteTags"));
    done.map(drop)
        .map_err(|error: AwsError| -> Error { error.because(format!("cannot mark the image {id} as finished")) })
}

/// The image as the rest of amibake knows it.
pub(super) fn describe(clients: &Clients, ami: &Ami) -> Image {
    let stored = ami.block_device_mappings().iter().filter_map(|device| device.ebs());
    let stored = stored.filter(|ebs| ebs.snapshot_id().is_some());
    Image {
        name: ImageName(ami.name().unwrap_or_default().to_owned()),
        location: ami.image_id().unwrap_or_default().into(),
        format: ImageFormat::Ami,
        size_bytes: stored.map(|ebs| bytes(ebs.volume_size())).sum(),
        sha256: None,
        region: Some(clients.region.clone()),
        verified: tag(ami, tags::VERIFIED).is_some(),
        created: ami.creation_date().and_then(|at| at.parse().ok()),
    }
}

/// Snapshots that `ami` is made of.
pub(super) fn snapshots(ami: &Ami) -> impl Iterator<Item = String> {
    ami.block_device_mappings().iter().filter_map(|device| device.ebs()?.snapshot_id().map(str::to_owned))
}

pub(super) fn tag<'a>(ami: &'a Ami, key: &str) -> Option<&'a str> {
    ami.tags().iter().find(|tag| tag.key() == Some(key))?.value()
}

fn bytes(gib: Option<i32>) -> u64 {
    u64::try_from(gib.unwrap_or(0)).unwrap_or(0) << 30
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::delete_tags::DeleteTagsOutput;
    use aws_sdk_ec2::operation::describe_images::DescribeImagesOutput;
    use aws_sdk_ec2::operation::describe_snapshots::DescribeSnapshotsOutput;
    use aws_sdk_ec2::operation::modify_image_attribute::ModifyImageAttributeOutput;
    use aws_sdk_ec2::types::{BlockDeviceMapping, EbsBlockDevice};
    use aws_smithy_mocks::mock;

    use super::*;
    use crate::provider::aws::testing::{mocked, planned};

    fn device(name: &str, gib: i32, snapshot: Option<&str>) -> BlockDeviceMapping {
        let ebs = EbsBlockDevice::builder().volume_size(gib).set_snapshot_id(snapshot.map(str::to_owned)).build();
        BlockDeviceMapping::builder().device_name(name).ebs(ebs).build()
    }

    /// An image of the plan's, with a root disk of 8 GiB and a blank volume.
    fn ami(plan: &Plan, id: &str, date: &str, state: ImageState, expires: Option<&str>) -> Ami {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let ami = Ami::builder()
            .image_id(id)
            .name(&plan.image.name.0)
            .creation_date(date)
            .state(state)
            .imds_support(ImdsSupportValues::V20)
            .block_device_mappings(device("/dev/xvda", 8, Some("snap-1")))
            .block_device_mappings(device("/dev/sdf", 100, None))
            .tags(tag(tags::FINGERPRINT, &plan.fingerprint.to_string()))
            .tags(tag(tags::RUN, "20261124t145112-3fa9c1"));
        expires.map_or_else(|| ami.clone(), |expires| ami.clone().tags(tag(tags::EXPIRES, expires))).build()
    }

    const EXPIRES: Option<&str> = Some("2026-11-25T00:00:00Z");

    #[tokio::test]
    async fn the_newest_finished_image_by_one_call() {
        let plan = planned("");
        let (name, other) =
            (plan.image.name.clone(), planned("[[step]]\nkind = \"run\"\nname = \"x\"\nscript = \"x\""));
        let images = [
            ami(&plan, "ami-old", "2026-11-01T00:00:00.000Z", ImageState::Available, None),
            ami(&plan, "ami-new", "2026-11-02T00:00:00.000Z", ImageState::Available, None),
            ami(&plan, "ami-unfinished", "2026-11-03T00:00:00.000Z", ImageState::Available, EXPIRES),
            ami(&plan, "ami-failed", "2026-11-04T00:00:00.000Z", ImageState::Failed, None),
            ami(&other, "ami-other", "2026-11-05T00:00:00.000Z", ImageState::Available, None),
        ];
        let listed = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(move |request| {
                let names = request.filters().iter().find(|filter| filter.name() == Some("name"));
                request.owners() == ["self"]
                    && names.is_some_and(|names| names.values() == [name.0.clone(), format!("{name}-*")])
            })
            .then_output(move || DescribeImagesOutput::builder().set_images(Some(images.to_vec())).build());
        let image = find(&mocked(&[&listed]), &plan, &Reporter::silent()).await.unwrap().unwrap();
        assert_eq!(image.location.to_str(), Some("ami-new"));
        assert_eq!((image.size_bytes, image.region.as_deref()), (8 << 30, Some("us-east-1")));
        assert_eq!((image.name, image.format, listed.num_calls()), (plan.image.name, ImageFormat::Ami, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_that_a_dead_run_left_pending_is_waited_for_and_finished() {
        let plan = planned("");
        let at = |state| ami(&plan, "ami-1", "2026-11-01T00:00:00.000Z", state, EXPIRES);
        let answer = |image: Ami| move || DescribeImagesOutput::builder().images(image.clone()).build();
        let listed = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| request.image_ids().is_empty())
            .then_output(answer(at(ImageState::Pending)));
        let looked = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| request.image_ids() == ["ami-1"])
            .sequence()
            .output(answer(at(ImageState::Pending)))
            .output(answer(at(ImageState::Available)))
            .output(answer(at(ImageState::Available)))
            .build();
        let snapshots = mock!(aws_sdk_ec2::Client::describe_snapshots).then_output(|| {
            let snapshot = Snapshot::builder().progress("40%").volume_size(10).build();
            DescribeSnapshotsOutput::builder().snapshots(snapshot).build()
        });
        let untagged = mock!(aws_sdk_ec2::Client::delete_tags)
            .match_requests(|request| {
                request.resources() == ["snap-1", "ami-1"]
                    && request.tags().iter().all(|tag| tag.key() == Some("amibake:expires") && tag.value().is_none())
            })
            .then_output(|| DeleteTagsOutput::builder().build());
        let clients = mocked(&[&listed, &looked, &snapshots, &untagged]);
        let image = find(&clients, &plan, &Reporter::silent()).await.unwrap().unwrap();
        assert_eq!(image.location.to_str(), Some("ami-1"));
        assert_eq!((listed.num_calls(), looked.num_calls(), untagged.num_calls()), (1, 3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_comes_to_nothing_is_none_and_one_that_takes_too_long_stays() {
        let plan = planned("machine.image_timeout = \"1m\"");
        let pending = ami(&plan, "ami-1", "2026-11-01T00:00:00.000Z", ImageState::Pending, EXPIRES);
        let listed = |image: &Ami| {
            let image = image.clone();
            mock!(aws_sdk_ec2::Client::describe_images)
                .match_requests(|request| request.image_ids().is_empty())
                .then_output(move || DescribeImagesOutput::builder().images(image.clone()).build())
        };
        let snapshots = || {
            mock!(aws_sdk_ec2::Client::describe_snapshots).then_output(|| DescribeSnapshotsOutput::builder().build())
        };
        let gone = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| !request.image_ids().is_empty())
            .then_output(|| DescribeImagesOutput::builder().build());
        let found = find(&mocked(&[&listed(&pending), &gone, &snapshots()]), &plan, &Reporter::silent()).await;
        assert_eq!(found.unwrap(), None);
        let again = pending.clone();
        let still = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| !request.image_ids().is_empty())
            .then_output(move || DescribeImagesOutput::builder().images(again.clone()).build());
        let late = find(&mocked(&[&listed(&pending), &still, &snapshots()]), &plan, &Reporter::silent()).await;
        insta::assert_snapshot!(crate::error::render(&late.unwrap_err()));
    }

    #[tokio::test]
    async fn finishing_asks_for_imdsv2_where_the_base_did_not() {
        let plan = planned("");
        let image = ami(&plan, "ami-1", "2026-11-01T00:00:00.000Z", ImageState::Available, EXPIRES);
        let image = Ami::builder().image_id("ami-1").set_tags(image.tags.clone()).build();
        let modified = mock!(aws_sdk_ec2::Client::modify_image_attribute)
            .match_requests(|request| request.imds_support().and_then(|value| value.value()) == Some("v2.0"))
            .then_output(|| ModifyImageAttributeOutput::builder().build());
        let untagged = mock!(aws_sdk_ec2::Client::delete_tags).then_output(|| DeleteTagsOutput::builder().build());
        finish(&mocked(&[&modified, &untagged]), "ami-1", &image).await.unwrap();
        assert_eq!((modified.num_calls(), untagged.num_calls()), (1, 1));
    }
}
