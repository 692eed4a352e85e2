//! The security group of a run's machines: the plan's, or a temporary one that lets nothing in. Machines that are to reach
//! each other share it, and it lets them, and nobody else, in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_ec2::types::{Filter, IpPermission, ResourceType, UserIdGroupPair};
use tokio::sync::OnceCell;

use super::client::Clients;
use super::error::AwsError;
use super::tags;
use crate::bake::{RunId, Undo};
use crate::error::{Error, Result};
use crate::provider::Resource;

/// The temporary groups of this process: one for each run, whoever of its machines comes first.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<RunId, Arc<OnceCell<String>>>>);

/// A temporary group that is wanted.
pub(super) struct Wanted<'a> {
    pub(super) run: &'a RunId,
    /// `vpc-…`
    pub(super) vpc: &'a str,
    pub(super) tags: &'a BTreeMap<String, String>,
    /// Whether its members reach each other.
    pub(super) joined: bool,
}

impl Groups {
    /// The id of the run's group, which is made if it is not there. The run's tag is armed already.
    ///
    /// # Errors
    /// Exit 4.
    pub(super) async fn of_run(&self, clients: &Clients, wanted: &Wanted<'_>, undo: &Undo) -> Result<String> {
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(wanted.run.clone()).or_default().clone();
        cell.get_or_try_init(|| wanted.make(clients, undo)).await.cloned()
    }
}

impl Wanted<'_> {
    async fn make(&self, clients: &Clients, undo: &Undo) -> Result<String> {
        const OPERATION: &str = "ec2:CreateSecurityGroup";
        let call = clients
            .ec2
            .create_security_group()
            .group_name(self.name())
            .description("Machines of a bake; lets nothing in from outside. Temporary")
            .vpc_id(self.vpc)
            .set_tag_specifications(Some(tags::specifications(self.tags, [ResourceType::SecurityGroup])));
        let id = match call.send().await.map_err(AwsError::of(OPERATION)) {
            Ok(made) => made.group_id,
            // Made before, and the answer was lost: its name is this run's alone.
            Err(error) if error.is(&["InvalidGroup.Duplicate"]) => self.find(clients).await?,
            Err(error) => return Err(error.because("cannot make a security group for the machine")),
        };
        let id = id.ok_or_else(|| Error::host(format!("{OPERATION}: the answer has no id")))?;
        undo.arm(Resource::SecurityGroup { region: clients.region.clone(), id: id.clone() })?;
        if self.joined {
            join(clients, &id).await?;
        }
        Ok(id)
    }

    fn name(&self) -> String {
        format!("amibake-{}", self.run)
    }

    async fn find(&self, clients: &Clients) -> Result<Option<String>> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let call = clients.ec2.describe_security_groups();
        let call = call.filters(filter("group-name", &self.name())).filters(filter("vpc-id", self.vpc));
        let found = call.send().await.map_err(AwsError::of("ec2:DescribeSecurityGroups"));
        let found = found.map_err(|error| error.because("cannot find the machine's security group"))?;
        Ok(found.security_groups.unwrap_or_default().into_iter().find_map(|group| group.group_id))
    }
}

/// Lets the members of the group in.
async fn join(clients: &Clients, id: &str) -> Result<()> {
    let members = UserIdGroupPair::builder().group_id(id).description("each other").build();
    let rule = IpPermission::builder().ip_protocol("-1").user_id_group_pairs(members).build();
    let call = clients.ec2.authorize_security_group_ingress().group_id(id).ip_permissions(rule);
    match call.send().await.map_err(AwsError::of("ec2:AuthorizeSecurityGroupIngress")) {
        Ok(_) => Ok(()),
        Err(error) if error.is(&["InvalidPermission.Duplicate"]) => Ok(()),
        Err(error) => Err(error.because("cannot let the machines reach each other")),
    }
}
