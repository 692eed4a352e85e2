//! The release's tarball on its way to the machine: from where the lock says, from a mirror, or through a bucket of the
//! user's. The machine itself hashes what arrives. An address may hold a password or a signature: it is never shown.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_smithy_types::timeout::TimeoutConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Aws;
use super::client::Clients;
use super::command::{Channel, tail};
use super::error::AwsError;
use crate::bake::Undo;
use crate::error::{Context as _, Error, Exit, Result};
use crate::plan::{Plan, sh};
use crate::provider::{Launch, Resource, ScriptEnd, Source};
use crate::release::Sha256;

const SCRIPT: &str = include_str!("../../../assets/aws/deliver.sh");
/// Where it lies on the machine. The seal empties `/var/tmp`.
pub(super) const TARGET: &str = "/var/tmp/amibake/artifact";
/// How long an address with a signature is good for: the fetch begins at once, and may be tried again for a while.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// How long an upload may take: 100 MB at 1 Mbit/s.
const UPLOAD: Duration = Duration::from_secs(900);

/// A tarball that the machine fetches.
pub(super) struct Delivery {
    from: From,
    sha256: Sha256,
    pub(super) size: u64,
}

enum From {
    /// Not shown: there may be a password in it.
    Address(String),
    Object {
        bucket: String,
        key: String,
    },
}

/// What is to be delivered, put where the machine can fetch it; none if no step needs it.
///
/// # Errors
/// Exit 4 when it cannot be put into the bucket.
pub(super) async fn prepare(aws: &Aws, launch: &Launch<'_>, undo: &Undo) -> Result<Option<Delivery>> {
    let Source::Base(artifact) = launch.source else { return Ok(None) };
    let Plan { steps, artifact: planned, aws: settings, .. } = launch.plan;
    if steps.iter().all(|step| step.kind != "buildkit") {
        return Ok(None);
    }
    let mirrored = aws.mirror.as_ref().map(|mirror| mirror.address(&planned.url)).transpose()?.flatten();
    let bucket = settings.as_ref().and_then(|settings| settings.delivery_bucket.clone());
    let from = match (bucket, mirrored) {
        (Some(bucket), _) => {
            let key = format!("amibake/{}/{}.tar.gz", launch.run, artifact.sha256());
            let region = aws.clients.region.clone();
            undo.arm(Resource::Object { region, bucket: bucket.clone(), key: key.clone() })?;
            upload(&aws.clients, artifact.path(), artifact.sha256(), &bucket, &key).await?;
            From::Object { bucket, key }
        }
        (None, Some(address)) => From::Address(address),
        // A mirror that is a folder here is nothing to the machine.
        (None, None) => From::Address(planned.url.clone()),
    };
    Ok(Some(Delivery { from, sha256: artifact.sha256(), size: artifact.size() }))
}

async fn upload(clients: &Clients, path: &std::path::Path, sha256: Sha256, bucket: &str, key: &str) -> Result<()> {
    let body = ByteStream::from_path(path).await.or_host(|| format!("cannot read {}", path.display()))?;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD).build();
    let call = clients
        .s3
        .put_object()
        .bucket(bucket)
        .key(key)
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .checksum_sha256(STANDARD.encode(sha256.bytes()))
        .content_type("application/gzip")
        .body(body)
        .customize()
        .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
    let put = call.send().await.map_err(AwsError::of("s3:PutObject"));
    put.map(drop).map_err(|error| error.because(format!("cannot put the tarball into s3://{bucket}")))
}

impl Delivery {
    /// Has the machine fetch it.
    ///
    /// # Errors
    /// Exit 3 when what arrived is not what the lock pins; exit 1 when it could not be fetched.
    pub(super) async fn fetch(&self, clients: &Clients, channel: &std::sync::Arc<Channel>) -> Result<()> {
        let address = self.address(clients).await?;
        let script = SCRIPT
            .replace("@target@", &sh(TARGET))
            .replace("@size@", &self.size.to_string())
            .replace("@sha256@", &self.sha256.to_string())
            .replace("@address@", &address);
        let mut printed = Vec::new();
        let end = channel.run(&script, &[], &mut |bytes| printed.extend_from_slice(bytes)).await?;
        let (exit, message) = match end {
            ScriptEnd::Exited(0) => return Ok(()),
            ScriptEnd::Exited(3) => {
                (Exit::Refused, "the tarball that the machine fetched is not the one that the lock pins")
            }
            _ => (Exit::Failed, "the machine could not fetch the tarball"),
        };
        let said = String::from_utf8_lossy(&printed).replace(&address, "(address)");
        let error = Error::new(exit, message).with_detail(tail(&said));
        Err(match &self.from {
            From::Address(_) if exit == Exit::Failed => error.with_hint(
                "its subnet needs a way there; without one, name a bucket that it reaches with `bucket` in `[delivery]`",
            ),
            _ => error,
        })
    }

    async fn address(&self, clients: &Clients) -> Result<String> {
        let (bucket, key) = match &self.from {
            From::Address(address) => return Ok(address.clone()),
            From::Object { bucket, key } => (bucket, key),
        };
        let context = || format!("cannot sign an address for s3://{bucket}/{key}");
        let config = PresigningConfig::expires_in(GOOD_FOR).or_host(context)?;
        let signed = clients.s3.get_object().bucket(bucket).key(key).presigned(config).await;
        Ok(signed.map_err(AwsError::of("s3:GetObject")).map_err(|error| error.because(context()))?.uri().to_owned())
    }
}
