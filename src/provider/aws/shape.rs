//! What is asked of EC2 for a machine, decided purely: which attempts in which order, and the request of each.
//!
//! Every security property of a machine is set here and nowhere else.

use std::time::Duration;

use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification, InstanceInterruptionBehavior,
    InstanceMarketOptionsRequest, InstanceMetadataEndpointState, InstanceMetadataOptionsRequest,
    InstanceMetadataTagsState, InstanceNetworkInterfaceSpecification, InstanceType, MarketType, ResourceType,
    ShutdownBehavior, SpotInstanceType, SpotMarketOptions, TagSpecification, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::error::AwsError;
use super::network::Subnet;
use super::tags;
use crate::bake::RunId;
use crate::error::{Error, Result};
use crate::plan::{AwsPlan, MachinePlan, Plan, VolumePlan};
use crate::release::Sha256;

/// What the machine does to itself when its bake is overdue.
const USER_DATA: &str = include_str!("../../../assets/aws/user-data.sh");
/// From the bake's deadline to the power-off: amibake ends a machine itself, and this is for when it cannot.
const OVERDUE: Duration = Duration::from_secs(15 * 60);
/// The same for a machine that a person wants to look at.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// EBS volumes of an image bear these names, those of the machine it is baked on are named from the other end: in an
/// image, a volume that the machine has at the same name would be a copy of it ("Device names for volumes on Amazon EC2
/// instances", User Guide: `/dev/sd[f-p]` are recommended).
const DEVICES: std::ops::RangeInclusive<char> = 'f'..='p';

/// How capacity is bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Market {
    /// Spare capacity that EC2 may take back.
    Spot,
    /// At the list price.
    OnDemand,
}

impl std::fmt::Display for Market {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Market::Spot => "spot",
            Market::OnDemand => "on demand",
        })
    }
}

/// One thing to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt<'a> {
    pub(super) market: Market,
    pub(super) instance_type: &'a str,
    pub(super) subnet: &'a Subnet,
}

impl std::fmt::Display for Attempt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} in {} ({})", self.instance_type, self.market, self.subnet.zone, self.subnet.id)
    }
}

/// Everything to ask for, in order: each type in each zone, and all of that on the spot market first if it is wanted.
pub(super) fn attempts<'a>(aws: &'a AwsPlan, subnets: &'a [Subnet]) -> Vec<Attempt<'a>> {
    let markets: &[Market] = if aws.spot { &[Market::Spot, Market::OnDemand] } else { &[Market::OnDemand] };
    let mut attempts = Vec::new();
    for market in markets {
        for instance_type in &aws.instance_types {
            attempts.extend(subnets.iter().map(|subnet| Attempt { market: *market, instance_type, subnet }));
        }
    }
    attempts
}

/// What an answer of RunInstances means for the attempts that are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not here: another zone may have it.
    Zone,
    /// Not this type from this market, wherever.
    Type,
}

/// Codes of EC2's API reference ("Error codes") that say: not this, but perhaps another.
const NOT_HERE: &[&str] = &[
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "SpotMaxPriceTooLow",
    // Also: "Your requested instance type is not supported in your requested Availability Zone".
    "Unsupported",
];
const NOT_THIS: &[&str] = &["VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"];

/// Whether another attempt may do where this one failed; none if not.
pub(super) fn refusal(error: &AwsError) -> Option<Refusal> {
    if error.is(NOT_HERE) {
        Some(Refusal::Zone)
    } else if error.is(NOT_THIS) {
        Some(Refusal::Type)
    } else {
        None
    }
}

/// Whether a code says that there is no capacity: EC2 says so with a status (500) that is otherwise worth a retry.
pub(super) fn is_capacity(code: &str) -> bool {
    NOT_HERE.contains(&code) || NOT_THIS.contains(&code)
}

/// When the machine's own clock powers it off, from its boot on.
pub(super) fn power_off_after(machine: &MachinePlan, outlive: bool) -> Duration {
    machine.timeout + if outlive { KEPT } else { OVERDUE }
}

/// When what belongs to the machine is nobody's any more: once it has powered itself off, or its image is overdue.
pub(super) fn expires(now: Timestamp, machine: &MachinePlan, outlive: bool) -> Timestamp {
    later(now, power_off_after(machine, outlive) + machine.image_timeout)
}

/// When an image that is not finished is nobody's any more: a day for the next build to adopt it.
pub(super) fn image_expires(now: Timestamp, machine: &MachinePlan) -> Timestamp {
    later(now, machine.image_timeout + KEPT)
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

/// What all attempts of one launch have in common.
pub(super) struct Order<'a> {
    pub(super) plan: &'a Plan,
    pub(super) aws: &'a AwsPlan,
    pub(super) run: &'a RunId,
    /// Which machine of the run it is.
    pub(super) member: u8,
    /// `ami-…`
    pub(super) image: &'a str,
    /// Whether the image is the base and not one that was baked: data volumes are in the mapping of that.
    pub(super) base: bool,
    /// `sg-…`
    pub(super) group: &'a str,
    pub(super) outlive: bool,
    pub(super) now: Timestamp,
}

impl Order<'_> {
    /// The request for attempt `number`.
    ///
    /// # Errors
    /// Exit 4 for more volumes than there are names for.
    pub(super) fn request(&self, attempt: &Attempt<'_>, number: usize) -> Result<RunInstancesInputBuilder> {
        let interface = InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(&attempt.subnet.id)
            .groups(self.group)
            .associate_public_ip_address(self.aws.public_address)
            .delete_on_termination(true)
            .build();
        let metadata = InstanceMetadataOptionsRequest::builder()
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .http_tokens(HttpTokensState::Required)
            .http_put_response_hop_limit(1)
            .instance_metadata_tags(InstanceMetadataTagsState::Disabled)
            .build();
        let profile = self.aws.instance_profile.as_deref().map(profile);
        let market = (attempt.market == Market::Spot).then(one_spot_instance);
        Ok(RunInstancesInput::builder()
            .client_token(self.token(attempt, number))
            .image_id(self.image)
            .instance_type(InstanceType::from(attempt.instance_type))
            .min_count(1)
            .max_count(1)
            .network_interfaces(interface)
            .metadata_options(metadata)
            .set_iam_instance_profile(profile)
            .set_instance_market_options(market)
            .set_block_device_mappings(Some(self.devices()?))
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .user_data(STANDARD.encode(self.user_data()))
            .set_tag_specifications(Some(self.tags())))
    }

    /// The same for the same attempt of the same machine, and for no other: asked for again after a lost answer, EC2 says
    /// what it said before; with another shape it would refuse. At most 64 ASCII characters.
    fn token(&self, attempt: &Attempt<'_>, number: usize) -> String {
        let text = format!("{}\n{}\n{number}\n{attempt}\n{}", self.run, self.member, self.image);
        Sha256::of(text.as_bytes()).to_string()
    }

    fn user_data(&self) -> String {
        let seconds = power_off_after(&self.plan.machine, self.outlive).as_secs();
        USER_DATA.replace("@seconds@", &seconds.to_string())
    }

    fn tags(&self) -> Vec<TagSpecification> {
        let tags = tags::of_run(self.plan, self.run, expires(self.now, &self.plan.machine, self.outlive));
        tags::specifications(&tags, [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface])
    }

    fn devices(&self) -> Result<Vec<BlockDeviceMapping>> {
        let root =
            EbsBlockDevice::builder().volume_size(gib(self.plan.machine.disk_bytes)).volume_type(VolumeType::Gp3);
        let mut devices = vec![device(&self.aws.root_device, self.encrypted(root))];
        if self.base {
            for (volume, name) in self.plan.volumes.iter().zip(machine_devices(&self.plan.volumes)?) {
                devices.push(device(&name, self.encrypted(blank(volume))));
            }
            devices.extend(self.aws.other_devices.iter().map(|name| without(name)));
        }
        Ok(devices)
    }

    fn encrypted(&self, device: aws_sdk_ec2::types::builders::EbsBlockDeviceBuilder) -> EbsBlockDevice {
        device.encrypted(true).set_kms_key_id(self.aws.kms_key.clone()).delete_on_termination(true).build()
    }
}

/// The mapping of an image of a machine that `base` was true for: data volumes as blank ones of the recipe's size, and
/// nothing else beside the root device.
///
/// # Errors
/// Exit 4 for more volumes than there are names for.
pub(super) fn image_devices(volumes: &[VolumePlan]) -> Result<Vec<BlockDeviceMapping>> {
    let blanks = volumes.iter().zip(DEVICES).map(|(volume, letter)| {
        // No key: a mapping of CreateImage takes none ("EbsBlockDevice", EC2 API reference).
        let ebs = blank(volume).encrypted(true).delete_on_termination(true).build();
        device(&device_name(letter), ebs)
    });
    let dropped = machine_devices(volumes)?;
    Ok(blanks.chain(dropped.iter().map(|name| without(name))).collect())
}

fn machine_devices(volumes: &[VolumePlan]) -> Result<Vec<String>> {
    let most = DEVICES.count() / 2;
    if volumes.len() > most {
        return Err(Error::host(format!("{} data volumes: there are device names for {most}", volumes.len())));
    }
    Ok(DEVICES.rev().take(volumes.len()).map(device_name).collect())
}

fn device_name(letter: char) -> String {
    format!("/dev/sd{letter}")
}

fn device(name: &str, ebs: EbsBlockDevice) -> BlockDeviceMapping {
    BlockDeviceMapping::builder().device_name(name).ebs(ebs).build()
}

fn without(name: &str) -> BlockDeviceMapping {
    BlockDeviceMapping::builder().device_name(name).no_device("").build()
}

fn blank(volume: &VolumePlan) -> aws_sdk_ec2::types::builders::EbsBlockDeviceBuilder {
    let size = gib(volume.size_bytes);
    let kind = VolumeType::from(volume.volume_type.as_str());
    // These two have no rate of their own: gp3's, as far as the size allows (50 for each GiB, "io1").
    let rate = matches!(kind, VolumeType::Io1 | VolumeType::Io2).then(|| size.saturating_mul(50).clamp(100, 3000));
    EbsBlockDevice::builder().volume_size(size).volume_type(kind).set_iops(rate)
}

/// Whole GiB, rounded up.
fn gib(bytes: u64) -> i32 {
    i32::try_from(bytes.div_ceil(1 << 30)).unwrap_or(i32::MAX)
}

fn profile(name: &str) -> IamInstanceProfileSpecification {
    let profile = IamInstanceProfileSpecification::builder();
    if name.starts_with("arn:") { profile.arn(name) } else { profile.name(name) }.build()
}

fn one_spot_instance() -> InstanceMarketOptionsRequest {
    let spot = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot).build()
}
