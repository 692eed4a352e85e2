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

/// A temporary group and the one machine in it, which is stopped.
pub(super) struct Occupied<'a> {
    pub(super) run: &'a RunId,
    /// `sg-…`
    pub(super) group: &'a str,
    /// `vpc-…`
    pub(super) vpc: &'a str,
    /// `i-…`
    pub(super) instance: &'a str,
}

impl Groups {
    /// Deletes a temporary group beside the wait for the image. EC2 deletes none that an instance is in, and an instance is
    /// in its group until it is `terminated`, which takes up to minutes after everything else is done: so the stopped
    /// machine is put into the VPC's default group first. Where that does not work, the undo waits.
    pub(super) async fn free(&self, clients: &Clients, occupied: &Occupied<'_>, undo: &Undo) {
        if occupied.delete(clients).await.is_none() {
            return;
        }
        // A test boot of the same run makes another.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(occupied.run);
        let resource = Resource::SecurityGroup { region: clients.region.clone(), id: occupied.group.to_owned() };
        // What cannot be recorded is removed once more.
        let _ = undo.removed(&resource);
    }
}

impl Occupied<'_> {
    async fn delete(&self, clients: &Clients) -> Option<()> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let call = clients.ec2.describe_security_groups();
        let found =
            call.filters(filter("group-name", "default")).filters(filter("vpc-id", self.vpc)).send().await.ok()?;
        let default = found.security_groups.unwrap_or_default().into_iter().find_map(|group| group.group_id)?;
        clients.ec2.modify_instance_attribute().instance_id(self.instance).groups(default).send().await.ok()?;
        clients.ec2.delete_security_group().group_id(self.group).send().await.ok()?;
        Some(())
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
