//! From a stopped machine to an AMI: asked for once, armed at the moment it exists, waited for as long as the plan says.
//!
//! An image that is still being made when time runs out is kept: it was asked for after every check had passed, and the
//! next build with the same fingerprint takes it up. Until it is finished it bears the tag that says when it expires.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Image as Ami, ImageState, ResourceType};
use jiff::Timestamp;
use tokio::time::Instant;

use super::error::AwsError;
use super::machine::AwsMachine;
use super::poll::SETTLES;
use super::{catalog, shape, tags};
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Event, Undo};
use crate::error::{Error, Result};
use crate::plan::{Image, ImageName, Plan};
use crate::provider::Resource;

const CREATE: &str = "ec2:CreateImage";
const DESCRIBE: &str = "ec2:DescribeImages";
/// How often the progress of the snapshots is asked for: a call each, for a bar that moves slowly anyway.
const PROGRESS: Duration = Duration::from_secs(20);
/// How long a name that is taken may have no image that bears it.
const FOUND: Schedule =
    Schedule { first: Duration::from_millis(500), most: Duration::from_secs(5), deadline: Duration::from_secs(30) };
/// EC2's limit on an image's description ("CreateImage", API reference).
const LONGEST_DESCRIPTION: usize = 255;

/// Makes the image of `machine`, which is stopped. A spot instance is not: EC2 shuts it down for the moment in which its
/// disk is copied, and starts it again (CreateImage without NoReboot).
///
/// # Errors
/// Exit 4 when EC2 refuses; exit 1 when the image fails, or is not made in time: then it is kept, and the error says its id.
pub(super) async fn capture(machine: &AwsMachine, undo: &Undo) -> Result<Image> {
    let region = machine.clients.region.clone();
    let tagged = Resource::Tagged { region: region.clone(), run: machine.run.clone() };
    undo.arm(tagged.clone())?;
    let (id, name) = ask(machine).await?;
    let armed = Resource::Ami { region: region.clone(), id: id.clone() };
    undo.arm(armed.clone())?;
    undo.keep(&tagged)?;
    let started = Instant::now();
    let (ami, ()) = tokio::join!(available(machine, &id), machine.free_group(undo));
    let ami = match ami {
        Err(error) if started.elapsed() >= machine.plan.machine.image_timeout => {
            undo.keep(&armed)?;
            return Err(error.with_hint(format!(
                "{id} stays: the next build of the same plan takes it up once it is available; `image_timeout` in \
                 `[machine]` is how long it may take"
            )));
        }
        ami => ami?,
    };
    catalog::finish(&machine.clients, &id, &ami).await?;
    Ok(Image { name, ..catalog::describe(&machine.clients, &ami) })
}

/// Asks for the image; its id and the name it got.
async fn ask(machine: &AwsMachine) -> Result<(String, ImageName)> {
    let wanted = &machine.plan.image.name;
    let mut name = wanted.clone();
    loop {
        match create(machine, &name).await? {
            Ok(id) => return Ok((id, name)),
            Err(_taken) => match look_up(machine, wanted, &name).await? {
                Taken::ByThisRun(id, name) => return Ok((id, name)),
                Taken::ByAnother { free } => name = free,
            },
        }
    }
}

/// The outer error ends the capture; the inner one says that the name is taken.
async fn create(machine: &AwsMachine, name: &ImageName) -> Result<Result<String, AwsError>> {
    let plan = &machine.plan;
    let tags = tags::of_image(plan, name, &machine.run, shape::image_expires(Timestamp::now(), &plan.machine));
    let call = machine
        .clients
        .ec2
        .create_image()
        .instance_id(&machine.id)
        .name(&name.0)
        .description(description(plan))
        .set_block_device_mappings(Some(shape::image_devices(&plan.volumes)?))
        .set_tag_specifications(Some(tags::specifications(&tags, [ResourceType::Image, ResourceType::Snapshot])));
    match call.send().await.map_err(AwsError::of(CREATE)) {
        Ok(made) => made.image_id.map(Ok).ok_or_else(|| Error::host(format!("{CREATE}: the answer has no id"))),
        Err(error) if error.is(&["InvalidAMIName.Duplicate"]) => Ok(Err(error)),
        Err(error) => Err(error.because("cannot make the image")),
    }
}

fn description(plan: &Plan) -> String {
    let text = format!(
        "{} with BuildKit {} on {} (amibake {})",
        plan.recipe,
        plan.artifact.version,
        plan.base.name,
        env!("CARGO_PKG_VERSION")
    );
    // "Can only contain ASCII" is not said of it, but is so of names; a base's name is what its owner wrote.
    text.chars().filter(|char| char.is_ascii() && !char.is_control()).take(LONGEST_DESCRIPTION).collect()
}

/// Whose a taken name is.
enum Taken {
    /// This very run's: the answer to its first request was lost.
    ByThisRun(String, ImageName),
    /// Another's, of the same fingerprint: unfinished, or built again by force.
    ByAnother { free: ImageName },
}

async fn look_up(machine: &AwsMachine, wanted: &ImageName, name: &ImageName) -> Result<Taken> {
    let images = wait::until("the image", FOUND, &machine.cancel, || async {
        let names = Filter::builder().name("name").values(&wanted.0).values(format!("{wanted}-*")).build();
        let found = machine.clients.ec2.describe_images().owners("self").filters(names).send().await;
        let found = found.map_err(AwsError::of(DESCRIBE));
        let images = found.map_err(|error| error.because(format!("cannot look up the image {name}")))?.images;
        let images = images.unwrap_or_default();
        Ok(match images.iter().any(|image| image.name() == Some(&name.0)) {
            true => Probe::Ready(images),
            false => Probe::NotYet(format!("the name {name} is taken, and no image bears it")),
        })
    })
    .await?;
    let ours = images.iter().find(|image| catalog::tag(image, tags::RUN) == Some(&machine.run.0));
    if let Some((id, name)) = ours.and_then(|image| Some((image.image_id()?, image.name()?))) {
        return Ok(Taken::ByThisRun(id.to_owned(), ImageName(name.to_owned())));
    }
    let taken: BTreeSet<_> = images.iter().filter_map(Ami::name).collect();
    let free = (2_u32..).map(|number| format!("{wanted}-{number}")).find(|name| !taken.contains(name.as_str()));
    let free = free.ok_or_else(|| Error::host(format!("there is no free name like {wanted}")))?;
    Ok(Taken::ByAnother { free: ImageName(free) })
}

/// Waits until it is available.
async fn available(machine: &AwsMachine, id: &str) -> Result<Ami> {
    let started = Instant::now();
    let judge = |image: Option<Ami>| match image {
        None if started.elapsed() > SETTLES => Err(Error::failed(format!("the image {id} is gone"))),
        None => Ok(Probe::NotYet("EC2 does not find it yet".to_owned())),
        Some(image) => match image.state() {
            Some(ImageState::Available) => Ok(Probe::Ready(image)),
            Some(ImageState::Pending | ImageState::Transient) | None => {
                Ok(Probe::NotYet(format!("{id} is still being made")))
            }
            Some(state) => Err(unusable(id, state, &image)),
        },
    };
    let deadline = machine.plan.machine.image_timeout;
    // How long it takes depends on what was written.
    let kind = machine.poll.kind(&format!("image of {}", machine.plan.recipe));
    tokio::select! {
        biased;
        ami = machine.poll.images.until("making the image", id, deadline, &kind, &machine.cancel, judge) => ami,
        never = show_progress(machine) => match never {},
    }
}

fn unusable(id: &str, state: &ImageState, image: &Ami) -> Error {
    let reason = image.state_reason();
    let reason = reason.and_then(|reason| reason.message().or(reason.code())).unwrap_or("EC2 does not say why");
    Error::failed(format!("the image {id} is {state}: {reason}"))
}

async fn show_progress(machine: &AwsMachine) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let ours = Filter::builder().name(format!("tag:{}", tags::RUN)).values(&machine.run.0).build();
        let call = machine.clients.ec2.describe_snapshots().owner_ids("self").filters(ours);
        // Only for show.
        let Ok(answer) = call.send().await else { continue };
        let (done, total) = catalog::progress(answer.snapshots());
        if total > 0 {
            machine.reporter.event(&Event::Progress { done, total: Some(total) });
        }
    }
}
