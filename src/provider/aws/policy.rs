//! The least that IAM must allow: to whoever bakes, and to the machine that is baked on. What is changed or removed must
//! bear the tag of a run; what is made must be given it by the very call that makes it. Pure: account, region and role
//! come from the caller, everything else from the recipes.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::surroundings::BUILDER;
use super::tags::{EXPIRES, RUN, VERIFIED};
use crate::catalog::CHANNELS;
use crate::recipe::Recipe;

/// Every operation of AWS that amibake calls, as IAM spells it, and the statement of [`baker`] or [`keeper`] that allows it.
pub(super) const OPERATIONS: &[(&str, &str)] = &[
    ("autoscaling:DescribeLaunchConfigurations", LOOK),
    ("cloudformation:DescribeStackEvents", "Stack"),
    ("cloudformation:DescribeStackResources", AROUND),
    ("cloudformation:DescribeStacks", "Stack"),
    ("cloudformation:UpdateStack", "Stack"),
    ("ec2:AuthorizeSecurityGroupIngress", OWN_RESOURCES),
    ("ec2:CopyImage", "Copy"),
    ("ec2:CreateImage", "Image"),
    ("ec2:CreateSecurityGroup", "Group"),
    ("ec2:CreateTags", "Finish"),
    ("ec2:DeleteNetworkInterface", OWN_RESOURCES),
    ("ec2:DeleteSecurityGroup", OWN_RESOURCES),
    ("ec2:DeleteSnapshot", OWN_RESOURCES),
    ("ec2:DeleteTags", "Finish"),
    ("ec2:DeleteVolume", OWN_RESOURCES),
    ("ec2:DeregisterImage", OWN_RESOURCES),
    ("ec2:DescribeImageAttribute", "Distribute"),
    ("ec2:DescribeImages", WITHOUT_RESOURCES),
    ("ec2:DescribeInstanceStatus", WITHOUT_RESOURCES),
    ("ec2:DescribeInstanceTypeOfferings", WITHOUT_RESOURCES),
    ("ec2:DescribeInstanceTypes", WITHOUT_RESOURCES),
    ("ec2:DescribeInstances", WITHOUT_RESOURCES),
    ("ec2:DescribeLaunchTemplateVersions", LOOK),
    ("ec2:DescribeLaunchTemplates", LOOK),
    ("ec2:DescribeNetworkAcls", AROUND),
    ("ec2:DescribeNetworkInterfaces", WITHOUT_RESOURCES),
    ("ec2:DescribeRouteTables", WITHOUT_RESOURCES),
    ("ec2:DescribeSecurityGroups", WITHOUT_RESOURCES),
    ("ec2:DescribeSnapshotAttribute", "Distribute"),
    ("ec2:DescribeSnapshots", WITHOUT_RESOURCES),
    ("ec2:DescribeSubnets", WITHOUT_RESOURCES),
    ("ec2:DescribeVolumes", WITHOUT_RESOURCES),
    ("ec2:DescribeVpcEndpoints", WITHOUT_RESOURCES),
    ("ec2:EnableImageDeprecation", "Distribute"),
    ("ec2:EnableImageDeregistrationProtection", "Distribute"),
    ("ec2:GetConsoleOutput", OWN_RESOURCES),
    ("ec2:GetEbsDefaultKmsKeyId", LOOK),
    ("ec2:GetImageBlockPublicAccessState", LOOK),
    ("ec2:ModifyImageAttribute", OWN_RESOURCES),
    ("ec2:RunInstances", "Launch"),
    ("ec2:ModifyInstanceAttribute", "Regroup"),
    ("ec2:ModifySnapshotAttribute", "Distribute"),
    ("ec2:StopInstances", OWN_RESOURCES),
    ("ec2:TerminateInstances", OWN_RESOURCES),
    ("iam:GetInstanceProfile", "Profile"),
    ("s3:DeleteObject", "Delivery"),
    // The machine's address is signed by who bakes, so it is the baker that gets.
    ("s3:GetObject", "Delivery"),
    ("s3:ListBucket", "DeliveryList"),
    ("s3:PutObject", "Delivery"),
    ("ssm:CancelCommand", WITHOUT_RESOURCES),
    ("ssm:DeleteParameter", "Channels"),
    ("ssm:DescribeInstanceInformation", WITHOUT_RESOURCES),
    ("ssm:GetCommandInvocation", WITHOUT_RESOURCES),
    ("ssm:DescribeParameters", LOOK),
    ("ssm:GetParameter", "Parameters"),
    ("ssm:GetParameterHistory", "Channels"),
    ("ssm:GetParameters", "References"),
    ("ssm:GetServiceSetting", "HostManagement"),
    ("ssm:PutParameter", "Channels"),
    ("ssm:SendCommand", "Document"),
];

/// What IAM cannot hold to resources: what lists, and what names a command by its id.
const WITHOUT_RESOURCES: &str = "WithoutResources";
/// What changes or removes things that bear a run's tag.
const OWN_RESOURCES: &str = "OwnResources";
/// What tells who uses an image.
const LOOK: &str = "Look";
/// What tells of a builder's network.
const AROUND: &str = "Around";
/// What a run makes.
const KINDS: [&str; 6] = ["image", "instance", "network-interface", "security-group", "snapshot", "volume"];
/// Where objects and logs are in buckets.
const PREFIX: &str = "amibake/*";

/// Whom and what a policy is for.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Region; none for all of them.
    pub region: Option<String>,
    /// Account; none for any, which is the account that the policy is in.
    pub account: Option<String>,
    /// Name of the instance profile's role, with its path; none where it is called as the profile.
    pub role: Option<String>,
}

impl Scope {
    fn partition(&self) -> &'static str {
        match self.region.as_deref() {
            Some(region) if region.starts_with("cn-") => "aws-cn",
            Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// `arn:aws:ec2:us-east-1:123456789012:instance/*`
    fn arn(&self, service: &str, resource: &str) -> String {
        let (region, account) = (self.region.as_deref().unwrap_or("*"), self.account.as_deref().unwrap_or("*"));
        let (region, account) = match service {
            "iam" => ("", account),
            "s3" => ("", ""),
            _ => (region, account),
        };
        format!("arn:{}:{service}:{region}:{account}:{resource}", self.partition())
    }

    /// Of what is in no account: Amazon's own documents and parameters, and every AMI and snapshot.
    fn public(&self, service: &str, resource: &str) -> String {
        format!("arn:{}:{service}:{}::{resource}", self.partition(), self.region.as_deref().unwrap_or("*"))
    }
}

/// An IAM policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    action: Vec<String>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Value>,
}

fn allow(sid: &str, actions: &[&str], resource: Vec<String>, condition: Option<Value>) -> Statement {
    let action = actions.iter().map(|&action| action.to_owned()).collect();
    Statement { sid: sid.to_owned(), effect: "Allow", action, resource, condition }
}

/// What of the recipes needs more than any bake does.
#[derive(Debug, Default)]
struct Wants {
    parameters: BTreeSet<String>,
    profiles: BTreeSet<String>,
    host_management: bool,
    keys: BTreeSet<String>,
    delivery: BTreeSet<String>,
    logs: BTreeSet<String>,
    spot: bool,
}

impl Wants {
    fn of(recipes: &[&Recipe]) -> Self {
        let mut wants = Self::default();
        for recipe in recipes {
            let machine = &recipe.machine.aws;
            let names = recipe.base.aws.iter().filter_map(|base| base.ssm_parameter.as_ref());
            for names in names {
                wants.parameters.extend(crate::release::Arch::ALL.iter().filter_map(|arch| names.get(*arch)).cloned());
            }
            wants.host_management |= machine.instance_profile.is_none();
            wants.profiles.extend(machine.instance_profile.clone());
            wants.keys.extend(machine.kms_key.clone());
            wants.delivery.extend(recipe.delivery.bucket.clone());
            wants.logs.extend(recipe.logs.bucket.clone());
            wants.spot |= machine.spot;
        }
        wants
    }
}

/// The policy of who bakes `recipes`, verifies them and removes what is left of them.
#[must_use]
pub fn baker(scope: &Scope, recipes: &[&Recipe]) -> Policy {
    let wants = Wants::of(recipes);
    let mut statement = vec![anywhere(scope)];
    statement.extend(launch(scope, wants.spot));
    statement.extend(make(scope));
    statement.extend(own(scope));
    statement.extend(commands(scope));
    statement.extend(trust(scope, &wants));
    statement.extend(reading(scope, &wants));
    statement.extend(keys(scope, &wants.keys));
    Policy { version: "2012-10-17", statement }
}

/// Bears the tag of a run.
fn ours() -> Value {
    json!({ "StringLike": { format!("aws:ResourceTag/{RUN}"): "*" } })
}

/// Bears the tag of a run, and it is about no other tags than these.
fn only(tags: &[&str]) -> Value {
    json!({ "ForAllValues:StringEquals": { "aws:TagKeys": tags }, "StringLike": { format!("aws:ResourceTag/{RUN}"): "*" } })
}

/// Is given the tag of a run by the call that makes it.
fn tagged() -> Value {
    json!({ "StringLike": { format!("aws:RequestTag/{RUN}"): "*" } })
}

fn operations(sid: &str) -> Vec<&'static str> {
    OPERATIONS.iter().filter(|(_, statement)| *statement == sid).map(|(operation, _)| *operation).collect()
}

fn ec2(scope: &Scope, kinds: &[&str]) -> Vec<String> {
    let arn = |kind: &&str| match *kind {
        "image" | "snapshot" => scope.public("ec2", &format!("{kind}/*")),
        _ => scope.arn("ec2", &format!("{kind}/*")),
    };
    kinds.iter().map(arn).collect()
}

fn anywhere(scope: &Scope) -> Statement {
    let region = scope.region.as_ref().map(|region| json!({ "StringEquals": { "aws:RequestedRegion": region } }));
    allow(WITHOUT_RESOURCES, &operations(WITHOUT_RESOURCES), vec!["*".to_owned()], region)
}

fn launch(scope: &Scope, spot: bool) -> Vec<Statement> {
    let run = &operations("Launch");
    let instance = json!({
        "StringLike": { format!("aws:RequestTag/{RUN}"): "*" },
        "StringEquals": { "ec2:MetadataHttpTokens": "required" },
    });
    let mut from = vec!["image", "security-group", "snapshot", "subnet"];
    if spot {
        from.push("spot-instances-request");
    }
    vec![
        allow("Launch", run, ec2(scope, &["instance"]), Some(instance)),
        allow("LaunchWith", run, ec2(scope, &["network-interface", "volume"]), Some(tagged())),
        allow("LaunchFrom", run, ec2(scope, &from), None),
    ]
}

fn make(scope: &Scope) -> Vec<Statement> {
    let (group, image, regroup) = (&operations("Group"), &operations("Image"), &operations("Regroup"));
    let creating =
        json!({ "StringEquals": { "ec2:CreateAction": ["CreateImage", "CreateSecurityGroup", "RunInstances"] } });
    let unfinished = only(&[EXPIRES, VERIFIED]);
    vec![
        allow("Group", group, ec2(scope, &["security-group"]), Some(tagged())),
        allow("GroupIn", group, ec2(scope, &["vpc"]), None),
        allow("Image", image, ec2(scope, &["image", "snapshot"]), Some(tagged())),
        allow("ImageOf", image, ec2(scope, &["instance"]), Some(ours())),
        allow("TagWhatIsMade", &["ec2:CreateTags"], ec2(scope, &KINDS), Some(creating)),
        allow("Finish", &operations("Finish"), ec2(scope, &["image", "snapshot"]), Some(unfinished)),
        // A stopped machine leaves its temporary group for the VPC's default one, so that it can be deleted.
        allow("Regroup", regroup, ec2(scope, &["instance"]), Some(ours())),
        allow("RegroupInto", regroup, ec2(scope, &["security-group"]), None),
    ]
}

fn own(scope: &Scope) -> Vec<Statement> {
    vec![allow(OWN_RESOURCES, &operations(OWN_RESOURCES), ec2(scope, &KINDS), Some(ours()))]
}

fn commands(scope: &Scope) -> Vec<Statement> {
    let send = &operations("Document");
    let ours = json!({ "StringLike": { format!("ssm:resourceTag/{RUN}"): "*" } });
    vec![
        allow("Document", send, vec![scope.public("ssm", "document/AWS-RunShellScript")], None),
        allow("Commands", send, ec2(scope, &["instance"]), Some(ours)),
    ]
}

/// What lets Systems Manager into machines.
fn trust(scope: &Scope, wants: &Wants) -> Vec<Statement> {
    let mut statements = Vec::new();
    if wants.host_management {
        let setting = "servicesetting/ssm/managed-instance/default-ec2-instance-management-role";
        let setting = vec![scope.arn("ssm", setting)];
        statements.push(allow("HostManagement", &operations("HostManagement"), setting, None));
    }
    if !wants.profiles.is_empty() {
        let arn = |name: &String| scope.arn("iam", &format!("instance-profile/{name}"));
        let profiles = wants.profiles.iter().map(arn).collect();
        statements.push(allow("Profile", &operations("Profile"), profiles, None));
        let roles: BTreeSet<_> = wants.profiles.iter().map(|profile| scope.role.as_ref().unwrap_or(profile)).collect();
        let roles = roles.iter().map(|role| scope.arn("iam", &format!("role/{}", role.trim_start_matches('/'))));
        // In every partition, China's too, the service is called so.
        let to_ec2 = json!({ "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } });
        statements.push(allow("PassRole", &["iam:PassRole"], roles.collect(), Some(to_ec2)));
    }
    statements
}

/// Parameters and buckets.
fn reading(scope: &Scope, wants: &Wants) -> Vec<Statement> {
    let objects = |buckets: &BTreeSet<String>| -> Vec<String> {
        buckets.iter().map(|bucket| scope.arn("s3", &format!("{bucket}/{PREFIX}"))).collect()
    };
    let mut statements = Vec::new();
    if !wants.parameters.is_empty() {
        let arn = |name: &String| match name.trim_start_matches('/') {
            path if path.starts_with("aws/") => scope.public("ssm", &format!("parameter/{path}")),
            path => scope.arn("ssm", &format!("parameter/{path}")),
        };
        let parameters = wants.parameters.iter().map(arn).collect();
        statements.push(allow("Parameters", &operations("Parameters"), parameters, None));
    }
    if !wants.delivery.is_empty() {
        statements.push(allow("Delivery", &operations("Delivery"), objects(&wants.delivery), None));
        // Of what bakes left there, `gc` knows no keys.
        let buckets = wants.delivery.iter().map(|bucket| scope.arn("s3", bucket)).collect();
        let below = json!({ "StringLike": { "s3:prefix": PREFIX } });
        statements.push(allow("DeliveryList", &operations("DeliveryList"), buckets, Some(below)));
    }
    if !wants.logs.is_empty() {
        statements.push(allow("Logs", &["s3:GetObject"], objects(&wants.logs), None));
    }
    statements
}

/// What EC2 does with keys in the baker's name when it makes encrypted volumes ("Requirements for Amazon EBS encryption",
/// EBS User Guide). The account's own key for EBS needs nothing.
fn keys(scope: &Scope, keys: &BTreeSet<String>) -> Vec<Statement> {
    const ACTIONS: [&str; 5] = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ];
    let mut statements = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let (resource, alias) = match key.rsplit_once("alias/") {
            Some((_, alias)) => (scope.arn("kms", "key/*"), Some(format!("alias/{alias}"))),
            None if key.starts_with("arn:") => (key.clone(), None),
            None => (scope.arn("kms", &format!("key/{key}")), None),
        };
        let known_as = alias.map(|alias| json!({ "kms:ResourceAliases": alias }));
        let via = known_as.clone().map(|known_as| json!({ "ForAnyValue:StringEquals": known_as }));
        let mut grants = json!({ "Bool": { "kms:GrantIsForAWSResource": "true" } });
        if let Some(known_as) = known_as {
            grants["ForAnyValue:StringEquals"] = known_as;
        }
        statements.push(allow(&format!("Key{number}"), &ACTIONS, vec![resource.clone()], via));
        statements.push(allow(&format!("KeyGrant{number}"), &["kms:CreateGrant"], vec![resource], Some(grants)));
    }
    statements
}

/// The policy of who lists, removes and promotes images. `stack` is the one that `--update-stack` updates, which is done with
/// the rights of that stack's own role, or else of who asks for it.
#[must_use]
pub fn keeper(scope: &Scope, stack: Option<&str>) -> Policy {
    let region = scope.region.as_ref().map(|region| json!({ "StringEquals": { "aws:RequestedRegion": region } }));
    let listing = ["ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeSnapshots"];
    let look = [operations(LOOK), listing.to_vec()].concat();
    let channels = [operations("Channels"), vec!["ssm:AddTagsToResource", "ssm:GetParameter"]].concat();
    let removing = ["ec2:DeleteSnapshot", "ec2:DeregisterImage"];
    let distribute = [operations("Distribute"), vec!["ec2:ModifyImageAttribute"]].concat();
    let copying = json!({ "StringEquals": { "ec2:CreateAction": "CopyImage" } });
    let parameters = |below: &str| vec![scope.arn("ssm", &format!("parameter/{below}*"))];
    let mut statement = vec![
        allow(LOOK, &look, vec!["*".to_owned()], region),
        // Any parameter may hold the id of an image that must not go.
        allow("References", &operations("References"), parameters(""), None),
        allow("Remove", &removing, ec2(scope, &["image", "snapshot"]), Some(ours())),
        // The image that is copied bears the tag, and what is made is given it by the call that makes it.
        allow("CopyFrom", &operations("Copy"), ec2(scope, &["image", "snapshot"]), Some(ours())),
        allow("Copy", &operations("Copy"), ec2(scope, &["image", "snapshot"]), Some(tagged())),
        allow("TagCopies", &["ec2:CreateTags"], ec2(scope, &["image", "snapshot"]), Some(copying)),
        allow("Distribute", &distribute, ec2(scope, &["image", "snapshot"]), Some(ours())),
        allow("FinishCopies", &["ec2:DeleteTags"], ec2(scope, &["image", "snapshot"]), Some(only(&[EXPIRES]))),
        allow("Channels", &channels, parameters(CHANNELS.trim_start_matches('/')), None),
    ];
    if let Some(stack) = stack {
        let stack = vec![scope.arn("cloudformation", &format!("stack/{stack}/*"))];
        statement.push(allow("Stack", &operations("Stack"), stack, None));
    }
    Policy { version: "2012-10-17", statement }
}

/// The policy of who asks for `doctor --aws` and `init`: they read, and the first runs a script on instances that bear a builder's tag.
#[must_use]
pub fn doctor(scope: &Scope) -> Policy {
    let region = scope.region.as_ref().map(|region| json!({ "StringEquals": { "aws:RequestedRegion": region } }));
    let reads = [
        "cloudformation:DescribeStacks",
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ssm:CancelCommand",
        "ssm:GetCommandInvocation",
    ];
    let builders = json!({ "StringLike": { format!("ssm:resourceTag/{BUILDER}"): "*" } });
    let send = &operations("Document");
    let statement = vec![
        allow(AROUND, &[operations(AROUND), reads.to_vec()].concat(), vec!["*".to_owned()], region),
        allow("Document", send, vec![scope.public("ssm", "document/AWS-RunShellScript")], None),
        allow("Builders", send, ec2(scope, &["instance"]), Some(builders)),
    ];
    Policy { version: "2012-10-17", statement }
}

/// The policy of the role of the machines that `recipes` are baked on: what of AmazonSSMManagedInstanceCore commands need,
/// and the buckets that output goes to.
#[must_use]
pub fn instance(scope: &Scope, recipes: &[&Recipe]) -> Policy {
    let agent = [
        "ssm:ListInstanceAssociations",
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
        // Agents before 3.3.40.0.
        "ec2messages:AcknowledgeMessage",
        "ec2messages:DeleteMessage",
        "ec2messages:FailMessage",
        "ec2messages:GetEndpoint",
        "ec2messages:GetMessages",
        "ec2messages:SendReply",
    ];
    let mut statement = vec![allow("Agent", &agent, vec!["*".to_owned()], None)];
    let logs = Wants::of(recipes).logs;
    if !logs.is_empty() {
        let objects = logs.iter().map(|bucket| scope.arn("s3", &format!("{bucket}/{PREFIX}"))).collect();
        statement.push(allow("Logs", &["s3:PutObject"], objects, None));
        // The agent asks how the bucket encrypts before it writes.
        let buckets = logs.iter().map(|bucket| scope.arn("s3", bucket)).collect();
        statement.push(allow("LogBucket", &["s3:GetEncryptionConfiguration"], buckets, None));
    }
    Policy { version: "2012-10-17", statement }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "name = \"plain\"\n\
        base.aws.ssm_parameter = \"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64\"\n";
    const EVERYTHING: &str = "name = \"everything\"\n\
        base.aws.ssm_parameter = { amd64 = \"/images/mine\", arm64 = \"/images/other\" }\n\
        delivery.bucket = \"tarballs\"\nlogs.bucket = \"logs\"\n\
        [machine.aws]\nspot = true\ninstance_profile = \"baked\"\nkms_key = \"alias/images\"\n";

    fn scope() -> Scope {
        Scope {
            region: Some("eu-central-1".to_owned()),
            account: Some("123456789012".to_owned()),
            role: Some("/team/baked-role".to_owned()),
        }
    }

    fn recipe(text: &str) -> Recipe {
        crate::recipe::parse("r.toml", text, &[]).unwrap()
    }

    /// Every operation that the code of this provider names.
    fn called() -> BTreeSet<String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/provider/aws");
        let mut called = BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let is_code = path.extension().is_some_and(|extension| extension == "rs");
            if !is_code || path.ends_with("policy.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let quoted = text.split('"').filter(|word| {
                word.split_once(':').is_some_and(|(service, action)| {
                    ["autoscaling", "cloudformation", "ec2", "iam", "s3", "ssm", "sts"].contains(&service)
                        && action.starts_with(|first: char| first.is_ascii_uppercase())
                        && action.chars().all(|char| char.is_ascii_alphanumeric())
                })
            });
            called.extend(quoted.map(str::to_owned));
        }
        called
    }

    #[test]
    fn the_table_has_every_operation_that_is_called() {
        let known: BTreeSet<_> = OPERATIONS.iter().map(|(operation, _)| (*operation).to_owned()).collect();
        let missing: Vec<_> = called().difference(&known).cloned().collect();
        assert!(missing.is_empty(), "not in OPERATIONS: {missing:?}");
    }

    #[test]
    fn every_operation_is_allowed_and_nothing_else_but_what_they_need() {
        let (plain, everything) = (recipe(PLAIN), recipe(EVERYTHING));
        let policy = baker(&scope(), &[&plain, &everything]);
        let keeper = keeper(&scope(), Some("buildkite"));
        let doctor = doctor(&scope());
        let all = policy.statement.iter().chain(&keeper.statement).chain(&doctor.statement);
        let allowed: BTreeSet<_> = all.flat_map(|one| one.action.iter().cloned()).collect();
        let known: BTreeSet<_> = OPERATIONS.iter().map(|(operation, _)| (*operation).to_owned()).collect();
        assert_eq!(known.difference(&allowed).collect::<Vec<_>>(), Vec::<&String>::new());
        // What operations need beside their own permission.
        let needed = ["iam:PassRole", "ssm:AddTagsToResource"];
        let beside = |action: &&String| !action.starts_with("kms:") && !needed.contains(&action.as_str());
        assert_eq!(allowed.difference(&known).filter(beside).collect::<Vec<_>>(), Vec::<&String>::new());
        let sids: BTreeSet<_> = policy.statement.iter().map(|one| &one.sid).collect();
        assert_eq!(sids.len(), policy.statement.len());
    }

    #[test]
    fn what_changes_things_is_held_to_a_tag_or_a_name() {
        let policy = baker(&scope(), &[&recipe(EVERYTHING)]);
        for statement in policy.statement {
            let wide = statement.resource.iter().any(|arn| arn.ends_with("/*") && !arn.contains("s3"));
            let launches_from = ["LaunchFrom", "GroupIn", "RegroupInto"].contains(&statement.sid.as_str());
            assert!(!wide || launches_from || statement.condition.is_some(), "{statement:?}");
        }
    }

    #[test]
    fn policies_as_they_are_printed() {
        let (plain, everything) = (recipe(PLAIN), recipe(EVERYTHING));
        insta::assert_json_snapshot!("baker", baker(&Scope::default(), &[&plain]));
        insta::assert_json_snapshot!("baker_with_everything", baker(&scope(), &[&everything]));
        insta::assert_json_snapshot!("keeper", keeper(&Scope::default(), None));
        insta::assert_json_snapshot!("keeper_with_a_stack", keeper(&scope(), Some("buildkite")));
        insta::assert_json_snapshot!("doctor", doctor(&scope()));
        insta::assert_json_snapshot!("instance", instance(&Scope::default(), &[&plain]));
        insta::assert_json_snapshot!("instance_with_logs", instance(&scope(), &[&everything]));
    }

    #[test]
    fn a_managed_policy_may_hold_them() {
        let policy = baker(&scope(), &[&recipe(PLAIN), &recipe(EVERYTHING)]);
        // Without white space ("IAM and AWS STS quotas").
        assert!(serde_json::to_string(&policy).unwrap().len() <= 6144);
    }
}
