//! Removing what a run made, by id or by the run's tag. What is gone already is removed; what EC2 has accepted to end is
//! removed too: nobody waits for `terminated`, unless something must be deleted after it.

use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Image, InstanceStateName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::error::AwsError;
use super::tags;
use crate::bake::RunId;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::Result;
use crate::provider::Resource;

/// How long something that was just made may be unknown; by then, what is not found is gone.
const UNKNOWN: Duration = Duration::from_secs(6);
/// How long something may be in use by what is going already, an instance that shuts down, an image that was just
/// deregistered; and how long anything is tried. An undo gives each removal 120 s, and comes back once.
const IN_USE: Schedule =
    Schedule { first: Duration::from_millis(500), most: Duration::from_secs(5), deadline: Duration::from_secs(105) };

/// Removes `resource`.
///
/// # Errors
/// When it is still there afterwards.
pub(super) async fn remove(clients: &Clients, resource: &Resource) -> Result<()> {
    let in_region = |region: &String| Removal { clients: in_region(clients, region) };
    match resource {
        Resource::Tagged { region, run } => in_region(region).of_run(run).await,
        Resource::Instance { region, id } => in_region(region).instances(vec![id.clone()]).await,
        Resource::SecurityGroup { region, id } => in_region(region).group(id).await,
        Resource::Ami { region, id } => in_region(region).ami(id).await,
        Resource::Command { region, id, instance } => in_region(region).command(id, instance).await,
        Resource::Object { region, bucket, key } => in_region(region).object(bucket, key).await,
        Resource::Path { .. } | Resource::Process { .. } => crate::provider::local::remove(resource).await,
    }
}

struct Removal {
    clients: Clients,
}

impl Removal {
    /// Ends instances that are there; EC2 takes them all or none.
    async fn instances(&self, ids: Vec<String>) -> Result<()> {
        let what = ids.join(", ");
        let since = Instant::now();
        patiently("the end of the machine", || async {
            let call = self.clients.ec2.terminate_instances().set_instance_ids(Some(ids.clone())).send().await;
            match call.map_err(AwsError::of("ec2:TerminateInstances")) {
                Ok(answer) => Ok(match answer.terminating_instances().iter().find(|change| !ends(change)) {
                    None => Probe::Ready(()),
                    Some(_) => Probe::NotYet("it is not shutting down".to_owned()),
                }),
                Err(error) if error.is(&["InvalidInstanceID.NotFound"]) => Ok(missing(since, ())),
                Err(error) => Err(error.because(format!("cannot end {what}"))),
            }
        })
        .await
    }

    async fn group(&self, id: &str) -> Result<()> {
        patiently("the removal of the security group", || async {
            let call = self.clients.ec2.delete_security_group().group_id(id).send().await;
            match call.map_err(AwsError::of("ec2:DeleteSecurityGroup")) {
                Ok(_) => Ok(Probe::Ready(())),
                Err(error) if error.is(&["InvalidGroup.NotFound", "InvalidGroupId.NotFound"]) => Ok(Probe::Ready(())),
                // Its instance is still shutting down, or nobody has heard of it: the answer to its launch was lost.
                Err(error) if error.is(&["DependencyViolation", "InvalidGroup.InUse"]) => {
                    self.empty(id).await?;
                    Ok(Probe::NotYet(error.to_string()))
                }
                Err(error) => Err(error.because(format!("cannot delete {id}"))),
            }
        })
        .await
    }

    /// Ends the instances of ours that are in a group.
    async fn empty(&self, group: &str) -> Result<()> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let ours = [filter("instance.group-id", group), filter("tag-key", tags::RUN)];
        let ids = self.living(ours).await;
        let ids = ids.map_err(|error| error.because(format!("cannot tell what is in {group}")))?;
        if ids.is_empty() { Ok(()) } else { self.instances(ids).await }
    }

    /// Deregisters an image, finished or not, and deletes its snapshots.
    async fn ami(&self, id: &str) -> Result<()> {
        let since = Instant::now();
        let found = patiently("the image", || async {
            let call = self.clients.ec2.describe_images().image_ids(id).send().await;
            match call.map_err(AwsError::of("ec2:DescribeImages")) {
                Ok(answer) => Ok(match answer.images.unwrap_or_default().into_iter().next() {
                    Some(image) => Probe::Ready(Some(image)),
                    None => missing(since, None),
                }),
                Err(error) if error.is(GONE_AMI) => Ok(missing(since, None)),
                Err(error) => Err(error.because(format!("cannot find {id}"))),
            }
        });
        match found.await? {
            Some(image) => self.image(&image).await,
            None => Ok(()),
        }
    }

    async fn image(&self, image: &Image) -> Result<()> {
        let Some(id) = image.image_id() else { return Ok(()) };
        let mapped = image.block_device_mappings().iter().filter_map(|device| device.ebs()?.snapshot_id());
        let mut snapshots: Vec<_> = mapped.map(str::to_owned).collect();
        let run = image.tags().iter().find(|tag| tag.key() == Some(tags::RUN)).and_then(|tag| tag.value());
        if let (true, Some(run)) = (snapshots.is_empty(), run) {
            // One that is still being made does not tell; its snapshots bear the tags it has.
            snapshots = self.snapshots_of(run).await?;
        }
        let call = self.clients.ec2.deregister_image().image_id(id).send().await;
        match call.map_err(AwsError::of("ec2:DeregisterImage")) {
            Ok(_) => {}
            Err(error) if error.is(GONE_AMI) => {}
            Err(error) => return Err(error.because(format!("cannot deregister {id}"))),
        }
        futures_util::future::try_join_all(snapshots.iter().map(|id| self.snapshot(id))).await.map(drop)
    }

    async fn snapshot(&self, id: &str) -> Result<()> {
        patiently("the removal of the snapshot", || async {
            let call = self.clients.ec2.delete_snapshot().snapshot_id(id).send().await;
            match call.map_err(AwsError::of("ec2:DeleteSnapshot")) {
                Ok(_) => Ok(Probe::Ready(())),
                Err(error) if error.is(&["InvalidSnapshot.NotFound"]) => Ok(Probe::Ready(())),
                // The deregistration is not known everywhere yet.
                Err(error) if error.is(&["InvalidSnapshot.InUse"]) => Ok(Probe::NotYet(error.to_string())),
                Err(error) => Err(error.because(format!("cannot delete {id}"))),
            }
        })
        .await
    }

    async fn volume(&self, id: &str) -> Result<()> {
        patiently("the removal of the volume", || async {
            let call = self.clients.ec2.delete_volume().volume_id(id).send().await;
            match call.map_err(AwsError::of("ec2:DeleteVolume")) {
                Ok(_) => Ok(Probe::Ready(())),
                Err(error) if error.is(&["InvalidVolume.NotFound"]) => Ok(Probe::Ready(())),
                // It goes with its instance, which is still shutting down.
                Err(error) if error.is(&["VolumeInUse", "IncorrectState"]) => Ok(Probe::NotYet(error.to_string())),
                Err(error) => Err(error.because(format!("cannot delete {id}"))),
            }
        })
        .await
    }

    async fn interface(&self, id: &str) -> Result<()> {
        patiently("the removal of the network interface", || async {
            let call = self.clients.ec2.delete_network_interface().network_interface_id(id).send().await;
            match call.map_err(AwsError::of("ec2:DeleteNetworkInterface")) {
                Ok(_) => Ok(Probe::Ready(())),
                Err(error) if error.is(&["InvalidNetworkInterfaceID.NotFound"]) => Ok(Probe::Ready(())),
                Err(error) if error.is(&["InvalidNetworkInterface.InUse", "InvalidParameterValue"]) => {
                    Ok(Probe::NotYet(error.to_string()))
                }
                Err(error) => Err(error.because(format!("cannot delete {id}"))),
            }
        })
        .await
    }

    async fn command(&self, id: &str, instance: &str) -> Result<()> {
        let call = self.clients.ssm.cancel_command().command_id(id).instance_ids(instance).send().await;
        match call.map_err(AwsError::of("ssm:CancelCommand")) {
            Ok(_) => Ok(()),
            Err(error) if error.is(&["InvalidCommandId", "InvalidInstanceId"]) => Ok(()),
            Err(error) => Err(error.because(format!("cannot cancel the command {id}"))),
        }
    }

    async fn object(&self, bucket: &str, key: &str) -> Result<()> {
        let call = self.clients.s3.delete_object().bucket(bucket).key(key).send().await;
        match call.map_err(AwsError::of("s3:DeleteObject")) {
            Ok(_) => Ok(()),
            Err(error) if error.is(&["NoSuchKey", "NoSuchBucket"]) => Ok(()),
            Err(error) => Err(error.because(format!("cannot delete s3://{bucket}/{key}"))),
        }
    }

    /// Everything that bears the run's tag: what lives first, then what it leaves behind.
    async fn of_run(&self, run: &RunId) -> Result<()> {
        let (instances, images) = tokio::try_join!(self.instances_of(&run.0), self.images_of(&run.0))?;
        if !instances.is_empty() {
            self.instances(instances).await?;
        }
        // A finished one may be another build's by now, which took it up.
        for image in images.iter().filter(|image| tags::unfinished(image.tags())) {
            self.image(image).await?;
        }
        let (snapshots, volumes, interfaces, groups) = tokio::try_join!(
            self.snapshots_of(&run.0),
            self.volumes_of(&run.0),
            self.interfaces_of(&run.0),
            self.groups_of(&run.0)
        )?;
        for id in &snapshots {
            self.snapshot(id).await?;
        }
        for id in &volumes {
            self.volume(id).await?;
        }
        for id in &interfaces {
            self.interface(id).await?;
        }
        for id in &groups {
            self.group(id).await?;
        }
        Ok(())
    }

    async fn instances_of(&self, run: &str) -> Result<Vec<String>> {
        listed(self.living([of(run)]).await, run)
    }

    /// Instances that are not on their way out already.
    async fn living(&self, filters: impl IntoIterator<Item = Filter>) -> Result<Vec<String>, AwsError> {
        let filters = filters.into_iter().chain([alive()]).collect();
        let call = self.clients.ec2.describe_instances().set_filters(Some(filters)).send().await;
        let found = call.map_err(AwsError::of("ec2:DescribeInstances"))?.reservations.unwrap_or_default();
        let found = found.into_iter().flat_map(|one| one.instances.unwrap_or_default());
        Ok(found.filter_map(|instance| instance.instance_id).collect())
    }

    async fn images_of(&self, run: &str) -> Result<Vec<Image>> {
        let call = self.clients.ec2.describe_images().owners("self").filters(of(run)).send().await;
        Ok(listed(call.map_err(AwsError::of("ec2:DescribeImages")), run)?.images.unwrap_or_default())
    }

    async fn snapshots_of(&self, run: &str) -> Result<Vec<String>> {
        let call = self.clients.ec2.describe_snapshots().owner_ids("self").filters(of(run)).send().await;
        let found = listed(call.map_err(AwsError::of("ec2:DescribeSnapshots")), run)?;
        // Those of a finished image stay with it.
        let unfinished = found.snapshots.unwrap_or_default().into_iter().filter(|one| tags::unfinished(one.tags()));
        Ok(unfinished.filter_map(|one| one.snapshot_id).collect())
    }

    async fn volumes_of(&self, run: &str) -> Result<Vec<String>> {
        let call = self.clients.ec2.describe_volumes().filters(of(run)).send().await;
        let found = listed(call.map_err(AwsError::of("ec2:DescribeVolumes")), run)?;
        Ok(found.volumes.unwrap_or_default().into_iter().filter_map(|one| one.volume_id).collect())
    }

    async fn interfaces_of(&self, run: &str) -> Result<Vec<String>> {
        let call = self.clients.ec2.describe_network_interfaces().filters(of(run)).send().await;
        let found = listed(call.map_err(AwsError::of("ec2:DescribeNetworkInterfaces")), run)?;
        Ok(found
            .network_interfaces
            .unwrap_or_default()
            .into_iter()
            .filter_map(|one| one.network_interface_id)
            .collect())
    }

    async fn groups_of(&self, run: &str) -> Result<Vec<String>> {
        let call = self.clients.ec2.describe_security_groups().filters(of(run)).send().await;
        let found = listed(call.map_err(AwsError::of("ec2:DescribeSecurityGroups")), run)?;
        Ok(found.security_groups.unwrap_or_default().into_iter().filter_map(|one| one.group_id).collect())
    }
}

const GONE_AMI: &[&str] = &["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"];

/// Instances that are not on their way out: what is shutting down goes, and takes its volumes along.
pub(super) fn alive() -> Filter {
    let states = ["pending", "running", "stopping", "stopped"].map(str::to_owned).to_vec();
    Filter::builder().name("instance-state-name").set_values(Some(states)).build()
}

/// Clients of another region of the same account.
pub(super) fn in_region(clients: &Clients, region: &str) -> Clients {
    let mut there = clients.clone();
    if region != clients.region {
        let at = || aws_config::Region::new(region.to_owned());
        region.clone_into(&mut there.region);
        there.autoscaling =
            aws_sdk_autoscaling::Client::from_conf(clients.autoscaling.config().to_builder().region(at()).build());
        there.cloudformation = aws_sdk_cloudformation::Client::from_conf(
            clients.cloudformation.config().to_builder().region(at()).build(),
        );
        there.ec2 = aws_sdk_ec2::Client::from_conf(clients.ec2.config().to_builder().region(at()).build());
        there.ssm = aws_sdk_ssm::Client::from_conf(clients.ssm.config().to_builder().region(at()).build());
        there.s3 = aws_sdk_s3::Client::from_conf(clients.s3.config().to_builder().region(at()).build());
    }
    there
}

/// The wait loop, without anybody who could interrupt it: an undo has its own deadline.
async fn patiently<T, F, Fut>(what: &str, probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Probe<T>>>,
{
    wait::until(what, IN_USE, &CancellationToken::new(), probe).await
}

/// What is still not found after a while is gone.
fn missing<T>(since: Instant, gone: T) -> Probe<T> {
    if since.elapsed() < UNKNOWN { Probe::NotYet("it is not found".to_owned()) } else { Probe::Ready(gone) }
}

fn ends(change: &aws_sdk_ec2::types::InstanceStateChange) -> bool {
    let state = change.current_state().and_then(|state| state.name());
    matches!(state, Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated))
}

fn of(run: &str) -> Filter {
    Filter::builder().name(format!("tag:{}", tags::RUN)).values(run).build()
}

fn listed<T>(answer: Result<T, AwsError>, run: &str) -> Result<T> {
    answer.map_err(|error| error.because(format!("cannot list what run {run} made")))
}
