//! Verification of a group on the fake world.

use super::fake::{Act, Trap, World};
use super::*;
use crate::error::Exit;

async fn verified(group: &Group, world: &Arc<World>, cancel: &CancellationToken) -> Result<Verified> {
    verify(group, &world.provider(), &Reporter::silent(), cancel).await
}

fn line(checked: &Checked) -> String {
    format!("{}: {}: {}", checked.recipe, checked.check, checked.result)
}

#[tokio::test(start_paused = true)]
async fn every_boot_check_runs_with_its_peer_and_again_after_a_restart() {
    let (place, world) = (Place::new(), World::new());
    let result = verified(&place.group(), &world, &CancellationToken::new()).await.unwrap();
    insta::assert_snapshot!(result.checks.iter().map(line).collect::<Vec<_>>().join("\n"), @r"
    builder: version matches: passed
    builder: stack's own set-up: skipped
    builder: port answers: passed
    agent: version matches: passed
    agent: stack's own set-up: skipped
    agent: port answers: passed
    agent: reaches the builder: passed
    builder: volume `cache` keeps its content over a restart: passed
    builder: version matches (after a restart): passed
    builder: stack's own set-up (after a restart): skipped
    builder: port answers (after a restart): passed
    agent: version matches (after a restart): passed
    agent: stack's own set-up (after a restart): skipped
    agent: port answers (after a restart): passed
    agent: reaches the builder (after a restart): passed
    ");
    assert_eq!(world.nodes().iter().filter(|node| *node == "restart").count(), 1, "only what has a volume");
    let peers: Vec<_> = world.ran().into_iter().filter_map(|(script, peer)| Some((script, peer?))).collect();
    let cross = ("reaches the builder".to_owned(), "10.0.0.0".to_owned());
    assert_eq!(peers, [cross.clone(), cross]);
    assert_eq!((result.leftovers, result.kept), (vec![], vec![]));
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_at_any_node_nothing_is_left() {
    let (place, world) = (Place::new(), World::new());
    verified(&place.group(), &world, &CancellationToken::new()).await.unwrap();
    let count = world.nodes().len();
    assert!(count >= 15, "{:?}", world.nodes());
    for node in 0..count {
        for trap in 0..3 {
            let cancel = CancellationToken::new();
            let (trap, exit) = match trap {
                0 => (Trap::Fail, Exit::Host),
                1 => (Trap::Panic, Exit::Failed),
                _ => (Trap::Cancel(cancel.clone()), Exit::Interrupted),
            };
            let (place, world) = (Place::new(), World::trapped(node, trap.clone()));
            let error = verified(&place.group(), &world, &cancel).await.unwrap_err();
            assert_eq!(error.exit(), exit, "node {node}, {trap:?}: {error}");
            place.assert_clean(&world, &format!("node {node}, {trap:?}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_is_a_result_and_hides_nothing() {
    let (place, world) = (Place::new(), World::new());
    world.act("version matches", Act::Exit(1, "v0.9 is not v0.31\n"));
    world.act("reaches the builder", Act::Hang);
    let group = Group { restart: false, ..place.group() };
    let result = verified(&group, &world, &CancellationToken::new()).await.unwrap();
    let failed: Vec<_> = result.checks.iter().filter(|check| check.result == "failed").collect();
    assert_eq!(failed.len(), 3);
    assert!(failed[0].reason.as_ref().unwrap().contains("  | v0.9 is not v0.31"));
    assert!(
        failed[2].reason.as_ref().unwrap().starts_with("check `reaches the builder` failed: took longer than 60 s")
    );
    assert_eq!(failed[2].elapsed_ms, 60_000);
    assert_eq!(result.checks.len(), 7);
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_loses_its_content_fails_by_name() {
    let (place, world) = (Place::new(), World::new());
    let group = place.group();
    let look = volume::look(&group.members[0].0.volumes[0], &group.run);
    world.act(&look.script, Act::Exit(1, "gone\n"));
    let result = verified(&group, &world, &CancellationToken::new()).await.unwrap();
    let failed: Vec<_> = result.checks.iter().filter(|check| check.result == "failed").map(line).collect();
    assert_eq!(failed, ["builder: volume `cache` keeps its content over a restart: failed"]);
    assert_eq!(result.checks.len(), 15, "the checks after it ran all the same");
}

#[tokio::test(start_paused = true)]
async fn without_its_peer_a_check_is_skipped_by_name() {
    let (place, world) = (Place::new(), World::new());
    let mut group = place.group();
    group.members.remove(0);
    let result = verified(&group, &world, &CancellationToken::new()).await.unwrap();
    let cross = result.checks.iter().find(|check| check.check == "reaches the builder").unwrap();
    assert_eq!(cross.result, "skipped");
    assert_eq!(cross.reason.as_deref(), Some("its peer `builder` is not among the images"));
    assert_eq!(result.checks.len(), 4, "nothing to restart: {:?}", result.checks);
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_an_address_is_an_error_and_not_a_check_less() {
    let (place, world) = (Place::new(), World::new());
    world.without_address();
    let error = verified(&place.group(), &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "check `reaches the builder` cannot reach `builder`: it has no address on the network"
    );
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn kept_machines_stay_and_are_told() {
    let (place, world) = (Place::new(), World::new());
    let group = Group { keep: true, ..place.group() };
    let result = verified(&group, &world, &CancellationToken::new()).await.unwrap();
    assert_eq!(result.kept.len(), 2);
    assert_eq!(world.live().len(), 2);
    assert!(place.run_dir().join("machine-0-builder/disk").exists());
    assert!(place.run_dir().join("machine-1-agent/disk").exists());
}

#[tokio::test(start_paused = true)]
async fn leftovers_are_told() {
    let (place, world) = (Place::new(), World::new());
    world.fail_removals(usize::MAX);
    let result = verified(&place.group(), &world, &CancellationToken::new()).await.unwrap();
    assert_eq!(result.leftovers.len(), 4);
}
