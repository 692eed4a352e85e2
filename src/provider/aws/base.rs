//! What a recipe starts from on AWS: one of four ways to name an AMI, resolved to its id and looked at, so that what
//! cannot become an image is refused while nothing is spent.

use aws_sdk_ec2::types::{DeviceType, Filter, Image as Ami, ImageState};
use jiff::Timestamp;

use super::client::Clients;
use super::error::AwsError;
use super::stack::{self, StackImage};
use crate::error::{Error, Result};
use crate::plan::{BaseAmi, BaseImage};
use crate::recipe::{AmiFilter, AwsBase, PerArch, Recipe};
use crate::release::Arch;

/// Amazon's account for Amazon Linux in the regions of the partition `aws`; elsewhere only the alias is told.
const AMAZON_LINUX: &str = "137112412989";
/// Images a page: DescribeImages without a page size may fail where an owner has many ("DescribeImages", API reference).
const PAGE: i32 = 1000;

/// What `recipe` starts from in the region of `clients`.
///
/// # Errors
/// Exit 2 when the recipe names no base for AWS or for the architecture; exit 4 when there is none or it cannot be used.
pub(super) async fn resolve(clients: &Clients, recipe: &Recipe, arch: Arch) -> Result<BaseImage> {
    let Some(base) = &recipe.base.aws else {
        return Err(Error::usage(format!("recipe `{}` names no base for AWS", recipe.name)).with_hint(
            "add `[base.aws]` with one of its keys, such as `ssm_parameter.amd64 = \
             \"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64\"`",
        ));
    };
    let question = format!("{base:?} {arch}");
    clients.known.bases.get(question, || find(clients, base, arch)).await
}

async fn find(clients: &Clients, base: &AwsBase, arch: Arch) -> Result<BaseImage> {
    let found = match base {
        AwsBase { ssm_parameter: Some(names), .. } => {
            let name = for_arch(names, "ssm_parameter", arch)?;
            by_id(clients, &parameter(clients, name).await?, None).await?
        }
        AwsBase { ami: Some(ids), .. } => by_id(clients, for_arch(ids, "ami", arch)?, None).await?,
        AwsBase { filter: Some(filter), .. } => newest(clients, filter, arch).await?,
        AwsBase { elastic_ci_stack: Some(wanted), .. } => {
            let StackImage { ami, version } = stack::image(clients, wanted, arch).await?;
            by_id(clients, &ami, version).await?
        }
        _ => return Err(Error::usage("`[base.aws]` names no AMI").with_hint("give it one of its keys")),
    };
    judge(&found.ami, arch, &clients.region, found.stack, Timestamp::now())
}

/// An AMI before anybody looked at it.
struct Found {
    ami: Ami,
    /// Version of the Elastic CI Stack that it belongs to.
    stack: Option<String>,
}

fn for_arch<'a>(values: &'a PerArch<String>, key: &str, arch: Arch) -> Result<&'a str> {
    let value = values.get(arch).map(String::as_str);
    value.ok_or_else(|| {
        Error::usage(format!("`base.aws.{key}` says nothing for {arch}"))
            .with_hint(format!("add `{key}.{arch} = \"…\"` to `[base.aws]`, or leave {arch} out of --arch"))
    })
}

/// The AMI id that a parameter of Systems Manager holds.
async fn parameter(clients: &Clients, name: &str) -> Result<String> {
    let answer = clients.ssm.get_parameter().name(name).send().await.map_err(AwsError::of("ssm:GetParameter"));
    let answer = answer.map_err(|error| match error.is(&["ParameterNotFound"]) {
        true => error.because(format!("there is no parameter {name} in {}", clients.region)).with_hint(
            "public ones are listed by `aws ssm get-parameters-by-path --path /aws/service/ami-amazon-linux-latest`",
        ),
        false => error.because(format!("cannot read the parameter {name}")),
    })?;
    let value = answer.parameter.and_then(|parameter| parameter.value).unwrap_or_default();
    if value.starts_with("ami-") {
        return Ok(value);
    }
    Err(Error::host(format!("the parameter {name} holds no AMI's id"))
        .with_hint("where it holds a document, another one holds the id alone, often with `/image_id` at its end"))
}

async fn by_id(clients: &Clients, id: &str, stack: Option<String>) -> Result<Found> {
    // A deprecated one is found too, so that it is refused for what it is.
    let call = clients.ec2.describe_images().image_ids(id).include_deprecated(true).send().await;
    let missing = || {
        Error::host(format!("there is no AMI {id} in {}", clients.region))
            .with_hint("an AMI's id holds in one region, and only for accounts that it is shared with")
    };
    match call.map_err(AwsError::of("ec2:DescribeImages")) {
        Ok(answer) => {
            let ami = answer.images.unwrap_or_default().into_iter().find(|ami| ami.image_id() == Some(id));
            Ok(Found { ami: ami.ok_or_else(missing)?, stack })
        }
        Err(error) if error.is(&["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidAMIID.Malformed"]) => {
            Err(missing().with_source(error))
        }
        Err(error) => Err(error.because(format!("cannot look up the base {id}"))),
    }
}

/// The newest available AMI that `filter` matches.
async fn newest(clients: &Clients, filter: &AmiFilter, arch: Arch) -> Result<Found> {
    let name = for_arch(&filter.name, "filter.name", arch)?;
    let by = |key: &str, value: &str| Filter::builder().name(key).values(value).build();
    let pages = clients
        .ec2
        .describe_images()
        .owners(&filter.owner)
        .filters(by("name", name))
        .filters(by("architecture", ec2_name(arch)))
        .filters(by("state", "available"))
        .into_paginator()
        .page_size(PAGE);
    let mut pages = pages.send();
    let mut newest: Option<Ami> = None;
    while let Some(page) = pages.next().await {
        let page = page.map_err(AwsError::of("ec2:DescribeImages"));
        let page = page.map_err(|error| error.because(format!("cannot look for AMIs called {name}")))?;
        // Dates are all in one form of ISO 8601, so that their letters' order is theirs.
        let when = |ami: &Ami| (ami.creation_date().map(str::to_owned), ami.image_id().map(str::to_owned));
        newest = newest.into_iter().chain(page.images.unwrap_or_default()).max_by_key(when);
    }
    let ami = newest.ok_or_else(|| {
        Error::host(format!("no AMI of {} is called `{name}` ({arch}, {})", filter.owner, clients.region))
            .with_hint("`filter.name` has the whole name, with `*` for what varies")
    })?;
    Ok(Found { ami, stack: None })
}

/// The word that EC2 has for `arch`.
pub(super) fn ec2_name(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "arm64",
    }
}

/// The base, if it can be one.
fn judge(ami: &Ami, arch: Arch, region: &str, stack: Option<String>, now: Timestamp) -> Result<BaseImage> {
    let id = ami.image_id().unwrap_or_default();
    let name = ami.name().unwrap_or(id);
    if let Some(refusal) = refusal(ami, arch, now) {
        let (reason, hint) = refusal;
        return Err(Error::host(format!("the base {name} ({id}) {reason}")).with_hint(hint));
    }
    let root_device = ami.root_device_name().unwrap_or_default();
    let root = ami.block_device_mappings().iter().find(|device| device.device_name() == Some(root_device));
    let gib = root.and_then(|device| device.ebs()?.volume_size()).and_then(|size| u64::try_from(size).ok());
    let (Some(gib), false) = (gib, root_device.is_empty()) else {
        return Err(Error::host(format!("the base {name} ({id}) has no mapping for its root device"))
            .with_hint("such an AMI cannot be given a disk of another size: use another base"));
    };
    let devices = ami.block_device_mappings().iter().filter_map(|device| device.device_name());
    Ok(BaseImage {
        name: name.to_owned(),
        identity: id.to_owned(),
        location: id.to_owned(),
        arch,
        disk_bytes: gib << 30,
        ami: Some(BaseAmi {
            region: region.to_owned(),
            root_device: root_device.to_owned(),
            other_devices: devices.filter(|device| *device != root_device).map(str::to_owned).collect(),
            stack,
        }),
    })
}

/// Why `ami` cannot be a base, and what to do.
fn refusal(ami: &Ami, arch: Arch, now: Timestamp) -> Option<(String, &'static str)> {
    if ami.platform().is_some() {
        return Some(("is Windows".to_owned(), "amibake bakes Linux: name another base"));
    }
    let architecture = ami.architecture().map_or("an unknown architecture", |architecture| architecture.as_str());
    if architecture != ec2_name(arch) {
        let hint = "give the base of each architecture: `amd64 = …`, `arm64 = …`";
        return Some((format!("is for {architecture}, not for {arch}"), hint));
    }
    if ami.state() != Some(&ImageState::Available) {
        let state = ami.state().map_or("in no known state", ImageState::as_str);
        let why = ami.state_reason().and_then(|reason| reason.message()).map(|why| format!(" ({why})"));
        let pending = ami.state() == Some(&ImageState::Pending);
        let hint = if pending { "wait until it is available, or name another" } else { "name another base" };
        return Some((format!("is {state}, not available{}", why.unwrap_or_default()), hint));
    }
    if ami.root_device_type() != Some(&DeviceType::Ebs) {
        let hint = "an image can only be made of a disk that outlives a stop: name an EBS-backed AMI";
        return Some(("is not EBS-backed".to_owned(), hint));
    }
    let deprecated = ami.deprecation_time().and_then(|time| time.parse::<Timestamp>().ok());
    if let Some(since) = deprecated.filter(|since| *since <= now) {
        let hint = "its owner no longer mends it: name a newer one, or follow the newest with `ssm_parameter`, `filter` \
                    or `elastic_ci_stack` (`version = \"latest\"`)";
        return Some((format!("is deprecated since {}", since.strftime("%Y-%m-%d")), hint));
    }
    if is_minimal(ami) {
        let hint = "amibake works through Systems Manager: name the standard image \
                    (`/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-…`)";
        return Some(("is the minimal image of Amazon Linux 2023, which has no SSM agent".to_owned(), hint));
    }
    None
}

fn is_minimal(ami: &Ami) -> bool {
    let amazons = ami.image_owner_alias() == Some("amazon") || ami.owner_id() == Some(AMAZON_LINUX);
    amazons && ami.name().is_some_and(|name| name.starts_with("al2023-ami-minimal-"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::describe_images::{DescribeImagesError, DescribeImagesOutput};
    use aws_sdk_ec2::types::builders::ImageBuilder;
    use aws_sdk_ec2::types::{ArchitectureValues, BlockDeviceMapping, EbsBlockDevice, PlatformValues, StateReason};
    use aws_sdk_ssm::operation::get_parameter::{GetParameterError, GetParameterOutput};
    use aws_smithy_mocks::mock;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::provider::aws::testing::mocked;

    const ID: &str = "ami-0123456789abcdef0";

    fn mapping(device: &str, gib: i32) -> BlockDeviceMapping {
        let ebs = EbsBlockDevice::builder().volume_size(gib).snapshot_id("snap-1").build();
        BlockDeviceMapping::builder().device_name(device).ebs(ebs).build()
    }

    fn ami() -> ImageBuilder {
        Ami::builder()
            .image_id(ID)
            .name("al2023-ami-2023.9.20251117.1-kernel-6.1-x86_64")
            .architecture(ArchitectureValues::X8664)
            .state(ImageState::Available)
            .root_device_type(DeviceType::Ebs)
            .root_device_name("/dev/xvda")
            .image_owner_alias("amazon")
            .creation_date("2025-11-18T00:00:00.000Z")
            .deprecation_time("2027-02-16T00:00:00.000Z")
            .block_device_mappings(mapping("/dev/xvda", 8))
    }

    fn recipe(base: &str) -> Recipe {
        crate::recipe::parse("r.toml", format!("name = \"r\"\n{base}"), &[]).unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-25T00:00:00Z".parse().unwrap()
    }

    fn told(result: Result<BaseImage>) -> String {
        let error = result.unwrap_err();
        format!("[exit {}] {}", error.exit().code(), crate::error::render(&error))
    }

    #[tokio::test]
    async fn a_parameter_leads_to_an_image_and_all_who_ask_share_the_answer() {
        let parameter = mock!(aws_sdk_ssm::Client::get_parameter)
            .match_requests(|request| request.name() == Some("/aws/service/x"))
            .then_output(|| {
                let parameter = aws_sdk_ssm::types::Parameter::builder().value(ID).build();
                GetParameterOutput::builder().parameter(parameter).build()
            });
        let images = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| request.image_ids() == [ID] && request.include_deprecated() == Some(true))
            .then_output(|| {
                let image = ami().block_device_mappings(mapping("/dev/sdb", 1)).build();
                DescribeImagesOutput::builder().images(image).build()
            });
        let clients = mocked(&[&parameter, &images]);
        let recipe = recipe("base.aws.ssm_parameter = \"/aws/service/x\"");
        let (one, other) =
            tokio::join!(resolve(&clients, &recipe, Arch::Amd64), resolve(&clients, &recipe, Arch::Amd64));
        let base = one.unwrap();
        assert_eq!(base, other.unwrap());
        assert_eq!((parameter.num_calls(), images.num_calls()), (1, 1));
        assert_eq!((base.identity.as_str(), base.disk_bytes), (ID, 8 << 30));
        let ami = base.ami.unwrap();
        assert_eq!((ami.region.as_str(), ami.root_device.as_str()), ("us-east-1", "/dev/xvda"));
        assert_eq!((ami.other_devices, ami.stack), (vec!["/dev/sdb".to_owned()], None));
    }

    #[tokio::test]
    async fn of_those_that_match_the_newest() {
        let images = mock!(aws_sdk_ec2::Client::describe_images)
            .match_requests(|request| {
                let filters: Vec<_> = request.filters().iter().map(|one| (one.name(), one.values())).collect();
                request.owners() == ["amazon"]
                    && filters.contains(&(Some("name"), &["al2023-ami-*".to_owned()][..]))
                    && filters.contains(&(Some("architecture"), &["x86_64".to_owned()][..]))
                    && filters.contains(&(Some("state"), &["available".to_owned()][..]))
            })
            .then_output(|| {
                let at = |id: &str, date: &str| ami().image_id(id).creation_date(date).build();
                DescribeImagesOutput::builder()
                    .images(at("ami-2", "2026-02-01T00:00:00.000Z"))
                    .images(at("ami-3", "2026-03-01T00:00:00.000Z"))
                    .images(at("ami-1", "2026-01-01T00:00:00.000Z"))
                    .build()
            });
        let clients = mocked(&[&images]);
        let recipe = recipe("[base.aws.filter]\nowner = \"amazon\"\nname = \"al2023-ami-*\"");
        assert_eq!(resolve(&clients, &recipe, Arch::Amd64).await.unwrap().identity, "ami-3");
    }

    #[tokio::test]
    async fn what_is_not_found_is_told_with_a_hint() {
        let parameter = mock!(aws_sdk_ssm::Client::get_parameter).then_error(|| {
            GetParameterError::generic(ErrorMetadata::builder().code("ParameterNotFound").message("no").build())
        });
        let ami = mock!(aws_sdk_ec2::Client::describe_images).then_error(|| {
            let metadata =
                ErrorMetadata::builder().code("InvalidAMIID.NotFound").message("The image id does not exist");
            DescribeImagesError::generic(metadata.build())
        });
        let none = mock!(aws_sdk_ec2::Client::describe_images).then_output(|| DescribeImagesOutput::builder().build());
        let document = mock!(aws_sdk_ssm::Client::get_parameter).then_output(|| {
            let parameter = aws_sdk_ssm::types::Parameter::builder().value("{\"image_id\": \"ami-1\"}").build();
            GetParameterOutput::builder().parameter(parameter).build()
        });
        let denied = mock!(aws_sdk_ec2::Client::describe_images).then_error(|| {
            let metadata = ErrorMetadata::builder().code("UnauthorizedOperation").message("You are not authorized");
            DescribeImagesError::generic(metadata.build())
        });
        let by_parameter = recipe("base.aws.ssm_parameter = \"/aws/service/x\"");
        let by_id = recipe(&format!("base.aws.ami.amd64 = \"{ID}\""));
        let by_name = recipe("[base.aws.filter]\nowner = \"self\"\nname = \"mine-*\"");
        let refused = [
            resolve(&mocked(&[]), &recipe(""), Arch::Amd64).await,
            resolve(&mocked(&[]), &by_id, Arch::Arm64).await,
            resolve(&mocked(&[&parameter]), &by_parameter, Arch::Amd64).await,
            resolve(&mocked(&[&document]), &by_parameter, Arch::Amd64).await,
            resolve(&mocked(&[&ami]), &by_id, Arch::Amd64).await,
            resolve(&mocked(&[&none]), &by_id, Arch::Amd64).await,
            resolve(&mocked(&[&none]), &by_name, Arch::Amd64).await,
            resolve(&mocked(&[&denied]), &by_id, Arch::Amd64).await,
        ];
        insta::assert_snapshot!(refused.map(told).concat());
    }

    #[test]
    fn what_cannot_become_an_image_is_refused() {
        let refused = [
            ami().architecture(ArchitectureValues::Arm64),
            ami().platform(PlatformValues::Windows),
            ami().state(ImageState::Pending),
            ami()
                .state(ImageState::Failed)
                .state_reason(StateReason::builder().message("Client.InternalError: the snapshot failed").build()),
            ami().root_device_type(DeviceType::InstanceStore),
            ami().deprecation_time("2026-11-24T00:00:00.000Z"),
            ami().name("al2023-ami-minimal-2023.9.20251117.1-kernel-6.1-x86_64"),
            ami().root_device_name("/dev/sda1"),
        ];
        let told = refused.map(|ami| told(judge(&ami.build(), Arch::Amd64, "us-east-1", None, now())));
        insta::assert_snapshot!(told.concat());
        // Anybody may give an AMI that name; only Amazon's is known to be without an agent.
        let copy = ami().name("al2023-ami-minimal-mine").image_owner_alias("self").owner_id("111122223333").build();
        assert!(judge(&copy, Arch::Amd64, "us-east-1", None, now()).is_ok());
    }
}
