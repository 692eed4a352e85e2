//! Copies, sharing, deprecation: in every region, whatever happens in another.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cloud::{Cloud, RECIPE};

const KEYS: &str = "eu-central-1=alias/images";

fn seeded(cloud: &Cloud) -> String {
    cloud.seed(&json!({ "region": "us-east-1", "recipe": "tiny", "days": 2 })).remove(0)
}

fn copies(cloud: &Cloud, region: &str) -> Vec<Value> {
    let found = cloud.boto("ec2", region, "client.describe_images(Owners=['self'])['Images']");
    found.as_array().unwrap().clone()
}

fn tag(image: &Value, key: &str) -> Value {
    let tags = image["Tags"].as_array().unwrap();
    tags.iter().find(|tag| tag["Key"] == key).map_or(Value::Null, |tag| tag["Value"].clone())
}

fn count(cloud: &Cloud, operation: &str) -> usize {
    cloud.operations().iter().filter(|one| *one == operation).count()
}

#[test]
#[ignore = "needs the test cloud"]
fn what_the_recipe_says_and_nothing_the_second_time() {
    let cloud = Cloud::start(0.0);
    let id = seeded(&cloud);
    let section = "[distribute]\nregions = [\"eu-central-1\", \"us-west-2\"]\naccounts = [\"111111111111\", \"222222222222\"]\n\
        deprecate_after_days = 90\nprotect = true\n[distribute.kms_keys]\neu-central-1 = \"alias/images\"\nus-west-2 = \"alias/images\"\n";
    cloud.recipe("tiny", &RECIPE.replace("[machine.aws]", &format!("{section}[machine.aws]")));
    let json = cloud.done(&["distribute", "tiny", "--json"]);
    let places = json["places"].as_array().unwrap();
    assert_eq!(places.len(), 3, "{json}");
    assert_eq!(places.iter().filter(|place| place["copied"] == true).count(), 2);
    for region in ["eu-central-1", "us-west-2"] {
        let copies = copies(&cloud, region);
        assert_eq!(copies.len(), 1);
        let copy = &copies[0];
        assert_eq!(tag(copy, "amibake:source"), format!("us-east-1/{id}"));
        assert_eq!((tag(copy, "amibake:recipe"), tag(copy, "amibake:expires")), (json!("tiny"), Value::Null));
        assert_eq!(
            (copy["ImdsSupport"].as_str(), copy["DeregistrationProtection"].as_str()),
            (Some("v2.0"), Some("enabled-without-cooldown"))
        );
        assert!(copy["DeprecationTime"].is_string(), "in each region: {copy}");
        let who = format!(
            "client.describe_image_attribute(ImageId='{}',Attribute='launchPermission')['LaunchPermissions']",
            copy["ImageId"].as_str().unwrap()
        );
        assert_eq!(cloud.boto("ec2", region, &who).as_array().unwrap().len(), 2);
        let snapshot = copy["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"].as_str().unwrap();
        let who =
            format!("client.describe_snapshot_attribute(SnapshotId='{snapshot}',Attribute='createVolumePermission')");
        assert_eq!(cloud.boto("ec2", region, &who)["CreateVolumePermissions"].as_array().unwrap().len(), 2);
    }
    let before = cloud.operations();
    let again = cloud.done(&["distribute", "tiny", "--json"]);
    for place in again["places"].as_array().unwrap() {
        assert_eq!((place["copied"].as_bool(), place["done"].as_array().unwrap().len()), (Some(false), 0), "{again}");
    }
    let calls = cloud.operations().split_off(before.len());
    let changes = ["CopyImage", "Modify", "Enable", "CreateTags", "DeleteTags"];
    let changing: Vec<_> = calls.iter().filter(|call| changes.iter().any(|change| call.starts_with(change))).collect();
    assert_eq!(changing, [] as [&String; 0]);
    // The catalog looks where the recipe says, and prune leaves what is protected.
    assert_eq!(cloud.done(&["images", "--json"])["images"].as_array().unwrap().len(), 3);
    let plan = cloud.done(&["prune", "--keep-last", "0", "--json"]);
    assert_eq!((plan["going"].as_array().unwrap().len(), plan["staying"].as_array().unwrap().len()), (0, 3));
}

#[test]
#[ignore = "needs the test cloud"]
fn one_region_that_fails_loses_nothing_in_the_others() {
    let cloud = Cloud::start(0.0);
    let id = seeded(&cloud);
    let to = ["distribute", &id, "--to", "eu-central-1,us-west-2,ap-south-1", "--json"];
    cloud.faults(&json!([
        { "operation": "CopyImage", "region": "us-west-2", "effect": "error", "code": "OptInRequired", "message": "not this region" },
        { "operation": "CopyImage", "region": "ap-south-1", "effect": "image_fails" },
    ]));
    let (code, json, said) = cloud.run(&to);
    assert_ne!(code, 0);
    assert!(
        said.contains("not this region") && said.contains("the copy was lost") && said.contains("run it again"),
        "{said}"
    );
    let errors = json["places"].as_array().unwrap().iter().filter(|place| place["error"].is_string()).count();
    assert_eq!((errors, copies(&cloud, "eu-central-1").len()), (2, 1), "{json}");
    cloud.faults(&json!([]));
    let asked = count(&cloud, "CopyImage");
    let json = cloud.done(&to);
    let copied = json["places"].as_array().unwrap().iter().filter(|place| place["copied"] == true).count();
    assert_eq!((copied, count(&cloud, "CopyImage") - asked), (2, 2), "only what is missing: {json}");
    assert_eq!(copies(&cloud, "ap-south-1").len(), 1, "the lost one is gone");
}

#[test]
#[ignore = "needs the test cloud"]
fn a_copy_that_was_interrupted_is_taken_up() {
    let cloud = Cloud::start(0.1);
    let id = seeded(&cloud);
    let to = ["distribute", &id, "--to", "eu-central-1", "--json"];
    let mut first = cloud.amibake(&to).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(60);
    while count(&cloud, "CopyImage") == 0 {
        assert!(Instant::now() < due && first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    assert!(tag(&copies(&cloud, "eu-central-1")[0], "amibake:expires").is_string(), "unfinished, and gc knows it");
    let json = cloud.done(&to);
    assert_eq!(json["places"][1]["copied"], false, "{json}");
    let copies = copies(&cloud, "eu-central-1");
    assert_eq!((copies.len(), count(&cloud, "CopyImage"), tag(&copies[0], "amibake:expires")), (1, 1, Value::Null));
}

#[test]
#[ignore = "needs the test cloud"]
fn what_cannot_be_shared_is_not_copied_first() {
    let cloud = Cloud::start(0.0);
    let id = seeded(&cloud);
    let share = ["distribute", &id, "--to", "eu-central-1", "--account", "111111111111"];
    let (code, _, said) = cloud.run(&share);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("AWS's own key would encrypt it") && said.contains("--kms-key eu-central-1=KEY"), "{said}");
    assert_eq!(count(&cloud, "CopyImage"), 0);
    cloud.done(&[&share[..], &["--kms-key", KEYS]].concat());
    // The account's own key is as good.
    let next = seeded(&cloud);
    cloud.account(&json!({ "keys": { "eu-central-1": "arn:aws:kms:eu-central-1:123456789012:key/1" } }));
    cloud.done(&["distribute", &next, "--to", "eu-central-1", "--account", "111111111111"]);
    let (code, _, said) = cloud.run(&["distribute", &next, "--public"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("images may not be public in us-east-1"), "{said}");
    cloud.account(&json!({ "unblocked": ["us-east-1"] }));
    cloud.done(&["distribute", &next, "--public"]);
    let who =
        format!("client.describe_image_attribute(ImageId='{next}',Attribute='launchPermission')['LaunchPermissions']");
    assert!(cloud.boto("ec2", "us-east-1", &who).to_string().contains("all"));
    let (code, _, said) = cloud.run(&["distribute", &next]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("nothing is said of where tiny goes"), "{said}");
}

#[test]
#[ignore = "needs the test cloud"]
fn at_most_twenty_copies_at_once_and_patience() {
    let cloud = Cloud::start(0.02);
    let ids = cloud.seed(&json!({ "region": "us-east-1", "recipe": "tiny", "days": 2, "count": 25 }));
    cloud.faults(&json!([{ "probability": 0.2, "effect": "throttle" }]));
    let mut arguments = vec!["distribute", "--to", "eu-central-1", "--json"];
    arguments.extend(ids.iter().map(String::as_str));
    // The cloud refuses a twenty-first, as EC2 does.
    let json = cloud.done(&arguments);
    assert_eq!(json["places"].as_array().unwrap().len(), 50);
    assert_eq!(copies(&cloud, "eu-central-1").len(), 25);
}
