"""Creates and deletes the rendered stacks in moto, in this process, and looks at what came of them: `stacks.py FOLDER`.

What moto 5.2.1 lacks is worked around here and said where.
"""
import ast, base64, json, os, pathlib, subprocess, sys
import boto3
from moto import mock_aws
import warnings

warnings.simplefilter("ignore")

os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
root = pathlib.Path(__file__).resolve().parents[2]
rendered = pathlib.Path(sys.argv[1])

def parameters(**values):
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]

def resources(cfn, stack):
    return {r["LogicalResourceId"]: r.get("PhysicalResourceId") for r in cfn.describe_stack_resources(StackName=stack)["StackResources"]
            # moto 5.2.1 makes no alarms from templates and lists them without a name.
            if "LogicalResourceId" in r}

def outputs(cfn, stack):
    return {o["OutputKey"]: o["OutputValue"] for o in cfn.describe_stacks(StackName=stack)["Stacks"][0].get("Outputs", [])}

@mock_aws
def builder(named):
    ec2, cfn, iam = boto3.client("ec2"), boto3.client("cloudformation"), boto3.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-east-1a")["Subnet"]["SubnetId"]
    agents = ec2.create_security_group(GroupName="agents", Description="agents", VpcId=vpc)["GroupId"]
    zone = boto3.client("route53").create_hosted_zone(Name="ci.internal", CallerReference="1",
        VPC={"VPCRegion": "us-east-1", "VPCId": vpc})["HostedZone"]["Id"].split("/")[-1]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    boto3.client("ssm").put_parameter(Name="/amibake/builder/amd64/stable", Type="String", Value=image)
    text = (rendered / ("tls.yml" if named else "builder.yml")).read_text()
    cfn.validate_template(TemplateBody=text)
    # moto 5.2.1: RunInstances wants "Ebs" of each mapping of a launch template, also of one with NoDevice (KeyError).
    for_moto = text.replace('NoDevice: ""\n', 'NoDevice: ""\n            Ebs: {}\n')
    assert for_moto != text
    text = for_moto
    more = {}
    if named:
        topic = boto3.client("sns").create_topic(Name="alarms")["TopicArn"]
        key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
        more = dict(HostedZone=zone, RecordName="builder.ci.internal", AlarmTopic=topic, KmsKey=key, RepositoryPattern="ci/*", Count="2",
            TlsParameters="/ci/tls", TlsKmsKey=key)
    cfn.create_stack(StackName="bk", TemplateBody=text, Capabilities=["CAPABILITY_IAM"],
        Parameters=parameters(Vpc=vpc, Subnets=subnet, AgentSecurityGroup=agents, **more))
    made = resources(cfn, "bk")

    group = ec2.describe_security_groups(GroupIds=[outputs(cfn, "bk")["SecurityGroup"]])["SecurityGroups"][0]
    rules = group["IpPermissions"]
    assert len(rules) == 1, rules
    rule = rules[0]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 1234, 1234), rule
    assert not rule["IpRanges"] and not rule["Ipv6Ranges"] and not rule["PrefixListIds"], rule
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [agents], rule

    data = ec2.describe_launch_template_versions(LaunchTemplateId=made["LaunchTemplate"], Versions=["$Latest"])["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["ImageId"] == "resolve:ssm:/amibake/builder/amd64/stable", data["ImageId"]
    metadata = data["MetadataOptions"]
    assert (metadata["HttpTokens"], metadata["HttpPutResponseHopLimit"]) == ("required", 1), metadata
    (interface,) = data["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False and interface["Groups"] == [group["GroupId"]], interface
    (device,) = data["BlockDeviceMappings"]
    assert device["DeviceName"] == "/dev/sdf" and "NoDevice" in device, device
    tags = {spec["ResourceType"]: {t["Key"]: t["Value"] for t in spec["Tags"]} for spec in data["TagSpecifications"]}
    assert tags["instance"]["amibake:builder"] == "bk" and "amibake:cache" not in tags["volume"], tags

    script = base64.b64decode(data["UserData"]).decode()
    assert script.startswith("#cloud-boothook\n#!/bin/bash\nNAME='bk' STACK='bk'"), script[:200]
    assert ("TLS_FROM='/ci/tls'" if named else "TLS_FROM=''") in script
    assert "${AWS::" not in script and len(script.encode()) <= 16384, len(script.encode())
    plain = (root / "assets/render/builder-user-data.sh").read_text()
    assert plain.strip() in script, "the script is not what it was"
    body = script.removeprefix("#cloud-boothook\n")
    checked = subprocess.run(["shellcheck", "--shell=bash", "-"], input=body, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout

    asg = boto3.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["bk-builder"])["AutoScalingGroups"][0]
    count = 2 if named else 1
    assert (asg["MinSize"], asg["MaxSize"], asg["DesiredCapacity"]) == (0, count, count), asg
    hooks = boto3.client("autoscaling").describe_lifecycle_hooks(AutoScalingGroupName="bk-builder")["LifecycleHooks"]
    instance = ec2.describe_instances(InstanceIds=[asg["Instances"][0]["InstanceId"]])["Reservations"][0]["Instances"][0]

    role = made["Role"]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    assert set(names) == {"systems-manager", "cache", "life"} | (
        {"key", "name", "repositories", "certificate", "certificate-key"} if named else set()), names
    for name in names:
        document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        # moto keeps what a stack gave it as the text of a Python value.
        for statement in (ast.literal_eval(document) if isinstance(document, str) else document)["Statement"]:
            # All that IAM knows no resources for, and none of it without a bound but the agent's and the registry's token.
            if statement["Resource"] == "*" and "Condition" not in statement:
                assert statement["Sid"] in ("Agent", "Token"), statement
            assert "*" not in str(statement["Action"]), statement
            if statement["Sid"] == "Certificate":
                assert statement["Resource"].endswith(":parameter/ci/tls/server/*"), statement

    # A volume of this stack must outlive it.
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=10, TagSpecifications=[
        {"ResourceType": "volume", "Tags": [{"Key": "amibake:cache", "Value": "bk"}]}])["VolumeId"]
    cfn.delete_stack(StackName="bk")
    left = [s["StackName"] for s in cfn.list_stacks()["StackSummaries"] if s["StackStatus"] != "DELETE_COMPLETE"]
    assert not left, left
    found = ec2.describe_volumes(Filters=[{"Name": "tag:amibake:cache", "Values": ["bk"]}])["Volumes"]
    assert [v["VolumeId"] for v in found] == [volume]
    remaining = [g["GroupName"] for g in ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]]
    assert sorted(remaining) == ["agents", "default"], remaining
    assert not ec2.describe_launch_templates()["LaunchTemplates"] and not iam.list_instance_profiles()["InstanceProfiles"]

@mock_aws
def prerequisites(zones, **more):
    ec2, cfn, iam = boto3.client("ec2"), boto3.client("cloudformation"), boto3.client("iam")
    text = (rendered / "prerequisites.yml").read_text()
    cfn.validate_template(TemplateBody=text)
    # moto 5.2.1 does not know Fn::Cidr.
    assert "!Cidr [!Ref Cidr, 4, 8]" in text
    text = text.replace("!Cidr [!Ref Cidr, 4, 8]", str([f"10.77.{number}.0/24" for number in range(4)]))
    cfn.create_stack(StackName="bake", TemplateBody=text, Capabilities=["CAPABILITY_IAM"],
        Parameters=parameters(Zones=",".join(zones), ZoneCount=str(len(zones)), **more))
    made, said = resources(cfn, "bake"), outputs(cfn, "bake")
    group = ec2.describe_security_groups(GroupIds=[said["SecurityGroup"]])["SecurityGroups"][0]
    assert group["IpPermissions"] == [], group
    # moto 5.2.1 ignores SecurityGroupEgress of a template: what goes out is not looked at here.
    tag = [{"Name": "tag:amibake:bake", "Values": ["bake"]}]
    subnets = ec2.describe_subnets(Filters=tag)["Subnets"]
    assert sorted(s["AvailabilityZone"] for s in subnets) == zones and not any(s["MapPublicIpOnLaunch"] for s in subnets), subnets
    vpc = [{"Name": "vpc-id", "Values": [made["Vpc"]]}]
    endpoints = sorted(e["ServiceName"].split(".")[-1] for e in ec2.describe_vpc_endpoints(Filters=vpc)["VpcEndpoints"])
    tables = {t["RouteTableId"]: t for t in ec2.describe_route_tables(Filters=vpc)["RouteTables"]}
    default = [r for r in tables[made["Routes"]]["Routes"] if r.get("DestinationCidrBlock") == "0.0.0.0/0"]
    # moto 5.2.1 keeps a template's associations where DescribeRouteTables does not look.
    assert {f"Routes{number + 1}" for number in range(len(zones))} <= set(made), made
    if more.get("WayOut") == "endpoints":
        messages = [] if more.get("Ec2Messages") == "false" else ["ec2messages"]
        assert endpoints == messages + ["s3", "ssm", "ssmmessages"] and not default, (endpoints, default)
        doors = ec2.describe_security_groups(GroupIds=[made["EndpointGroup"]])["SecurityGroups"][0]["IpPermissions"]
        assert [(d["FromPort"], d["IpRanges"], [g["GroupId"] for g in d["UserIdGroupPairs"]]) for d in doors] == [(443, [], [said["SecurityGroup"]])], doors
    else:
        assert endpoints == ["s3"] and default[0].get("NatGatewayId"), (endpoints, default)
    role = iam.get_instance_profile(InstanceProfileName=said["InstanceProfile"])["InstanceProfile"]["Roles"][0]["RoleName"]
    document = iam.get_role_policy(RoleName=role, PolicyName="systems-manager")["PolicyDocument"]
    snapshot = (root / "src/provider/aws/snapshots/amibake__provider__aws__policy__tests__instance.snap").read_text()
    printed = json.loads(snapshot.split("---", 2)[2])["Statement"][0]
    (here_,) = (ast.literal_eval(document) if isinstance(document, str) else document)["Statement"]
    assert here_["Action"] == printed["Action"] and [here_["Resource"]] == printed["Resource"], "not the policy that amibake prints"
    # moto 5.2.1 does not delete route tables of a template, and then refuses to delete the VPC.
    for name in {"Routes", "PublicRoutes"} & set(made):
        ec2.delete_route_table(RouteTableId=made[name])
    cfn.delete_stack(StackName="bake")
    assert not [s for s in cfn.list_stacks()["StackSummaries"] if s["StackStatus"] != "DELETE_COMPLETE"]
    assert not iam.list_instance_profiles()["InstanceProfiles"]

for named in (False, True):
    builder(named)
prerequisites(["us-east-1a"])
prerequisites(["us-east-1a", "us-east-1b", "us-east-1c"], WayOut="endpoints", LogBucket="logs")
prerequisites(["us-east-1a", "us-east-1b"], WayOut="endpoints", Ec2Messages="false")
