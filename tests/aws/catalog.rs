//! What exists, who uses it, and what goes.

use serde_json::{Value, json};

use crate::cloud::Cloud;

fn seeded(cloud: &Cloud, recipe: &str, days: u32, count: u32) -> Vec<String> {
    cloud.seed(&json!({ "region": "us-east-1", "recipe": recipe, "days": days, "count": count }))
}

/// Ids of a field of the answer.
fn ids(json: &Value, field: &str) -> Vec<String> {
    let all = json[field].as_array().unwrap();
    all.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// Ids of all images of ours there.
fn there(cloud: &Cloud, region: &str) -> Vec<String> {
    ids(&cloud.done(&["images", "--json", "--region", region]), "images")
}

#[test]
#[ignore = "needs the test cloud"]
fn hundreds_of_images_in_pages_and_few_calls() {
    let cloud = Cloud::start(0.0);
    for region in ["us-east-1", "eu-central-1"] {
        for recipe in ["builder", "agent"] {
            cloud.seed(&json!({ "region": region, "recipe": recipe, "days": 1, "count": 120 }));
        }
    }
    let before = cloud.operations().len();
    let json = cloud.done(&["images", "--json", "--region", "us-east-1,eu-central-1"]);
    let whole = cloud.operations().len() - before;
    assert_eq!(json["images"].as_array().unwrap().len(), 480);
    assert!(json["images"].as_array().unwrap().iter().all(|image| image["matched"] == true), "pairs");
    // A page of each, and two of instances: no image has calls of its own.
    assert!(whole <= 30, "{whole}");
    cloud.pages(50);
    let before = cloud.operations().len();
    let again = cloud.done(&["images", "--json", "--region", "us-east-1,eu-central-1"]);
    assert_eq!(again["images"].as_array().unwrap().len(), 480);
    let paged = cloud.operations().len() - before;
    assert!(paged > whole && paged <= whole + 2 * 2 * 5, "{whole} {paged}");
    let agents = cloud.done(&["images", "--json", "--recipe", "agent", "--older-than", "100d"]);
    assert_eq!(agents["images"].as_array().unwrap().len(), 21);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_third_of_all_calls_throttled_hides_nothing() {
    let cloud = Cloud::start(0.0);
    seeded(&cloud, "builder", 1, 30);
    cloud.pages(5);
    cloud.faults(&json!([{ "probability": 0.33, "effect": "throttle" }]));
    assert_eq!(there(&cloud, "us-east-1").len(), 30);
}

#[test]
#[ignore = "needs the test cloud"]
fn what_anybody_uses_stays() {
    let cloud = Cloud::start(0.0);
    let all = seeded(&cloud, "builder", 10, 8);
    // A launch template whose newer version names another image.
    let template = format!(
        "client.create_launch_template(LaunchTemplateName='builders',LaunchTemplateData={{'ImageId':'{}'}})",
        all[7]
    );
    cloud.boto("ec2", "us-east-1", &template);
    let newer = format!(
        "client.create_launch_template_version(LaunchTemplateName='builders',LaunchTemplateData={{'ImageId':'{}'}})",
        all[0]
    );
    cloud.boto("ec2", "us-east-1", &newer);
    // One that names a parameter.
    let put = |name: &str, image: &str| {
        cloud.boto(
            "ssm",
            "us-east-1",
            &format!("client.put_parameter(Name='{name}',Value='{image}',Type='String',DataType='aws:ec2:image',Overwrite=True)"),
        );
    };
    put("/teams/builder-ami", &all[6]);
    // A channel, now and before.
    put("/amibake/builder/amd64/stable", &all[5]);
    put("/amibake/builder/amd64/stable", &all[4]);
    let configuration = format!(
        "client.create_launch_configuration(LaunchConfigurationName='old',ImageId='{}',InstanceType='m5.large')",
        all[3]
    );
    cloud.boto("autoscaling", "us-east-1", &configuration);
    cloud.boto(
        "ec2",
        "us-east-1",
        &format!("client.create_tags(Resources=['{}'],Tags=[{{'Key':'amibake:keep','Value':''}}])", all[2]),
    );

    let json = cloud.done(&["images", "--json"]);
    let image = |id: &String| {
        let found = json["images"].as_array().unwrap().iter().find(|image| image["id"] == id.as_str());
        found.cloned().unwrap()
    };
    assert_eq!(image(&all[7])["uses"], json!([{ "kind": "launch_template", "name": "builders", "version": 1 }]));
    assert_eq!(image(&all[6])["uses"], json!([{ "kind": "parameter", "name": "/teams/builder-ami" }]));
    assert_eq!(image(&all[4])["promoted"], json!(["stable"]));
    assert_eq!(image(&all[5])["promoted_before"], json!(["stable"]));
    assert_eq!(image(&all[3])["uses"], json!([{ "kind": "launch_configuration", "name": "old" }]));
    assert_eq!(image(&all[2])["protected"], true);
    assert_eq!(image(&all[1])["in_use"], false);

    let plan = cloud.done(&["prune", "--keep-last", "0", "--json"]);
    assert_eq!(ids(&plan, "going"), [all[1].clone()]);
    assert_eq!(there(&cloud, "us-east-1").len(), 8, "nothing goes without --yes");
    cloud.done(&["prune", "--keep-last", "0", "--json", "--yes"]);
    let left = there(&cloud, "us-east-1");
    assert_eq!(left.len(), 7);
    assert!(!left.contains(&all[1]));
    // Its snapshot is gone too, and a second prune has nothing to do.
    assert_eq!(cloud.state()["snapshots"].as_array().unwrap().len(), 7);
    assert_eq!(ids(&cloud.done(&["prune", "--keep-last", "0", "--json", "--yes"]), "going"), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn foreign_images_with_tags_like_ours_are_never_touched() {
    let cloud = Cloud::start(0.0);
    let look_alikes = [
        json!({ "amibake:fingerprint": "mine" }),
        json!({ "amibake:recipe": null }),
        json!({ "amibake:run": null }),
        json!({ "amibake:buildkit": "latest" }),
        json!({ "amibake:arch": "sparc" }),
        json!({ "amibake:expires": "2020-01-01T00:00:00Z" }),
    ];
    let mut foreign = Vec::new();
    for tags in &look_alikes {
        foreign.extend(cloud.seed(&json!({ "region": "us-east-1", "recipe": "builder", "days": 400, "tags": tags })));
    }
    let ours = seeded(&cloud, "builder", 300, 2);
    let json = cloud.done(&["prune", "--keep-last", "0", "--json", "--yes"]);
    assert_eq!(ids(&json, "going"), ours);
    let left: Vec<Value> = cloud.images();
    for id in &foreign {
        assert!(left.iter().any(|image| image["id"] == id.as_str()), "{id}");
    }
}

#[test]
#[ignore = "needs the test cloud"]
fn an_image_and_its_copies_go_together() {
    let cloud = Cloud::start(0.0);
    let source = seeded(&cloud, "builder", 50, 1).remove(0);
    let tags = json!({ "amibake:source": format!("us-east-1/{source}") });
    let wanted = json!({ "region": "eu-central-1", "recipe": "builder", "days": 49, "tags": tags });
    let copy = cloud.seed(&wanted).remove(0);
    let here = ["prune", "--keep-last", "0", "--json"];
    let both = ["prune", "--keep-last", "0", "--json", "--region", "us-east-1,eu-central-1"];
    let template = format!(
        "client.create_launch_template(LaunchTemplateName='builders',LaunchTemplateData={{'ImageId':'{copy}'}})"
    );
    cloud.boto("ec2", "eu-central-1", &template);
    assert_eq!(ids(&cloud.done(&both), "going"), [] as [&str; 0]);
    assert_eq!(
        ids(&cloud.done(&here), "going"),
        std::slice::from_ref(&source),
        "what is elsewhere is not looked at unless it is named"
    );
    cloud.boto("ec2", "eu-central-1", "client.delete_launch_template(LaunchTemplateName='builders')");
    let mut all = [&both[..], &["--yes"]].concat();
    let mut gone = ids(&cloud.done(&all), "going");
    gone.sort();
    let mut expected = vec![source, copy];
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(there(&cloud, "us-east-1,eu-central-1"), [] as [&str; 0]);
    all.pop();
    assert_eq!(ids(&cloud.done(&all), "going"), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn two_prunes_at_once_and_one_that_is_refused() {
    let cloud = Cloud::start(0.0);
    seeded(&cloud, "builder", 5, 20);
    let arguments = ["prune", "--keep-last", "1", "--json", "--yes"];
    let mut one = cloud.amibake(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
    let other = cloud.run(&arguments);
    assert!(one.wait().unwrap().success());
    assert_eq!(other.0, 0, "{}", other.2);
    assert_eq!(there(&cloud, "us-east-1").len(), 1);
    // What EC2 does not let go is told, with its reason, and the rest goes.
    let more = seeded(&cloud, "agent", 5, 3);
    let refused = json!([{
        "operation": "DeregisterImage", "effect": "error", "code": "OperationNotPermitted", "message": "held by a rule",
        "contains": more[2],
    }]);
    cloud.faults(&refused);
    let (code, json, said) = cloud.run(&arguments);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("held by a rule") && said.contains(&more[2]), "{said}");
    assert_eq!(ids(&json, "remain"), [more[2].clone()]);
    assert_eq!(there(&cloud, "us-east-1").len(), 3);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_clock_that_is_wrong_removes_nothing_that_is_young() {
    let cloud = Cloud::start(0.0);
    // Made in the future, as this machine sees it, and just now.
    cloud.seed(&json!({ "region": "us-east-1", "recipe": "builder", "days": -3, "count": 1 }));
    seeded(&cloud, "builder", 0, 1);
    assert_eq!(ids(&cloud.done(&["prune", "--keep-last", "0", "--json"]), "going"), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn one_image_is_shown_with_its_manifest() {
    let cloud = Cloud::start(0.0);
    let built = cloud.done(&["build", "tiny", "--json"]);
    let id = built["results"][0]["image"]["location"].as_str().unwrap();
    let shown = cloud.done(&["images", "show", id]);
    assert_eq!(shown["id"], id);
    assert_eq!(shown["manifest"]["image"]["location"], id, "{shown}");
    assert_eq!(shown["state"], "finished");
    let (code, _, said) = cloud.run(&["images", "show", "ami-00000000000000000"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("there is no image of ours called ami-00000000000000000"), "{said}");
    let table = cloud.amibake(&["images"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("IMAGE") && table.contains(id) && table.contains("tiny"), "{table}");
}
