//! Channels: SSM parameters that hold the id of the image to use. Owns how one is read, written and put back.

use std::time::Duration;

use aws_sdk_ssm::types::{ParameterTier, ParameterType, Tag};
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::error::AwsError;
use super::inventory;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::Result;

/// How long the service may take to look at an image before it takes its id: it does so after it has answered
/// ("Native parameter support for Amazon Machine Image IDs", Systems Manager User Guide).
const TAKEN: Schedule =
    Schedule { first: Duration::from_millis(200), most: Duration::from_secs(3), deadline: Duration::from_secs(60) };
const PUT: &str = "ssm:PutParameter";

/// What the parameter holds; none if there is no such parameter.
///
/// # Errors
/// Exit 4.
pub(super) async fn read(clients: &Clients, name: &str) -> Result<Option<String>> {
    match clients.ssm.get_parameter().name(name).send().await.map_err(AwsError::of("ssm:GetParameter")) {
        Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
        Err(error) if error.is(&["ParameterNotFound"]) => Ok(None),
        Err(error) => Err(error.because(format!("cannot read the parameter {name}"))),
    }
}

/// Every value that it had, oldest first.
///
/// # Errors
/// Exit 4.
pub(super) async fn history(clients: &Clients, name: &str) -> Result<Vec<String>> {
    inventory::past(clients, name).await
}

/// Writes the id of an image, and waits until it is what is read.
///
/// # Errors
/// Exit 4 when it cannot be written, or is not taken.
pub(super) async fn write(clients: &Clients, name: &str, image: &str, recipe: &str) -> Result<()> {
    let because = || format!("cannot write the parameter {name}");
    let call =
        || clients.ssm.put_parameter().name(name).value(image).r#type(ParameterType::String).data_type("aws:ec2:image");
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build().map_err(AwsError::unsent(PUT));
    let tag = tag(super::tags::RECIPE, recipe).map_err(|error| error.because(because()))?;
    // One that exists takes no tags with its value. The other tier costs money: nobody pays for it unasked.
    let made = call()
        .tier(ParameterTier::Standard)
        .tags(tag)
        .description("The image to use, written by `amibake promote`")
        .send()
        .await;
    match made.map_err(AwsError::of(PUT)) {
        Ok(_) => {}
        Err(error) if error.is(&["ParameterAlreadyExists"]) => {
            let written = call().overwrite(true).send().await.map_err(AwsError::of(PUT));
            if let Err(error) = written {
                let full = error.is(&["ParameterMaxVersionLimitExceeded"]);
                let error = error.because(because());
                return Err(match full {
                    true => {
                        error.with_hint("its oldest version bears a label: take that away, or delete the parameter")
                    }
                    false => error,
                });
            }
        }
        Err(error) => return Err(error.because(because())),
    }
    wait::until("the parameter", TAKEN, &CancellationToken::new(), || async {
        Ok(match read(clients, name).await?.as_deref() {
            Some(value) if value == image => Probe::Ready(()),
            _ => Probe::NotYet(format!("{name} does not hold {image} yet")),
        })
    })
    .await
    .map_err(|error| {
        let region = &clients.region;
        error.with_hint(format!(
            "the service takes only an image that it finds in {region}, and that this account may use"
        ))
    })
}

/// Puts back what it held before: that, or nothing.
///
/// # Errors
/// Exit 4.
pub(super) async fn put_back(clients: &Clients, name: &str, before: Option<&str>, recipe: &str) -> Result<()> {
    if let Some(before) = before {
        return write(clients, name, before, recipe).await;
    }
    let deleted = clients.ssm.delete_parameter().name(name).send().await;
    match deleted.map_err(AwsError::of("ssm:DeleteParameter")) {
        Ok(_) => Ok(()),
        Err(error) if error.is(&["ParameterNotFound"]) => Ok(()),
        Err(error) => Err(error.because(format!("cannot delete the parameter {name}"))),
    }
}

/// Says on an image that it passed its boot checks.
///
/// # Errors
/// Exit 4.
pub(super) async fn vouch(clients: &Clients, image: &str, at: &str) -> Result<()> {
    let tag = aws_sdk_ec2::types::Tag::builder().key(super::tags::VERIFIED).value(at).build();
    let tagged = clients.ec2.create_tags().resources(image).tags(tag).send().await;
    let tagged = tagged.map_err(AwsError::of("ec2:CreateTags"));
    tagged.map(drop).map_err(|error| error.because(format!("cannot tag {image} as verified")))
}
