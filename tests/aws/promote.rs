//! Channels: what may be promoted, what is written, and the way back.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cloud::{Cloud, RECIPE};

const STABLE: &str = "/amibake/builder/amd64/stable";
const AGENT: &str = "/amibake/agent/amd64/stable";

/// A verified image.
fn seeded(cloud: &Cloud, recipe: &str, days: u32, version: &str) -> String {
    let tags = json!({ "amibake:verified": "2026-11-20T00:00:00Z" });
    let wanted = json!({ "region": "us-east-1", "recipe": recipe, "days": days, "version": version, "tags": tags });
    cloud.seed(&wanted).remove(0)
}

/// What a parameter holds.
fn held(cloud: &Cloud, name: &str) -> Option<String> {
    let found = cloud.boto("ssm", "us-east-1", &format!("client.get_parameters(Names=['{name}'])['Parameters']"));
    found[0]["Value"].as_str().map(str::to_owned)
}

fn written(cloud: &Cloud) -> usize {
    cloud.operations().iter().filter(|operation| *operation == "PutParameter").count()
}

#[test]
#[ignore = "needs the test cloud"]
fn only_what_was_seen_to_boot_is_promoted_and_only_once() {
    let cloud = Cloud::start(0.0);
    // Without its volume: nothing restarts here.
    let recipe = RECIPE.replace(&RECIPE[RECIPE.find("[[volume]]").unwrap()..RECIPE.find("[[step]]").unwrap()], "");
    cloud.recipe("tiny", &recipe);
    let built = cloud.done(&["build", "tiny", "--json"]);
    let id = built["results"][0]["image"]["location"].as_str().unwrap();
    for what in ["tiny", id] {
        let (code, _, said) = cloud.run(&["promote", what]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("was never seen to boot") && said.contains("amibake verify tiny"), "{said}");
    }
    cloud.done(&["verify", "tiny", "--json"]);
    let output = cloud.amibake(&["promote", "tiny"]).output().unwrap();
    let (stdout, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(stdout.trim(), format!("/amibake/tiny/amd64/stable  {id}"), "{said}");
    assert!(said.contains("at a stack update only"), "{said}");
    assert_eq!(held(&cloud, "/amibake/tiny/amd64/stable").as_deref(), Some(id));
    let puts = written(&cloud);
    let again = cloud.done(&["promote", "tiny", "--json"]);
    assert_eq!(again["promoted"][0]["changed"], false);
    assert_eq!(written(&cloud), puts, "nothing is written twice");
    let images = cloud.done(&["images", "--json"]);
    assert_eq!(images["images"][0]["promoted"], json!(["stable"]));
    // A bake that is test-booted may be promoted at once.
    cloud.done(&["build", "tiny", "--json", "--force", "--verify"]);
    let next = cloud.done(&["promote", "tiny", "--json", "--channel", "canary"]);
    assert_ne!(next["promoted"][0]["image"], id);
    let put =
        "client.describe_parameters(ParameterFilters=[{'Key':'DataType','Values':['aws:ec2:image']}])['Parameters']";
    assert_eq!(cloud.boto("ssm", "us-east-1", put).as_array().unwrap().len(), 2);
}

#[test]
#[ignore = "needs the test cloud"]
fn the_way_back() {
    let cloud = Cloud::start(0.0);
    let ids: Vec<String> = (0..4).map(|day| seeded(&cloud, "builder", 10 - day, "v0.31.2")).collect();
    for id in &ids {
        cloud.done(&["promote", id]);
    }
    assert_eq!(held(&cloud, STABLE).as_ref(), Some(&ids[3]));
    let back = cloud.done(&["rollback", "builder", "--json"]);
    assert_eq!(
        (back["promoted"][0]["image"].as_str(), back["promoted"][0]["before"].as_str()),
        (Some(&*ids[2]), Some(&*ids[3]))
    );
    cloud.done(&["rollback", "builder"]);
    assert_eq!(held(&cloud, STABLE).as_ref(), Some(&ids[3]), "a second one returns");
    // What is gone is left out, and told.
    cloud.boto("ec2", "us-east-1", &format!("client.deregister_image(ImageId='{}')", ids[2]));
    let (code, _, said) = cloud.run(&["rollback", "builder"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 images that it held before are gone"), "{said}");
    assert_eq!(held(&cloud, STABLE).as_ref(), Some(&ids[1]));
    let (code, _, said) = cloud.run(&["rollback", "agent"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("agent has never been promoted to stable"), "{said}");
    let once = seeded(&cloud, "agent", 1, "v0.31.2");
    cloud.done(&["promote", &once]);
    assert!(cloud.run(&["rollback", "agent"]).2.contains("held no other image"));
}

#[test]
#[ignore = "needs the test cloud"]
fn a_pair_is_promoted_together_or_not_at_all() {
    let cloud = Cloud::start(0.0);
    let builder = seeded(&cloud, "builder", 5, "v0.31.2");
    let (code, _, said) = cloud.run(&["promote", "--pair"]);
    assert_eq!(code, 1, "{said}");
    seeded(&cloud, "agent", 5, "v0.30.0");
    let (code, _, said) = cloud.run(&["promote", "--pair"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("they are no pair") && said.contains("v0.30.0"), "{said}");
    assert_eq!(written(&cloud), 0);
    let agent = seeded(&cloud, "agent", 1, "v0.31.2");
    // The second write fails: the first one is taken back, to nothing.
    let refused = json!([{
        "operation": "PutParameter", "effect": "error", "code": "TooManyUpdates", "contains": "/amibake/agent",
    }]);
    cloud.faults(&refused);
    let (code, _, said) = cloud.run(&["promote", "--pair"]);
    assert_eq!(code, 4, "{said}");
    assert_eq!((held(&cloud, STABLE), held(&cloud, AGENT)), (None, None), "{said}");
    cloud.faults(&json!([]));
    cloud.done(&["promote", "--pair"]);
    assert_eq!((held(&cloud, STABLE), held(&cloud, AGENT)), (Some(builder.clone()), Some(agent.clone())));
    // And to what it was.
    for recipe in ["builder", "agent"] {
        seeded(&cloud, recipe, 0, "v0.31.2");
    }
    cloud.faults(&refused);
    let (code, _, said) = cloud.run(&["promote", "--pair"]);
    assert_eq!(code, 4, "{said}");
    assert_eq!(held(&cloud, STABLE).as_ref(), Some(&builder), "{said}");
    cloud.faults(&json!([]));
    cloud.done(&["promote", "--pair"]);
    assert_ne!(held(&cloud, AGENT).as_ref(), Some(&agent));
    cloud.done(&["rollback", "--pair"]);
    assert_eq!((held(&cloud, STABLE), held(&cloud, AGENT)), (Some(builder), Some(agent)));
}

#[test]
#[ignore = "needs the test cloud"]
fn an_interruption_between_two_writes_takes_the_first_one_back() {
    let cloud = Cloud::start(0.0);
    for recipe in ["builder", "agent"] {
        seeded(&cloud, recipe, 1, "v0.31.2");
    }
    // The second look at the builder's parameter is the one after it was written.
    let looks = json!([{ "operation": "GetParameter", "contains": "/amibake/builder", "nth": 2, "effect": "hang" }]);
    cloud.faults(&looks);
    let mut promotion = cloud.amibake(&["promote", "--pair"]);
    let mut promotion = promotion.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(60);
    while !cloud.hanging() {
        assert!(Instant::now() < due && promotion.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&promotion), Signal::INT).unwrap();
    // It has the signal once it says so; the first write ends, the second never begins.
    let mut line = String::new();
    let mut said = BufReader::new(promotion.stderr.take().unwrap());
    while !line.contains("interrupted") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended without a word");
    }
    cloud.faults(&json!([]));
    std::io::copy(&mut said, &mut std::io::sink()).unwrap();
    assert_eq!(promotion.wait().unwrap().code(), Some(130));
    assert_eq!((held(&cloud, STABLE), held(&cloud, AGENT)), (None, None));
}

#[test]
#[ignore = "needs the test cloud"]
fn a_third_of_all_calls_throttled_does_not_stop_a_promotion() {
    let cloud = Cloud::start(0.0);
    let id = seeded(&cloud, "builder", 1, "v0.31.2");
    cloud.faults(&json!([{ "probability": 0.33, "effect": "throttle" }]));
    cloud.done(&["promote", "builder"]);
    cloud.faults(&json!([]));
    assert_eq!(held(&cloud, STABLE), Some(id));
}

#[test]
#[ignore = "needs the test cloud"]
fn a_stack_is_updated_with_what_it_has() {
    let cloud = Cloud::start(0.0);
    seeded(&cloud, "agent", 1, "v0.31.2");
    cloud.boto(
        "ssm",
        "us-east-1",
        &format!("client.put_parameter(Name='{AGENT}',Value='ami-0',Type='String',DataType='aws:ec2:image')"),
    );
    let template = json!({
        "Parameters": { "ImageIdParameter": { "Type": "AWS::SSM::Parameter::Value<String>" } },
        "Resources": { "Topic": { "Type": "AWS::SNS::Topic", "Properties": { "TopicName": { "Ref": "ImageIdParameter" } } } },
    });
    let create = format!(
        "client.create_stack(StackName='buildkite',TemplateBody={:?},Parameters=[{{'ParameterKey':'ImageIdParameter','ParameterValue':'{AGENT}'}}])",
        template.to_string()
    );
    cloud.boto("cloudformation", "us-east-1", &create);
    let json = cloud.done(&["promote", "agent", "--update-stack", "buildkite", "--json"]);
    assert_eq!(json["stack_updated"], true, "{json}");
    let call = cloud.calls().into_iter().find(|call| call["operation"] == "UpdateStack").unwrap();
    let has = |name: &str| call["parameters"].as_array().unwrap().iter().any(|one: &Value| one == name);
    assert!(has("UsePreviousTemplate") && has("Parameters.member.1.UsePreviousValue"), "{call}");
    cloud.faults(&json!([{
        "operation": "UpdateStack", "effect": "error", "code": "ValidationError", "message": "No updates are to be performed.",
    }]));
    let json = cloud.done(&["promote", "agent", "--update-stack", "buildkite", "--json"]);
    assert_eq!(json["stack_updated"], false, "{json}");
    cloud.faults(&json!([]));
    let (code, _, said) = cloud.run(&["promote", "agent", "--update-stack", "nobodys"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("nobodys"), "{said}");
}
