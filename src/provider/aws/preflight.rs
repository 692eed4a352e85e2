//! Everything that would fail later, found before anything is spent.
//!
//! First what would fail *late*: no way to Systems Manager, nothing that lets it in, no way for the tarball. Each of these
//! is a machine that is paid for and never answers. Then, only if one of them was found or the recipe names instance types
//! of its own, what EC2 refuses at once and for nothing when the machine is launched (a missing permission, a type that is
//! not offered): where all is well the launch itself is that question, and asking twice would be a call for nothing; where
//! something is wrong, this way all of it is told at once.

use aws_sdk_ec2::types::{Filter, IamInstanceProfileSpecification, InstanceType, LocationType, ResourceType};
use aws_sdk_ec2::types::{InstanceNetworkInterfaceSpecification, SecurityGroup, Tag, TagSpecification};

use super::base::ec2_name;
use super::client::Clients;
use super::error::AwsError;
use super::network::{self, Candidate};
use super::tags;
use crate::error::{Error, in_a_line};
use crate::plan::{AwsPlan, Plan};
use crate::provider::{Finding, Severity};
use crate::recipe::MachineSpec;
use crate::release::{Arch, Mirror};

/// The setting that says which role Systems Manager gives to machines without a profile ("Default Host Management
/// Configuration", Systems Manager User Guide).
const HOST_MANAGEMENT: &str = "/ssm/managed-instance/default-ec2-instance-management-role";
/// Its value where it is off.
const NO_ROLE: &str = "$None";

/// All findings at once. Where all is well: subnets, routes, and the profile or Default Host Management, that is three
/// calls for all bakes of this process together; one more each for a security group that the recipe names and for
/// endpoints where no route leads out.
pub(super) async fn preflight(clients: &Clients, plan: &Plan, mirror: Option<&Mirror>) -> Vec<Finding> {
    let Some(aws) = &plan.aws else {
        return vec![refuse("this plan is for another provider than aws", "plan it with --provider aws")];
    };
    let (network, trust, group) = tokio::join!(network(clients, aws), trust(clients, aws), group(clients, aws));
    let mut findings = network.findings;
    findings.extend(trust);
    findings.extend(group_findings(aws, group, network.candidates.first()));
    findings.extend(delivery(plan, aws, mirror, network.leads_out));
    let refused = |findings: &[Finding]| findings.iter().any(|finding| finding.severity == Severity::Refuse);
    if refused(&findings) || own_types(&aws.instance_types, plan.arch) {
        findings.extend(types(clients, aws, plan.arch, &network.candidates).await);
    }
    if refused(&findings) {
        findings.extend(permission(clients, plan, aws, network.candidates.first()).await);
    }
    findings
}

fn refuse(message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Refuse, message: message.into(), hint: Some(hint.into()) }
}

fn warn(message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warn, message: message.into(), hint: Some(hint.into()) }
}

/// What could not be looked at, and may be fine all the same.
fn unknown(error: AwsError, what: &str) -> Finding {
    Finding { severity: Severity::Warn, ..of_error(&error.because(what)) }
}

fn of_error(error: &Error) -> Finding {
    let hint = error.hint().map(str::to_owned);
    Finding { severity: Severity::Refuse, message: in_a_line(error), hint }
}

struct Network {
    candidates: Vec<Candidate>,
    /// Whether machines get out of one of them; not known if the subnets are not.
    leads_out: Option<bool>,
    findings: Vec<Finding>,
}

async fn network(clients: &Clients, aws: &AwsPlan) -> Network {
    let candidates = match network::candidates(clients, aws).await {
        Ok(candidates) => candidates,
        Err(error) => return Network { candidates: Vec::new(), leads_out: None, findings: vec![of_error(&error)] },
    };
    match network::ways(clients, &candidates, aws.public_address).await {
        Ok(ways) => {
            let findings = network::reachability(&ways, &candidates, aws, &clients.region);
            let leads = candidates.iter().any(|candidate| ways.leads_out(&candidate.subnet, aws.public_address));
            Network { candidates, leads_out: Some(leads), findings }
        }
        Err(error) => {
            let mut finding = of_error(&error);
            finding.severity = Severity::Warn;
            Network { candidates, leads_out: None, findings: vec![finding] }
        }
    }
}

/// Whether anything lets Systems Manager into the machine.
async fn trust(clients: &Clients, aws: &AwsPlan) -> Option<Finding> {
    let question = aws.instance_profile.clone().unwrap_or_default();
    let asked = clients.known.trust.get(question, || async {
        Ok::<_, std::convert::Infallible>(match &aws.instance_profile {
            Some(profile) => self::profile(clients, profile).await,
            None => host_management(clients).await,
        })
    });
    match asked.await {
        Ok(finding) => finding,
        Err(never) => match never {},
    }
}

async fn profile(clients: &Clients, name: &str) -> Option<Finding> {
    let call = clients.iam.get_instance_profile().instance_profile_name(name).send().await;
    match call.map_err(AwsError::of("iam:GetInstanceProfile")) {
        Ok(answer) => answer.instance_profile.is_none_or(|profile| profile.roles.is_empty()).then(|| {
            refuse(
                format!("the instance profile `{name}` has no role"),
                format!("`aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name …`"),
            )
        }),
        Err(error) if error.is(&["NoSuchEntity"]) => Some(refuse(
            format!("there is no instance profile `{name}`"),
            "a role and its profile may have different names: `aws iam list-instance-profiles`; \
             `amibake render iam-policy --instance` prints what the role must allow",
        )),
        Err(error) => Some(unknown(error, "cannot look at the instance profile")),
    }
}

async fn host_management(clients: &Clients) -> Option<Finding> {
    let call = clients.ssm.get_service_setting().setting_id(HOST_MANAGEMENT).send().await;
    match call.map_err(AwsError::of("ssm:GetServiceSetting")) {
        Ok(answer) => {
            let role = answer.service_setting.and_then(|setting| setting.setting_value).unwrap_or_default();
            (role.is_empty() || role == NO_ROLE).then(|| not_let_in(clients))
        }
        Err(error) if error.is(&["ServiceSettingNotFound"]) => Some(not_let_in(clients)),
        Err(error) => Some(unknown(error, "cannot find out whether Default Host Management is on")),
    }
}

fn not_let_in(clients: &Clients) -> Finding {
    refuse(
        format!(
            "nothing lets Systems Manager into the machine: the recipe names no instance profile, and Default Host \
             Management is off in {}",
            clients.region
        ),
        "name one with `instance_profile` in `[machine.aws]` (its role needs AmazonSSMManagedInstanceCore, or what \
         `amibake render iam-policy --instance` prints), or turn Default Host Management on",
    )
}

/// The security group that the recipe names.
async fn group(clients: &Clients, aws: &AwsPlan) -> Option<Result<SecurityGroup, Finding>> {
    let id = aws.security_group.as_ref()?;
    let missing = || {
        refuse(
            format!("there is no security group {id} in {}", clients.region),
            "`security_group` in `[machine.aws]` names one of this region; left out, amibake makes a temporary one",
        )
    };
    let call = clients.ec2.describe_security_groups().group_ids(id).send().await;
    Some(match call.map_err(AwsError::of("ec2:DescribeSecurityGroups")) {
        Ok(answer) => answer.security_groups.and_then(|groups| groups.into_iter().next()).ok_or_else(missing),
        Err(error) if error.is(&["InvalidGroup.NotFound", "InvalidGroupId.Malformed"]) => Err(missing()),
        Err(error) => Err(unknown(error, "cannot look at the security group")),
    })
}

fn group_findings(
    aws: &AwsPlan,
    group: Option<Result<SecurityGroup, Finding>>,
    candidate: Option<&Candidate>,
) -> Vec<Finding> {
    let (Some(group), Some(id)) = (group, &aws.security_group) else { return Vec::new() };
    let group = match group {
        Ok(group) => group,
        Err(finding) => return vec![finding],
    };
    let mut findings = Vec::new();
    if let (Some(vpc), Some(candidate)) = (group.vpc_id(), candidate)
        && vpc != candidate.subnet.vpc
    {
        findings.push(refuse(
            format!(
                "the security group {id} is in {vpc}, the subnet {} in {}",
                candidate.subnet.id, candidate.subnet.vpc
            ),
            "a machine's groups are in the VPC of its subnet",
        ));
    }
    if !group.ip_permissions().is_empty() {
        findings.push(refuse(
            format!("the security group {id} has inbound rules"),
            "Systems Manager needs none, and nothing else has any business on the machine: name a group without, or \
             leave `security_group` out for a temporary one",
        ));
    }
    if group.ip_permissions_egress().is_empty() {
        findings.push(refuse(
            format!("the security group {id} lets nothing out"),
            "the agent connects to Systems Manager by HTTPS: allow 443 outbound",
        ));
    }
    findings
}

/// Whether the tarball gets to the machine.
fn delivery(plan: &Plan, aws: &AwsPlan, mirror: Option<&Mirror>, leads_out: Option<bool>) -> Option<Finding> {
    let needed = plan.steps.iter().any(|step| step.kind == "buildkit");
    if !needed || aws.delivery_bucket.is_some() {
        return None;
    }
    if let Some(Mirror::Dir(folder)) = mirror {
        return Some(refuse(
            format!("an instance cannot fetch the tarball from {}, a folder of this machine", folder.display()),
            "name a bucket for it to travel through (`bucket` in `[delivery]`), or a mirror with an address",
        ));
    }
    (leads_out == Some(false)).then(|| {
        refuse(
            "the machine cannot fetch the tarball: no route leads from its subnet to the internet",
            "name a bucket for it to travel through (`bucket` in `[delivery]`; the VPC needs an endpoint for S3), or \
             choose a subnet with a NAT gateway",
        )
    })
}

/// Whether the recipe names other instance types than amibake does by itself.
fn own_types(types: &[String], arch: Arch) -> bool {
    let usual = MachineSpec::default().aws.instance_types;
    let usual = usual.get(arch).cloned().unwrap_or_default();
    types.iter().any(|name| !usual.contains(name))
}

/// Whether the instance types exist, fit the architecture, and are offered where the machine may be launched.
async fn types(clients: &Clients, aws: &AwsPlan, arch: Arch, candidates: &[Candidate]) -> Vec<Finding> {
    let names = |key: &str| Filter::builder().name(key).set_values(Some(aws.instance_types.clone())).build();
    let offered = clients
        .ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(names("instance-type"))
        .send();
    let fitting = clients
        .ec2
        .describe_instance_types()
        .filters(names("instance-type"))
        .filters(Filter::builder().name("processor-info.supported-architecture").values(ec2_name(arch)).build())
        .send();
    let (offered, fitting) = tokio::join!(offered, fitting);
    let offered = match offered.map_err(AwsError::of("ec2:DescribeInstanceTypeOfferings")) {
        Ok(answer) => answer.instance_type_offerings.unwrap_or_default(),
        Err(error) => return vec![unknown(error, "cannot find out where instance types are offered")],
    };
    let fitting = match fitting.map_err(AwsError::of("ec2:DescribeInstanceTypes")) {
        Ok(answer) => answer.instance_types.unwrap_or_default(),
        Err(error) => return vec![unknown(error, "cannot look at the instance types")],
    };
    let offered: Vec<(&str, &str)> =
        offered.iter().filter_map(|offer| Some((offer.instance_type()?.as_str(), offer.location()?))).collect();
    let fitting: Vec<_> = fitting.iter().filter_map(|kind| kind.instance_type().map(InstanceType::as_str)).collect();
    let zones: Vec<_> = candidates.iter().map(|candidate| candidate.subnet.zone.as_str()).collect();
    type_findings(&aws.instance_types, &offered, &fitting, &zones, arch, &clients.region)
}

fn type_findings(
    types: &[String],
    offered: &[(&str, &str)],
    fitting: &[&str],
    zones: &[&str],
    arch: Arch,
    region: &str,
) -> Vec<Finding> {
    let own = own_types(types, arch);
    let mut findings = Vec::new();
    let (known, unknown): (Vec<_>, Vec<_>) =
        types.iter().map(String::as_str).partition(|name| offered.iter().any(|(offer, _)| offer == name));
    // With another one to launch, one that is not offered is only never used; of amibake's own list nobody needs to know.
    if !unknown.is_empty() && (known.is_empty() || own) {
        let one = if unknown.len() == 1 { "type" } else { "types" };
        let verb = if unknown.len() == 1 { "is" } else { "are" };
        findings.push(if known.is_empty() { refuse } else { warn }(
            format!("the instance {one} {} {verb} not offered in {region}", unknown.join(", ")),
            "`instance_types` in `[machine.aws]` are tried in their order",
        ));
    }
    for name in known.iter().filter(|name| !fitting.contains(name)) {
        findings.push(refuse(
            format!("the instance type {name} is not for {arch}"),
            "give types for each architecture: `instance_types.amd64 = […]`, `instance_types.arm64 = […]`",
        ));
    }
    let here = |name: &&str| offered.iter().any(|(offer, zone)| offer == name && zones.contains(zone));
    if !known.is_empty() && !zones.is_empty() && !known.iter().any(here) {
        let mut elsewhere: Vec<_> = offered.iter().map(|(_, zone)| *zone).collect();
        elsewhere.sort_unstable();
        elsewhere.dedup();
        findings.push(refuse(
            format!("{} offers none of the instance types {}", zones.join(", "), known.join(", ")),
            format!("they are offered in {}: choose a subnet there, or other types", elsewhere.join(", ")),
        ));
    }
    findings
}

/// Whether the launch would be allowed: asked of EC2 itself, which launches nothing.
async fn permission(clients: &Clients, plan: &Plan, aws: &AwsPlan, candidate: Option<&Candidate>) -> Option<Finding> {
    let subnet = &candidate?.subnet;
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let tagged = |kind: &ResourceType| {
        let run = tag(tags::RUN, "preflight");
        TagSpecification::builder().resource_type(kind.clone()).tags(run).tags(tag(tags::RECIPE, &plan.recipe)).build()
    };
    let kinds = [ResourceType::Instance, ResourceType::Volume, ResourceType::NetworkInterface];
    let profile = aws.instance_profile.as_ref();
    let interface = InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&subnet.id)
        .set_groups(aws.security_group.as_ref().map(|group| vec![group.clone()]))
        .associate_public_ip_address(aws.public_address);
    let call = clients
        .ec2
        .run_instances()
        .dry_run(true)
        .min_count(1)
        .max_count(1)
        .image_id(&plan.base.location)
        .set_instance_type(aws.instance_types.first().map(|name| InstanceType::from(name.as_str())))
        .network_interfaces(interface.build())
        .set_iam_instance_profile(profile.map(|name| IamInstanceProfileSpecification::builder().name(name).build()))
        .set_tag_specifications(Some(kinds.iter().map(tagged).collect()));
    // EC2 answers every dry run with an error, which says what would have been.
    let error = call.send().await.map_err(AwsError::of("ec2:RunInstances")).err()?;
    error.is(&["UnauthorizedOperation"]).then(|| {
        refuse(
            format!("the launch of the machine would not be allowed: {error}"),
            "the credentials lack `ec2:RunInstances` for it, or `iam:PassRole` for the profile's role: \
             `amibake render iam-policy` prints the whole policy",
        )
    })
}

#[cfg(test)]
mod tests;
