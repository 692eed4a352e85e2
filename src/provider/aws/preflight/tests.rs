//! Each thing that would fail later, and how it is told.

use aws_sdk_ec2::operation::describe_instance_type_offerings::DescribeInstanceTypeOfferingsOutput;
use aws_sdk_ec2::operation::describe_instance_types::DescribeInstanceTypesOutput;
use aws_sdk_ec2::operation::describe_route_tables::DescribeRouteTablesOutput;
use aws_sdk_ec2::operation::describe_security_groups::DescribeSecurityGroupsOutput;
use aws_sdk_ec2::operation::describe_subnets::{DescribeSubnetsError, DescribeSubnetsOutput};
use aws_sdk_ec2::operation::describe_vpc_endpoints::DescribeVpcEndpointsOutput;
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_sdk_ec2::types::{
    InstanceTypeInfo, InstanceTypeOffering, IpPermission, Route, RouteState, RouteTable, RouteTableAssociation, State,
    Subnet, VpcEndpoint, VpcEndpointType,
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
        DescribeVpcEndpointsOutput::builder().set_vpc_endpoints(Some(services.iter().map(endpoint).collect())).build()
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
        ("no route, half of the endpoints", all(one_subnet(), routes(None), endpoints(&["ssm", "ec2messages"])), ""),
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
