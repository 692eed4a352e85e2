//! Where a machine can be launched, and whether it reaches Systems Manager from there: by a route to the internet, or by
//! the VPC's own endpoints. What is told here in a second would otherwise be a machine that never answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_ec2::types::{Filter, Route, RouteState, RouteTable, State, SubnetState, VpcEndpoint, VpcEndpointType};

use super::client::Clients;
use super::error::AwsError;
use crate::error::{Error, Result};
use crate::plan::AwsPlan;
use crate::provider::{Finding, Severity};

/// A subnet that a machine may be launched in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subnet {
    /// `subnet-…`
    pub(super) id: String,
    /// `us-east-1a`
    pub(super) zone: String,
    /// `vpc-…`
    pub(super) vpc: String,
}

/// A subnet that the plan chooses, whether or not a machine gets anywhere from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) subnet: Subnet,
    /// Addresses that are free.
    free: i32,
}

/// The subnets a machine may be launched in, all in one VPC, in order of their zones: the one the plan names, those with
/// its tags, or the default VPC's; where there are several, without those from which Systems Manager cannot be reached, if
/// the preflight has looked.
///
/// # Errors
/// Exit 4 when there is none.
pub(super) async fn subnets(clients: &Clients, aws: &AwsPlan) -> Result<Vec<Subnet>> {
    let candidates = candidates(clients, aws).await?;
    let ways = candidates.first().and_then(|first| Ways::known(clients, &first.subnet.vpc));
    let all: Vec<_> = candidates.into_iter().map(|candidate| candidate.subnet).collect();
    let leads = |subnet: &&Subnet| ways.as_ref().is_none_or(|ways| ways.obstacle(subnet, aws.public_address).is_none());
    let usable: Vec<_> = all.iter().filter(leads).cloned().collect();
    Ok(if usable.is_empty() { all } else { usable })
}

/// The subnets that the plan chooses: at least one, all in one VPC, in order of their zones.
///
/// # Errors
/// Exit 4 when there is none.
pub(super) async fn candidates(clients: &Clients, aws: &AwsPlan) -> Result<Vec<Candidate>> {
    let question = format!("{:?} {:?}", aws.subnet, aws.subnet_tags);
    clients.known.subnets.get(question, || choose(clients, aws)).await
}

async fn choose(clients: &Clients, aws: &AwsPlan) -> Result<Vec<Candidate>> {
    let call = clients.ec2.describe_subnets();
    let call = match &aws.subnet {
        Some(id) => call.subnet_ids(id),
        None => call.set_filters(Some(filters(&aws.subnet_tags))),
    };
    let answer = call.send().await.map_err(AwsError::of("ec2:DescribeSubnets")).map_err(|error| {
        match (&aws.subnet, error.is(&["InvalidSubnetID.NotFound"])) {
            (Some(id), true) => error
                .because(format!("there is no subnet {id} in {}", clients.region))
                .with_hint("`subnet` in `[machine.aws]` names one of this region and account"),
            _ => error.because("cannot find a subnet for the machine"),
        }
    })?;
    let mut found: Vec<_> = answer
        .subnets()
        .iter()
        .filter(|subnet| subnet.state() != Some(&SubnetState::Pending))
        .filter_map(|subnet| {
            let (id, vpc) = (subnet.subnet_id()?.to_owned(), subnet.vpc_id()?.to_owned());
            let zone = subnet.availability_zone().unwrap_or_default().to_owned();
            let free = subnet.available_ip_address_count().unwrap_or(i32::MAX);
            Some(Candidate { subnet: Subnet { id, zone, vpc }, free })
        })
        .collect();
    found.sort_by(|one, other| (&one.subnet.zone, &one.subnet.id).cmp(&(&other.subnet.zone, &other.subnet.id)));
    // A security group is in one VPC, so the machine is too.
    let Some(vpc) = found.first().map(|first| first.subnet.vpc.clone()) else { return Err(none_found(clients, aws)) };
    found.retain(|candidate| candidate.subnet.vpc == vpc);
    let all = found.clone();
    found.retain(|candidate| candidate.free > 0);
    match (found.is_empty(), all.first()) {
        (true, Some(first)) => Err(Error::host(format!("no address is free in {}", first.subnet.id))
            .with_hint("choose another subnet with `subnet` or `subnet_tags` in `[machine.aws]`")),
        _ => Ok(found),
    }
}

fn none_found(clients: &Clients, aws: &AwsPlan) -> Error {
    if aws.subnet_tags.is_empty() {
        return Error::host(format!("{} has no default VPC with a subnet", clients.region)).with_hint(
            "choose a subnet with `subnet` or `subnet_tags` in `[machine.aws]`, or `aws ec2 create-default-vpc`",
        );
    }
    let tags: Vec<_> = aws.subnet_tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Error::host(format!("no subnet in {} bears {}", clients.region, tags.join(", ")))
        .with_hint("all of `subnet_tags` in `[machine.aws]` must be on it, with these very values")
}

fn filters(tags: &BTreeMap<String, String>) -> Vec<Filter> {
    if tags.is_empty() {
        return vec![by("default-for-az", ["true"])];
    }
    tags.iter().map(|(key, value)| by(&format!("tag:{key}"), [value])).collect()
}

/// Of what bears any of the values.
pub(super) fn by<T: AsRef<str>>(name: &str, values: impl IntoIterator<Item = T>) -> Filter {
    let values = values.into_iter().map(|value| value.as_ref().to_owned()).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// Where what leaves a subnet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// To an internet gateway, which takes only what has a public address.
    Gateway,
    /// To something that leads on: a NAT gateway or instance, a transit gateway, a VPN, a firewall's endpoint.
    Onward,
    /// To something that is no longer there.
    Blackhole,
    /// Nowhere: there is no default route.
    Nowhere,
}

/// Where what leaves the subnets of a VPC goes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Exits {
    of_subnet: BTreeMap<String, Exit>,
    /// Of those without a table of their own.
    main: Option<Exit>,
}

/// What is between the subnets of a VPC and Systems Manager.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Ways {
    exits: Arc<Exits>,
    /// Services with an interface endpoint that answers to the service's own name; none if nobody has looked.
    endpoints: Option<Arc<Vec<String>>>,
}

/// Why Systems Manager cannot be reached from a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    why: String,
    missing: Vec<&'static str>,
}

/// What an agent speaks to: `ssm` to say that it is there and `ssmmessages` for everything else, since agent 3.3.40.0
/// (Systems Manager User Guide, "Create VPC endpoints").
const NEEDED: [&str; 2] = ["ssm", "ssmmessages"];
/// What older agents take commands from.
const FOR_OLD_AGENTS: &str = "ec2messages";

impl Ways {
    /// What has been found out about `vpc` so far; none if nothing.
    fn known(clients: &Clients, vpc: &str) -> Option<Self> {
        let exits = clients.known.exits.peek(vpc)?;
        Some(Self { exits, endpoints: clients.known.endpoints.peek(vpc) })
    }

    fn exit(&self, subnet: &Subnet) -> Exit {
        self.exits.of_subnet.get(&subnet.id).copied().or(self.exits.main).unwrap_or(Exit::Nowhere)
    }

    fn has_endpoint(&self, service: &str) -> bool {
        self.endpoints.as_ref().is_some_and(|endpoints| endpoints.iter().any(|endpoint| endpoint == service))
    }

    /// Whether what leaves `subnet` gets to the internet, or to whatever this network has in its place.
    pub(super) fn leads_out(&self, subnet: &Subnet, public_address: bool) -> bool {
        match self.exit(subnet) {
            Exit::Gateway => public_address,
            Exit::Onward => true,
            Exit::Blackhole | Exit::Nowhere => false,
        }
    }

    /// Why Systems Manager cannot be reached from `subnet`.
    pub(super) fn obstacle(&self, subnet: &Subnet, public_address: bool) -> Option<Obstacle> {
        if self.leads_out(subnet, public_address) {
            return None;
        }
        let missing: Vec<_> = NEEDED.into_iter().filter(|service| !self.has_endpoint(service)).collect();
        if missing.is_empty() {
            return None;
        }
        let why = match self.exit(subnet) {
            Exit::Gateway => {
                "the default route leads to an internet gateway, which takes only machines with a public address"
            }
            Exit::Blackhole => "the default route leads to something that is no longer there",
            Exit::Nowhere | Exit::Onward => "there is no default route",
        };
        Some(Obstacle { why: why.to_owned(), missing })
    }

    /// Whether only agents of some age get anywhere.
    fn lacks_old_endpoint(&self, subnet: &Subnet, public_address: bool) -> bool {
        !self.leads_out(subnet, public_address) && !self.has_endpoint(FOR_OLD_AGENTS)
    }
}

/// What is between `candidates` and Systems Manager: one call, and another if no route leads there.
///
/// # Errors
/// Exit 4 when it cannot be found out.
pub(super) async fn ways(clients: &Clients, candidates: &[Candidate], public_address: bool) -> Result<Ways> {
    let Some(vpc) = candidates.first().map(|candidate| &candidate.subnet.vpc) else { return Ok(Ways::default()) };
    let exits = clients.known.exits.get(vpc, || exits(clients, vpc)).await?;
    let mut ways = Ways { exits, endpoints: None };
    if candidates.iter().any(|candidate| !ways.leads_out(&candidate.subnet, public_address)) {
        ways.endpoints = Some(clients.known.endpoints.get(vpc, || endpoints(clients, vpc)).await?);
    }
    Ok(ways)
}

impl Exits {
    fn add(&mut self, table: &RouteTable) {
        let exit = table.routes().iter().find_map(exit).unwrap_or(Exit::Nowhere);
        for association in table.associations() {
            match association.subnet_id() {
                Some(subnet) => {
                    self.of_subnet.insert(subnet.to_owned(), exit);
                }
                None if association.main() == Some(true) => self.main = Some(exit),
                None => {}
            }
        }
    }
}

/// Where a default route leads; none if it is another route.
fn exit(route: &Route) -> Option<Exit> {
    if route.destination_cidr_block() != Some("0.0.0.0/0") {
        return None;
    }
    if route.state() == Some(&RouteState::Blackhole) {
        return Some(Exit::Blackhole);
    }
    Some(match route.gateway_id() {
        Some(gateway) if gateway.starts_with("igw-") => Exit::Gateway,
        _ => Exit::Onward,
    })
}

async fn exits(clients: &Clients, vpc: &str) -> Result<Arc<Exits>> {
    let mut pages = clients.ec2.describe_route_tables().filters(by("vpc-id", [vpc])).into_paginator().send();
    let mut exits = Exits::default();
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeRouteTables"));
        let page = page.map_err(|error| error.because(format!("cannot read the routes of {vpc}")))?;
        page.route_tables().iter().for_each(|table| exits.add(table));
    }
    Ok(Arc::new(exits))
}

/// Short names of the services that have an endpoint in `vpc` which their own names lead to.
async fn endpoints(clients: &Clients, vpc: &str) -> Result<Arc<Vec<String>>> {
    let mut pages = clients.ec2.describe_vpc_endpoints().filters(by("vpc-id", [vpc])).into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeVpcEndpoints"));
        let page = page.map_err(|error| error.because(format!("cannot read the endpoints of {vpc}")))?;
        names.extend(page.vpc_endpoints().iter().filter_map(endpoint_of));
    }
    Ok(Arc::new(names))
}

fn endpoint_of(endpoint: &VpcEndpoint) -> Option<String> {
    let usable = endpoint.vpc_endpoint_type() == Some(&VpcEndpointType::Interface)
        && endpoint.state() == Some(&State::Available)
        && endpoint.private_dns_enabled() != Some(false);
    // com.amazonaws.us-east-1.ssm
    usable.then(|| endpoint.service_name()?.rsplit('.').next().map(str::to_owned)).flatten()
}

/// What stands between the candidates and Systems Manager. Of several subnets it is enough that one leads there: the
/// others are not used, which is worth a warning.
pub(super) fn reachability(ways: &Ways, candidates: &[Candidate], aws: &AwsPlan, region: &str) -> Vec<Finding> {
    let public = aws.public_address;
    let subnets = || candidates.iter().map(|candidate| &candidate.subnet);
    let blocked: Vec<_> = subnets().filter_map(|subnet| Some((subnet, ways.obstacle(subnet, public)?))).collect();
    let severity = if blocked.len() == candidates.len() { Severity::Refuse } else { Severity::Warn };
    let mut findings = Vec::new();
    // What is wrong is nearly always the same for all of them, and then said once.
    let mut reasons: Vec<(&Obstacle, Vec<&str>)> = Vec::new();
    for (subnet, obstacle) in &blocked {
        match reasons.iter_mut().find(|(reason, _)| *reason == obstacle) {
            Some((_, ids)) => ids.push(&subnet.id),
            None => reasons.push((obstacle, vec![&subnet.id])),
        }
    }
    for (obstacle, ids) in reasons {
        let missing: Vec<_> = obstacle.missing.iter().map(|name| format!("com.amazonaws.{region}.{name}")).collect();
        let message = format!(
            "Systems Manager cannot be reached from {}: {}, and the VPC has no interface endpoint {}",
            ids.join(", "),
            obstacle.why,
            missing.join(", ")
        );
        let hint = "give the machine a public address (`public_address = true` in `[machine.aws]`: it still accepts no \
                    connection), choose a subnet with a NAT gateway, or make the endpoints, with private DNS";
        findings.push(Finding { severity, message, hint: Some(hint.to_owned()) });
    }
    let open: Vec<_> = subnets().filter(|subnet| ways.obstacle(subnet, public).is_none()).collect();
    if !open.is_empty() && open.iter().all(|subnet| ways.lacks_old_endpoint(subnet, public)) {
        findings.push(Finding {
            severity: Severity::Warn,
            message: format!("the VPC has no interface endpoint com.amazonaws.{region}.{FOR_OLD_AGENTS}"),
            hint: Some("SSM agents before 3.3.40.0 need it: a base with an older one never answers".to_owned()),
        });
    }
    findings
}
