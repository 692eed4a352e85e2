//! Plans: recipe + lock + facts → everything a bake will do, with nothing left to decide.
//!
//! PURE: time, randomness, environment, network and disk come in as [`Facts`]. What `amibake plan` prints is what
//! `amibake build` executes, to the byte. What scripts find in their environment is in `preamble`'s documentation, what
//! templates see in `template`'s.

mod content;
mod fingerprint;
mod image;
mod preamble;
pub(crate) mod quote;
mod steps;
mod template;
mod text;
mod types;

pub use preamble::failed_line;
pub(crate) use quote::sh;
pub use text::render_text;
pub use types::*;

use std::collections::BTreeSet;

use crate::error::{Context as _, Error, Result};
use crate::recipe::{BuildNetwork, Members, Recipe, StepSpec, VolumeSpec, parse_duration, parse_size};
use crate::release::{Lock, Version};

use fingerprint::Shape;
use image::Identity;
use preamble::Surroundings;
use steps::Maker;
use template::Templates;

/// Version of the plan's format; see docs/plan.md.
const SCHEMA: u32 = 1;

/// The first version whose tarball holds the CNI plugins that a bridge needs.
const FIRST_WITH_BRIDGE: Version = Version::new(0, 13, 0);

/// Names of the assets that `recipe`'s steps refer to: what [`Facts::assets`] must hold.
#[must_use]
pub fn wanted_assets(recipe: &Recipe) -> BTreeSet<String> {
    let asset = |step: &StepSpec| match step {
        StepSpec::File { asset, .. } | StepSpec::Unit { asset, .. } => asset.clone(),
        StepSpec::Packages { .. } | StepSpec::Buildkit { .. } | StepSpec::Run { .. } => None,
    };
    recipe.steps.iter().filter_map(asset).collect()
}

/// Decides everything.
///
/// # Errors
/// Exit 2: a template that does not render, a lock without the architecture, a base of another architecture, a missing
/// asset, a disk smaller than the base's, a tag that EC2 would refuse, a network that the lock's BuildKit does not have.
pub fn plan(recipe: &Recipe, lock: &Lock, facts: &Facts, options: &Options) -> Result<Plan> {
    check_network(recipe, lock.version)?;
    let artifact = artifact(recipe, lock, options)?;
    let base = base(facts, options)?;
    let machine = machine(recipe, &base)?;
    let aws = aws(recipe, &base)?;
    let volumes = recipe.volumes.iter().map(volume).collect::<Result<Vec<_>>>()?;
    let templates = Templates::new(&recipe.name, options.arch, lock.version, recipe.buildkitd.as_ref(), &volumes);
    let surroundings =
        Surroundings { recipe: &recipe.name, arch: options.arch, version: lock.version, stand_in: lock.stand_in };
    let maker = Maker { surroundings, facts, templates: &templates, sha256: artifact.sha256 };
    let steps = maker.steps(&recipe.steps)?;
    let checks = maker.checks(&recipe.checks, options.provider)?;
    let seal = maker.seal(&volumes);
    let shape = Shape {
        base_identity: &base.identity,
        arch: options.arch,
        disk_bytes: machine.disk_bytes,
        artifact: &artifact.sha256,
        volumes: &volumes,
        steps: &steps,
        seal: &seal,
    };
    let fingerprint = shape.fingerprint();
    let identity = Identity { recipe, arch: options.arch, artifact: &artifact, base: &base, fingerprint: &fingerprint };
    let image = ImagePlan {
        name: identity.name(options.format, options.standalone),
        format: options.format,
        standalone: options.standalone,
        tags: identity.tags()?,
    };
    Ok(Plan {
        schema: SCHEMA,
        recipe: recipe.name.clone(),
        provider: options.provider,
        arch: options.arch,
        fingerprint,
        image,
        base,
        artifact,
        machine,
        aws,
        port: recipe.buildkitd.as_ref().map(|buildkitd| buildkitd.port),
        tls: recipe.buildkitd.as_ref().is_some_and(|buildkitd| buildkitd.tls),
        volumes,
        steps,
        checks,
        seal,
        overrides: options.overrides.clone(),
    })
}

fn check_network(recipe: &Recipe, version: Version) -> Result<()> {
    match &recipe.buildkitd {
        Some(buildkitd) if buildkitd.network == BuildNetwork::Bridge && version < FIRST_WITH_BRIDGE => {
            Err(Error::usage(format!(
                "`buildkitd.network = \"bridge\"` needs BuildKit {FIRST_WITH_BRIDGE}, the lock pins {version}"
            ))
            .with_hint(format!(
                "releases bring the CNI plugins from {FIRST_WITH_BRIDGE} on: lock a newer one, or set \
                     `buildkitd.network = \"host\"`, where builds reach the daemon and the host's credentials"
            )))
        }
        _ => Ok(()),
    }
}

fn artifact(recipe: &Recipe, lock: &Lock, options: &Options) -> Result<ArtifactPlan> {
    let locked = lock.artifact(options.arch).ok_or_else(|| {
        let has: Vec<String> = lock.artifacts.keys().map(ToString::to_string).collect();
        let has = if has.is_empty() { "no platform at all".to_owned() } else { has.join(" and ") };
        Error::usage(format!("the lock has no artifact for {}", options.arch))
            .with_hint(format!("it has {has}: add the platform to the lock, or bake for one that it has"))
    })?;
    let mut members = BTreeSet::new();
    for step in &recipe.steps {
        if let StepSpec::Buildkit { members: Members::Named(names), .. } = step {
            members.extend(names.iter().cloned());
        }
    }
    Ok(ArtifactPlan {
        version: lock.version,
        url: locked.url.clone(),
        sha256: locked.sha256,
        stand_in: lock.stand_in,
        evidence: locked.evidence.as_ref().map(|evidence| evidence.level),
        members: members.into_iter().collect(),
    })
}

fn base(facts: &Facts, options: &Options) -> Result<BaseImage> {
    let base = facts.base.clone();
    if base.arch != options.arch {
        return Err(Error::usage(format!("base {} is for {}, not for {}", base.name, base.arch, options.arch))
            .with_hint("give the base of each architecture: `amd64 = …`, `arm64 = …`"));
    }
    Ok(base)
}

fn machine(recipe: &Recipe, base: &BaseImage) -> Result<MachinePlan> {
    let spec = &recipe.machine;
    let size = |key: &str, text: &str| parse_size(text).or_usage(|| format!("`machine.{key}` is not a size"));
    let duration =
        |key: &str, text: &str| parse_duration(text).or_usage(|| format!("`machine.{key}` is not a duration"));
    let disk_bytes = match &spec.disk {
        Some(disk) => size("disk", disk)?,
        None => base.disk_bytes,
    };
    if disk_bytes < base.disk_bytes {
        let needed = text::bytes(base.disk_bytes.next_multiple_of(1 << 20));
        return Err(Error::usage(format!(
            "`machine.disk` is {}, the disk of base {} has {}",
            text::bytes(disk_bytes),
            base.name,
            text::bytes(base.disk_bytes)
        ))
        .with_hint(format!("leave `machine.disk` out, or make it {needed} or more")));
    }
    Ok(MachinePlan {
        cpus: spec.cpus,
        memory_bytes: size("memory", &spec.memory)?,
        disk_bytes,
        timeout: duration("timeout", &spec.timeout)?,
        start_timeout: duration("start_timeout", &spec.start_timeout)?,
        image_timeout: duration("image_timeout", &spec.image_timeout)?,
    })
}

/// What the recipe says of the instance, for a base that is an AMI.
fn aws(recipe: &Recipe, base: &BaseImage) -> Result<Option<AwsPlan>> {
    let Some(ami) = &base.ami else { return Ok(None) };
    let spec = &recipe.machine.aws;
    let instance_types = spec.instance_types.get(base.arch).filter(|types| !types.is_empty());
    let instance_types = instance_types.ok_or_else(|| {
        Error::usage(format!("`machine.aws.instance_types` names no type for {}", base.arch))
            .with_hint("name at least one, or leave the key out for amibake's own list")
    })?;
    Ok(Some(AwsPlan {
        region: ami.region.clone(),
        root_device: ami.root_device.clone(),
        other_devices: ami.other_devices.clone(),
        instance_types: instance_types.clone(),
        spot: spec.spot,
        subnet: spec.subnet.clone(),
        subnet_tags: spec.subnet_tags.clone(),
        security_group: spec.security_group.clone(),
        instance_profile: spec.instance_profile.clone(),
        public_address: spec.public_address,
        kms_key: spec.kms_key.clone(),
        delivery_bucket: recipe.delivery.bucket.clone(),
        log_bucket: recipe.logs.bucket.clone(),
    }))
}

fn volume(spec: &VolumeSpec) -> Result<VolumePlan> {
    Ok(VolumePlan {
        name: spec.name.clone(),
        mount: spec.mount.clone(),
        size_bytes: parse_size(&spec.size).or_usage(|| format!("size of volume `{}`", spec.name))?,
        volume_type: spec.volume_type.clone(),
        filesystem: spec.filesystem,
    })
}
