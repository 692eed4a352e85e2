//! `init`: what the stack's CloudFormation stack tells, written so that every command after it finds it.

use crate::cloud::Cloud;

/// The parts of the Elastic CI Stack that are looked at, under its own names.
const STACK: &str = "{'Description':'Buildkite stack v6.71.1',\
    'Parameters':{'SecretsBucket':{'Type':'String','Default':''},'VpcId':{'Type':'String','Default':''}},\
    'Resources':{\
    'Vpc':{'Type':'AWS::EC2::VPC','Properties':{'CidrBlock':'10.9.0.0/16'}},\
    'Subnet0':{'Type':'AWS::EC2::Subnet','Properties':{'VpcId':{'Ref':'Vpc'},'CidrBlock':'10.9.1.0/24'}},\
    'SecurityGroup':{'Type':'AWS::EC2::SecurityGroup','Properties':{'GroupDescription':'x','VpcId':{'Ref':'Vpc'}}},\
    'ManagedSecretsBucket':{'Type':'AWS::S3::Bucket','Properties':{'BucketName':'ci-secrets'}}}}";

/// A network for baking, in the default VPC.
const NETWORK: &str = "{'Description':'What amibake needs to bake images - network, security group and instance profile',\
    'Parameters':{'Subnet':{'Type':'String'}},\
    'Resources':{'Group':{'Type':'AWS::EC2::SecurityGroup','Properties':{'GroupDescription':'x'}}},\
    'Outputs':{'Subnet':{'Value':{'Ref':'Subnet'}},'SecurityGroup':{'Value':{'Fn::GetAtt':['Group','GroupId']}},\
    'InstanceProfile':{'Value':'amibake'}}}";

fn create(cloud: &Cloud, name: &str, template: &str, parameters: &str) {
    let line = format!(
        "client.create_stack(StackName='{name}',TemplateBody=json.dumps({template}),Parameters={parameters})['StackId']"
    );
    cloud.boto("cloudformation", "us-east-1", &line);
}

#[test]
#[ignore = "needs the test cloud"]
fn a_project_is_set_up_from_the_stack_and_its_commands_use_it() {
    let cloud = Cloud::start(0.0);
    let folder = cloud.path().join("new");
    std::fs::create_dir(&folder).unwrap();
    let init = |more: &[&str]| {
        let mut command = cloud.amibake_without_lock(&[&["init", "--no-input"][..], more].concat());
        let output = command.current_dir(&folder).env_remove("AWS_REGION").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let written = || std::fs::read_to_string(folder.join("amibake.toml")).unwrap_or_default();

    // Nothing there yet: a project that can be baked locally, and what to do next.
    let (code, next, said) = init(&["--region", "us-east-1"]);
    assert!(code == 0 && next.contains("amibake render prerequisites"), "{next} {said}");
    assert!(folder.join("recipes/builder.toml").exists() && folder.join("amibake.lock").exists());
    assert_eq!(written().matches("region = \"us-east-1\"").count(), 1);

    create(&cloud, "buildkite", STACK, "[]");
    let subnet = cloud.boto("ec2", "us-east-1", "client.describe_subnets()['Subnets'][0]['SubnetId']");
    create(&cloud, "amibake", NETWORK, &format!("[dict(ParameterKey='Subnet',ParameterValue={subnet})]"));
    let (code, toml, said) = init(&["--region", "us-east-1", "--dry-run"]);
    assert!(
        code == 0 && toml.contains("secrets_bucket = \"ci-secrets\"") && !written().contains("ci-secrets"),
        "{said}"
    );
    // A comment and a choice of one's own stay; the region is the project's by now.
    let before = format!("{}\n[trust] # strict\nrequire = \"recorded\"\n", written());
    std::fs::write(folder.join("amibake.toml"), &before).unwrap();
    let (code, next, said) = init(&[]);
    assert_eq!(code, 0, "{said}");
    let after = written();
    assert!(after.contains("[trust] # strict\nrequire = \"recorded\"\n"), "{after}");
    for part in
        [&format!("\"machine.aws.subnet\" = {subnet}"), "instance_profile\" = \"amibake\"", "security_group = \"sg-"]
    {
        assert!(after.contains(part), "{part}: {after}");
    }
    assert!(
        next.contains("AgentSecurityGroup=sg-") && next.contains("Vpc=vpc-") && next.contains("--upload ci-secrets"),
        "{next}"
    );
    // Again: nothing changes.
    let (code, _, said) = init(&[]);
    assert!(code == 0 && said.contains("says all this already") && written() == after, "{said}");

    // What follows uses it: the plan without a flag, the bucket without a name.
    let run = |arguments: &[&str]| {
        let mut command = cloud.amibake_without_lock(arguments);
        let output = command.current_dir(&folder).env_remove("AWS_REGION").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let plan: serde_json::Value =
        serde_json::from_str(&run(&["plan", "builder", "--provider", "aws", "--json"])).unwrap();
    let plan = plan["plans"].get(0).unwrap_or(&plan);
    assert_eq!(plan["aws"]["subnet"], subnet, "{plan:#}");
    let hook = ["render", "env-hook", "--address", "tcp://b:1234", "--upload", "--yes"];
    run(&hook);
    assert_eq!(cloud.objects("ci-secrets"), ["env"]);

    // What no command could use is not written.
    let (code, _, said) = init(&["--subnet", "nonsense"]);
    assert!(code == 2 && said.contains("subnet") && written() == after, "{said}");
    let (code, _, said) = init(&["--stack", "other"]);
    assert!(code == 2 && said.contains("there is buildkite"), "{said}");
}
