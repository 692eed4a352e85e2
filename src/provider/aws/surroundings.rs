//! What is around a builder: the instance, who its agents are, and everything in the VPC that stands between them. It only
//! reads; what of it is wrong is for `doctor` to say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ec2::types::{
    Filter, Instance, IpPermission, NetworkAclEntry, Route, RouteState, RuleAction, SecurityGroup,
};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::Aws;
use super::client::Clients;
use super::command::Channel;
use super::error::AwsError;
use super::network::by;
use crate::bake::RunId;
use crate::error::{Error, Result};

/// The tag that the builder's stack puts on its instances: the stack's name (`amibake render cloudformation`).
pub const BUILDER: &str = "amibake:builder";
/// How long a look at the builder may take: it opens no cache and builds nothing.
const LOOKS: Duration = Duration::from_secs(60);

/// An instance, as far as it matters to who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `i-…`
    pub id: String,
    /// `running`
    pub state: String,
    /// Private addresses, that of its primary interface first.
    pub addresses: Vec<IpAddr>,
    /// Public address.
    pub public: Option<IpAddr>,
    /// `subnet-…`
    pub subnet: String,
    /// `vpc-…`
    pub vpc: String,
    /// `sg-…`
    pub groups: BTreeSet<String>,
    /// `ami-…`
    pub image: String,
    /// The name of its builder's stack.
    pub builder: Option<String>,
    /// Version of BuildKit in its image, by the image's tag.
    pub buildkit: Option<String>,
}

/// Who connects to the builder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agents {
    /// Security groups that agents are in.
    pub groups: BTreeSet<String>,
    /// Agents that run now.
    pub hosts: Vec<Host>,
}

/// Where a rule's traffic comes from, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Members of a security group.
    Group(String),
    /// A network.
    Network(IpNet),
    /// A prefix list.
    List(String),
}

/// A rule of a security group: it lets in, or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Ports of TCP; none for all.
    pub ports: Option<(u16, u16)>,
    /// Whom it is about.
    pub peer: Peer,
}

/// A security group. Rules for other protocols than TCP are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// What it lets in.
    pub ingress: Vec<Rule>,
    /// What it lets out.
    pub egress: Vec<Rule>,
}

/// An entry of a network ACL that is about TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The first that fits decides.
    pub number: i32,
    /// Out of the subnet, or into it.
    pub egress: bool,
    /// Whether it lets through.
    pub allow: bool,
    /// The other side.
    pub network: IpNet,
    /// Ports of TCP; none for all.
    pub ports: Option<(u16, u16)>,
}

/// A way out of a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// What it is for; none for a prefix list, whose networks are not looked up.
    pub network: Option<IpNet>,
    /// Where it leads: `local`, `pcx-…`, `tgw-…`, `nat-…`, `igw-…`.
    pub to: String,
    /// Whether what it leads to was removed.
    pub blackhole: bool,
}

/// A subnet with what decides about its traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// `vpc-…`
    pub vpc: String,
    /// Its addresses.
    pub network: IpNet,
    /// Ways out.
    pub ways: Vec<Way>,
    /// Its network ACL.
    pub acl: Vec<Entry>,
}

/// A builder, its agents, and what is between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// It.
    pub builder: Host,
    /// They.
    pub agents: Agents,
    /// Security groups of both, by their ids.
    pub groups: BTreeMap<String, Group>,
    /// Subnets of both, by their ids.
    pub subnets: BTreeMap<String, Subnet>,
}

/// How a builder is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// `i-…`
    Id(String),
    /// The name of its stack.
    Stack(String),
    /// Any of these addresses.
    At(Vec<IpAddr>),
    /// The only one there is.
    Any,
}

/// How agents are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Members of this security group.
    Group(String),
    /// The instance in the builder's VPC that has one of these addresses: this machine, if it is an agent.
    At(Vec<IpAddr>),
}

impl Aws {
    /// Instances that are that builder, those that run first.
    ///
    /// # Errors
    /// Exit 4 when EC2 cannot be asked.
    pub async fn builders(&self, which: &Which) -> Result<Vec<Host>> {
        let clients = &self.clients;
        let mut found = match which {
            Which::Id(id) => instances(clients, &[by("instance-id", [id])]).await?,
            Which::Stack(name) => instances(clients, &[by(&format!("tag:{BUILDER}"), [name])]).await?,
            Which::Any => instances(clients, &[by("tag-key", [BUILDER])]).await?,
            Which::At(addresses) => {
                let ids = at(clients, addresses, None).await?;
                let filter = match ids.is_empty() {
                    true => by("ip-address", addresses.iter().map(ToString::to_string)),
                    false => by("instance-id", ids),
                };
                instances(clients, &[filter]).await?
            }
        };
        found.retain(|host| {
            !["terminated", "shutting-down"].contains(&host.state.as_str()) || matches!(which, Which::Id(_))
        });
        found.sort_by_key(|host| host.state != "running");
        versions(clients, found.iter_mut()).await?;
        Ok(found)
    }

    /// What is around `builder`.
    ///
    /// # Errors
    /// Exit 4 when EC2 cannot be asked.
    pub async fn surroundings(&self, builder: Host, whose: &Whose) -> Result<Surroundings> {
        let clients = &self.clients;
        let mut agents = agents(clients, &builder, whose).await?;
        versions(clients, agents.hosts.iter_mut()).await?;
        let of_hosts = agents.hosts.iter().flat_map(|host| &host.groups);
        let ids: BTreeSet<String> = builder.groups.iter().chain(&agents.groups).chain(of_hosts).cloned().collect();
        let subnets: BTreeSet<String> =
            agents.hosts.iter().map(|host| host.subnet.clone()).chain([builder.subnet.clone()]).collect();
        let (groups, subnets) = tokio::try_join!(groups(clients, &ids), subnets_of(clients, &subnets))?;
        Ok(Surroundings { builder, agents, groups, subnets })
    }

    /// Runs a script as root on an instance by Systems Manager; what it printed.
    ///
    /// # Errors
    /// When it cannot be run there, or fails.
    pub async fn output_on(&self, instance: &str, script: &str, cancel: &CancellationToken) -> Result<String> {
        let channel = Arc::new(Channel::new(&self.clients, &RunId::generate(), instance, None, LOOKS, false, cancel));
        // The service keeps a command for an agent that is gone, and waits for it.
        let looked = tokio::time::timeout(LOOKS, channel.look(script)).await;
        let silent = || format!("its agent did not run a script within {} s", LOOKS.as_secs());
        looked.unwrap_or_else(|_elapsed| {
            Err(Error::failed(silent())
                .with_hint("`aws ssm describe-instance-information` says when it was last heard of"))
        })
    }
}

async fn instances(clients: &Clients, filters: &[Filter]) -> Result<Vec<Host>> {
    let call = clients.ec2.describe_instances().set_filters(Some(filters.to_vec()));
    let mut pages = call.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeInstances"));
        let page = page.map_err(|error| error.because("cannot look for the builder and its agents"))?;
        found.extend(page.reservations().iter().flat_map(|reservation| reservation.instances()).filter_map(host));
    }
    Ok(found)
}

/// Instances whose network interfaces have one of these private addresses.
async fn at(clients: &Clients, addresses: &[IpAddr], vpc: Option<&str>) -> Result<Vec<String>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let mut filters = vec![by("addresses.private-ip-address", addresses.iter().map(ToString::to_string))];
    filters.extend(vpc.map(|vpc| by("vpc-id", [vpc])));
    let answer = clients.ec2.describe_network_interfaces().set_filters(Some(filters)).send().await;
    let answer = answer.map_err(AwsError::of("ec2:DescribeNetworkInterfaces"));
    let answer = answer.map_err(|error| error.because("cannot look for the builder and its agents"))?;
    let attached = answer.network_interfaces().iter().filter_map(|interface| interface.attachment()?.instance_id());
    Ok(attached.map(str::to_owned).collect())
}

fn host(instance: &Instance) -> Option<Host> {
    let interfaces = instance.network_interfaces();
    let of_interfaces = interfaces.iter().flat_map(|interface| interface.private_ip_addresses());
    let first = instance.private_ip_address().into_iter();
    let texts = first.chain(of_interfaces.filter_map(|address| address.private_ip_address()));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let tag = |key: &str| instance.tags().iter().find(|tag| tag.key() == Some(key))?.value().map(str::to_owned);
    Some(Host {
        id: instance.instance_id()?.to_owned(),
        state: instance.state()?.name()?.as_str().to_owned(),
        addresses,
        public: instance.public_ip_address().and_then(|text| text.parse().ok()),
        subnet: instance.subnet_id().unwrap_or_default().to_owned(),
        vpc: instance.vpc_id().unwrap_or_default().to_owned(),
        groups: instance.security_groups().iter().filter_map(|group| Some(group.group_id()?.to_owned())).collect(),
        image: instance.image_id().unwrap_or_default().to_owned(),
        builder: tag(BUILDER),
        buildkit: None,
    })
}

/// Reads the version of BuildKit off the images that hosts were launched from: one call.
async fn versions<'h>(clients: &Clients, hosts: impl Iterator<Item = &'h mut Host>) -> Result<()> {
    let hosts: Vec<&mut Host> = hosts.collect();
    let ids: BTreeSet<&String> = hosts.iter().map(|host| &host.image).filter(|id| !id.is_empty()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    // By a filter: an image that is gone by now is no error.
    let call = clients.ec2.describe_images().filters(by("image-id", ids));
    let answer = call.send().await.map_err(AwsError::of("ec2:DescribeImages"));
    let answer = answer.map_err(|error| error.because("cannot read the tags of images"))?;
    let version = |image: &aws_sdk_ec2::types::Image| {
        let tag = image.tags().iter().find(|tag| tag.key() == Some("amibake:buildkit"))?;
        Some((image.image_id()?.to_owned(), tag.value()?.to_owned()))
    };
    let versions: BTreeMap<String, String> = answer.images().iter().filter_map(version).collect();
    for host in hosts {
        host.buildkit = versions.get(&host.image).cloned();
    }
    Ok(())
}

async fn agents(clients: &Clients, builder: &Host, whose: &Whose) -> Result<Agents> {
    let running = by("instance-state-name", ["running"]);
    match whose {
        Whose::Group(id) => {
            let hosts = instances(clients, &[by("instance.group-id", [id]), running]).await?;
            Ok(Agents { groups: BTreeSet::from([id.clone()]), hosts })
        }
        Whose::At(addresses) => {
            // Only in this VPC: an address like 192.168.1.5 is in many networks.
            let ids = at(clients, addresses, Some(&builder.vpc)).await?;
            let found = match ids.is_empty() {
                true => Vec::new(),
                false => instances(clients, &[by("instance-id", ids), running]).await?,
            };
            let hosts: Vec<Host> = found.into_iter().filter(|host| host.id != builder.id).collect();
            Ok(Agents { groups: hosts.iter().flat_map(|host| host.groups.clone()).collect(), hosts })
        }
    }
}

async fn groups(clients: &Clients, ids: &BTreeSet<String>) -> Result<BTreeMap<String, Group>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let call = clients.ec2.describe_security_groups().set_group_ids(Some(ids.iter().cloned().collect()));
    let answer = call.send().await.map_err(AwsError::of("ec2:DescribeSecurityGroups")).map_err(|error| {
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let names = names.join(", ");
        match error.is(&["InvalidGroup.NotFound", "InvalidGroupId.Malformed", "InvalidGroup.Malformed"]) {
            true => Error::usage(format!("one of the security groups {names} is not there: {error}"))
                .with_hint("--agents, or [agents] security_group in amibake.toml, names the agents' group"),
            false => error.because(format!("cannot read the security groups {names}")),
        }
    })?;
    Ok(answer.security_groups().iter().filter_map(group).collect())
}

fn group(group: &SecurityGroup) -> Option<(String, Group)> {
    let rules = |permissions: &[IpPermission]| permissions.iter().flat_map(rules).collect();
    let (ingress, egress) = (rules(group.ip_permissions()), rules(group.ip_permissions_egress()));
    Some((group.group_id()?.to_owned(), Group { ingress, egress }))
}

/// `-1` is every protocol, 6 is TCP (Protocol Numbers, IANA).
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, Some("-1" | "tcp" | "6"))
}

fn ports(protocol: Option<&str>, from: Option<i32>, to: Option<i32>) -> Option<(u16, u16)> {
    match (protocol, from, to) {
        (Some("-1"), ..) | (_, None, _) | (_, _, None) | (_, Some(-1), _) => None,
        (_, Some(from), Some(to)) => Some((u16::try_from(from).unwrap_or(0), u16::try_from(to).unwrap_or(u16::MAX))),
    }
}

fn rules(permission: &IpPermission) -> Vec<Rule> {
    let protocol = permission.ip_protocol();
    if !is_tcp(protocol) {
        return Vec::new();
    }
    let ports = ports(protocol, permission.from_port(), permission.to_port());
    let groups =
        permission.user_id_group_pairs().iter().filter_map(|pair| Some(Peer::Group(pair.group_id()?.to_owned())));
    let v4 = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip()?.parse().ok().map(Peer::Network));
    let v6 = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6()?.parse().ok().map(Peer::Network));
    let lists =
        permission.prefix_list_ids().iter().filter_map(|list| Some(Peer::List(list.prefix_list_id()?.to_owned())));
    groups.chain(v4).chain(v6).chain(lists).map(|peer| Rule { ports, peer }).collect()
}

async fn subnets_of(clients: &Clients, ids: &BTreeSet<String>) -> Result<BTreeMap<String, Subnet>> {
    let ids: Vec<String> = ids.iter().filter(|id| !id.is_empty()).cloned().collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let call = clients.ec2.describe_subnets().set_subnet_ids(Some(ids.clone()));
    let answer = call.send().await.map_err(AwsError::of("ec2:DescribeSubnets"));
    let answer = answer.map_err(|error| error.because("cannot read the subnets"))?;
    let mut subnets: BTreeMap<String, Subnet> = answer.subnets().iter().filter_map(subnet).collect();
    let vpcs: BTreeSet<String> = subnets.values().map(|subnet| subnet.vpc.clone()).collect();
    let (routes, acls) = tokio::try_join!(routes(clients, &vpcs), acls(clients, &vpcs))?;
    for (id, subnet) in &mut subnets {
        let table = routes.of(id, &subnet.vpc);
        subnet.ways = table.cloned().unwrap_or_default();
        subnet.acl = acls.get(id).cloned().unwrap_or_default();
    }
    Ok(subnets)
}

fn subnet(subnet: &aws_sdk_ec2::types::Subnet) -> Option<(String, Subnet)> {
    let (id, vpc) = (subnet.subnet_id()?.to_owned(), subnet.vpc_id()?.to_owned());
    let network = subnet.cidr_block()?.parse().ok()?;
    Some((id, Subnet { vpc, network, ways: Vec::new(), acl: Vec::new() }))
}

/// Routes of VPCs: of subnets that have a table of their own, and of all others.
#[derive(Default)]
struct Routes {
    of_subnet: BTreeMap<String, Vec<Way>>,
    main: BTreeMap<String, Vec<Way>>,
}

impl Routes {
    fn of(&self, subnet: &str, vpc: &str) -> Option<&Vec<Way>> {
        self.of_subnet.get(subnet).or_else(|| self.main.get(vpc))
    }
}

async fn routes(clients: &Clients, vpcs: &BTreeSet<String>) -> Result<Routes> {
    let mut pages = clients.ec2.describe_route_tables().filters(by("vpc-id", vpcs)).into_paginator().send();
    let mut routes = Routes::default();
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeRouteTables"));
        let page = page.map_err(|error| error.because("cannot read the routes"))?;
        for table in page.route_tables() {
            let ways: Vec<Way> = table.routes().iter().filter_map(way).collect();
            for association in table.associations() {
                match (association.subnet_id(), table.vpc_id()) {
                    (Some(subnet), _) => drop(routes.of_subnet.insert(subnet.to_owned(), ways.clone())),
                    (None, Some(vpc)) if association.main() == Some(true) => {
                        drop(routes.main.insert(vpc.to_owned(), ways.clone()));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(routes)
}

fn way(route: &Route) -> Option<Way> {
    let to = [
        route.gateway_id(),
        route.vpc_peering_connection_id(),
        route.transit_gateway_id(),
        route.nat_gateway_id(),
        route.network_interface_id(),
        route.instance_id(),
    ];
    Some(Way {
        network: match (route.destination_cidr_block(), route.destination_prefix_list_id()) {
            (Some(network), _) => Some(network.parse().ok()?),
            (None, Some(_)) => None,
            // IPv6: connections to the builder are looked at as IPv4.
            (None, None) => return None,
        },
        to: to.into_iter().flatten().next().unwrap_or("something else").to_owned(),
        blackhole: route.state() == Some(&RouteState::Blackhole),
    })
}

/// The entries of each subnet's ACL.
async fn acls(clients: &Clients, vpcs: &BTreeSet<String>) -> Result<BTreeMap<String, Vec<Entry>>> {
    let mut pages = clients.ec2.describe_network_acls().filters(by("vpc-id", vpcs)).into_paginator().send();
    let mut found = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeNetworkAcls"));
        let page = page.map_err(|error| error.because("cannot read the network ACLs"))?;
        for acl in page.network_acls() {
            let mut entries: Vec<Entry> = acl.entries().iter().filter_map(entry).collect();
            entries.sort_by_key(|entry| entry.number);
            for subnet in acl.associations().iter().filter_map(|association| association.subnet_id()) {
                found.insert(subnet.to_owned(), entries.clone());
            }
        }
    }
    Ok(found)
}

fn entry(entry: &NetworkAclEntry) -> Option<Entry> {
    if !is_tcp(entry.protocol()) {
        return None;
    }
    let range = entry.port_range();
    Some(Entry {
        number: entry.rule_number()?,
        egress: entry.egress()?,
        allow: entry.rule_action() == Some(&RuleAction::Allow),
        network: entry.cidr_block()?.parse().ok()?,
        ports: range.and_then(|range| ports(entry.protocol(), range.from(), range.to())),
    })
}
