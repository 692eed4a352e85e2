//! What is left of bakes, found by tags and keys: in buckets, and of runs that still live.

use serde_json::json;

use crate::cloud::{Cloud, RECIPE};

const RUN: &str = "20261101t145112-3fa9c1";
const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Keys in a bucket that a delivery's tarballs are among.
fn staged(cloud: &Cloud) -> String {
    let ours = format!("amibake/{RUN}/{DIGEST}.tar.gz");
    for key in [&ours, &format!("amibake/{RUN}/log.txt"), "amibake/notes", &format!("other/{RUN}/{DIGEST}.tar.gz")] {
        let put = format!("client.put_object(Bucket='parcels',Key='{key}',Body=b'staged')");
        cloud.boto("s3", "us-east-1", &put);
    }
    ours
}

fn found(json: &serde_json::Value) -> Vec<&str> {
    json["found"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

#[test]
#[ignore = "needs the test cloud"]
fn a_tarball_that_was_left_in_a_bucket_is_removed_and_nothing_else_in_it() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("parcels");
    let ours = staged(&cloud);
    // It was put there a moment ago: a machine may be about to fetch it.
    let (code, json, said) = cloud.run(&["gc", "--bucket", "parcels", "--json", "--yes"]);
    assert_eq!((code, found(&json)), (0, Vec::new()), "{said}");
    // Whoever names the run knows that it is over.
    let (code, json, said) = cloud.run(&["gc", "--run", RUN, "--bucket", "parcels", "--json"]);
    assert_eq!(code, 5, "{said}");
    assert_eq!(found(&json), [format!("s3://parcels/{ours}")]);
    assert_eq!(cloud.objects("parcels").len(), 4, "without --yes nothing goes");
    // By the project's recipes, nobody has to name the bucket.
    cloud.recipe(
        "boxed",
        &RECIPE.replace("tiny", "boxed").replacen("[base.aws]", "[delivery]\nbucket = \"parcels\"\n[base.aws]", 1),
    );
    let (code, json, said) = cloud.run(&["gc", "--run", RUN, "--json", "--yes"]);
    assert_eq!((code, found(&json).len()), (0, 1), "{said}");
    let mut left = cloud.objects("parcels");
    left.sort();
    assert_eq!(
        left,
        [format!("amibake/{RUN}/log.txt"), "amibake/notes".to_owned(), format!("other/{RUN}/{DIGEST}.tar.gz")]
    );
}

#[test]
#[ignore = "needs the test cloud"]
fn what_a_run_that_lives_has_is_not_left_behind() {
    let cloud = Cloud::start(0.0);
    // Past its time by its tags: the machine's clock is wrong, or its run was stopped for a day.
    let image = |run: &str| {
        let tags = json!({ "amibake:run": run, "amibake:expires": "2026-11-02T00:00:00Z" });
        cloud.seed(&json!({ "region": "us-east-1", "recipe": "tiny", "days": 20, "tags": tags })).remove(0)
    };
    let living = "20261101t150000-000001";
    let (left, lives) = (image(RUN), image(living));
    for (run, pid) in [(RUN, u32::MAX >> 1), (living, std::process::id())] {
        let folder = cloud.runs().join(run);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("journal.jsonl"), journal(pid)).unwrap();
    }
    let (code, json, said) = cloud.run(&["gc", "--json"]);
    assert_eq!(code, 5, "{said}");
    assert_eq!(found(&json).iter().filter(|id| id.starts_with("ami-")).collect::<Vec<_>>(), [&left.as_str()]);
    // Two at once, and a third of all calls throttled: each ends well, and what lives stays.
    cloud.faults(&json!([{ "probability": 0.33, "effect": "throttle" }]));
    let both: Vec<_> = (0..2).map(|_| cloud.amibake(&["gc", "--yes"]).spawn().unwrap()).collect();
    for mut one in both {
        assert!(one.wait().unwrap().success());
    }
    let images: Vec<_> = cloud.images().iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(images, [lives]);
}

/// The first line of a journal: whose it is.
fn journal(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse::<u64>().ok());
    format!(
        "{}\n",
        json!({ "record": "opened", "schema": 1, "owner": { "pid": pid, "started": started.unwrap_or(1) } })
    )
}
