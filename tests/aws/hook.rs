//! The env hook in the stack's secrets bucket: what is there is shown before anything is put over it.

use crate::cloud::Cloud;

const RENDER: [&str; 6] = ["render", "env-hook", "--address", "tcp://builder.internal:1234", "--upload", "secrets"];

/// Runs it with more arguments; exit status, stdout and stderr.
fn render(cloud: &Cloud, more: &[&str]) -> (i32, String, String) {
    let output = cloud.amibake(&[&RENDER[..], more].concat()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
#[ignore = "needs the test cloud"]
fn a_hook_is_shown_then_put_and_what_is_not_ours_is_left() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("secrets");
    let (code, diff, said) = render(&cloud, &[]);
    assert!(
        code == 0 && diff.contains("+    BUILDKIT_HOST=tcp://builder.internal:1234") && said.contains("--yes"),
        "{diff} {said}"
    );
    assert_eq!(cloud.objects("secrets"), [] as [&str; 0]);
    assert_eq!(render(&cloud, &["--yes"]).0, 0);
    assert_eq!(render(&cloud, &["--yes", "--pipeline", "app"]).0, 0);
    let mut objects = cloud.objects("secrets");
    objects.sort();
    assert_eq!(objects, ["app/env", "env"]);
    let (code, diff, said) = render(&cloud, &["--yes"]);
    assert!(code == 0 && diff.is_empty() && said.contains("is this already"), "{diff} {said}");
    // Another address: the difference is one line.
    let other = ["render", "env-hook", "--address", "tcp://other.internal:1234", "--upload", "secrets"];
    let output = cloud.amibake(&other).output().unwrap();
    let diff = String::from_utf8(output.stdout).unwrap();
    assert!(
        diff.contains("-    BUILDKIT_HOST=tcp://builder") && diff.contains("+    BUILDKIT_HOST=tcp://other"),
        "{diff}"
    );

    // Somebody's own hook has more in it than we know.
    let put = "client.put_object(Bucket='secrets',Key='team/env',Body=b'export TEAM=1\\n')";
    cloud.boto("s3", "us-east-1", put);
    let (code, diff, said) = render(&cloud, &["--yes", "--pipeline", "team"]);
    assert!(code == 2 && diff.contains("-export TEAM=1") && said.contains("none of amibake's"), "{diff} {said}");
    assert_eq!(render(&cloud, &["--yes", "--replace", "--pipeline", "team"]).0, 0);
    assert_eq!(render(&cloud, &["--pipeline", "../env"]).0, 2);
    let (code, _, said) = render(&cloud, &["--pipeline", "team", "--region", "nowhere; x"]);
    assert_eq!(code, 2, "{said}");
}

#[test]
#[ignore = "needs the test cloud"]
fn certificates_are_kept_as_secure_strings() {
    let cloud = Cloud::start(0.0);
    let certs = |more: &[&str]| cloud.done(&[&["certs"][..], more, &["--ssm", "/builder/tls"]].concat());
    certs(&["init"]);
    certs(&["issue", "--name", "builder.ci.internal"]);
    let shown = certs(&["show", "--json"]);
    assert_eq!(shown["certificates"].as_array().unwrap().len(), 3, "{shown}");
    assert_eq!(shown["certificates"][1]["place"], "/builder/tls/server/cert");
    // A key that was chosen once stays: `renew` without --kms-key does not move it to the account's own.
    let key = cloud.boto("kms", "us-east-1", "client.create_key()['KeyMetadata']['Arn']");
    let key = key.as_str().unwrap();
    certs(&["issue", "--force", "--name", "builder.ci.internal", "--days", "10", "--kms-key", key]);
    certs(&["renew"]);
    let kept = "client.describe_parameters(ParameterFilters=[dict(Key='Name',Values=['/builder/tls/server/key'])])['Parameters'][0]['KeyId']";
    assert_eq!(cloud.boto("ssm", "us-east-1", kept), key);
    let kinds = cloud.boto(
        "ssm",
        "us-east-1",
        "sorted({p['Type'] for p in client.get_parameters_by_path(Path='/builder/tls', Recursive=True)['Parameters']})",
    );
    assert_eq!(kinds, serde_json::json!(["SecureString"]));
    // Nobody else's, and never anew unasked.
    let (code, _, said) = cloud.run(&["certs", "init", "--ssm", "/builder/tls"]);
    assert!(code == 2 && said.contains("already"), "{said}");
    let (code, _, said) = cloud.run(&["certs", "show", "--ssm", "builder"]);
    assert!(code == 2 && said.contains("--ssm"), "{said}");
}

#[test]
#[ignore = "needs the test cloud"]
fn certificates_are_kept_in_a_bucket_too() {
    let cloud = Cloud::start(0.0);
    cloud.bucket("secrets");
    cloud.bucket("agents");
    // What every job may read is no place for an authority; its agents' part may be there.
    std::fs::write(cloud.path().join("amibake.toml"), "[agents]\nsecrets_bucket = \"agents\"\n").unwrap();
    let (code, _, said) = cloud.run(&["certs", "init", "--s3", "s3://agents/builder"]);
    assert!(code == 2 && said.contains("--agents-to"), "{said}");
    let place = ["--s3", "s3://secrets/builder/tls"];
    let certs = |more: &[&str]| cloud.done(&[&["certs"][..], more, &place].concat());
    certs(&["init"]);
    let to = ["--agents-to", "s3://agents/builder"];
    certs(&[&["issue", "--name", "builder.ci.internal", "--days", "20"][..], &to].concat());
    let mut handed = cloud.objects("agents");
    handed.sort();
    assert_eq!(handed, ["builder/client/ca", "builder/client/cert", "builder/client/key"]);
    assert_eq!(certs(&["show", "--json"])["certificates"][1]["place"], "s3://secrets/builder/tls/server/cert");
    let mut objects = cloud.objects("secrets");
    objects.sort();
    let below = |name: &str| format!("builder/tls/{name}");
    let all = ["ca/cert", "ca/key", "client/ca", "client/cert", "client/key", "server/ca", "server/cert", "server/key"];
    // What was trusted before is kept beside it, if there is such.
    objects.retain(|object| !object.ends_with("ca/old"));
    assert_eq!(objects, all.map(below));
    let head = "client.head_object(Bucket='secrets',Key='builder/tls/server/key')['ServerSideEncryption']";
    assert_eq!(cloud.boto("s3", "us-east-1", head), "aws:kms");
    // They end soon: `check` says so, `renew` makes them anew, and the two of a pair belong together.
    let (_, checked, said) = cloud.run(&["check", "--certs", "s3://secrets/builder/tls", "--json"]);
    assert!(checked.to_string().contains("s3://secrets/builder/tls/server/cert"), "{checked} {said}");
    let before = cloud.boto("s3", "us-east-1", "client.get_object(Bucket='agents',Key='builder/client/key')['ETag']");
    certs(&[&["renew"][..], &to].concat());
    let after = cloud.boto("s3", "us-east-1", "client.get_object(Bucket='agents',Key='builder/client/key')['ETag']");
    assert_ne!(before, after);
    let left = certs(&["show", "--json"])["certificates"][1]["days_left"].as_i64().unwrap();
    assert!(left > 300, "{left}");
    let (code, _, said) = cloud.run(&["certs", "show", "--s3", "secrets/builder"]);
    assert!(code == 2 && said.contains("--s3"), "{said}");
}
