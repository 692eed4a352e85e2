//! What a recipe says of AWS: the instance it is baked on, how things get there and back, and where the image goes. As in
//! `types`, doc comments are what an editor shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;
use super::types::PerArch;

/// The temporary instance on AWS. Nothing here is part of the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AwsMachine {
    /// Instance types, the next one is tried where a zone has no capacity: `["m7i.large", "m6i.large"]`.
    #[schemars(with = "PerArch<Vec<format::InstanceType>>")]
    pub instance_types: PerArch<Vec<String>>,
    /// Ask for spot capacity first, on-demand where there is none.
    pub spot: bool,
    /// Subnet to launch in: `subnet-…`. Left out: one that `subnet_tags` finds, or one of the default VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::SubnetId")]
    pub subnet: Option<String>,
    /// Tags that subnets to launch in bear.
    #[schemars(with = "BTreeMap<String, format::TagValue>")]
    pub subnet_tags: BTreeMap<String, String>,
    /// Security group without inbound rules: `sg-…`. Left out: a temporary one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::SecurityGroupId")]
    pub security_group: Option<String>,
    /// Name of the instance profile that lets Systems Manager in. Left out: Default Host Management must be on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::InstanceProfile")]
    pub instance_profile: Option<String>,
    /// Give the instance a public address (it still accepts no connection).
    pub public_address: bool,
    /// KMS key that encrypts its volumes: id, ARN or alias. Left out: the account's key for EBS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::KmsKey")]
    pub kms_key: Option<String>,
}

impl Default for AwsMachine {
    fn default() -> Self {
        let types = |types: &[&str]| Some(types.iter().map(|&name| name.to_owned()).collect());
        Self {
            // Two families of two generations: rarely all without capacity in every zone.
            instance_types: PerArch::Each {
                amd64: types(&["m7i.large", "m6i.large", "m7a.large", "m6a.large"]),
                arm64: types(&["m7g.large", "m6g.large", "c7g.large", "c6g.large"]),
            },
            spot: false,
            subnet: None,
            subnet_tags: BTreeMap::new(),
            security_group: None,
            instance_profile: None,
            public_address: false,
            kms_key: None,
        }
    }
}

/// How files reach a machine on AWS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Bucket that the tarball travels through, by a short-lived presigned address: for subnets without internet. Left
    /// out: the machine fetches it from where the lock says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::Bucket")]
    pub bucket: Option<String>,
}

/// Where the output of scripts on AWS is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Bucket that Systems Manager writes the whole output of every script to. Left out: it is read from the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "format::Bucket")]
    pub bucket: Option<String>,
}

/// Where a finished AMI goes, and who may use it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Distribute {
    /// Regions it is copied to.
    #[schemars(with = "Vec<format::Region>")]
    pub regions: Vec<String>,
    /// KMS key that encrypts the copy in a region. Left out: that region's key for EBS.
    #[schemars(with = "BTreeMap<String, format::KmsKey>", extend("propertyNames" = { "$ref": "#/$defs/Region" }))]
    pub kms_keys: BTreeMap<String, String>,
    /// Accounts that may use it, in every region. They need the key too if it is one of yours.
    #[schemars(with = "Vec<format::AccountId>")]
    pub accounts: Vec<String>,
    /// Organizations whose accounts may: ARNs.
    #[schemars(with = "Vec<format::OrganizationArn>")]
    pub organizations: Vec<String>,
    /// Organizational units whose accounts may: ARNs.
    #[schemars(with = "Vec<format::UnitArn>")]
    pub organizational_units: Vec<String>,
    /// Days after which it is deprecated, in every region: it is no longer listed, and can still be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub deprecate_after_days: Option<u32>,
    /// Keep it from being deregistered until somebody takes that away.
    pub protect: bool,
}
