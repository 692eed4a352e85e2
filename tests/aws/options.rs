//! What recipes and flags ask for beside the default.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cloud::{Cloud, RECIPE};

/// [`RECIPE`] under another name, with more at its top level and in its `[machine.aws]`.
fn recipe(name: &str, sections: &str, machine: &str) -> String {
    let profile = "instance_profile = \"amibake\"\n";
    RECIPE.replace("tiny", name).replace(profile, &format!("{profile}{machine}\n{sections}\n"))
}

#[test]
#[ignore = "needs the test cloud"]
fn both_recipes_on_both_architectures_are_four_bakes_at_once() {
    let cloud = Cloud::start(0.05);
    // The stand-in is of this machine's architecture alone, and so are the instances: nothing of a release is installed.
    let step = "[[step]]\nkind = \"buildkit\"\nmembers = [\"bin/buildctl\"]\n";
    for name in ["tiny", "other"] {
        let text = RECIPE.replace("tiny", name).replace(step, "");
        cloud.recipe(name, &text[..text.find("[[check]]").unwrap()]);
    }
    let lock = std::fs::read_to_string(crate::cloud::setting("AMIBAKE_TEST_LOCK")).unwrap();
    let mut both = lock.clone();
    let artifact = lock.find("[artifact").unwrap();
    both.push_str(&lock[artifact..].replace("amd64", "arm64"));
    let path = cloud.path().join("both.lock");
    std::fs::write(&path, both).unwrap();
    let mut command = cloud.amibake_without_lock(&["build", "--all", "--arch", "amd64,arm64", "--json"]);
    let output = command.arg("--lock").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 4, "{json}");
    let mut images: Vec<_> = cloud.images().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect();
    images.sort();
    for (image, start) in images.iter().zip(["other-v", "other-v", "tiny-v", "tiny-v"]) {
        assert!(image.starts_with(start), "{images:?}");
    }
    assert_eq!(images.iter().filter(|image| image.contains("arm64")).count(), 2, "{images:?}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn twenty_bakes_at_once_share_their_calls() {
    let cloud = Cloud::start(0.05);
    std::fs::remove_file(cloud.path().join("recipes/tiny.toml")).unwrap();
    for number in 0..20 {
        cloud.recipe(
            &format!("r{number}"),
            &RECIPE[..RECIPE.find("[[volume]]").unwrap()].replace("tiny", &format!("r{number}")),
        );
    }
    cloud.done(&["build", "--all", "--json"]);
    assert_eq!(cloud.images().len(), 20);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    let operations = cloud.operations();
    let of = |name: &str| operations.iter().filter(|operation| *operation == name).count();
    assert_eq!((of("RunInstances"), of("CreateImage")), (20, 20));
    // Twenty that ask for themselves would make hundreds.
    for shared in ["DescribeInstances", "DescribeInstanceInformation"] {
        assert!(of(shared) <= 60, "{shared}: {}", of(shared));
    }
    assert!(operations.len() <= 20 * 25, "{}", operations.len());
}

#[test]
#[ignore = "needs the test cloud"]
fn a_tarball_that_travels_through_a_bucket_leaves_nothing_in_it() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("parcels");
    cloud.recipe("boxed", &recipe("boxed", "[delivery]\nbucket = \"parcels\"", ""));
    // The machine cannot have it from anywhere else.
    let json =
        cloud.done(&["build", "boxed", "--json", "--release-mirror", &crate::cloud::setting("AMIBAKE_TEST_MIRROR")]);
    assert_eq!(json["results"][0]["outcome"], "baked", "{json}");
    let calls: Vec<String> = cloud.operations();
    assert!(calls.iter().any(|call| call.starts_with("PUT /parcels/amibake/")), "{calls:?}");
    assert!(calls.iter().any(|call| call.starts_with("GET /parcels/amibake/")), "{calls:?}");
    assert_eq!(cloud.objects("parcels"), [] as [&str; 0]);
    let files = cloud.images()[0]["files"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&files).join("usr/local/bin/buildctl").exists());
    // The address that opens it is nowhere: not in what is said, and not in a log.
    for run in cloud.runs().read_dir().unwrap().flatten() {
        for file in run.path().read_dir().unwrap().flatten().filter(|file| file.path().is_file()) {
            let text = String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned();
            assert!(!text.contains("X-Amz-Signature"), "{}", file.path().display());
        }
    }
    // Nor does one stay of a bake that fails.
    cloud.recipe(
        "bad",
        &recipe("bad", "[delivery]\nbucket = \"parcels\"", "").replace("id -u >/etc", "exit 1\\nid -u >/etc"),
    );
    assert_eq!(cloud.run(&["build", "bad"]).0, 1);
    assert_eq!(cloud.objects("parcels"), [] as [&str; 0]);
    cloud.recipe("none", &recipe("none", "[delivery]\nbucket = \"nowhere\"", ""));
    let (code, _, said) = cloud.run(&["build", "none"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("s3://nowhere"), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_tarball_that_was_changed_on_its_way_is_refused_by_the_machine() {
    let cloud = Cloud::start(0.0);
    // Here it is whole, from the cache; what the machine is sent to is another.
    cloud.done(&["fetch", "--json"]);
    let mirror = cloud.path().join("changed");
    let mirrored = crate::cloud::setting("AMIBAKE_TEST_MIRROR");
    assert!(std::process::Command::new("cp").arg("-r").arg(mirrored).arg(&mirror).status().unwrap().success());
    let version = std::fs::read_dir(&mirror).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
    for tarball in std::fs::read_dir(version).unwrap().flatten() {
        let mut bytes = std::fs::read(tarball.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(tarball.path(), bytes).unwrap();
    }
    let (_server, address) = crate::cloud::served(mirror.to_str().unwrap());
    let (code, _, said) = cloud.run(&["build", "tiny", "--release-mirror", &address]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is not the one that the lock pins"), "{said}");
    assert_eq!((cloud.images(), cloud.leftovers()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "needs the test cloud"]
fn the_whole_output_comes_from_the_bucket_for_logs() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("logs");
    let text = recipe("wordy", "[logs]\nbucket = \"logs\"", "").replace("id -u >/etc", "seq 60000\\nid -u >/etc");
    cloud.recipe("wordy", &text);
    cloud.done(&["build", "wordy", "--json"]);
    let dist = cloud.path().join("dist").read_dir().unwrap().flatten().next().unwrap().path();
    let log = std::fs::read_to_string(dist.join("bake.log")).unwrap();
    // 350 kB: more than a step that went well would have read back from the machine.
    assert!(
        log.contains("\n1\n2\n3\n") && log.contains("\n30000\n30001\n") && log.contains("\n59999\n60000\n"),
        "{}",
        log.len()
    );
    assert!(!cloud.objects("logs").is_empty());
}

#[test]
#[ignore = "needs the test cloud"]
fn a_machine_whose_agent_never_reports_says_what_is_known_of_it() {
    let cloud = Cloud::start(0.0);
    cloud.faults(&json!([{ "effect": "never_online" }]));
    let (code, _, said) = cloud.run(&["build", "tiny", "--set", "machine.start_timeout=2s"]);
    assert_eq!(code, 1, "{said}");
    for words in ["its agent has not reported to Systems Manager", "running", "hint:"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!((cloud.images(), cloud.leftovers()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "needs the test cloud"]
fn spot_capacity_first_and_on_demand_where_there_is_none() {
    let cloud = Cloud::start(0.0);
    cloud.recipe("cheap", &recipe("cheap", "", "spot = true"));
    cloud.done(&["build", "cheap", "--json"]);
    let asked = |cloud: &Cloud| -> Vec<bool> {
        let calls = cloud.calls();
        let launches = calls.iter().filter(|call| call["operation"] == "RunInstances");
        launches.map(|call| call["parameters"].to_string().contains("InstanceMarketOptions.MarketType")).collect()
    };
    assert_eq!(asked(&cloud), [true]);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    cloud.faults(&json!([{
        "operation": "RunInstances", "effect": "error", "code": "MaxSpotInstanceCountExceeded", "contains": "spot",
    }]));
    cloud.done(&["build", "cheap", "--json", "--force"]);
    assert_eq!(asked(&cloud).last(), Some(&false));
    assert_eq!(cloud.images().len(), 2);
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn verify_boots_baked_images_side_by_side() {
    let cloud = Cloud::start(0.0);
    let text = RECIPE[..RECIPE.find("[[check]]").unwrap()].to_owned();
    let volume = &text[text.find("[[volume]]").unwrap()..text.find("[[step]]").unwrap()];
    let check = "[[check]]\nname = \"it booted\"\nwhen = \"boot\"\nscript = \"grep -q ^0 /etc/baked-by\"\n";
    for name in ["one", "two"] {
        cloud.recipe(name, &(text.replace(volume, "").replace("tiny", name) + check));
    }
    cloud.done(&["build", "one", "two", "--json"]);
    let json = cloud.done(&["verify", "one", "two", "--json"]);
    assert!(json.to_string().contains("it booted"), "{json}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    assert_eq!(cloud.images().len(), 2);
}

#[test]
#[ignore = "needs the test cloud"]
fn sigterm_cleans_up_as_an_interruption_does() {
    let cloud = Cloud::start(0.0);
    cloud.recipe("long", &RECIPE.replace("tiny", "long").replace("id -u >/etc", "sleep 60\\nid -u >/etc"));
    let mut bake = cloud.amibake(&["build", "long"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(60);
    let sent = || cloud.operations().iter().filter(|operation| *operation == "SendCommand").count();
    while sent() < 3 {
        assert!(Instant::now() < due && bake.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(50));
    }
    kill_process(Pid::from_child(&bake), Signal::TERM).unwrap();
    assert_eq!(bake.wait().unwrap().code(), Some(130));
    assert!(cloud.operations().contains(&"CancelCommand".to_owned()));
    assert_eq!((cloud.images(), cloud.leftovers()), (Vec::new(), Vec::new()));
}

#[test]
#[ignore = "needs the test cloud"]
fn credentials_that_expire_while_a_bake_runs_are_renewed() {
    use std::os::unix::fs::PermissionsExt as _;
    let cloud = Cloud::start(0.05);
    // Each time, credentials under another name, good for long enough to be taken and no longer than the bake.
    let program = cloud.path().join("credentials");
    let asked = cloud.path().join("asked");
    let text = format!(
        "#!/bin/bash\necho >>{asked}\nprintf '{{\"Version\":1,\"AccessKeyId\":\"KEY%s\",\"SecretAccessKey\":\"x\",\"Expiration\":\"%s\"}}' \
         \"$(wc -l <{asked})\" \"$(date -u -d '+13 seconds' +%Y-%m-%dT%H:%M:%SZ)\"\n",
        asked = asked.display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = cloud.path().join("config");
    std::fs::write(&config, format!("[default]\ncredential_process = {}\n", program.display())).unwrap();
    let mut command = cloud.amibake(&["build", "tiny"]);
    let command = command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let output = command.env("AWS_CONFIG_FILE", config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = std::fs::read_to_string(asked).unwrap().lines().count();
    assert!(asked >= 2, "{asked}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_profile_that_is_named_comes_before_keys_in_the_environment() {
    let cloud = Cloud::start(0.0);
    let file = cloud.path().join("credentials");
    std::fs::write(&file, "[prod]\naws_access_key_id = PROFILE\naws_secret_access_key = x\n").unwrap();
    let run = |profile: &str| {
        let mut command = cloud.amibake(&["images", "--profile", profile]);
        command.env("AWS_SHARED_CREDENTIALS_FILE", &file).output().unwrap()
    };
    let output = run("prod");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = cloud.calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| call["key"] == "PROFILE"), "{calls:?}");
    let output = run("nosuch");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), cloud.calls().len()), (Some(4), calls.len()), "{said}");
    assert!(said.contains("there are no credentials for the profile `nosuch`"), "{said}");
}

#[test]
#[ignore = "needs the test cloud"]
fn verify_is_for_an_image_that_exists_too() {
    let cloud = Cloud::start(0.0);
    let check = "[[check]]\nname = \"it boots\"\nwhen = \"boot\"\nscript = \"test -e /etc/baked-by\"\n";
    let text = RECIPE[..RECIPE.find("[[check]]").unwrap()].to_owned() + check;
    cloud.recipe("tiny", &text);
    cloud.recipe("bad", &text.replace("tiny", "bad").replace("test -e /etc/baked-by", "test -e /nowhere"));
    let verified = |cloud: &Cloud| -> Vec<bool> {
        let images = cloud.done(&["images", "--json", "--recipe", "tiny"]);
        images["images"].as_array().unwrap().iter().map(|image| image["verified"].is_string()).collect()
    };
    cloud.done(&["build", "tiny"]);
    assert_eq!(verified(&cloud), [false]);
    let json = cloud.done(&["build", "tiny", "--json", "--verify"]);
    assert_eq!((json["results"][0]["outcome"].as_str(), verified(&cloud)), (Some("existing"), vec![true]));
    let launches = || cloud.operations().iter().filter(|operation| *operation == "RunInstances").count();
    let before = launches();
    cloud.done(&["build", "tiny", "--json", "--verify"]);
    assert_eq!(launches(), before, "once is enough");
    // One that a killed `build --verify` left must not go through the second time.
    cloud.done(&["build", "bad"]);
    let (code, json, said) = cloud.run(&["build", "bad", "--verify", "--json"]);
    assert_eq!((code, json["results"][0]["outcome"].as_str()), (1, Some("failed")), "{said}");
    assert!(said.contains("does not pass its checks when it boots"), "{said}");
    assert_eq!(cloud.leftovers(), [] as [&str; 0]);
    // An image beside one of the same name has a folder and a manifest of its own.
    let forced = cloud.done(&["build", "tiny", "--json", "--force"]);
    let manifest = std::path::PathBuf::from(forced["results"][0]["manifest"].as_str().unwrap());
    let name = forced["results"][0]["image"]["name"].as_str().unwrap();
    assert!(name.ends_with("-2") && manifest.parent().unwrap().ends_with(name), "{forced}");
    let tags = cloud.images().iter().find(|image| image["name"] == name).unwrap()["tags"].clone();
    assert_eq!(tags["Name"], name);
}
