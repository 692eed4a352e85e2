//! The service clients of one region, with the one retry policy and the one set of time limits.

use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{self, ProfileFileCredentialsProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};

use aws_credential_types::provider::ProvideCredentials as _;

use super::Account;
use super::network::{Candidate, Exits};
use super::shared::Shared;
use super::stack::Template;
use crate::error::{Error, Result};
use crate::plan::BaseImage;
use crate::provider::Finding;

/// Attempts of one call. At a third of calls throttled, one in 3^10 = 59,049 fails for good.
const ATTEMPTS: u32 = 10;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one attempt may take: the slowest calls here answer within a few seconds.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The services of one region.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) region: String,
    pub(super) autoscaling: aws_sdk_autoscaling::Client,
    pub(super) cloudformation: aws_sdk_cloudformation::Client,
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) ssm: aws_sdk_ssm::Client,
    pub(super) iam: aws_sdk_iam::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) known: Arc<Known>,
}

/// What is known of the region, by all who asked.
#[derive(Default)]
pub(super) struct Known {
    /// Bases, by how they are named and for which architecture.
    pub(super) bases: Shared<BaseImage>,
    /// Templates of the Elastic CI Stack, by version.
    pub(super) templates: Shared<Arc<Template>>,
    /// Subnets that a machine may be launched in, by how they are chosen.
    pub(super) subnets: Shared<Vec<Candidate>>,
    /// Where what leaves the subnets of a VPC goes, by the VPC's id.
    pub(super) exits: Shared<Arc<Exits>>,
    /// Services that a VPC has an endpoint for, by the VPC's id.
    pub(super) endpoints: Shared<Arc<Vec<String>>>,
    /// What is wrong with how a machine is trusted, by its profile.
    pub(super) trust: Shared<Option<Finding>>,
}

impl Clients {
    /// From the environment, configuration files, SSO, web identity or an instance's role.
    ///
    /// # Errors
    /// Exit 4 when no region is configured.
    pub(super) async fn connect(account: &Account) -> Result<Self> {
        let config = configuration(account).await?;
        let region = config.region().map(ToString::to_string).filter(|region| !region.is_empty()).ok_or_else(|| {
            Error::host("no AWS region is configured").with_hint(
                "name one with --region, AWS_REGION, [aws] region in amibake.toml or `region` in the profile",
            )
        })?;
        // An own endpoint (a test cloud, a gateway) has no host name for each bucket.
        let own_endpoint = config.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL").is_some();
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(own_endpoint).build();
        Ok(Self {
            region,
            autoscaling: aws_sdk_autoscaling::Client::new(&config),
            cloudformation: aws_sdk_cloudformation::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
            iam: aws_sdk_iam::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            known: Arc::default(),
        })
    }
}

async fn configuration(account: &Account) -> Result<SdkConfig> {
    use aws_smithy_http_client::{Builder, tls};
    let http = Builder::new().tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build();
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(LONGEST_PAUSE);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .timeout_config(timeouts)
        .retry_config(retries);
    // An empty name is how scripts spell none.
    if let Some(region) = account.region.as_ref().filter(|region| !region.is_empty()) {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(name) = &account.profile {
        // Who names a profile means its account: keys in the environment must not come before it, as they would.
        // What a profile leads to (SSO, a role) is asked for in a region too.
        let region = match account.region.as_ref().filter(|region| !region.is_empty()) {
            Some(region) => Some(Region::new(region.clone())),
            None => {
                let file = profile::region::Builder::default().profile_name(name).build();
                RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(file).region().await
            }
        };
        let how = ProviderConfig::without_region().with_region(region).with_http_client(http);
        let named = ProfileFileCredentialsProvider::builder().configure(&how).profile_name(name).build();
        // Asked for once now: of several that ask at the same time, only one hears what is wrong with it.
        if let Err(error) = named.provide_credentials().await {
            return Err(Error::host(format!("there are no credentials for the profile `{name}`"))
                .with_source(crate::error::in_a_line(&error))
                .with_hint(
                    "`aws configure list-profiles` lists profiles; for SSO, sign in: `aws sso login --profile NAME`",
                ));
        }
        loader = loader.profile_name(name).credentials_provider(named);
    }
    Ok(loader.load().await)
}
