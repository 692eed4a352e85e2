//! Interrupted and killed at every call of a bake: what is left is nothing, or what `gc` finds by tag alone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cloud::Cloud;

/// Bakes until call number `number` hangs (before or after it took effect), sends `signal` there, lets the call go on,
/// and waits for the end. None if the bake makes fewer calls.
fn interrupted_at(cloud: &Cloud, number: usize, after: bool, signal: Signal) -> Option<i32> {
    cloud.faults(&json!([{ "nth": number + 1, "effect": "hang", "when": if after { "after" } else { "before" } }]));
    let mut bake = cloud.amibake(&["build", "tiny", "--force"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_child(&bake);
    let due = Instant::now() + Duration::from_secs(60);
    loop {
        if bake.try_wait().unwrap().is_some() {
            return None;
        }
        if cloud.hanging() {
            break;
        }
        assert!(Instant::now() < due, "call {number} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(pid, signal).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    cloud.faults(&json!([]));
    Some(bake.wait().unwrap().code().unwrap_or(-1))
}

fn at_every_call(signal: Signal, check: impl Fn(&Cloud, &str)) {
    let cloud = Cloud::start(0.0);
    let mut interrupted = 0;
    for number in 0.. {
        let mut any = false;
        for after in [false, true] {
            let Some(code) = interrupted_at(&cloud, number, after, signal) else { continue };
            any = true;
            interrupted += 1;
            let context = format!("call {number}, after it took effect: {after}, exit {code}");
            if signal == Signal::INT {
                assert_eq!(code, 130, "{context}");
            }
            check(&cloud, &context);
        }
        if !any {
            break;
        }
    }
    assert!(interrupted >= 20, "{interrupted}");
}

#[test]
#[ignore = "needs the test cloud"]
fn an_interruption_at_any_call_leaves_nothing() {
    at_every_call(Signal::INT, |cloud, context| {
        assert_eq!(cloud.leftovers(), [] as [&str; 0], "{context}");
        assert_eq!(cloud.images().len(), 0, "{context}");
    });
}

#[test]
#[ignore = "needs the test cloud"]
fn what_a_bake_killed_at_any_call_left_is_removed_by_tag_alone() {
    at_every_call(Signal::KILL, |cloud, context| {
        // Without its journal: another machine does not have it.
        let runs: Vec<String> =
            cloud.runs().read_dir().unwrap().flatten().map(|run| run.file_name().into_string().unwrap()).collect();
        std::fs::remove_dir_all(cloud.runs()).unwrap();
        for run in &runs {
            let (code, _, said) = cloud.run(&["gc", "--run", run, "--yes"]);
            assert_eq!(code, 0, "{context}: {said}");
        }
        assert_eq!(cloud.leftovers(), [] as [&str; 0], "{context}");
        assert_eq!(cloud.images().len(), 0, "{context}");
    });
}
