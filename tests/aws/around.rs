//! `doctor --aws`: each fault is made in the test cloud's network or on the builder itself, and found.

use serde_json::{Value, json};

use crate::cloud::Cloud;

/// A builder and an agent, each in a security group and a subnet of its own in the default VPC.
struct Fleet {
    cloud: Cloud,
    builder: String,
    agent: String,
    builders: String,
    agents: String,
}

impl Fleet {
    fn start() -> Self {
        let cloud = Cloud::start(0.0);
        let ec2 = |line: &str| cloud.boto("ec2", "us-east-1", line);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let vpc = text(&ec2("client.describe_vpcs()['Vpcs'][0]['VpcId']"));
        let subnets = ec2("sorted(s['SubnetId'] for s in client.describe_subnets()['Subnets'])");
        ec2(
            "[client.modify_subnet_attribute(SubnetId=s['SubnetId'],MapPublicIpOnLaunch=dict(Value=False)) for s in client.describe_subnets()['Subnets']] and 1",
        );
        let group = |name: &str| {
            let made =
                format!("client.create_security_group(GroupName='{name}',Description='x',VpcId='{vpc}')['GroupId']");
            text(&ec2(&made))
        };
        let (builders, agents) = (group("builders"), group("agents"));
        let run = |group: &str, subnet: &Value, tags: &str| {
            let line = format!(
                "client.run_instances(ImageId='ami-0a00000000000a023',InstanceType='m5.large',MinCount=1,MaxCount=1,\
                 SubnetId={subnet},SecurityGroupIds=['{group}'],\
                 TagSpecifications=[dict(ResourceType='instance',Tags=[{tags}])])['Instances'][0]['InstanceId']"
            );
            text(&ec2(&line))
        };
        let builder = run(&builders, &subnets[0], "dict(Key='amibake:builder',Value='bk')");
        let agent = run(&agents, &subnets[1], "dict(Key='Name',Value='agent')");
        let fleet = Self { cloud, builder, agent, builders, agents };
        fleet.allow(&format!("UserIdGroupPairs=[dict(GroupId='{}')]", fleet.agents));
        fleet
    }

    fn ec2(&self, line: &str) -> Value {
        self.cloud.boto("ec2", "us-east-1", line)
    }

    fn rule(&self, verb: &str, source: &str) {
        let permission = format!("[dict(IpProtocol='tcp',FromPort=1234,ToPort=1234,{source})]");
        self.ec2(&format!(
            "client.{verb}_security_group_ingress(GroupId='{}',IpPermissions={permission})['Return']",
            self.builders
        ));
    }

    fn allow(&self, source: &str) {
        self.rule("authorize", source);
    }

    fn revoke(&self, source: &str) {
        self.rule("revoke", source);
    }

    /// Runs a script on the builder.
    fn on_builder(&self, script: &str) {
        let line = format!(
            "client.send_command(DocumentName='AWS-RunShellScript',InstanceIds=['{}'],\
             Parameters=dict(commands=[{script:?}]))['Command']['CommandId']",
            self.builder
        );
        let id = self.cloud.boto("ssm", "us-east-1", &line);
        let asked = format!("client.get_command_invocation(CommandId={id},InstanceId='{}')['Status']", self.builder);
        let due = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match self.cloud.boto("ssm", "us-east-1", &asked).as_str().unwrap() {
                "Success" => return,
                "Pending" | "InProgress" if std::time::Instant::now() < due => {}
                other => panic!("{script}: {other}"),
            }
        }
    }

    fn doctor(&self, more: &[&str]) -> (i32, Vec<Value>) {
        let arguments = [&["doctor", "--aws", "--json"][..], more].concat();
        let output = self.cloud.amibake(&arguments).env_remove("BUILDKIT_HOST").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        let checks = json["checks"].as_array().unwrap_or_else(|| panic!("{json} {said}")).clone();
        (output.status.code().unwrap(), checks)
    }

    /// What is wrong or to be known: the check with its fault.
    fn faults(&self, more: &[&str]) -> (i32, Vec<String>) {
        let (code, checks) = self.doctor(&[&["--agents", self.agents.as_str()][..], more].concat());
        let bad = checks.iter().filter(|check| ["wrong", "warning"].contains(&check["verdict"].as_str().unwrap()));
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        (code, bad.map(|check| format!("{}: {}", word(&check["check"]), word(&check["fault"]))).collect())
    }
}

#[test]
#[ignore = "needs the test cloud"]
fn what_stands_between_agents_and_a_builder_is_named() {
    let fleet = Fleet::start();
    let none: [&str; 0] = [];
    assert_eq!(fleet.faults(&[]), (0, none.map(str::to_owned).into()));
    // By its stack's name, by its id, and what is none.
    assert_eq!(fleet.faults(&["--builder", "bk"]).0, 0);
    assert_eq!(fleet.faults(&["--builder", &fleet.builder]).0, 0);
    assert_eq!(fleet.faults(&["--builder", "other"]), (1, vec!["builder: builder-unknown".to_owned()]));
    // An address that nobody has any more: the builder was replaced.
    let gone = fleet.faults(&["--host", "tcp://240.0.0.1:1234"]);
    assert!(gone.0 == 1 && gone.1.contains(&"builder: builder-unknown".to_owned()), "{gone:?}");
    // Its own address leads to it, and to its port.
    let address = fleet.ec2(&format!(
        "client.describe_instances(InstanceIds=['{}'])['Reservations'][0]['Instances'][0]['PrivateIpAddress']",
        fleet.builder
    ));
    let (_, checks) = fleet.doctor(&["--host", &format!("tcp://{}:1234", address.as_str().unwrap())]);
    let found = checks.iter().find(|check| check["check"] == "builder").unwrap();
    assert!(found["found"].as_str().unwrap().starts_with(&fleet.builder), "{checks:?}");

    let by_group = format!("UserIdGroupPairs=[dict(GroupId='{}')]", fleet.agents);
    fleet.revoke(&by_group);
    let (code, checks) = fleet.doctor(&["--agents", &fleet.agents]);
    let missing = checks.iter().find(|check| check["fault"] == "rule-missing").unwrap();
    let hint = missing["hint"].as_str().unwrap();
    let command = format!(
        "aws ec2 authorize-security-group-ingress --group-id {} --protocol tcp --port 1234 --source-group {}",
        fleet.builders, fleet.agents
    );
    assert_eq!((code, hint), (1, command.as_str()));
    fleet.allow("IpRanges=[dict(CidrIp='0.0.0.0/0')]");
    assert_eq!(fleet.faults(&[]), (1, vec!["open-port: open-port".to_owned()]));
    fleet.revoke("IpRanges=[dict(CidrIp='0.0.0.0/0')]");
    fleet.allow(&by_group);

    let acl = "client.describe_network_acls(Filters=[dict(Name='default',Values=['true'])])['NetworkAcls'][0]['NetworkAclId']";
    let acl = fleet.ec2(acl);
    let entry = format!("NetworkAclId={acl},RuleNumber=90,Egress=False");
    fleet.ec2(&format!(
        "client.create_network_acl_entry({entry},Protocol='6',RuleAction='deny',CidrBlock='0.0.0.0/0',\
         PortRange=dict(From=1234,To=1234)) and 1"
    ));
    assert_eq!(fleet.faults(&[]), (1, vec!["network-acl: acl-denies".to_owned()]));
    fleet.ec2(&format!("client.delete_network_acl_entry({entry}) and 1"));

    // Who may not read says so, and nothing is called healthy that was not looked at.
    fleet
        .cloud
        .faults(&json!([{ "operation": "DescribeSecurityGroups", "effect": "error", "code": "UnauthorizedOperation", "status": 403 }]));
    let (code, checks) = fleet.doctor(&["--agents", &fleet.agents]);
    assert_eq!(code, 4);
    let rules = checks.iter().find(|check| check["check"] == "rules").unwrap();
    assert!(rules["verdict"] == "skipped" && rules["found"].as_str().unwrap().contains("Unauthorized"), "{rules}");
    fleet.cloud.faults(&json!([]));
    let (code, json, said) = fleet.cloud.run(&["doctor", "--aws", "--json", "--agents", "sg-0123456789abcdef0"]);
    assert!(code == 2 && json["healthy"].is_null() && said.contains("--agents"), "{json} {said}");

    fleet.ec2(&format!("client.stop_instances(InstanceIds=['{}']) and 1", fleet.builder));
    assert_eq!(fleet.faults(&[]), (1, vec!["builder: builder-not-running".to_owned()]));
}

#[test]
#[ignore = "needs the test cloud"]
fn a_builder_is_looked_at_from_within_and_images_side_by_side() {
    let fleet = Fleet::start();
    let (_, checks) = fleet.doctor(&[]);
    let inside = checks.iter().find(|check| check["check"] == "builder-inside").unwrap();
    assert!(inside["verdict"] == "skipped" && inside["found"].as_str().unwrap().contains("none that amibake baked"));

    // A builder whose cache is where it must not be, and may not grow.
    fleet.on_builder(
        "mkdir -p /etc/amibake /etc/buildkit /var/lib/buildkit/runc-overlayfs\n\
         printf 'BUILDKITD_ROOT=/var/lib/buildkit\\nBUILDKITD_TLS=false\\n' >/etc/amibake/buildkitd.env\n\
         printf '[[worker.oci.gcpolicy]]\\nmaxUsedSpace = 1000000\\n' >/etc/buildkit/buildkitd.toml",
    );
    let (code, found) = fleet.faults(&[]);
    assert_eq!(code, 1, "{:#?}", fleet.doctor(&[]));
    for fault in ["cache-volume: cache-on-root", "cache-age: volume-new", "cache-room: gc-tight"] {
        assert!(found.contains(&fault.to_owned()), "{found:?}");
    }

    // Another version than the lock's: by the image's tag.
    fleet.ec2("client.create_tags(Resources=['ami-0a00000000000a023'],Tags=[dict(Key='amibake:buildkit',Value='v0.30.0')]) and 1");
    let (_, checks) = fleet.doctor(&["--agents", &fleet.agents]);
    let images = checks.iter().find(|check| check["check"] == "images").unwrap();
    assert_eq!(images["fault"], "version-mismatch", "{images}");
    let shown = images["found"].as_str().unwrap();
    assert!(
        shown.contains("builder v0.30.0") && shown.contains("agents v0.30.0") && shown.contains("the lock v"),
        "{shown}"
    );

    // Two builders, and nobody said which.
    let tags = "Tags=[dict(Key='amibake:builder',Value='bk')]";
    fleet.ec2(&format!("client.create_tags(Resources=['{}'],{tags}) and 1", fleet.agent));
    let (code, _, said) = fleet.cloud.run(&["doctor", "--aws", "--json"]);
    assert!(code == 2 && said.contains("several builders"), "{code} {said}");
}
