use std::collections::BTreeMap;

use super::*;
use crate::doctor::Verdict;
use crate::provider::aws::surroundings::{Agents, Way};

fn host(id: &str, address: &str, vpc: &str, group: &str) -> Host {
    Host {
        id: id.to_owned(),
        state: "running".to_owned(),
        addresses: vec![address.parse().unwrap()],
        public: None,
        subnet: format!("subnet-{id}"),
        vpc: vpc.to_owned(),
        groups: BTreeSet::from([group.to_owned()]),
        image: format!("ami-{id}"),
        builder: None,
        buildkit: Some("v0.31.2".to_owned()),
    }
}

fn rule(peer: &str, ports: Option<(u16, u16)>) -> Rule {
    let peer = peer.parse().map_or_else(|_| Peer::Group(peer.to_owned()), Peer::Network);
    Rule { ports, peer }
}

fn entry(number: i32, egress: bool, allow: bool, ports: Option<(u16, u16)>) -> Entry {
    Entry { number, egress, allow, network: "0.0.0.0/0".parse().unwrap(), ports }
}

/// Two subnets of one VPC with the default ACL, and rules as the rendered stack makes them.
fn good() -> Surroundings {
    let (builder, agent) = (host("b", "10.0.1.7", "vpc-1", "sg-b"), host("a", "10.0.2.9", "vpc-1", "sg-a"));
    let acl = vec![entry(100, false, true, None), entry(100, true, true, None)];
    let subnet = |network: &str| Subnet {
        vpc: "vpc-1".to_owned(),
        network: network.parse().unwrap(),
        ways: Vec::new(),
        acl: acl.clone(),
    };
    let out = vec![rule("0.0.0.0/0", None)];
    Surroundings {
        agents: Agents { groups: agent.groups.clone(), hosts: vec![agent] },
        groups: BTreeMap::from([
            ("sg-b".to_owned(), Group { ingress: vec![rule("sg-a", Some((1234, 1234)))], egress: out.clone() }),
            ("sg-a".to_owned(), Group { ingress: Vec::new(), egress: out }),
        ]),
        subnets: BTreeMap::from([
            ("subnet-b".to_owned(), subnet("10.0.1.0/24")),
            ("subnet-a".to_owned(), subnet("10.0.2.0/24")),
        ]),
        builder,
    }
}

/// What is not fine: its fault and what was found.
fn faults(around: &Surroundings) -> Vec<(&'static str, Verdict, String)> {
    let all = judge(around, 1234).into_iter().filter(|check| check.verdict != Verdict::Fine);
    all.map(|check| (check.fault, check.verdict, check.found)).collect()
}

/// The one fault of what `change` makes of the good one.
fn fault(change: impl FnOnce(&mut Surroundings)) -> (&'static str, Verdict, String) {
    let mut around = good();
    change(&mut around);
    let mut found = faults(&around);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn ingress(around: &mut Surroundings) -> &mut Vec<Rule> {
    &mut around.groups.get_mut("sg-b").unwrap().ingress
}

#[test]
fn as_the_rendered_stack_makes_it_nothing_is_wrong() {
    assert_eq!(faults(&good()), []);
}

#[test]
fn the_rule_that_is_missing_is_named_with_the_command_that_adds_it() {
    let mut around = good();
    ingress(&mut around).clear();
    let check = judge(&around, 1234).into_iter().find(|check| check.verdict == Verdict::Wrong).unwrap();
    assert_eq!((check.check, check.fault), ("rules", "rule-missing"));
    assert_eq!(
        check.hint.unwrap(),
        "aws ec2 authorize-security-group-ingress --group-id sg-b --protocol tcp --port 1234 --source-group sg-a"
    );
    // For another port, from another group, for addresses that no agent has.
    for other in [rule("sg-a", Some((80, 443))), rule("sg-x", None), rule("10.0.3.0/24", None)] {
        let mut around = good();
        *ingress(&mut around) = vec![other.clone()];
        // It may be open to others as well.
        assert!(faults(&around).iter().any(|(fault, ..)| *fault == "rule-missing"), "{other:?}");
    }
}

#[test]
fn agents_are_let_in_by_their_group_or_their_address() {
    for one in [rule("sg-a", None), rule("10.0.2.0/24", Some((1000, 2000)))] {
        let mut around = good();
        *ingress(&mut around) = vec![one];
        assert!(
            faults(&around).iter().all(|(fault, verdict, _)| *fault != "rule-missing" && *verdict != Verdict::Wrong)
        );
    }
}

#[test]
fn a_port_that_is_open_to_more_than_the_agents() {
    let (id, verdict, found) = fault(|around| ingress(around).push(rule("0.0.0.0/0", Some((0, 65_535)))));
    assert!(id == "open-port" && verdict == Verdict::Wrong && found.contains("everyone"), "{found}");
    assert_eq!(fault(|around| ingress(around).push(rule("::/0", None))).1, Verdict::Wrong);
    let (id, verdict, found) = fault(|around| ingress(around).push(rule("10.0.0.0/8", Some((1234, 1234)))));
    assert!(id == "open-port" && verdict == Verdict::Warning && found.contains("10.0.0.0/8"), "{found}");
    // Another port is nobody's business.
    let mut around = good();
    ingress(&mut around).push(rule("0.0.0.0/0", Some((22, 22))));
    assert_eq!(faults(&around), []);
}

#[test]
fn what_else_is_in_the_way() {
    assert_eq!(fault(|around| around.builder.state = "stopped".to_owned()).0, "builder-not-running");
    assert_eq!(fault(|around| around.builder.public = Some("52.1.2.3".parse().unwrap())).0, "public-address");
    let out = fault(|around| around.groups.get_mut("sg-a").unwrap().egress.clear());
    assert!(out.0 == "rule-missing" && out.2.contains("lets a out to"), "{out:?}");
    let mut around = good();
    around.agents = Agents::default();
    let unknown = faults(&around);
    assert!(unknown.iter().all(|(_, verdict, _)| *verdict == Verdict::Skipped), "{unknown:?}");
    assert!(unknown[0].2.contains("--agents"), "{unknown:?}");
}

#[test]
fn where_no_agent_runs_their_group_is_judged_and_addresses_are_not() {
    let mut around = good();
    around.agents.hosts.clear();
    let skipped = |around: &Surroundings| {
        let all = faults(around);
        assert!(all.iter().all(|(_, verdict, _)| *verdict == Verdict::Skipped), "{all:?}");
        all.len()
    };
    assert_eq!(skipped(&around), 2, "subnets of nobody");
    *ingress(&mut around) = vec![rule("10.0.2.0/24", None)];
    assert!(
        faults(&around)
            .iter()
            .any(|(_, verdict, found)| *verdict == Verdict::Skipped && found.contains("no agent runs"))
    );
    ingress(&mut around).clear();
    assert!(faults(&around).iter().any(|(fault, ..)| *fault == "rule-missing"));
}

#[test]
fn each_agent_is_judged_by_all_its_groups() {
    // Two groups, the rule is for the second.
    let mut around = good();
    around.agents.hosts[0].groups.insert("sg-c".to_owned());
    around.groups.insert("sg-c".to_owned(), Group::default());
    *ingress(&mut around) = vec![rule("sg-c", Some((1234, 1234)))];
    assert!(faults(&around).iter().all(|(fault, ..)| *fault != "rule-missing"));
    // A second agent, elsewhere, that no rule is about.
    let mut around = good();
    *ingress(&mut around) = vec![rule("10.0.2.0/24", None)];
    let mut other = host("x", "10.0.9.9", "vpc-1", "sg-a");
    other.subnet = "subnet-a".to_owned();
    around.agents.hosts.push(other);
    let missing = faults(&around).into_iter().find(|(fault, ..)| *fault == "rule-missing").unwrap();
    assert!(missing.2.contains("lets x (sg-a) connect"), "{missing:?}");
    // A group of another VPC counts only under conditions.
    let mut around = good();
    around.agents.hosts[0].vpc = "vpc-2".to_owned();
    assert!(
        faults(&around).iter().any(|(fault, verdict, _)| *fault == "rule-uncertain" && *verdict == Verdict::Warning)
    );
}

#[test]
fn a_network_acl_that_lets_no_connection_or_no_answer_through() {
    let denies = |subnet: &'static str, entries: Vec<Entry>| {
        fault(move |around| {
            let acl = &mut around.subnets.get_mut(subnet).unwrap().acl;
            acl.splice(0..0, entries);
        })
    };
    let found = denies("subnet-b", vec![entry(90, false, false, Some((1234, 1234)))]);
    assert!(found.0 == "acl-denies" && found.2.contains("subnet-b does not let in"), "{found:?}");
    let found = denies("subnet-b", vec![entry(90, true, false, Some((40_000, 50_000)))]);
    assert!(found.2.contains("answers out") && found.2.contains("tcp/32768-60999"), "{found:?}");
    let found = denies("subnet-a", vec![entry(90, true, false, None)]);
    assert!(found.2.contains("subnet-a does not let out"), "{found:?}");
    // What is allowed before it is denied passes; what no entry is about does not.
    let mut around = good();
    let acl = &mut around.subnets.get_mut("subnet-b").unwrap().acl;
    acl.splice(0..0, [entry(80, false, true, Some((1234, 1234))), entry(90, false, false, Some((1000, 2000)))]);
    assert_eq!(faults(&around), []);
    assert_eq!(fault(|around| around.subnets.get_mut("subnet-a").unwrap().acl.clear()).0, "acl-denies");
    // In one subnet no ACL is asked.
    let mut around = good();
    around.agents.hosts[0].subnet = "subnet-b".to_owned();
    around.subnets.get_mut("subnet-b").unwrap().acl.clear();
    assert_eq!(faults(&around), []);
}

#[test]
fn between_two_vpcs_a_route_must_lead_both_ways() {
    let apart = |there: &[(&str, &str)], back: &[(&str, &str)], blackhole: bool| {
        let mut around = good();
        let ways = |ways: &[(&str, &str)]| {
            let way = |(network, to): &(&str, &str)| Way {
                network: Some(network.parse().unwrap()),
                to: (*to).to_owned(),
                blackhole,
            };
            ways.iter().map(way).collect()
        };
        around.agents.hosts[0].vpc = "vpc-2".to_owned();
        *ingress(&mut around) = vec![rule("10.0.2.9/32", None)];
        around.agents.groups.clear();
        around.subnets.get_mut("subnet-a").unwrap().ways = ways(there);
        around.subnets.get_mut("subnet-b").unwrap().ways = ways(back);
        faults(&around).into_iter().filter(|(_, verdict, _)| *verdict != Verdict::Skipped).collect::<Vec<_>>()
    };
    let peered = [("0.0.0.0/0", "nat-1"), ("10.0.0.0/16", "pcx-1")];
    assert_eq!(apart(&peered, &peered, false), []);
    for (found, part) in [
        (apart(&[("0.0.0.0/0", "nat-1")], &peered, false), "subnet-a to 10.0.1.7 leads to the internet (nat-1)"),
        (apart(&peered, &[], false), "no route of subnet-b leads to 10.0.2.9"),
        (apart(&peered, &peered, true), "which is gone"),
    ] {
        assert!(found.len() == 1 && found[0].0 == "route-missing" && found[0].2.contains(part), "{found:?}");
    }
}

#[test]
fn versions_side_by_side() {
    let verdict = |builder: Option<&str>, agent: Option<&str>, locked: Option<&str>| {
        let mut around = good();
        around.builder.buildkit = builder.map(str::to_owned);
        around.agents.hosts[0].buildkit = agent.map(str::to_owned);
        images(&around, locked).verdict
    };
    let (old, new) = (Some("v0.31.2"), Some("v0.32.0"));
    assert_eq!(verdict(old, old, old), Verdict::Fine);
    assert_eq!(verdict(old, old, None), Verdict::Fine);
    assert_eq!(verdict(old, old, new), Verdict::Warning);
    assert_eq!(verdict(old, new, new), Verdict::Wrong);
    assert_eq!(verdict(None, None, new), Verdict::Skipped);
    // The stack's own image: no buildctl on it.
    assert_eq!(verdict(old, None, old), Verdict::Warning);
}
