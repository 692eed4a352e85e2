//! Brings an image to other regions and to whom it is for. Each region is by itself: what fails in one is told, and the
//! others go on; a second run does what is missing. A copy bears `amibake:expires` until it is finished, as an image does, and
//! `amibake:source`, by which it is found again.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_ec2::types::{
    Filter, Image as Ami, ImageAttributeName, ImageState, LaunchPermission, LaunchPermissionModifications,
    OperationType, PermissionGroup, ResourceType, SnapshotAttributeName, Tag,
};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::catalog::{finish, snapshots};
use super::client::Clients;
use super::error::AwsError;
use super::poll::Poll;
use super::tags;
use crate::bake::Reporter;
use crate::bake::wait::Probe;
use crate::catalog::{Act, Entry, Has, Users, Wish, missing};
use crate::error::{Error, Result};

/// Copies that one region takes at once ("Amazon EC2 quotas": concurrent snapshot copies into one destination region).
pub(super) const COPIES: usize = 20;
/// How long a copy may take.
const COPIED: std::time::Duration = std::time::Duration::from_secs(3 * 3600);
/// How long a copy that is not finished belongs to somebody.
const KEPT: i64 = 24 * 3600;
const COPY: &str = "ec2:CopyImage";
const MODIFY: &str = "ec2:ModifyImageAttribute";

/// What came of one region.
#[derive(Debug)]
pub struct Placed {
    /// The image there.
    pub id: String,
    /// Whether it was copied now.
    pub copied: bool,
    /// What was done to it.
    pub done: Vec<Act>,
}

/// One region, and what is to be there.
pub(super) struct Place<'a> {
    pub(super) clients: &'a Clients,
    pub(super) poll: &'a Poll,
    /// The image that is copied, in its own region.
    pub(super) source: &'a Entry,
    /// All tags of it.
    pub(super) tags: &'a [Tag],
    pub(super) wish: &'a Wish,
    /// Who copies into this region, with everybody else.
    pub(super) turn: &'a Arc<Semaphore>,
    pub(super) reporter: &'a Reporter,
    pub(super) cancel: &'a CancellationToken,
}

/// All tags of an image.
///
/// # Errors
/// Exit 4.
pub(super) async fn tags_of(clients: &Clients, id: &str) -> Result<Vec<Tag>> {
    let found = clients.ec2.describe_images().image_ids(id).send().await.map_err(AwsError::of("ec2:DescribeImages"));
    let found = found.map_err(|error| error.because(format!("cannot look at {id}")))?.images.unwrap_or_default();
    Ok(found.into_iter().next().and_then(|image| image.tags).unwrap_or_default())
}

impl Place<'_> {
    /// Does what is missing here.
    ///
    /// # Errors
    /// The first thing that could not be done; what was done before it stays.
    pub(super) async fn fulfil(&self, now: Timestamp) -> Result<Placed> {
        self.may_be_public().await?;
        let (image, copied) =
            if self.is_home() { (self.look(&self.source.id).await?, false) } else { self.copy(now).await? };
        let id = image.image_id().unwrap_or_default().to_owned();
        let has = self.has(&image).await?;
        let acts = missing(self.wish, &has, self.source.created, now);
        for act in &acts {
            self.carry_out(&image, act).await?;
        }
        Ok(Placed { id, copied, done: acts })
    }

    fn is_home(&self) -> bool {
        self.source.region.as_deref() == Some(&self.clients.region)
    }

    fn place(&self) -> String {
        format!("{}/{}", self.source.region.as_deref().unwrap_or_default(), self.source.id)
    }

    /// The account's own switch comes before anybody's wish.
    async fn may_be_public(&self) -> Result<()> {
        if !self.wish.users.public {
            return Ok(());
        }
        let state = self.clients.ec2.get_image_block_public_access_state().send().await;
        let state = state.map_err(AwsError::of("ec2:GetImageBlockPublicAccessState"));
        let state = state.map_err(|error| error.because("cannot tell whether images may be public here"))?;
        match state.image_block_public_access_state() {
            Some("unblocked") => Ok(()),
            state => {
                let region = &self.clients.region;
                Err(Error::host(format!(
                    "images may not be public in {region}: the account has {}",
                    state.unwrap_or("blocked them")
                ))
                .with_hint(
                    "`aws ec2 disable-image-block-public-access` lifts that, for every image of the account there",
                ))
            }
        }
    }

    /// The copy that is here, finished: one that was there, one that an earlier run left, or a new one.
    async fn copy(&self, now: Timestamp) -> Result<(Ami, bool)> {
        let _turn = self.turn.acquire().await.map_err(|_| Error::interrupted())?;
        let (id, copied) = match self.find().await? {
            Some(image) => (image.image_id().unwrap_or_default().to_owned(), false),
            None => (self.ask(now).await?, true),
        };
        let image = self.available(&id).await?;
        if tags::unfinished(image.tags()) {
            finish(self.clients, &id, &image).await?;
        }
        Ok((image, copied))
    }

    /// The newest copy that is not lost.
    async fn find(&self) -> Result<Option<Ami>> {
        let from = Filter::builder().name(format!("tag:{}", tags::SOURCE)).values(self.place()).build();
        let found =
            self.clients.ec2.describe_images().owners("self").filters(from).include_deprecated(true).send().await;
        let found = found.map_err(AwsError::of("ec2:DescribeImages"));
        let found = found.map_err(|error| error.because("cannot look for a copy"))?.images.unwrap_or_default();
        let (fit, lost): (Vec<Ami>, Vec<Ami>) = found
            .into_iter()
            .partition(|image| matches!(image.state(), Some(ImageState::Available | ImageState::Pending)));
        for image in lost.iter().filter(|image| image.state() == Some(&ImageState::Failed)) {
            let id = image.image_id().unwrap_or_default().to_owned();
            self.reporter.note(format!("the copy {id} in {} had failed: copying anew", self.clients.region));
            super::removal::remove(
                self.clients,
                &crate::provider::Resource::Ami { region: self.clients.region.clone(), id },
            )
            .await?;
        }
        Ok(fit.into_iter().max_by(|one, other| one.creation_date().cmp(&other.creation_date())))
    }

    /// Asks for a copy; its id.
    async fn ask(&self, now: Timestamp) -> Result<String> {
        self.may_share_a_copy().await?;
        let expires =
            Timestamp::from_second(now.as_second() + COPIED.as_secs() as i64 + KEPT).unwrap_or(Timestamp::MAX);
        let own = self.tags.iter().filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())));
        let mut tags: std::collections::BTreeMap<String, String> =
            own.filter(|(key, _)| !key.starts_with("aws:")).collect();
        tags.insert(tags::SOURCE.to_owned(), self.place());
        tags.insert(tags::EXPIRES.to_owned(), tags::rfc3339(expires));
        let call = self.clients.ec2.copy_image();
        let call = call.name(&self.source.name).source_image_id(&self.source.id);
        let call = call.set_source_region(self.source.region.clone()).encrypted(true);
        let call = call.set_kms_key_id(self.wish.keys.get(&self.clients.region).cloned());
        // Made anew for each run: one that was used for a copy that is gone would name that again.
        let token = crate::release::Sha256::of(format!("{} {} {now}", self.place(), self.clients.region).as_bytes());
        let call = call.client_token(token.to_string());
        let call = call.description(format!("copy of {} (amibake {})", self.place(), env!("CARGO_PKG_VERSION")));
        let kinds = [ResourceType::Image, ResourceType::Snapshot];
        let made = call.set_tag_specifications(Some(tags::specifications(&tags, kinds))).send().await;
        let made = made.map_err(AwsError::of(COPY));
        let made =
            made.map_err(|error| error.because(format!("cannot copy {} to {}", self.place(), self.clients.region)))?;
        made.image_id.ok_or_else(|| Error::host(format!("{COPY}: the answer has no id")))
    }

    /// A snapshot that AWS's own key encrypts is for this account alone ("Share an Amazon EBS snapshot", EBS User Guide).
    async fn may_share_a_copy(&self) -> Result<()> {
        let region = &self.clients.region;
        if self.wish.users.is_empty() || self.wish.keys.contains_key(region) {
            return Ok(());
        }
        let key = self.clients.ec2.get_ebs_default_kms_key_id().send().await;
        let key = key.map_err(AwsError::of("ec2:GetEbsDefaultKmsKeyId"));
        let key = key.map_err(|error| error.because(format!("cannot ask for the key of EBS in {region}")))?;
        if key.kms_key_id().is_none_or(|key| key.ends_with("alias/aws/ebs")) {
            return Err(Error::usage(format!(
                "a copy in {region} could not be shared: AWS's own key would encrypt it"
            ))
            .with_hint(format!(
                "name a key of yours: `distribute.kms_keys` in the recipe, or --kms-key {region}=KEY"
            )));
        }
        Ok(())
    }

    async fn available(&self, id: &str) -> Result<Ami> {
        let region = &self.clients.region;
        let judge = |image: Option<Ami>| match image {
            None => Ok(Probe::NotYet("EC2 does not find it yet".to_owned())),
            Some(image) => match image.state() {
                Some(ImageState::Available) => Ok(Probe::Ready(image)),
                Some(ImageState::Failed | ImageState::Error | ImageState::Invalid | ImageState::Deregistered) => {
                    let reason = image.state_reason();
                    let reason =
                        reason.and_then(|reason| reason.message().or(reason.code())).unwrap_or("EC2 does not say why");
                    Err(Error::failed(format!("the copy {id} in {region} failed: {reason}")))
                }
                _ => Ok(Probe::NotYet(format!("{id} is still being copied"))),
            },
        };
        let kind = self.poll.kind(&format!("copy of {}", self.source.recipe));
        let waited =
            self.poll.images.until(&format!("the copy to {region}"), id, COPIED, &kind, self.cancel, judge).await;
        waited.map_err(|error| error.with_hint(format!("{id} stays: the next `amibake distribute` takes it up")))
    }

    async fn look(&self, id: &str) -> Result<Ami> {
        let found =
            self.clients.ec2.describe_images().image_ids(id).send().await.map_err(AwsError::of("ec2:DescribeImages"));
        let found = found.map_err(|error| error.because(format!("cannot look at {id}")))?;
        found
            .images
            .unwrap_or_default()
            .into_iter()
            .next()
            .ok_or_else(|| Error::host(format!("there is no image {id}")))
    }

    async fn has(&self, image: &Ami) -> Result<Has> {
        let id = image.image_id().unwrap_or_default();
        let mut has = Has {
            deprecated: image.deprecation_time().and_then(|text| text.parse().ok()),
            protected: image.deregistration_protection().is_some_and(|state| state.starts_with("enabled")),
            ..Has::default()
        };
        if self.wish.users.is_empty() {
            return Ok(has);
        }
        let asked = self.clients.ec2.describe_image_attribute().image_id(id);
        let asked = asked.attribute(ImageAttributeName::LaunchPermission).send().await;
        let asked = asked.map_err(AwsError::of("ec2:DescribeImageAttribute"));
        let permissions =
            asked.map_err(|error| error.because(format!("cannot ask who may use {id}")))?.launch_permissions;
        for permission in permissions.unwrap_or_default() {
            has.users.accounts.extend(permission.user_id);
            has.users.organizations.extend(permission.organization_arn);
            has.users.units.extend(permission.organizational_unit_arn);
            has.users.public |= permission.group == Some(PermissionGroup::All);
        }
        let mut common: Option<BTreeSet<String>> = None;
        for snapshot in snapshots(image) {
            let asked = self.clients.ec2.describe_snapshot_attribute().snapshot_id(&snapshot);
            let asked = asked.attribute(SnapshotAttributeName::CreateVolumePermission).send().await;
            let asked = asked.map_err(AwsError::of("ec2:DescribeSnapshotAttribute"));
            let asked = asked.map_err(|error| error.because(format!("cannot ask who may use {snapshot}")))?;
            let accounts: BTreeSet<String> =
                asked.create_volume_permissions.unwrap_or_default().into_iter().filter_map(|one| one.user_id).collect();
            common = Some(common.map_or(accounts.clone(), |common| common.intersection(&accounts).cloned().collect()));
        }
        has.snapshot_accounts = common.unwrap_or_default();
        Ok(has)
    }

    async fn carry_out(&self, image: &Ami, act: &Act) -> Result<()> {
        let id = image.image_id().unwrap_or_default();
        let ec2 = &self.clients.ec2;
        match act {
            Act::Share(users) => {
                let call = ec2.modify_image_attribute().image_id(id).launch_permission(permissions(users));
                let done = call.send().await.map_err(AwsError::of(MODIFY));
                done.map(drop).map_err(|error| {
                    error.because(format!("cannot share {id}")).with_hint(
                        "an image that AWS's own key encrypts cannot be shared: bake it with `machine.aws.kms_key`",
                    )
                })
            }
            Act::ShareSnapshots(accounts) => {
                for snapshot in snapshots(image) {
                    let call = ec2.modify_snapshot_attribute().snapshot_id(&snapshot);
                    let call = call.attribute(SnapshotAttributeName::CreateVolumePermission);
                    let call =
                        call.operation_type(OperationType::Add).set_user_ids(Some(accounts.iter().cloned().collect()));
                    let done = call.send().await.map_err(AwsError::of("ec2:ModifySnapshotAttribute"));
                    done.map_err(|error| error.because(format!("cannot share {snapshot}")))?;
                }
                Ok(())
            }
            Act::Deprecate(at) => {
                let at = aws_sdk_ec2::primitives::DateTime::from_secs(at.as_second());
                let done = ec2.enable_image_deprecation().image_id(id).deprecate_at(at).send().await;
                let done = done.map_err(AwsError::of("ec2:EnableImageDeprecation"));
                done.map(drop).map_err(|error| error.because(format!("cannot set when {id} is deprecated")))
            }
            Act::Protect => {
                let done = ec2.enable_image_deregistration_protection().image_id(id).send().await;
                let done = done.map_err(AwsError::of("ec2:EnableImageDeregistrationProtection"));
                done.map(drop).map_err(|error| error.because(format!("cannot protect {id}")))
            }
        }
    }
}

fn permissions(users: &Users) -> LaunchPermissionModifications {
    let one = LaunchPermission::builder;
    let accounts = users.accounts.iter().map(|account| one().user_id(account).build());
    let organizations = users.organizations.iter().map(|arn| one().organization_arn(arn).build());
    let units = users.units.iter().map(|arn| one().organizational_unit_arn(arn).build());
    let all = users.public.then(|| one().group(PermissionGroup::All).build());
    let add = accounts.chain(organizations).chain(units).chain(all).collect();
    LaunchPermissionModifications::builder().set_add(Some(add)).build()
}
