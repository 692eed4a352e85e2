//! A cloud that is slow, forgetful, full or broken.
use crate::cloud::Cloud;
use serde_json::json;

#[test]
#[ignore = "needs the test cloud"]
fn a_third_of_all_calls_throttled_does_not_fail_a_bake() {
    let cloud = Cloud::start(0.0);
    cloud.faults(&json!([{ "probability": 0.33, "effect": "throttle" }]));
    cloud.done(&["build", "tiny", "--json"]);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}
