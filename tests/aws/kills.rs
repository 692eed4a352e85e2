//! Interrupted and killed at every call of a bake: what is left is nothing, or what `gc` finds by tag alone.

use std::cell::Cell;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cloud::Cloud;

/// Bakes until call number `number` hangs (before or after it took effect), sends `signal` there, lets the call go on,
/// and waits for the end. None if the bake makes fewer calls.
fn interrupted_at(cloud: &Cloud, number: usize, after: bool, signal: Signal) -> Option<(i32, String)> {
    cloud.faults(&json!([{ "nth": number + 1, "effect": "hang", "when": if after { "after" } else { "before" } }]));
    let mut bake = cloud.amibake(&["build", "tiny", "--force"]);
    let mut bake = bake.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Not more than a pipe holds.
    let mut talk = bake.stderr.take().unwrap();
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
    let mut said = String::new();
    talk.read_to_string(&mut said).unwrap();
    Some((bake.wait().unwrap().code().unwrap_or(-1), said))
}

/// A bake is interrupted at every call it makes; `check` says what must hold after each.
fn at_every_call(signal: Signal, check: impl Fn(&Cloud, i32, &str)) {
    let cloud = Cloud::start(0.0);
    let mut interrupted = 0;
    for number in 0.. {
        let mut any = false;
        for after in [false, true] {
            let Some((code, said)) = interrupted_at(&cloud, number, after, signal) else { continue };
            any = true;
            interrupted += 1;
            check(&cloud, code, &format!("call {number}, after it took effect: {after}, exit {code}\n{said}"));
        }
        if !any {
            break;
        }
    }
    assert!(interrupted >= 40, "{interrupted}");
}

#[test]
#[ignore = "needs the test cloud"]
fn an_interruption_at_any_call_leaves_nothing() {
    let done = Cell::new(0);
    at_every_call(Signal::INT, |cloud, code, context| {
        assert_eq!(cloud.leftovers(), [] as [&str; 0], "{context}");
        // Only one that comes when the image is finished, and the rest is being removed, is too late to undo it.
        match code {
            0 => done.set(done.get() + 1),
            code => assert_eq!(code, 130, "{context}"),
        }
        assert_eq!(cloud.images().len(), done.get(), "{context}");
    });
    assert!(done.get() <= 6, "{}", done.get());
}

#[test]
#[ignore = "needs the test cloud"]
fn what_a_bake_killed_at_any_call_left_is_removed_by_tag_alone() {
    at_every_call(Signal::KILL, |cloud, _, context| {
        // Without its journal: another machine does not have it.
        let Ok(runs) = cloud.runs().read_dir() else { return };
        let runs: Vec<String> = runs.flatten().map(|run| run.file_name().into_string().unwrap()).collect();
        std::fs::remove_dir_all(cloud.runs()).unwrap();
        for run in &runs {
            let (code, _, said) = cloud.run(&["gc", "--run", run, "--yes"]);
            assert_eq!(code, 0, "{context}: {said}");
        }
        assert_eq!(cloud.leftovers(), [] as [&str; 0], "{context}");
        // Killed after its last word on the image, the bake was done.
        let unfinished = cloud.images().into_iter().filter(|image| image["tags"]["amibake:expires"].is_string());
        assert_eq!(unfinished.count(), 0, "{context}");
    });
}

#[test]
#[ignore = "needs the test cloud"]
fn two_who_clean_up_at_once_and_a_tarball_in_a_bucket() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("parcels");
    let text = crate::cloud::RECIPE
        .replace("tiny", "boxed")
        .replace("[machine.aws]", "[delivery]\nbucket = \"parcels\"\n[machine.aws]");
    cloud.recipe("boxed", &text.replace("id -u >/etc", "sleep 60\\nid -u >/etc"));
    let mut bake = cloud.amibake(&["build", "boxed"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(60);
    while cloud.operations().iter().filter(|operation| *operation == "SendCommand").count() < 3 {
        assert!(Instant::now() < due && bake.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(50));
    }
    // What lives is nobody's to remove: it is not past its time, and its journal says that it is at work.
    let (code, json, said) = cloud.run(&["gc", "--yes", "--json"]);
    assert_eq!((code, json["found"].as_array().map(Vec::len)), (0, Some(0)), "{said}");
    kill_process(Pid::from_child(&bake), Signal::KILL).unwrap();
    bake.wait().unwrap();
    let run = cloud.runs().read_dir().unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
    std::fs::remove_dir_all(cloud.runs()).unwrap();
    assert_eq!(cloud.objects("parcels").len(), 1);
    let arguments = ["gc", "--run", &run, "--yes", "--json"];
    let mut one = cloud.amibake(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (code, _, said) = cloud.run(&arguments);
    assert_eq!((code, one.wait().unwrap().code()), (0, Some(0)), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    assert_eq!(cloud.objects("parcels"), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_machine_nobody_heard_of_does_not_hold_up_the_clean_up() {
    let cloud = Cloud::start(0.0);
    cloud.faults(&json!([{ "operation": "RunInstances", "effect": "hang", "when": "after" }]));
    let mut bake = cloud.amibake(&["build", "tiny"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(60);
    while !cloud.hanging() {
        assert!(Instant::now() < due && bake.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&bake), Signal::KILL).unwrap();
    bake.wait().unwrap();
    cloud.faults(&json!([]));
    // From another machine it may be at work: it is told, and left alone.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut gc = cloud.amibake_without_lock(&["gc", "--json", "--yes"]);
    let output = gc.current_dir(elsewhere.path()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), json["found"].as_array().unwrap().len()), (Some(0), 0), "{json}");
    let later: Vec<&str> = json["later"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert!(later.contains(&"instance") && later.contains(&"security_group"), "{later:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("amibake gc --run"), "{output:?}");
    // Here the journal says that the run is dead.
    let started = Instant::now();
    let (code, json, said) = cloud.run(&["gc", "--json", "--yes"]);
    assert_eq!(code, 0, "{said}");
    assert!(json["found"].as_array().unwrap().len() >= 2, "{json}");
    cloud.done(&["build", "tiny"]);
    assert!(started.elapsed() < Duration::from_secs(75), "{:?}", started.elapsed());
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}
