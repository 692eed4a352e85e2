//! Clients whose answers a test writes, and plans to ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_smithy_mocks::{MockResponseInterceptor, Rule, RuleMode, create_mock_http_client};

use super::client::Clients;
use crate::plan::{BaseAmi, BaseImage, Facts, ImageFormat, Options, Plan};
use crate::recipe::ProviderKind;
use crate::release::{Arch, Lock, LockedArtifact, Platform, Sha256, Version};

/// Clients of us-east-1 whose calls are answered by the first rule that matches; a call that none matches fails the test.
pub(super) fn mocked(rules: &[&Rule]) -> Clients {
    macro_rules! client {
        ($sdk:ident) => {{
            let answers = MockResponseInterceptor::new().rule_mode(RuleMode::MatchAny);
            let answers = rules.iter().fold(answers, |answers, rule| answers.with_rule(rule));
            let config = $sdk::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("us-east-1"))
                .credentials_provider($sdk::config::Credentials::new("x", "x", None, None, "test"))
                .retry_config(RetryConfig::disabled())
                .http_client(create_mock_http_client())
                .interceptor(answers);
            $sdk::Client::from_conf(config.build())
        }};
    }
    Clients {
        region: "us-east-1".to_owned(),
        autoscaling: client!(aws_sdk_autoscaling),
        cloudformation: client!(aws_sdk_cloudformation),
        ec2: client!(aws_sdk_ec2),
        ssm: client!(aws_sdk_ssm),
        iam: client!(aws_sdk_iam),
        s3: client!(aws_sdk_s3),
        known: Arc::default(),
    }
}

/// The plan for amd64 of a recipe called `r` that goes on with `recipe`, from an AMI of 8 GiB.
pub(crate) fn planned(recipe: &str) -> Plan {
    let recipe = crate::recipe::parse("r.toml", format!("name = \"r\"\n{recipe}"), &[]).unwrap();
    let url = "https://releases.example/v0.31.2/buildkit-v0.31.2.linux-amd64.tar.gz".to_owned();
    let locked = LockedArtifact::pinned(url, Sha256::of(b"buildkit"));
    let lock = Lock {
        version: Version::new(0, 31, 2),
        artifacts: BTreeMap::from([(Platform(Arch::Amd64), locked)]),
        stand_in: false,
    };
    let base = BaseImage {
        name: "al2023".to_owned(),
        identity: "ami-0123456789abcdef0".to_owned(),
        location: "ami-0123456789abcdef0".to_owned(),
        arch: Arch::Amd64,
        disk_bytes: 8 << 30,
        ami: Some(BaseAmi {
            region: "us-east-1".to_owned(),
            root_device: "/dev/xvda".to_owned(),
            other_devices: Vec::new(),
            stack: None,
        }),
    };
    let options = Options {
        provider: ProviderKind::Aws,
        arch: Arch::Amd64,
        format: ImageFormat::Ami,
        standalone: true,
        overrides: Vec::new(),
    };
    crate::plan::plan(&recipe, &lock, &Facts { base, assets: BTreeMap::new() }, &options).unwrap()
}
