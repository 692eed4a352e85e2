//! Who can reach the builder, and who cannot: what AWS says of its groups, routes and network ACLs, judged. PURE.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Check;
use crate::provider::aws::surroundings::{Entry, Group, Host, Peer, Rule, Subnet, Surroundings};

/// Where answers to a connection go: the ports that Linux takes for it (ip_local_port_range; nothing between agents and
/// builder changes them).
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Everything that is known of the way from agents to the builder's port. A builder that does not run is the last that is
/// looked at.
pub(super) fn judge(around: &Surroundings, port: u16) -> Vec<Check> {
    let builder = &around.builder;
    if builder.state != "running" {
        let found = format!("{} is {}", builder.id, builder.state);
        let hint = "start it, or ask its Auto Scaling group why it has no instance that runs: `aws autoscaling \
                    describe-scaling-activities`";
        return vec![Check::wrong("builder", "builder-not-running", found, hint)];
    }
    let mut checks = vec![Check::fine("builder", format!("{} runs in {}", builder.id, builder.subnet))];
    checks.push(public_address(builder));
    checks.push(open_port(around, port));
    if around.agents.groups.is_empty() {
        let why =
            "it is not known who the agents are: name their security group with --agents, or run this on one of them";
        checks.push(Check::skipped("rules", why));
    } else {
        checks.push(lets_in(around, port));
        checks.push(lets_out(around, port));
    }
    let mut seen = BTreeSet::new();
    for agent in around.agents.hosts.iter().filter(|agent| seen.insert(agent.subnet.clone())) {
        checks.push(acls(around, agent, port));
        checks.push(routes(around, agent));
    }
    if around.agents.hosts.is_empty() {
        let why = "no agent runs whose subnet could be looked at";
        checks.extend(["network-acl", "routes"].map(|check| Check::skipped(check, why)));
    }
    checks
}

fn public_address(builder: &Host) -> Check {
    match builder.public {
        None => Check::fine("public-address", "the builder has none"),
        Some(address) => Check::warning(
            "public-address",
            "public-address",
            format!("the builder has one: {address}"),
            "launch it in a private subnet without one (the stack that `amibake render` prints does): a rule too many and \
             the internet builds on it",
        ),
    }
}

fn covers(ports: Option<(u16, u16)>, port: u16) -> bool {
    ports.is_none_or(|(from, to)| (from..=to).contains(&port))
}

/// Rules of the builder's groups that are about its port, each with its group.
fn for_port(around: &Surroundings, port: u16) -> impl Iterator<Item = (&String, &Rule)> {
    let groups = around.builder.groups.iter().filter_map(|id| around.groups.get_key_value(id));
    let rules = groups.flat_map(|(id, group)| group.ingress.iter().map(move |rule| (id, rule)));
    rules.filter(move |(_, rule)| covers(rule.ports, port))
}

fn shown(peer: &Peer) -> String {
    match peer {
        Peer::Group(id) => id.clone(),
        Peer::Network(network) => network.to_string(),
        Peer::List(id) => format!("the prefix list {id}"),
    }
}

/// How an agents' group is let in, as a command.
fn authorize(builder: &Host, agents: &str, port: u16) -> String {
    let group = builder.groups.first().map_or("sg-…", String::as_str);
    format!(
        "aws ec2 authorize-security-group-ingress --group-id {group} --protocol tcp --port {port} --source-group {agents}"
    )
}

/// Whether more than the agents may connect.
fn open_port(around: &Surroundings, port: u16) -> Check {
    let check = "open-port";
    let all: Vec<_> = for_port(around, port).collect();
    let world = all.iter().find(|(_, rule)| matches!(rule.peer, Peer::Network(network) if network.prefix_len() == 0));
    if let Some((group, rule)) = world {
        let found = format!("{group} lets everyone connect to tcp/{port}: {}", shown(&rule.peer));
        let hint = "take that rule away and let in the agents' security group alone: unless the daemon asks for certificates, \
                    whoever connects can build, and reads the cache";
        return Check::wrong(check, "open-port", found, hint);
    }
    let agents = &around.agents.groups;
    let others: BTreeSet<String> = all
        .iter()
        .filter(|(_, rule)| !matches!(&rule.peer, Peer::Group(id) if agents.contains(id)))
        .map(|(_, rule)| shown(&rule.peer))
        .collect();
    let others: Vec<String> = others.into_iter().collect();
    if others.is_empty() || agents.is_empty() {
        let who = if all.is_empty() { "nobody".to_owned() } else { shown_all(&all) };
        return Check::fine(check, format!("tcp/{port} is open to {who}"));
    }
    let found = format!("tcp/{port} is open to more than the agents: {}", others.join(", "));
    Check::warning(
        check,
        "open-port",
        found,
        "let in the agents' security group alone, unless these are meant to build",
    )
}

fn shown_all(rules: &[(&String, &Rule)]) -> String {
    let all: BTreeSet<String> = rules.iter().map(|(_, rule)| shown(&rule.peer)).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}

/// Whether a rule is about a member of `groups` with one of `addresses`.
fn meets(peer: &Peer, groups: &BTreeSet<String>, addresses: &[IpAddr]) -> bool {
    match peer {
        Peer::Group(id) => groups.contains(id),
        Peer::Network(network) => addresses.iter().any(|address| network.contains(address)),
        // What is on it is not looked up: it may be meant.
        Peer::List(_) => true,
    }
}

fn names(ids: &BTreeSet<String>) -> String {
    ids.iter().cloned().collect::<Vec<_>>().join(", ")
}

/// Whether each agent that runs is let in; where none runs, their group.
fn lets_in(around: &Surroundings, port: u16) -> Check {
    let builder = &around.builder;
    let by = |groups: &BTreeSet<String>, addresses: &[IpAddr]| {
        for_port(around, port).find(|(_, rule)| meets(&rule.peer, groups, addresses))
    };
    let missing = |who: String, groups: &BTreeSet<String>| {
        let found = format!("no rule of {} lets {who} connect to tcp/{port}", names(&builder.groups));
        let group = groups.first().map_or("sg-…", String::as_str);
        Check::wrong("rules", "rule-missing", found, authorize(builder, group, port))
    };
    let agents = &around.agents;
    if agents.hosts.is_empty() {
        return match by(&agents.groups, &[]) {
            Some((group, rule)) => {
                Check::fine("rules", format!("{group} lets the agents in, by {}", shown(&rule.peer)))
            }
            None if for_port(around, port).any(|(_, rule)| matches!(rule.peer, Peer::Network(_))) => {
                let all: Vec<_> = for_port(around, port).collect();
                let why = format!("no agent runs: whether {} is theirs cannot be told", shown_all(&all));
                Check::skipped("rules", why)
            }
            None => missing(format!("the agents ({})", names(&agents.groups)), &agents.groups),
        };
    }
    let mut through = BTreeSet::new();
    for agent in &agents.hosts {
        match by(&agent.groups, &agent.addresses) {
            Some((_, rule)) if agent.vpc != builder.vpc && matches!(rule.peer, Peer::Group(_)) => {
                let found = format!("{} is let in by its group ({}), from another VPC", agent.id, shown(&rule.peer));
                let hint = "a group counts over a peering in one region, and over a transit gateway only with security group \
                            referencing on: a rule for the agents' addresses is sure";
                return Check::warning("rules", "rule-uncertain", found, hint);
            }
            Some((_, rule)) => drop(through.insert(shown(&rule.peer))),
            None => {
                // The group that was named, if it is one of its own: others may be there for other things.
                let named: BTreeSet<String> = agents.groups.intersection(&agent.groups).cloned().collect();
                let groups = if named.is_empty() { &agent.groups } else { &named };
                return missing(format!("{} ({})", agent.id, names(&agent.groups)), groups);
            }
        }
    }
    Check::fine("rules", format!("{} lets the agents in, by {}", names(&builder.groups), names(&through)))
}

fn lets_out(around: &Surroundings, port: u16) -> Check {
    let builder = &around.builder;
    let lets = |groups: &BTreeSet<String>| {
        let all = groups.iter().filter_map(|id| around.groups.get(id)).flat_map(|group: &Group| &group.egress);
        all.into_iter().any(|rule| covers(rule.ports, port) && meets(&rule.peer, &builder.groups, &builder.addresses))
    };
    let agents = &around.agents;
    let each: Vec<(String, &BTreeSet<String>)> = match agents.hosts.is_empty() {
        true => vec![("the agents".to_owned(), &agents.groups)],
        false => agents.hosts.iter().map(|agent| (agent.id.clone(), &agent.groups)).collect(),
    };
    let Some((who, groups)) = each.into_iter().find(|(_, groups)| !lets(groups)) else {
        return Check::fine("rules-out", "the agents' groups let them out to the builder");
    };
    let found = format!("no rule of {} lets {who} out to tcp/{port} of the builder", names(groups));
    let from = groups.first().map_or("sg-…", String::as_str);
    let to = builder.groups.first().map_or("sg-…", String::as_str);
    let hint = format!(
        "aws ec2 authorize-security-group-egress --group-id {from} --ip-permissions \
         IpProtocol=tcp,FromPort={port},ToPort={port},UserIdGroupPairs=[{{GroupId={to}}}]"
    );
    Check::wrong("rules-out", "rule-missing", found, hint)
}

/// Whether an ACL lets all of `ports` through, to or from an address: the first entry about a port decides.
fn acl_lets(subnet: &Subnet, egress: bool, address: IpAddr, ports: (u16, u16)) -> bool {
    let mut open = false;
    let mut next = u32::from(ports.0);
    // Each port's fate is that of its first entry; entries cover ranges, so only their borders need a look.
    while next <= u32::from(ports.1) {
        let port = u16::try_from(next).unwrap_or(u16::MAX);
        let about = |entry: &&Entry| entry.egress == egress && entry.network.contains(&address);
        let Some(first) = subnet.acl.iter().filter(about).find(|entry| covers(entry.ports, port)) else { return false };
        if !first.allow {
            return false;
        }
        open = true;
        let borders = subnet.acl.iter().filter(about).filter_map(|entry| entry.ports);
        let borders = borders.flat_map(|(from, to)| [u32::from(from), u32::from(to) + 1]);
        next = borders.filter(|border| *border > next).min().unwrap_or(u32::from(ports.1) + 1);
    }
    open
}

fn acls(around: &Surroundings, agent: &Host, port: u16) -> Check {
    let builder = &around.builder;
    let sides = (around.subnets.get(&agent.subnet), around.subnets.get(&builder.subnet));
    let ((Some(theirs), Some(ours)), Some(from), Some(to)) = (sides, first_v4(agent), first_v4(builder)) else {
        return Check::skipped("network-acl", "the subnets cannot be read");
    };
    // Within a subnet no ACL is asked.
    if agent.subnet == builder.subnet {
        return Check::fine("network-acl", format!("{} and the builder are in one subnet", agent.id));
    }
    let at = [
        (&agent.subnet, theirs, true, to, (port, port), "out"),
        (&builder.subnet, ours, false, from, (port, port), "in"),
        (&builder.subnet, ours, true, from, EPHEMERAL, "answers out"),
        (&agent.subnet, theirs, false, to, EPHEMERAL, "answers in"),
    ];
    match at.into_iter().find(|(_, subnet, egress, address, ports, _)| !acl_lets(subnet, *egress, *address, *ports)) {
        None => Check::fine("network-acl", format!("{} and {} let it through", agent.subnet, builder.subnet)),
        Some((id, _, _, address, (first, last), way)) => {
            let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
            let found = format!("the network ACL of {id} does not let {way}: {address}, tcp/{ports}");
            Check::wrong(
                "network-acl",
                "acl-denies",
                found,
                "add an entry that allows it, with a lower number than what denies it",
            )
        }
    }
}

fn first_v4(host: &Host) -> Option<IpAddr> {
    host.addresses.iter().find(|address| address.is_ipv4()).copied()
}

fn routes(around: &Surroundings, agent: &Host) -> Check {
    let builder = &around.builder;
    if agent.vpc == builder.vpc {
        return Check::fine("routes", format!("{} and the builder are in one VPC", agent.id));
    }
    let ways = [(&agent.subnet, first_v4(builder)), (&builder.subnet, first_v4(agent))];
    for (id, address) in ways {
        let (Some(subnet), Some(address)) = (around.subnets.get(id), address) else {
            return Check::skipped("routes", "the subnets cannot be read");
        };
        let fits =
            subnet.ways.iter().filter_map(|way| Some((way.network?, way)).filter(|(to, _)| to.contains(&address)));
        // The longest prefix wins.
        let leads = fits.max_by_key(|(to, _)| to.prefix_len()).map(|(_, way)| way);
        let fault = match leads {
            // What is on a prefix list is not looked up, and it may be longer.
            _ if subnet.ways.iter().any(|way| way.network.is_none()) => {
                return Check::skipped("routes", format!("{id} has routes for prefix lists, which are not looked up"));
            }
            None => format!("no route of {id} leads to {address}"),
            Some(way) if way.blackhole => format!("the route of {id} to {address} leads to {}, which is gone", way.to),
            Some(way) if ["igw-", "nat-", "eigw-"].iter().any(|kind| way.to.starts_with(kind)) => {
                format!("the only route of {id} to {address} leads to the internet ({})", way.to)
            }
            Some(_) => continue,
        };
        let (one, other) = (&agent.vpc, &builder.vpc);
        let hint = format!(
            "join {one} and {other} (peering or a transit gateway) and add the route on both sides, or launch the builder in \
             the agents' VPC"
        );
        return Check::wrong("routes", "route-missing", fault, hint);
    }
    Check::fine("routes", format!("{} and {} lead to each other", agent.subnet, builder.subnet))
}

/// Versions of both images by their tags, beside what the lock pins.
pub(super) fn images(around: &Surroundings, locked: Option<&str>) -> Check {
    let version = |host: &Host| host.buildkit.clone().unwrap_or_else(|| "no tag".to_owned());
    let mut sides = vec![format!("builder {} ({})", version(&around.builder), around.builder.image)];
    let agents: BTreeSet<(String, &String)> =
        around.agents.hosts.iter().map(|agent| (version(agent), &agent.image)).collect();
    sides.extend(agents.iter().map(|(version, image)| format!("agents {version} ({image})")));
    sides.extend(locked.map(|version| format!("the lock {version}")));
    let untagged = around.agents.hosts.iter().any(|agent| agent.buildkit.is_none());
    let mut versions: BTreeSet<&str> = around.builder.buildkit.as_deref().into_iter().collect();
    versions.extend(around.agents.hosts.iter().filter_map(|agent| agent.buildkit.as_deref()));
    let running = versions.len();
    versions.extend(locked);
    let found = sides.join(", ");
    match (running, versions.len()) {
        (0, _) => Check::skipped("images", format!("no image bears the tag amibake:buildkit: {found}")),
        _ if untagged && around.builder.buildkit.is_some() => Check::warning(
            "images",
            "agent-image",
            found,
            "agents run an image that amibake did not bake: the stack's own has no buildctl. Promote the agent, and update the \
             stack (`amibake promote --pair --update-stack NAME`)",
        ),
        (1, 1) => Check::fine("images", found),
        (1, _) => Check::warning(
            "images",
            "version-mismatch",
            found,
            "the fleet runs another version than the lock pins: bake, promote, and replace the instances",
        ),
        _ => Check::wrong(
            "images",
            "version-mismatch",
            found,
            "bake both images from one lock, promote the pair, and replace the builder and the agents",
        ),
    }
}

#[cfg(test)]
mod tests;
