//! What images of ours exist in a region and who uses them, from tags and references alone. The number of calls grows with
//! the pages of the answers and with launch templates, never with images.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws_sdk_ec2::types::{Filter, Image as Ami, ImageState, Snapshot as Ec2Snapshot};
use aws_sdk_ssm::types::ParameterStringFilter;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::client::Clients;
use super::error::AwsError;
use super::{catalog, tags};
use crate::catalog::{Base, Entry, Snapshot, State, Use, before, channel};
use crate::error::{Error, Result};
use crate::release::Arch;

/// Entries on a page ("DescribeImages", "DescribeSnapshots", "DescribeInstances", EC2 API reference: at most 1000).
const PAGE: i32 = 1000;
/// Values of one filter, of all an EC2 call may have ("Filtering", EC2 API reference: 200).
const VALUES: usize = 200;
/// Names in one GetParameters (Systems Manager API reference: 10).
const NAMES: usize = 10;
/// Calls under way at once for things that are asked for one by one.
const AT_ONCE: usize = 8;
/// How a launch template names a parameter instead of an image ("Use a Systems Manager parameter instead of an AMI ID").
const RESOLVE: &str = "resolve:ssm:";

/// Every image of ours in the region of `clients`.
///
/// # Errors
/// Exit 4 when one of the calls fails: half of an answer would look like all of it.
pub(super) async fn list(clients: &Clients) -> Result<Vec<Entry>> {
    let region = Region { clients };
    let (images, sizes, templates, configurations, parameters) = tokio::try_join!(
        region.images(),
        region.snapshots(),
        region.templates(),
        region.configurations(),
        region.parameters()
    )?;
    let mut entries: Vec<Entry> = images.iter().filter_map(|image| entry(clients, image, &sizes)).collect();
    let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let bases: BTreeSet<String> = entries.iter().map(|entry| entry.base.id.clone()).collect();
    let named = templates.iter().filter_map(|(_, image)| image.strip_prefix(RESOLVE).map(str::to_owned));
    let named: BTreeSet<String> = named.collect();
    let (instances, bases, history, resolved) = tokio::try_join!(
        region.instances(&ids),
        region.bases(&bases),
        region.history(&parameters),
        region.resolve(&named)
    )?;
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        entry.base.created = bases.get(&entry.base.id).copied();
        places.insert(entry.id.clone(), index);
    }
    let mut used = |image: &str, by: Use| {
        if let Some(entry) = places.get(image).and_then(|index| entries.get_mut(*index)) {
            entry.uses.insert(by);
        }
    };
    for (instance, image) in instances {
        used(&image, Use::Instance { id: instance });
    }
    for ((name, version), image) in templates {
        let image = match image.strip_prefix(RESOLVE) {
            Some(parameter) => resolved.get(parameter).cloned().unwrap_or_default(),
            None => image,
        };
        used(&image, Use::LaunchTemplate { name, version });
    }
    for (name, image) in configurations {
        used(&image, Use::LaunchConfiguration { name });
    }
    for (name, image) in &parameters {
        if channel(name).is_none() {
            used(image, Use::Parameter { name: name.clone() });
        }
    }
    promoted(&mut entries, &history);
    Ok(entries)
}

/// Says on images which channels name them, and which a rollback would return to them.
fn promoted(entries: &mut [Entry], history: &[(String, String, Vec<String>)]) {
    for (name, image, past) in history {
        let Some(channel) = channel(name) else { continue };
        // What `rollback` would return to: an image that is gone is none.
        let earlier = before(past, image, entries).0.map(|entry| entry.id.clone());
        for entry in entries.iter_mut() {
            if entry.id == *image {
                entry.promoted.insert(channel.to_owned());
            }
            if Some(&entry.id) == earlier.as_ref() {
                entry.promoted_before.insert(channel.to_owned());
            }
        }
    }
}

/// Removes an image and its snapshots, unless somebody began to use it, or it is another one by now.
///
/// # Errors
/// When it is still there afterwards, with the reason.
pub(super) async fn delete(clients: &Clients, listed_as: &Entry) -> Result<()> {
    let id = &listed_as.id;
    let Some(image) = catalog::look(clients, id).await? else { return Ok(()) };
    let now = entry(clients, &image, &HashMap::new());
    if now.is_none_or(|now| now.fingerprint != listed_as.fingerprint || now.protected || now.state == State::Unfinished)
    {
        return Err(Error::host(format!("{id} is protected now, or not what it was")));
    }
    if let Some((instance, _)) = (Region { clients }).instances(std::slice::from_ref(id)).await?.into_iter().next() {
        return Err(Error::host(format!("{instance} was launched from {id} meanwhile")));
    }
    let resource = crate::provider::Resource::Ami { region: clients.region.clone(), id: id.clone() };
    super::removal::remove(clients, &resource).await
}

/// What an AMI is, if its tags are all those that an image of ours has: anybody can write a tag, so one that lacks some is
/// left alone.
fn entry(clients: &Clients, image: &Ami, sizes: &HashMap<String, u64>) -> Option<Entry> {
    let tag = |key: &str| catalog::tag(image, key);
    let fingerprint = tag(tags::FINGERPRINT).filter(|text| text.len() == 64)?;
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let snapshots = image.block_device_mappings().iter().filter_map(|device| {
        let ebs = device.ebs()?;
        let id = ebs.snapshot_id()?.to_owned();
        let volume = u64::try_from(ebs.volume_size().unwrap_or(0)).unwrap_or(0) << 30;
        Some(Snapshot { bytes: sizes.get(&id).copied().filter(|bytes| *bytes > 0).unwrap_or(volume), id })
    });
    let state = match image.state() {
        _ if tags::unfinished(image.tags()) => State::Unfinished,
        Some(ImageState::Available) => State::Finished,
        Some(ImageState::Pending) => State::Unfinished,
        _ => State::Unusable,
    };
    let guarded = image.deregistration_protection().is_some_and(|state| state.starts_with("enabled"));
    Some(Entry {
        id: image.image_id()?.to_owned(),
        name: image.name().unwrap_or_default().to_owned(),
        region: Some(clients.region.clone()),
        recipe: tag(tags::RECIPE)?.to_owned(),
        buildkit: tag("amibake:buildkit")?.parse().ok()?,
        stand_in: tag("amibake:stand-in") == Some("true"),
        evidence: tag("amibake:evidence").and_then(|level| level.parse().ok()),
        arch: Arch::ALL.into_iter().find(|arch| tag("amibake:arch") == Some(&arch.to_string()))?,
        fingerprint: fingerprint.to_owned(),
        run: tag(tags::RUN)?.to_owned(),
        created: image.creation_date().and_then(time)?,
        base: Base { id: tag("amibake:base").unwrap_or_default().to_owned(), created: None },
        state,
        verified: tag(tags::VERIFIED).and_then(time),
        source: tag(tags::SOURCE).map(str::to_owned),
        snapshots: snapshots.collect(),
        protected: guarded || tag(tags::KEEP).is_some(),
        promoted: BTreeSet::new(),
        promoted_before: BTreeSet::new(),
        uses: BTreeSet::new(),
    })
}

struct Region<'c> {
    clients: &'c Clients,
}

impl Region<'_> {
    fn ours() -> Filter {
        Filter::builder().name("tag-key").values(tags::FINGERPRINT).build()
    }

    async fn images(&self) -> Result<Vec<Ami>> {
        let call = self.clients.ec2.describe_images().owners("self").filters(Self::ours());
        let call = call.include_deprecated(true).include_disabled(true);
        let mut pages = call.into_paginator().page_size(PAGE).items().send();
        let mut images: Vec<Ami> = Vec::new();
        while let Some(image) = pages.next().await {
            images.push(listed(image.map_err(AwsError::of("ec2:DescribeImages")))?);
        }
        Ok(images)
    }

    /// Bytes of each snapshot, as far as EC2 says.
    async fn snapshots(&self) -> Result<HashMap<String, u64>> {
        let call = self.clients.ec2.describe_snapshots().owner_ids("self").filters(Self::ours());
        let mut pages = call.into_paginator().page_size(PAGE).items().send();
        let mut sizes = HashMap::new();
        while let Some(snapshot) = pages.next().await {
            let snapshot: Ec2Snapshot = listed(snapshot.map_err(AwsError::of("ec2:DescribeSnapshots")))?;
            let bytes = snapshot.full_snapshot_size_in_bytes().and_then(|bytes| u64::try_from(bytes).ok());
            if let (Some(id), Some(bytes)) = (snapshot.snapshot_id, bytes) {
                sizes.insert(id, bytes);
            }
        }
        Ok(sizes)
    }

    /// Instances that are not terminated, with the image of each.
    async fn instances(&self, images: &[String]) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for some in images.chunks(VALUES) {
            let alive = ["pending", "running", "shutting-down", "stopping", "stopped"].map(str::to_owned).to_vec();
            let call = self.clients.ec2.describe_instances();
            let call = call.filters(Filter::builder().name("image-id").set_values(Some(some.to_vec())).build());
            let call = call.filters(Filter::builder().name("instance-state-name").set_values(Some(alive)).build());
            let mut pages = call.into_paginator().page_size(PAGE).send();
            while let Some(page) = pages.next().await {
                let page = listed(page.map_err(AwsError::of("ec2:DescribeInstances")))?;
                let instances = page.reservations.unwrap_or_default().into_iter();
                let instances = instances.flat_map(|one| one.instances.unwrap_or_default());
                found.extend(instances.filter_map(|one| Some((one.instance_id?, one.image_id?))));
            }
        }
        Ok(found)
    }

    /// When each base was made, of those that still exist.
    async fn bases(&self, ids: &BTreeSet<String>) -> Result<BTreeMap<String, Timestamp>> {
        let ids: Vec<String> = ids.iter().filter(|id| id.starts_with("ami-")).cloned().collect();
        let mut found = BTreeMap::new();
        for some in ids.chunks(VALUES) {
            // By a filter: an id that is gone would fail the call.
            let ids = Filter::builder().name("image-id").set_values(Some(some.to_vec())).build();
            let call = self.clients.ec2.describe_images().include_deprecated(true).filters(ids).send().await;
            let images = listed(call.map_err(AwsError::of("ec2:DescribeImages")))?.images.unwrap_or_default();
            found.extend(images.into_iter().filter_map(|one| Some((one.image_id?, one.creation_date?.parse().ok()?))));
        }
        Ok(found)
    }

    /// Every version of every launch template that names an image: the template's name, the version, the image.
    async fn templates(&self) -> Result<Vec<((String, i64), String)>> {
        let mut pages = self.clients.ec2.describe_launch_templates().into_paginator().items().send();
        let mut ids = Vec::new();
        while let Some(template) = pages.next().await {
            let template = listed(template.map_err(AwsError::of("ec2:DescribeLaunchTemplates")))?;
            ids.extend(template.launch_template_id);
        }
        let versions: Vec<_> = ids.into_iter().map(|id| self.versions(id)).collect();
        let versions: Vec<Vec<_>> = stream::iter(versions).buffered(AT_ONCE).try_collect().await?;
        Ok(versions.concat())
    }

    async fn versions(&self, id: String) -> Result<Vec<((String, i64), String)>> {
        let call = self.clients.ec2.describe_launch_template_versions().launch_template_id(id);
        let mut pages = call.into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(version) = pages.next().await {
            let version = version.map_err(AwsError::of("ec2:DescribeLaunchTemplateVersions"));
            let version = match version {
                // Deleted since it was listed.
                Err(error) if error.is(&["InvalidLaunchTemplateId.NotFound"]) => break,
                version => listed(version)?,
            };
            let image = version.launch_template_data.and_then(|data| data.image_id);
            if let (Some(name), Some(number), Some(image)) =
                (version.launch_template_name, version.version_number, image)
            {
                found.push(((name, number), image));
            }
        }
        Ok(found)
    }

    /// The image of each launch configuration: what auto scaling groups had before templates.
    async fn configurations(&self) -> Result<Vec<(String, String)>> {
        const OPERATION: &str = "autoscaling:DescribeLaunchConfigurations";
        let mut pages = self.clients.autoscaling.describe_launch_configurations().into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(configuration) = pages.next().await {
            let configuration = listed(configuration.map_err(AwsError::of(OPERATION)))?;
            found.extend(configuration.launch_configuration_name.zip(configuration.image_id));
        }
        Ok(found)
    }

    /// Every parameter that holds an image's id, with the id.
    async fn parameters(&self) -> Result<BTreeMap<String, String>> {
        const OPERATION: &str = "ssm:DescribeParameters";
        let images = ParameterStringFilter::builder().key("DataType").values("aws:ec2:image").build();
        let images = images.map_err(AwsError::unsent(OPERATION));
        let images = images.map_err(|error| error.because("cannot list parameters"))?;
        let call = self.clients.ssm.describe_parameters().parameter_filters(images);
        let mut pages = call.into_paginator().page_size(50).send();
        let mut names = BTreeSet::new();
        while let Some(page) = pages.next().await {
            let page = listed(page.map_err(AwsError::of(OPERATION)))?;
            names.extend(page.parameters.unwrap_or_default().into_iter().filter_map(|one| one.name));
        }
        self.resolve(&names).await
    }

    /// The values of parameters, of those that exist.
    async fn resolve(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>> {
        let names: Vec<String> = names.iter().cloned().collect();
        let ask = |some: Vec<String>| async move {
            let call = self.clients.ssm.get_parameters().set_names(Some(some)).send().await;
            let found = listed(call.map_err(AwsError::of("ssm:GetParameters")))?.parameters.unwrap_or_default();
            // One that was asked for by version is answered by name and selector apart.
            let name = |one: &aws_sdk_ssm::types::Parameter| {
                Some(format!("{}{}", one.name()?, one.selector().unwrap_or_default()))
            };
            Ok::<Vec<_>, Error>(found.iter().filter_map(|one| Some((name(one)?, one.value()?.to_owned()))).collect())
        };
        let asked: Vec<_> = names.chunks(NAMES).map(|some| ask(some.to_vec())).collect();
        let found: Vec<Vec<_>> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        Ok(found.concat().into_iter().collect())
    }

    /// Of each channel: its parameter, the image, and every image that it named, oldest first.
    async fn history(&self, parameters: &BTreeMap<String, String>) -> Result<Vec<(String, String, Vec<String>)>> {
        let mut asked = Vec::new();
        for (name, image) in parameters.iter().filter(|(name, _)| channel(name).is_some()) {
            asked.push(async move {
                let past = past(self.clients, name).await?;
                Ok::<_, Error>((name.clone(), image.clone(), past))
            });
        }
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }
}

/// Every value that a parameter had, oldest first.
pub(super) async fn past(clients: &Clients, name: &str) -> Result<Vec<String>> {
    let mut pages = clients.ssm.get_parameter_history().name(name).into_paginator().page_size(50).send();
    let mut versions = Vec::new();
    while let Some(page) = pages.next().await {
        let page = match page.map_err(AwsError::of("ssm:GetParameterHistory")) {
            Err(error) if error.is(&["ParameterNotFound"]) => break,
            page => listed(page)?,
        };
        versions.extend(
            page.parameters.unwrap_or_default().into_iter().map(|one| (one.version, one.value.unwrap_or_default())),
        );
    }
    versions.sort_by_key(|(number, _)| *number);
    Ok(versions.into_iter().map(|(_, value)| value).collect())
}

fn listed<T>(answer: Result<T, AwsError>) -> Result<T> {
    answer.map_err(|error| error.because("cannot list images and who uses them"))
}
