//! What a bake makes, and what it costs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cloud::{Cloud, RECIPE};

fn baked(json: &Value) -> &Value {
    assert_eq!(json["results"][0]["outcome"], "baked", "{json}");
    &json["results"][0]["image"]
}

#[test]
#[ignore = "needs the test cloud"]
fn a_bake_makes_an_image_and_leaves_nothing_else() {
    let cloud = Cloud::start(0.0);
    let json = cloud.done(&["build", "tiny", "--json"]);
    let image = baked(&json);
    let id = image["location"].as_str().unwrap();
    assert!(id.starts_with("ami-"), "{image}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    let images = cloud.images();
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(images[0]["id"], id);
    // What the instance really held is in it, and what was only there for the bake is not.
    let files = Path::new(images[0]["files"].as_str().unwrap());
    let by = std::fs::read_to_string(files.join("etc/baked-by")).unwrap();
    assert!(by.starts_with("0\nv"), "{by}");
    assert!(files.join("usr/local/bin/buildctl").exists());
    for gone in ["var/tmp/amibake", "run/amibake"] {
        assert!(!files.join(gone).exists(), "{gone}");
    }
    let tags = &images[0]["tags"];
    for tag in ["amibake:recipe", "amibake:fingerprint", "amibake:buildkit", "amibake:base", "amibake:run"] {
        assert!(tags[tag].is_string(), "{tag}: {tags}");
    }
    assert!(tags["amibake:expires"].is_null(), "a finished image does not expire: {tags}");
    assert!(
        cloud
            .path()
            .join("dist")
            .read_dir()
            .unwrap()
            .flatten()
            .any(|folder| { folder.path().join("manifest.json").exists() && folder.path().join("bake.log").exists() })
    );
}

#[test]
#[ignore = "needs the test cloud"]
fn the_second_build_finds_it_in_at_most_four_calls() {
    let cloud = Cloud::start(0.0);
    let first = cloud.done(&["build", "tiny", "--json"]);
    let before = cloud.operations().len();
    let second = cloud.done(&["build", "tiny", "--json"]);
    assert_eq!(second["results"][0]["outcome"], "existing", "{second}");
    assert_eq!(second["results"][0]["image"]["location"], baked(&first)["location"]);
    let operations = cloud.operations().split_off(before);
    assert!(operations.len() <= 4, "{operations:?}");
    assert!(!operations.contains(&"RunInstances".to_owned()));
    // By force it is baked again, beside the first.
    let third = cloud.done(&["build", "tiny", "--json", "--force"]);
    assert_ne!(baked(&third)["location"], baked(&first)["location"]);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_bake_makes_few_calls() {
    let cloud = Cloud::start(0.0);
    cloud.recipe("empty", &RECIPE[..RECIPE.find("[[volume]]").unwrap()].replace("tiny", "empty"));
    cloud.done(&["build", "empty", "--json"]);
    let operations = cloud.operations();
    // As many as Packer 1.6.6 makes for a bake without tags and without any script run on the machine, and two for the
    // base's parameter and the look for an image that exists.
    assert!(operations.len() <= 22, "{}: {operations:?}", operations.len());
}

#[test]
#[ignore = "needs the test cloud"]
fn recipes_and_architectures_bake_side_by_side() {
    let cloud = Cloud::start(0.0);
    cloud.recipe("other", &RECIPE.replace("tiny", "other"));
    let json = cloud.done(&["build", "--all", "--json"]);
    assert_eq!(json["results"].as_array().unwrap().len(), 2, "{json}");
    assert_eq!(cloud.images().len(), 2);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_failing_step_shows_its_real_error_whatever_came_before() {
    let cloud = Cloud::start(0.0);
    let script = "seq 100000\nprintf 'b\\\\377\\\\000\\n'\necho the real reason >&2\nexit 7";
    cloud.recipe("bad", &RECIPE.replace("tiny", "bad").replace("id -u >/etc/baked-by", &script.replace('\n', "\\n")));
    let (code, json, said) = cloud.run(&["build", "bad", "--json"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the real reason"), "{said}");
    assert!(said.contains("exit status 7"), "{said}");
    assert_eq!(json["results"][0]["outcome"], "failed");
    // The whole output is in the log.
    let run = cloud.runs().read_dir().unwrap().flatten().next().unwrap().path();
    let log = String::from_utf8_lossy(&std::fs::read(run.join("bake.log")).unwrap()).into_owned();
    assert!(log.contains("\n1\n2\n3\n") && log.contains("\n99999\n100000\n"), "{}", log.len());
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    assert_eq!(cloud.images(), [] as [Value; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_test_boot_runs_the_new_image() {
    let cloud = Cloud::start(0.0);
    cloud.done(&["build", "tiny", "--json", "--verify"]);
    let launches = cloud.operations().iter().filter(|operation| *operation == "RunInstances").count();
    assert!(launches >= 2);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    let failing = RECIPE
        .replace("tiny", "failing")
        .replace("test -x /usr/local/bin/buildctl", "test -e /nowhere")
        .replace("[[check]]", "[[check]]\nwhen = \"boot\"");
    cloud.recipe("failing", &failing);
    let (code, _, said) = cloud.run(&["build", "failing", "--verify"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("does not pass its checks when it boots"), "{said}");
    assert_eq!(cloud.images().len(), 1, "the one that failed is gone");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn everything_that_would_fail_later_is_told_at_once() {
    let cloud = Cloud::start(0.0);
    let text = RECIPE
        .replace("tiny", "wrong")
        .replace("instance_profile = \"amibake\"", "instance_profile = \"nobody\"\ninstance_types = [\"m6g.large\"]");
    cloud.recipe("wrong", &text);
    let (code, _, said) = cloud.run(&["build", "wrong"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("nobody") && said.contains("m6g.large"), "{said}");
    assert!(!cloud.operations().contains(&"CreateSecurityGroup".to_owned()));
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_base_that_cannot_serve_is_refused_with_its_reason() {
    let cloud = Cloud::start(0.0);
    let minimal = "filter = { owner = \"amazon\", name = \"al2023-ami-minimal-*\" }";
    let from = RECIPE.find("ssm_parameter").unwrap();
    let to = from + RECIPE[from..].find('\n').unwrap();
    cloud.recipe("minimal", &RECIPE.replace(&RECIPE[from..to], minimal).replace("tiny", "minimal"));
    let (code, _, said) = cloud.run(&["plan", "minimal"]);
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("minimal"), "{said}");
    assert_eq!(cloud.images(), Vec::<Value>::new());
}

#[test]
#[ignore = "needs the test cloud"]
fn the_printed_policy_allows_every_call_that_is_made_and_little_else() {
    let cloud = Cloud::start(0.0);
    let policy = cloud.done(&["render", "iam-policy"]);
    let statements = policy["Statement"].as_array().unwrap().iter();
    let allowed: BTreeSet<&str> =
        statements.flat_map(|one| one["Action"].as_array().unwrap()).map(|action| action.as_str().unwrap()).collect();
    // What a good day and a bad one ask for.
    cloud.done(&["build", "tiny", "--json", "--verify"]);
    cloud.done(&["build", "tiny", "--json"]);
    cloud.recipe("bad", &RECIPE.replace("tiny", "bad").replace("id -u >/etc", "exit 1\\nid -u >/etc"));
    assert_eq!(cloud.run(&["build", "bad"]).0, 1);
    cloud.run(&["gc", "--yes"]);
    let calls = cloud.calls();
    let made: BTreeSet<String> = calls
        .iter()
        .map(|call| format!("{}:{}", call["service"].as_str().unwrap(), call["operation"].as_str().unwrap()))
        .collect();
    assert!(made.len() > 15, "{made:?}");
    let forbidden: Vec<&String> = made.iter().filter(|call| !allowed.contains(call.as_str())).collect();
    assert_eq!(forbidden, Vec::<&String>::new());
}

#[test]
#[ignore = "needs the test cloud"]
fn the_shipped_agent_is_baked_on_the_stacks_image() {
    let cloud = Cloud::start(0.0);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    cloud.recipe("agent", &std::fs::read_to_string(root.join("recipes/agent.toml")).unwrap());
    // The recipe of its peer lies beside it.
    cloud.recipe("builder", &std::fs::read_to_string(root.join("recipes/builder.toml")).unwrap());
    let assets = Command::new("cp").arg("-r").arg(root.join("assets")).arg(cloud.path()).status().unwrap();
    assert!(assets.success());
    let profile = "machine.aws.instance_profile=amibake";
    let json = cloud.done(&["build", "agent", "--json", "--set", profile]);
    baked(&json);
    let images = cloud.images();
    assert_eq!(images[0]["tags"]["amibake:elastic-ci-stack"], "v6.71.1");
    let files = Path::new(images[0]["files"].as_str().unwrap());
    assert!(files.join("usr/local/bin/buildctl").exists() && !files.join("usr/local/bin/buildkitd").exists());
    // Every check of the stack ran, and none was skipped but those that need the builder.
    let manifest = std::fs::read_dir(cloud.path().join("dist")).unwrap().flatten().next().unwrap().path();
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest.join("manifest.json")).unwrap()).unwrap();
    let checks = manifest["checks"].as_array().unwrap();
    let stack = checks.iter().filter(|check| check["name"].as_str().unwrap().starts_with("stack: "));
    assert_eq!(stack.map(|check| check["result"].as_str().unwrap()).collect::<Vec<_>>(), ["passed"; 5]);
}
