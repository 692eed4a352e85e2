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
use super::error::{AwsError, in_a_line};
use super::network::{self, Candidate};
use super::tags;
use crate::error::Error;
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
mod tests {
    use aws_sdk_ec2::operation::describe_instance_type_offerings::DescribeInstanceTypeOfferingsOutput;
    use aws_sdk_ec2::operation::describe_instance_types::DescribeInstanceTypesOutput;
    use aws_sdk_ec2::operation::describe_route_tables::DescribeRouteTablesOutput;
    use aws_sdk_ec2::operation::describe_security_groups::DescribeSecurityGroupsOutput;
    use aws_sdk_ec2::operation::describe_subnets::{DescribeSubnetsError, DescribeSubnetsOutput};
    use aws_sdk_ec2::operation::describe_vpc_endpoints::DescribeVpcEndpointsOutput;
    use aws_sdk_ec2::operation::run_instances::RunInstancesError;
    use aws_sdk_ec2::types::{
        InstanceTypeInfo, InstanceTypeOffering, IpPermission, Route, RouteState, RouteTable, RouteTableAssociation,
        State, Subnet, VpcEndpoint, VpcEndpointType,
    };
    use aws_sdk_iam::operation::get_instance_profile::{GetInstanceProfileError, GetInstanceProfileOutput};
    use aws_sdk_ssm::operation::get_service_setting::{GetServiceSettingError, GetServiceSettingOutput};
    use aws_sdk_ssm::types::ServiceSetting;
    use aws_smithy_mocks::{Rule, mock};
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::provider::aws::testing::{mocked, planned};

    const STEP: &str = "[[step]]\nkind = \"buildkit\"\nname = \"Install\"\nmembers = [\"bin/buildctl\"]\n";

    fn failure(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message("the service's own words").build()
    }

    fn subnets(zones: &'static [(&'static str, &'static str)]) -> Rule {
        mock!(aws_sdk_ec2::Client::describe_subnets).then_output(move || {
            let subnet = |(id, zone): &(&str, &str)| {
                let subnet = Subnet::builder().subnet_id(*id).availability_zone(*zone).vpc_id("vpc-1");
                subnet.available_ip_address_count(250).build()
            };
            DescribeSubnetsOutput::builder().set_subnets(Some(zones.iter().map(subnet).collect())).build()
        })
    }

    fn one_subnet() -> Rule {
        subnets(&[("subnet-a", "us-east-1a")])
    }

    /// The main table leads to `main`, subnet-b's own to a NAT gateway.
    fn routes(main: Option<&'static str>) -> Rule {
        mock!(aws_sdk_ec2::Client::describe_route_tables).then_output(move || {
            let route = |to: &str| {
                let route = Route::builder().destination_cidr_block("0.0.0.0/0");
                match to {
                    "blackhole" => route.nat_gateway_id("nat-gone").state(RouteState::Blackhole),
                    to if to.starts_with("nat") => route.nat_gateway_id(to).state(RouteState::Active),
                    to => route.gateway_id(to).state(RouteState::Active),
                }
                .build()
            };
            let local = Route::builder().destination_cidr_block("10.0.0.0/16").gateway_id("local").build();
            let is_main = RouteTableAssociation::builder().main(true).build();
            let of_b = RouteTableAssociation::builder().subnet_id("subnet-b").build();
            let table = RouteTable::builder().routes(local.clone()).associations(is_main);
            let table = main.into_iter().fold(table, |table, to| table.routes(route(to)));
            let other = RouteTable::builder().routes(local).routes(route("nat-1")).associations(of_b).build();
            DescribeRouteTablesOutput::builder().route_tables(table.build()).route_tables(other).build()
        })
    }

    fn endpoints(services: &'static [&'static str]) -> Rule {
        mock!(aws_sdk_ec2::Client::describe_vpc_endpoints).then_output(move || {
            let endpoint = |service: &&str| {
                let endpoint = VpcEndpoint::builder().service_name(format!("com.amazonaws.us-east-1.{service}"));
                let endpoint = endpoint.vpc_endpoint_type(VpcEndpointType::Interface).private_dns_enabled(true);
                endpoint.state(State::Available).build()
            };
            DescribeVpcEndpointsOutput::builder()
                .set_vpc_endpoints(Some(services.iter().map(endpoint).collect()))
                .build()
        })
    }

    fn host_management(role: &'static str) -> Rule {
        mock!(aws_sdk_ssm::Client::get_service_setting).then_output(move || {
            let setting = ServiceSetting::builder().setting_value(role).build();
            GetServiceSettingOutput::builder().service_setting(setting).build()
        })
    }

    fn role_of_profile(has: bool) -> Rule {
        use aws_sdk_iam::types::{InstanceProfile, Role};
        mock!(aws_sdk_iam::Client::get_instance_profile).then_output(move || {
            let date = aws_smithy_types::DateTime::from_secs(0);
            let role = Role::builder().path("/").role_name("r").role_id("AROA").arn("arn:x").create_date(date);
            let profile = InstanceProfile::builder()
                .path("/")
                .instance_profile_name("p")
                .instance_profile_id("AIPA")
                .arn("arn:x")
                .create_date(date)
                .set_roles(Some(if has { vec![role.build().unwrap()] } else { Vec::new() }));
            GetInstanceProfileOutput::builder().instance_profile(profile.build().unwrap()).build()
        })
    }

    fn offered(offers: &'static [(&'static str, &'static str)]) -> Rule {
        mock!(aws_sdk_ec2::Client::describe_instance_type_offerings).then_output(move || {
            let offer = |(name, zone): &(&str, &str)| {
                InstanceTypeOffering::builder().instance_type(InstanceType::from(*name)).location(*zone).build()
            };
            let offers = offers.iter().map(offer).collect();
            DescribeInstanceTypeOfferingsOutput::builder().set_instance_type_offerings(Some(offers)).build()
        })
    }

    fn fitting(names: &'static [&'static str]) -> Rule {
        mock!(aws_sdk_ec2::Client::describe_instance_types).then_output(move || {
            let kind = |name: &&str| InstanceTypeInfo::builder().instance_type(InstanceType::from(*name)).build();
            DescribeInstanceTypesOutput::builder().set_instance_types(Some(names.iter().map(kind).collect())).build()
        })
    }

    fn usual_types() -> [Rule; 2] {
        [offered(&[("m7i.large", "us-east-1a"), ("m6i.large", "us-east-1a")]), fitting(&["m7i.large", "m6i.large"])]
    }

    fn dry_run(code: &'static str) -> Rule {
        mock!(aws_sdk_ec2::Client::run_instances)
            .match_requests(|request| request.dry_run() == Some(true))
            .then_error(move || RunInstancesError::generic(failure(code)))
    }

    async fn told(rules: &[&Rule], recipe: &str, mirror: Option<&Mirror>) -> String {
        let findings = preflight(&mocked(rules), &planned(recipe), mirror).await;
        let line = |finding: &Finding| {
            let hint = finding.hint.as_deref().unwrap_or("-");
            format!("{:?}: {}\n  hint: {hint}\n", finding.severity, finding.message)
        };
        findings.iter().map(line).collect()
    }

    #[tokio::test]
    async fn where_all_is_well_three_calls_for_all_bakes_together() {
        let rules = [subnets(&[("subnet-b", "us-east-1b")]), routes(None), host_management("service-role/x")];
        let rules: Vec<_> = rules.iter().collect();
        let (clients, plan) = (mocked(&rules), planned(STEP));
        let (one, other) = tokio::join!(preflight(&clients, &plan, None), preflight(&clients, &plan, None));
        assert_eq!((one, other), (Vec::new(), Vec::new()));
        assert_eq!(rules.iter().map(|rule| rule.num_calls()).collect::<Vec<_>>(), [1, 1, 1]);
        let aws = plan.aws.unwrap();
        assert_eq!(network::subnets(&clients, &aws).await.unwrap().len(), 1);
        assert_eq!(rules[0].num_calls(), 1);
    }

    #[tokio::test]
    async fn what_stands_between_a_subnet_and_systems_manager() {
        let trusted = host_management("service-role/x");
        let [offers, fits] = usual_types();
        let may = dry_run("DryRunOperation");
        let all = |subnets: Rule, routes: Rule, endpoints: Rule| [subnets, routes, endpoints];
        let cases = [
            ("internet gateway", all(one_subnet(), routes(Some("igw-1")), endpoints(&[])), ""),
            (
                "internet gateway, public",
                all(one_subnet(), routes(Some("igw-1")), endpoints(&[])),
                "machine.aws.public_address = true",
            ),
            (
                "no route, half of the endpoints",
                all(one_subnet(), routes(None), endpoints(&["ssm", "ec2messages"])),
                "",
            ),
            ("no route, endpoints", all(one_subnet(), routes(None), endpoints(&["ssm", "ssmmessages"])), ""),
            ("blackhole", all(one_subnet(), routes(Some("blackhole")), endpoints(&[])), ""),
            ("VPN", all(one_subnet(), routes(Some("vgw-1")), endpoints(&[])), ""),
            (
                "one of two",
                all(subnets(&[("subnet-b", "us-east-1b"), ("subnet-a", "us-east-1a")]), routes(None), endpoints(&[])),
                "",
            ),
        ];
        let mut text = String::new();
        for (name, rules, recipe) in cases {
            let rules: Vec<_> = rules.iter().chain([&trusted, &offers, &fits, &may]).collect();
            text.push_str(&format!("[{name}]\n{}", told(&rules, recipe, None).await));
        }
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn of_several_subnets_only_those_that_lead_there_are_launched_in() {
        let rules = [
            subnets(&[("subnet-b", "us-east-1b"), ("subnet-a", "us-east-1a")]),
            routes(None),
            endpoints(&[]),
            host_management("service-role/x"),
        ];
        let (clients, plan) = (mocked(&rules.iter().collect::<Vec<_>>()), planned(""));
        let aws = plan.aws.clone().unwrap();
        let ids = |subnets: Vec<network::Subnet>| subnets.into_iter().map(|one| one.id).collect::<Vec<_>>();
        // Before anybody has looked, and in order of the zones.
        assert_eq!(ids(network::subnets(&clients, &aws).await.unwrap()), ["subnet-a", "subnet-b"]);
        preflight(&clients, &plan, None).await;
        assert_eq!(ids(network::subnets(&clients, &aws).await.unwrap()), ["subnet-b"]);
    }

    #[tokio::test]
    async fn subnets_that_are_not_there() {
        let missing = mock!(aws_sdk_ec2::Client::describe_subnets)
            .then_error(|| DescribeSubnetsError::generic(failure("InvalidSubnetID.NotFound")));
        let none = subnets(&[]);
        let full = mock!(aws_sdk_ec2::Client::describe_subnets).then_output(|| {
            let subnet = Subnet::builder().subnet_id("subnet-a").vpc_id("vpc-1").available_ip_address_count(0);
            DescribeSubnetsOutput::builder().subnets(subnet.build()).build()
        });
        let trusted = host_management("service-role/x");
        let [offers, fits] = usual_types();
        let mut text = String::new();
        for (subnets, recipe) in [
            (&missing, "machine.aws.subnet = \"subnet-0123456789abcdef0\""),
            (&none, ""),
            (&none, "[machine.aws.subnet_tags]\nuse = \"bakes\""),
            (&full, ""),
        ] {
            text.push_str(&told(&[subnets, &trusted, &offers, &fits], recipe, None).await);
        }
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn what_lets_systems_manager_in() {
        let [offers, fits] = usual_types();
        let network = [subnets(&[("subnet-b", "us-east-1a")]), routes(None)];
        let may = dry_run("DryRunOperation");
        let profile = |code: &'static str| {
            mock!(aws_sdk_iam::Client::get_instance_profile)
                .then_error(move || GetInstanceProfileError::generic(failure(code)))
        };
        let unknown = mock!(aws_sdk_ssm::Client::get_service_setting)
            .then_error(|| GetServiceSettingError::generic(failure("AccessDeniedException")));
        let named = "machine.aws.instance_profile = \"bakes\"";
        let mut text = String::new();
        for (name, rule, recipe) in [
            ("profile", role_of_profile(true), named),
            ("no such profile", profile("NoSuchEntity"), named),
            ("no role", role_of_profile(false), named),
            ("may not look", profile("AccessDenied"), named),
            ("host management is off", host_management("$None"), ""),
            ("may not look", unknown, ""),
        ] {
            let rules: Vec<_> = network.iter().chain([&rule, &offers, &fits, &may]).collect();
            text.push_str(&format!("[{name}]\n{}", told(&rules, recipe, None).await));
        }
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn everything_that_is_wrong_is_told_at_once() {
        let group = mock!(aws_sdk_ec2::Client::describe_security_groups).then_output(|| {
            let group = SecurityGroup::builder().group_id("sg-0123456789abcdef0").vpc_id("vpc-2");
            let group = group.ip_permissions(IpPermission::builder().ip_protocol("tcp").from_port(22).build());
            DescribeSecurityGroupsOutput::builder().security_groups(group.build()).build()
        });
        let rules = [
            one_subnet(),
            routes(None),
            endpoints(&[]),
            host_management("$None"),
            group,
            offered(&[("m7i.large", "us-east-1b"), ("m7g.large", "us-east-1b")]),
            fitting(&["m7i.large"]),
            dry_run("UnauthorizedOperation"),
        ];
        let recipe = format!(
            "{STEP}[machine.aws]\nsecurity_group = \"sg-0123456789abcdef0\"\n\
             instance_types.amd64 = [\"m9x.large\", \"m7i.large\", \"m7g.large\"]"
        );
        let text = told(&rules.iter().collect::<Vec<_>>(), &recipe, Some(&Mirror::Dir("/mirror".into()))).await;
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn a_folder_is_no_mirror_for_an_instance_unless_a_bucket_is_between() {
        let rules = [
            subnets(&[("subnet-b", "us-east-1a")]),
            routes(None),
            host_management("service-role/x"),
            dry_run("DryRunOperation"),
        ];
        let [offers, fits] = usual_types();
        let rules: Vec<_> = rules.iter().chain([&offers, &fits]).collect();
        let folder = Mirror::Dir("/mirror".into());
        let refused = told(&rules, STEP, Some(&folder)).await;
        assert!(refused.contains("an instance cannot fetch the tarball from /mirror"), "{refused}");
        assert_eq!(told(&rules, &format!("delivery.bucket = \"tarballs\"\n{STEP}"), Some(&folder)).await, "");
        // Nothing is to be fetched.
        assert_eq!(told(&rules, "", Some(&folder)).await, "");
    }
}
