//! Bakes that end by themselves: well, by a failure, an interruption, a panic, a timeout.

use super::fake::{Act, Trap, World};
use super::*;
use crate::error::{Exit, render};
use crate::provider::{Resource, Severity};

/// The nodes of a bake in which nothing goes wrong.
async fn nodes() -> Vec<String> {
    let (place, world) = (Place::new(), World::new());
    run(&place.job(), &world, &CancellationToken::new()).await.unwrap();
    world.nodes()
}

#[tokio::test(start_paused = true)]
async fn a_bake_leaves_the_image_and_says_what_it_is_made_of() {
    let (place, world, memory) = (Place::new(), World::new(), Arc::new(Memory::default()));
    place.older_image();
    let reporter = Reporter::new("builder (amd64)", vec![memory.clone()]);
    let outcome = bake(&place.job(), &world.provider(), &reporter, &CancellationToken::new()).await.unwrap();
    place.assert_baked(&world, "");
    let Outcome::Baked { image, manifest, leftovers } = outcome else { panic!("{outcome:?}") };
    assert_eq!(leftovers, []);
    assert_eq!(image.location, place.dist().join(IMAGE).join("disk.qcow2"));
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    for changing in ["amibake", "started", "finished"] {
        assert!(manifest[changing].is_string());
        manifest[changing] = format!("[{changing}]").into();
    }
    assert_eq!(manifest["image"]["sha256"], Sha256::of(b"whole image").to_string());
    insta::assert_json_snapshot!("manifest", manifest);
    let log = std::fs::read_to_string(place.dist().join(IMAGE).join("bake.log")).unwrap();
    assert!(log.contains("[1/2] run: install git\nbegins\n"), "{log}");
    assert!(log.lines().last().unwrap().contains("done after"), "the log is complete to its end: {log}");
    assert!(
        memory
            .events()
            .contains(&Event::StepSkipped { name: "stack's own set-up".into(), reason: "only on aws".into() })
    );
    assert!(journal(&place.run_dir()).ends_with("{\"record\":\"done\"}\n"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_node_leaves_nothing() {
    let nodes = nodes().await;
    assert!(nodes.len() >= 12, "{nodes:?}");
    for (node, name) in nodes.iter().enumerate() {
        for older in [false, true] {
            let (place, world) = (Place::new(), World::trapped(node, Trap::Fail));
            if older {
                place.older_image();
            }
            let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
            let text = render(&error);
            assert!(text.contains(&format!("{name} failed on purpose")), "the first error is told: {text}");
            assert_eq!(error.exit(), Exit::Host, "{name}");
            place.assert_clean(&world, name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_at_any_node_leaves_nothing() {
    for (node, name) in nodes().await.iter().enumerate() {
        let cancel = CancellationToken::new();
        let (place, world) = (Place::new(), World::trapped(node, Trap::Cancel(cancel.clone())));
        let mut job = place.job();
        // Cleaning up is what an interruption asks for, whatever else was asked for before.
        job.keep = node % 2 == 0;
        let error = run(&job, &world, &cancel).await.unwrap_err();
        assert_eq!((error.exit(), error.to_string().as_str()), (Exit::Interrupted, "interrupted"), "{name}");
        place.assert_clean(&world, name);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_at_any_event_leaves_nothing_or_the_image() {
    let mut interrupted = 0;
    for at in 0.. {
        let cancel = CancellationToken::new();
        let (place, world) = (Place::new(), World::new());
        let sink = Arc::new(Interrupter { at, seen: Mutex::default(), cancel: cancel.clone() });
        let reporter = Reporter::new("", vec![sink.clone()]);
        match bake(&place.job(), &world.provider(), &reporter, &cancel).await {
            Ok(_) => place.assert_baked(&world, &format!("event {at}")),
            Err(error) => {
                interrupted += 1;
                assert_eq!(error.exit(), Exit::Interrupted, "event {at}");
                place.assert_clean(&world, &format!("event {at}"));
            }
        }
        if !cancel.is_cancelled() {
            break;
        }
    }
    assert!(interrupted > 20, "{interrupted}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_at_any_node_leaves_nothing_and_becomes_an_error() {
    for (node, name) in nodes().await.iter().enumerate() {
        let (place, world) = (Place::new(), World::trapped(node, Trap::Panic));
        let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("amibake panicked: {name} panicked on purpose"));
        assert_eq!(error.exit(), Exit::Failed);
        place.assert_clean(&world, name);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_made_by_a_request_on_its_way_when_interrupted_is_undone() {
    for (node, name) in nodes().await.iter().enumerate() {
        if !["launch", "capture"].contains(&name.as_str()) {
            continue;
        }
        let cancel = CancellationToken::new();
        let (place, world) = (Place::new(), World::trapped(node, Trap::CancelInFlight(cancel.clone())));
        let error = run(&place.job(), &world, &cancel).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Interrupted);
        assert_eq!(world.nodes().len(), node + 2, "the call came to its end: {:?}", world.nodes());
        place.assert_clean(&world, name);
    }
}

#[tokio::test(start_paused = true)]
async fn another_artifact_than_the_plans_is_refused() {
    let (place, world) = (Place::new(), World::new());
    let mut job = place.job();
    job.plan.artifact.sha256 = Sha256::of(b"another");
    let error = run(&job, &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert!(world.nodes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn cancelled_before_it_begins_touches_nothing() {
    let (place, world, cancel) = (Place::new(), World::new(), CancellationToken::new());
    cancel.cancel();
    let error = run(&place.job(), &world, &cancel).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Interrupted);
    assert!(world.nodes().is_empty());
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_shows_its_line_its_output_and_the_log() {
    let (place, world) = (Place::new(), World::new());
    world.act(
        "preamble\ninstall git",
        Act::Exit(100, "\x1b[31mE:\x1b[0m no such package\namibake: line 1: install git: exit status 100\n"),
    );
    let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Failed);
    let text = render(&error).replace(&place.run_dir().display().to_string(), "[run]");
    insta::assert_snapshot!(text, @r"
    error: step 1 of 2 `install git` failed: exit status 100
      line 1 of the script: install git
      the last lines of its output:
      | begins
      | E: no such package
      | amibake: line 1: install git: exit status 100
    hint: the whole output is in [run]/bake.log; `--keep` leaves the machine for inspection
    ");
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_killed_by_a_signal_or_loses_its_machine() {
    for (act, expected, exit) in [
        (Act::Hang, "step 2 of 2 `unpack buildkit` failed: took longer than 600 s", Exit::Failed),
        (Act::Signal, "step 2 of 2 `unpack buildkit` failed: ended by a signal", Exit::Failed),
        (Act::Break, "step 2 of 2 `unpack buildkit` did not come to an end", Exit::Host),
    ] {
        let (place, world) = (Place::new(), World::new());
        world.act("preamble\nunpack buildkit", act.clone());
        let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit()), (expected, exit));
        if matches!(act, Act::Break) {
            assert!(render(&error).ends_with("caused by: connection lost\nhint: look at the console\n"));
        }
        place.assert_clean(&world, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_whole_bake_has_a_deadline() {
    let (place, world) = (Place::new(), World::new());
    world.act("preamble\ninstall git", Act::Hang);
    let mut job = place.job();
    job.plan.machine.timeout = Duration::from_secs(300);
    let started = tokio::time::Instant::now();
    let error = run(&job, &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "the bake took longer than 300 s");
    assert_eq!(started.elapsed().as_secs(), 300);
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn every_failed_check_is_told() {
    let (place, world) = (Place::new(), World::new());
    world.act("version matches", Act::Exit(1, "v0.9 is not v0.31\n"));
    let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "check `version matches` failed: exit status 1");
    place.assert_clean(&world, "one");

    let (place, world) = (Place::new(), World::new());
    world.act("version matches", Act::Exit(1, "v0.9 is not v0.31\n"));
    world.act("port answers", Act::Hang);
    let error = run(&place.job(), &world, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "2 of 2 checks failed");
    let detail = error.detail().unwrap();
    assert!(detail.contains("v0.9 is not v0.31") && detail.contains("`port answers` failed: took longer than 60 s"));
    place.assert_clean(&world, "both");
}

#[tokio::test(start_paused = true)]
async fn preflight_refuses_with_everything_it_found() {
    let (place, world, memory) = (Place::new(), World::new(), Arc::new(Memory::default()));
    world.find(Severity::Warn, "emulation is slow");
    world.find(Severity::Refuse, "no QEMU");
    world.find(Severity::Refuse, "disk full");
    let reporter = Reporter::new("", vec![memory.clone()]);
    let error = bake(&place.job(), &world.provider(), &reporter, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Host);
    insta::assert_snapshot!(render(&error), @r"
    error: the bake would fail for 2 reasons
      - no QEMU
        hint: do about no QEMU
      - disk full
        hint: do about disk full
    ");
    assert_eq!(memory.warnings(), ["emulation is slow (do about emulation is slow)"]);
    assert_eq!(world.nodes(), ["preflight"]);
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_once_is_tried_again() {
    let (place, world) = (Place::new(), World::new());
    world.fail_removals(1);
    let outcome = run(&place.job(), &world, &CancellationToken::new()).await.unwrap();
    assert!(matches!(outcome, Outcome::Baked { ref leftovers, .. } if leftovers.is_empty()), "{outcome:?}");
    place.assert_baked(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_never_works_is_told_and_stays_in_the_journal() {
    type Spoil = fn(&World);
    let spoils: [(Spoil, &str); 3] = [
        (|world| world.fail_removals(usize::MAX), "is busy"),
        (World::panic_in_removals, "its removal panicked"),
        (World::hang_in_removals, "its removal took longer than 120 s"),
    ];
    for (spoil, expected) in spoils {
        // After a success: in the outcome.
        let (place, world) = (Place::new(), World::new());
        spoil(&world);
        let job = Job { test_boot: false, ..place.job() };
        let outcome = run(&job, &world, &CancellationToken::new()).await.unwrap();
        let Outcome::Baked { leftovers, .. } = outcome else { panic!("{outcome:?}") };
        // The staging folder, the process, the machine's folder: newest first.
        assert_eq!(leftovers.len(), 3, "{leftovers:?}");
        assert!(leftovers[2].reason.ends_with(expected), "{leftovers:?}");
        assert_eq!(leftovers[2].resource, Resource::Path { path: place.run_dir().join("machine") });
        assert_eq!(outstanding(&place.run_dir()).unwrap().len(), 3);
        assert!(!journal(&place.run_dir()).contains("\"done\""));

        // After a failure: the failure first, the rest as warnings.
        let (place, world, memory) = (Place::new(), World::trapped(4, Trap::Fail), Arc::new(Memory::default()));
        spoil(&world);
        let reporter = Reporter::new("", vec![memory.clone()]);
        let error = bake(&place.job(), &world.provider(), &reporter, &CancellationToken::new()).await.unwrap_err();
        assert!(render(&error).contains("failed on purpose"));
        let warnings = memory.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.iter().all(|text| text.starts_with("could not remove ") && text.ends_with(expected)));
    }
}

#[tokio::test(start_paused = true)]
async fn kept_on_failure_the_machine_stays_and_is_not_swept_while_it_runs() {
    let (place, world, memory) = (Place::new(), World::new(), Arc::new(Memory::default()));
    world.act("preamble\ninstall git", Act::Exit(1, ""));
    world.machine_runs();
    let job = Job { keep: true, ..place.job() };
    let reporter = Reporter::new("", vec![memory.clone()]);
    let error = bake(&job, &world.provider(), &reporter, &CancellationToken::new()).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.ends_with("left running: reach it with `ssh fake`, end it with `kill fake`"), "{hint}");
    assert_eq!(world.live().len(), 1);
    assert!(place.run_dir().join("machine/disk").exists());
    assert_eq!(fake::tree(&place.dist()), [] as [&str; 0]);
    assert_eq!(memory.warnings(), [] as [&str; 0]);
    assert_eq!(journal(&place.run_dir()).matches("\"left\"").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn kept_after_it_was_stopped_the_disk_stays_until_the_user_removes_it() {
    let nodes = nodes().await;
    let capture = nodes.iter().position(|name| name == "capture").unwrap();
    let (place, world) = (Place::new(), World::trapped(capture, Trap::Fail));
    let job = Job { keep: true, ..place.job() };
    let error = run(&job, &world, &CancellationToken::new()).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("the machine is off; its files are in "), "{hint}");
    assert!(place.run_dir().join("machine/disk").exists());
    assert_eq!(fake::tree(&place.dist()), [] as [&str; 0], "no half image");
}

#[tokio::test(start_paused = true)]
async fn kept_when_the_machine_died_by_itself_its_files_stay() {
    let (place, world) = (Place::new(), World::new());
    world.act("preamble\ninstall git", Act::Break);
    let error = run(&Job { keep: true, ..place.job() }, &world, &CancellationToken::new()).await.unwrap_err();
    assert!(error.hint().unwrap().starts_with("look at the console\nthe machine is off; its files are in "));
    assert!(place.run_dir().join("machine/disk").exists());
    assert!(!journal(&place.run_dir()).contains("\"left\""), "or the next sweep would take them");
}

#[tokio::test(start_paused = true)]
async fn kept_and_nothing_failed_nothing_stays() {
    let (place, world) = (Place::new(), World::new());
    run(&Job { keep: true, ..place.job() }, &world, &CancellationToken::new()).await.unwrap();
    place.assert_baked(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_second_bake_of_the_image_is_refused_while_the_first_runs() {
    let place = Place::new();
    let world = World::trapped(3, Trap::Freeze);
    let (job, cancel) = (place.job(), CancellationToken::new());
    let first = run(&job, &world, &cancel);
    tokio::pin!(first);
    tokio::select! {
        result = &mut first => panic!("{result:?}"),
        () = world.frozen.notified() => {}
    }
    let other = "20261124t145113-000000";
    let second = Job { run: RunId(other.into()), run_dir: place.runs().join(other), ..place.job() };
    let error = run(&second, &World::new(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Host);
    let expected = format!("another bake of {IMAGE} is running: process {}, run {RUN}", std::process::id());
    assert_eq!(error.to_string(), expected);
    // Another image is no matter of the first.
    let mut third = Job { plan: plan("agent"), ..second };
    third.plan.image.name = ImageName("agent-x".into());
    run(&third, &World::new(), &CancellationToken::new()).await.unwrap();
    std::fs::remove_dir_all(place.dist().join("agent-x")).unwrap();
    cancel.cancel();
    assert_eq!(first.await.unwrap_err().exit(), Exit::Interrupted);
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn folders_that_cannot_be_written_are_told() {
    let place = Place::new();
    std::fs::write(place.dist(), "a file where the folder should be").unwrap();
    let error = run(&place.job(), &World::new(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Host);
    assert_eq!(error.to_string(), format!("cannot make {}", place.dist().display()));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_fails_its_checks_when_it_boots_is_none() {
    for removals_failing in [0, 1] {
        let (place, world) = (Place::new(), World::new());
        let mut job = place.job();
        let mut check = job.plan.checks.iter().find(|check| check.at_boot && check.skipped.is_none()).unwrap().clone();
        (check.script, check.at_bake) = ("after boot".to_owned(), false);
        job.plan.checks.push(check);
        world.act("after boot", Act::Exit(3, "not there after boot\n"));
        world.fail_removals(removals_failing);
        let error = run(&job, &world, &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "the image does not pass its checks when it boots");
        assert!(error.detail().unwrap().contains("not there after boot"), "{:?}", error.detail());
        place.assert_clean(&world, "");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_test_boot_nothing_is_booted() {
    let (place, world) = (Place::new(), World::new());
    run(&Job { test_boot: false, ..place.job() }, &world, &CancellationToken::new()).await.unwrap();
    place.assert_baked(&world, "");
    assert_eq!(world.nodes().iter().filter(|node| *node == "launch").count(), 1);
}
