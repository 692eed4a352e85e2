//! The stacks of a region that `init` can use: Elastic CI Stacks for AWS, and the network that `amibake render
//! prerequisites` makes for baking. It only reads.

use std::collections::BTreeMap;

use aws_sdk_cloudformation::types::Stack;

use super::Aws;
use super::error::AwsError;
use crate::error::Result;

/// How the template of the Elastic CI Stack for AWS describes itself: `Buildkite stack v6.40.0`.
const CI_STACK: &str = "Buildkite stack ";
/// How the template of `amibake render prerequisites` does.
const PREREQUISITES: &str = "What amibake needs to bake images";

/// An Elastic CI Stack. What it was given and what it made itself are told alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CiStack {
    /// The CloudFormation stack's name.
    pub name: String,
    /// `v6.40.0`
    pub version: String,
    /// `vpc-…`
    pub vpc: Option<String>,
    /// `subnet-…`
    pub subnets: Vec<String>,
    /// Security group of its agents.
    pub security_group: Option<String>,
    /// Bucket with its secrets and env hooks.
    pub secrets_bucket: Option<String>,
}

/// What machines of a bake are launched with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BakeNetwork {
    /// The CloudFormation stack's name.
    pub name: String,
    /// Outputs: `Subnet`, `SecurityGroup`, `InstanceProfile`.
    pub outputs: BTreeMap<String, String>,
}

impl Aws {
    /// Elastic CI Stacks of this region, and networks for baking.
    ///
    /// # Errors
    /// Exit 4 when CloudFormation cannot be asked.
    pub async fn stacks(&self) -> Result<(Vec<CiStack>, Vec<BakeNetwork>)> {
        let mut pages = self.clients.cloudformation.describe_stacks().into_paginator().send();
        let (mut stacks, mut networks) = (Vec::new(), Vec::new());
        while let Some(page) = pages.next().await {
            let page = page.map_err(AwsError::of("cloudformation:DescribeStacks"));
            let page = page.map_err(|error| error.because("cannot look for the Elastic CI Stack"))?;
            for stack in page.stacks().iter().filter(|stack| is_there(stack)) {
                let description = stack.description().unwrap_or_default();
                if let Some(version) = description.strip_prefix(CI_STACK) {
                    stacks.push(self.ci_stack(stack, version).await?);
                } else if description.starts_with(PREREQUISITES) {
                    networks.push(network(stack));
                }
            }
        }
        stacks.sort_by(|one, other| one.name.cmp(&other.name));
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((stacks, networks))
    }

    async fn ci_stack(&self, stack: &Stack, version: &str) -> Result<CiStack> {
        let name = stack.stack_name().unwrap_or_default();
        let call = self.clients.cloudformation.describe_stack_resources().stack_name(name);
        let answer = call.send().await.map_err(AwsError::of("cloudformation:DescribeStackResources"));
        let answer = answer.map_err(|error| error.because(format!("cannot read what the stack {name} made")))?;
        let made: BTreeMap<&str, &str> = answer
            .stack_resources()
            .iter()
            .filter_map(|resource| Some((resource.logical_resource_id()?, resource.physical_resource_id()?)))
            .collect();
        let made = |id: &str| made.get(id).map(|id| (*id).to_owned());
        let given = |key: &str| -> Option<Vec<String>> {
            let parameter = stack.parameters().iter().find(|parameter| parameter.parameter_key() == Some(key))?;
            let list = parameter.parameter_value()?.split(',').map(|one| one.trim().to_owned());
            Some(list.filter(|one| !one.is_empty()).collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        let first = |key: &str| given(key).and_then(|list| list.into_iter().next());
        Ok(CiStack {
            name: name.to_owned(),
            version: version.to_owned(),
            vpc: first("VpcId").or_else(|| made("Vpc")),
            subnets: given("Subnets").unwrap_or_else(|| ["Subnet0", "Subnet1"].into_iter().filter_map(made).collect()),
            // Before v6 there was one, under another name.
            security_group: first("SecurityGroupIds")
                .or_else(|| first("SecurityGroupId"))
                .or_else(|| made("SecurityGroup")),
            secrets_bucket: first("SecretsBucket").or_else(|| made("ManagedSecretsBucket")),
        })
    }
}

/// One that is being made has nothing to tell yet, one that was deleted has it no more.
fn is_there(stack: &Stack) -> bool {
    let status = stack.stack_status().map_or("", |status| status.as_str());
    status.ends_with("_COMPLETE") && !status.starts_with("DELETE_") && status != "ROLLBACK_COMPLETE"
        || status.starts_with("UPDATE_")
}

fn network(stack: &Stack) -> BakeNetwork {
    let outputs = stack.outputs().iter();
    let outputs =
        outputs.filter_map(|output| Some((output.output_key()?.to_owned(), output.output_value()?.to_owned())));
    BakeNetwork { name: stack.stack_name().unwrap_or_default().to_owned(), outputs: outputs.collect() }
}
