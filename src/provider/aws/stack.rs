//! The Elastic CI Stack for AWS: which AMI a version of it uses in a region. There is no public parameter for that; the
//! stack's own template is the only place that says so.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::client::Clients;
use crate::bake::Reporter;
use crate::download::page;
use crate::error::{Context as _, Error, Result};
use crate::recipe::{ElasticCiStack, StackVariant};
use crate::release::Arch;

/// Where templates are, by version; `AMIBAKE_STACK_TEMPLATES` names another place with the same folders below it, such as
/// a bucket of one's own in a network without a way to this one.
const TEMPLATES: &str = "https://s3.amazonaws.com/buildkite-aws-stack";
/// The variable that names another.
const VARIABLE: &str = "AMIBAKE_STACK_TEMPLATES";
/// CloudFormation takes templates of at most 1 MB ("AWS CloudFormation quotas").
const LARGEST: u64 = 1 << 20;
/// The newest template.
const LATEST: &str = "latest";

/// What of a template says which images it uses; tags such as `!Sub` are in the parts that nobody reads.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Template {
    /// `Buildkite stack v6.40.0`
    #[serde(rename = "Description", default)]
    description: String,
    #[serde(rename = "Mappings")]
    mappings: Mappings,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Mappings {
    #[serde(rename = "AWSRegion2AMI")]
    images: BTreeMap<String, BTreeMap<String, String>>,
}

/// The AMI of a stack.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StackImage {
    /// `ami-…`
    pub(super) ami: String,
    /// The version, with a `v`; none if `latest` was asked for and the template does not say what it is.
    pub(super) version: Option<String>,
}

/// The AMI that `stack` uses in the region of `clients`.
///
/// # Errors
/// Exit 4 when there is no such template, it cannot be read, or it has no image for the region or the architecture.
pub(super) async fn image(clients: &Clients, stack: &ElasticCiStack, arch: Arch) -> Result<StackImage> {
    let template = clients.known.templates.get(&stack.version, || fetch(&stack.version)).await?;
    template.image(stack, &clients.region, arch)
}

async fn fetch(version: &str) -> Result<std::sync::Arc<Template>> {
    let place = std::env::var(VARIABLE).unwrap_or_else(|_| TEMPLATES.to_owned());
    let url = format!("{}/{version}/aws-stack.yml", place.trim_end_matches('/'));
    let url = Url::parse(&url).or_usage(|| format!("{VARIABLE} is not an address"))?;
    let bytes = page::read(&url, LARGEST, &Reporter::silent()).await.map_err(|error| {
        Error::host(format!("cannot read the template of the Elastic CI Stack {version}")).with_source(error).with_hint(
            format!(
                "github.com/buildkite/elastic-ci-stack-for-aws/releases lists its versions; without a way to {}, name \
                 the image by its id (`ami` in `[base.aws]`) or set {VARIABLE}",
                url.host_str().unwrap_or_default()
            ),
        )
    })?;
    Template::parse(&bytes).map(std::sync::Arc::new)
}

impl Template {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let cannot = || "the template of the Elastic CI Stack is not what it used to be".to_owned();
        serde_saphyr::from_slice(bytes).or_host(cannot).map_err(|error| {
            error.with_hint("name the image by its id (`ami` in `[base.aws]`), and tell the authors of amibake")
        })
    }

    fn image(&self, stack: &ElasticCiStack, region: &str, arch: Arch) -> Result<StackImage> {
        let version = if stack.version == LATEST { self.version() } else { Some(stack.version.clone()) };
        let named = version.as_deref().unwrap_or(LATEST);
        let Some(images) = self.mappings.images.get(region) else {
            let regions: Vec<_> = self.mappings.images.keys().map(String::as_str).collect();
            return Err(Error::host(format!("the Elastic CI Stack {named} has no images in {region}"))
                .with_hint(format!("it has them in {}", regions.join(", "))));
        };
        let variant = match stack.variant {
            StackVariant::Linux => "linux",
            StackVariant::Ubuntu2404 => "ubuntu2404",
        };
        let key = format!("{variant}{}", arch.as_str());
        // A template that was made for one image alone has empty strings for the others.
        let ami = images.get(&key).filter(|ami| !ami.is_empty());
        let ami = ami.ok_or_else(|| {
            let has: Vec<_> =
                images.iter().filter(|(_, ami)| !ami.is_empty()).map(|(image, _)| image.as_str()).collect();
            Error::host(format!("the Elastic CI Stack {named} has no image `{key}` in {region}"))
                .with_hint(format!("it has {}; `ubuntu2404` came with v6.70.0", has.join(", ")))
        })?;
        Ok(StackImage { ami: ami.clone(), version })
    }

    /// The version in the description.
    fn version(&self) -> Option<String> {
        let is_version = |word: &&str| {
            let number = word.strip_prefix('v').unwrap_or_default();
            number.split('.').count() >= 3 && number.starts_with(|first: char| first.is_ascii_digit())
        };
        self.description.split_whitespace().find(is_version).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &[u8] = include_bytes!("fixtures/aws-stack.yml");

    fn stack(version: &str, variant: StackVariant) -> ElasticCiStack {
        ElasticCiStack { version: version.to_owned(), variant }
    }

    #[test]
    fn the_image_and_the_version_that_latest_is() {
        let template = Template::parse(TEMPLATE).unwrap();
        let latest = template.image(&stack("latest", StackVariant::Linux), "us-east-1", Arch::Arm64).unwrap();
        let expected = StackImage { ami: "ami-0aaaaaaaaaaaaaaa2".to_owned(), version: Some("v6.71.1".to_owned()) };
        assert_eq!(latest, expected);
        let pinned = template.image(&stack("v6.70.0", StackVariant::Ubuntu2404), "us-east-1", Arch::Amd64).unwrap();
        let expected = StackImage { ami: "ami-0aaaaaaaaaaaaaaa4".to_owned(), version: Some("v6.70.0".to_owned()) };
        assert_eq!(pinned, expected);
    }

    #[test]
    fn what_is_missing_is_told_with_what_is_there() {
        let template = Template::parse(TEMPLATE).unwrap();
        let refused = [
            template.image(&stack("latest", StackVariant::Linux), "eu-north-1", Arch::Amd64),
            template.image(&stack("latest", StackVariant::Ubuntu2404), "us-east-1", Arch::Arm64),
            template.image(&stack("v6.40.0", StackVariant::Ubuntu2404), "eu-west-1", Arch::Amd64),
        ];
        let told: Vec<_> = refused.iter().map(|refused| crate::error::render(refused.as_ref().unwrap_err())).collect();
        insta::assert_snapshot!(told.concat());
    }

    #[test]
    fn what_is_no_template_or_grows_without_end_is_refused() {
        for text in ["<html>no</html>", "Mappings: {}", "Mappings: {AWSRegion2AMI: !Ref X}", ""] {
            assert!(Template::parse(text.as_bytes()).is_err(), "{text}");
        }
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
        }
        assert!(Template::parse(bomb.as_bytes()).is_err());
    }

    #[test]
    fn a_description_without_a_version_says_none() {
        let text = String::from_utf8_lossy(TEMPLATE).replace("Buildkite stack v6.71.1\"", "Buildkite stack\"");
        assert_eq!(Template::parse(text.as_bytes()).unwrap().version(), None);
    }
}
