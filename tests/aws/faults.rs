//! A cloud that is slow, forgetful, full or broken.

use serde_json::{Value, json};

use crate::cloud::{Cloud, RECIPE};

#[test]
#[ignore = "needs the test cloud"]
fn a_third_of_all_calls_throttled_does_not_fail_a_bake() {
    let cloud = Cloud::start(0.0);
    cloud.faults(&json!([{ "probability": 0.33, "effect": "throttle" }]));
    cloud.done(&["build", "tiny", "--json"]);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    let errors = cloud.calls().iter().filter(|call| call["error"].is_string()).count();
    assert!(errors > 5, "{errors}");
}

#[test]
#[ignore = "needs the test cloud"]
fn what_was_just_made_may_be_unknown_for_a_moment() {
    let cloud = Cloud::start(0.0);
    let unknown =
        |operation: &str, code: &str| json!({ "operation": operation, "effect": "error", "code": code, "limit": 2 });
    cloud.faults(&json!([
        unknown("RunInstances", "InvalidGroup.NotFound"),
        unknown("SendCommand", "InvalidInstanceId"),
        unknown("GetCommandInvocation", "InvocationDoesNotExist"),
        // Asked for by a filter, what is unknown is only left out of the answer.
        json!({ "operation": "DescribeInstances", "effect": "error", "code": "InvalidInstanceID.NotFound", "limit": 1 }),
    ]));
    cloud.done(&["build", "tiny", "--json"]);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn an_answer_that_is_lost_makes_nothing_twice() {
    for operation in ["RunInstances", "CreateImage"] {
        let cloud = Cloud::start(0.0);
        cloud.faults(&json!([{ "operation": operation, "effect": "reset", "when": "after", "limit": 1 }]));
        cloud.done(&["build", "tiny", "--json"]);
        assert_eq!(cloud.images().len(), 1, "{operation}");
        assert_eq!(cloud.state()["instances"].as_array().unwrap().len(), 1, "{operation}");
        assert_eq!(cloud.leftovers(), [] as [&str; 0], "{operation}");
    }
}

#[test]
#[ignore = "needs the test cloud"]
fn where_there_is_no_capacity_another_zone_or_type_is_tried() {
    let cloud = Cloud::start(0.0);
    let full = |limit: u32| {
        json!([{
            "operation": "RunInstances", "effect": "error", "code": "InsufficientInstanceCapacity", "status": 500,
            "message": "no capacity here", "limit": limit,
        }])
    };
    cloud.faults(&full(3));
    cloud.done(&["build", "tiny", "--json"]);
    let asked = cloud.operations().iter().filter(|operation| *operation == "RunInstances").count();
    assert_eq!(asked, 4, "each attempt is asked for once");
    cloud.faults(&full(1000));
    let (code, _, said) = cloud.run(&["build", "tiny", "--force"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("m7i.large") && said.contains("m6i.large") && said.contains("no capacity here"), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_machine_that_dies_says_why() {
    let cloud = Cloud::start(0.0);
    cloud.recipe("long", &RECIPE.replace("tiny", "long").replace("id -u >/etc", "sleep 60\\nid -u >/etc"));
    // Its third command: what is sent is packed, so a rule cannot find it by its words.
    cloud.faults(&json!([{ "effect": "dies", "nth": 3 }]));
    let (code, _, said) = cloud.run(&["build", "long"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("Server.SpotInstanceTermination"), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    assert_eq!(cloud.images(), [] as [Value; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn an_image_that_fails_says_why_and_is_removed() {
    let cloud = Cloud::start(0.0);
    cloud.faults(&json!([{ "effect": "image_fails" }]));
    let (code, _, said) = cloud.run(&["build", "tiny"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the snapshot was lost"), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    assert_eq!(cloud.images(), [] as [Value; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn an_image_that_takes_too_long_is_kept_and_taken_up_by_the_next_build() {
    // An image takes 60 s times the scale.
    let cloud = Cloud::start(0.1);
    let (code, _, said) = cloud.run(&["build", "tiny", "--set", "machine.image_timeout=1s"]);
    assert_eq!(code, 1, "{said}");
    let id = cloud.images()[0]["id"].as_str().unwrap().to_owned();
    assert!(said.contains(&id), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    let json = cloud.done(&["build", "tiny", "--json"]);
    assert_eq!(json["results"][0]["outcome"], "existing", "{json}");
    assert_eq!(json["results"][0]["image"]["location"], id.as_str());
    assert!(cloud.images()[0]["tags"]["amibake:expires"].is_null());
    assert_eq!(cloud.state()["instances"].as_array().unwrap().len(), 1);
}
