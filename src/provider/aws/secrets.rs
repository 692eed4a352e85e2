//! Small texts that are kept: env hooks in the Elastic CI Stack's secrets bucket, certificates and keys as parameters.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use aws_sdk_ssm::types::{ParameterStringFilter, ParameterTier, ParameterType};

use super::Aws;
use super::error::AwsError;
use crate::error::{Context as _, Error, Result};

/// An env hook has a few hundred bytes.
const LARGEST: i64 = 1 << 20;

/// A text, and what says that it is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// It.
    pub text: String,
    /// S3's tag of this version of it.
    etag: Option<String>,
}

impl Aws {
    /// The text at `s3://bucket/key`; none if there is none.
    ///
    /// # Errors
    /// Exit 4 when it cannot be read, or is no text.
    pub async fn text(&self, bucket: &str, key: &str) -> Result<Option<Text>> {
        let place = format!("s3://{bucket}/{key}");
        let got = self.clients.s3.get_object().bucket(bucket).key(key).send().await;
        let got = match got.map_err(AwsError::of("s3:GetObject")) {
            Ok(got) => got,
            Err(error) if error.is(&["NoSuchKey"]) => return Ok(None),
            Err(error) => {
                let forbidden = error.is(&["AccessDenied", "Forbidden"]);
                let error = error.because(format!("cannot read {place}"));
                return Err(match forbidden {
                    true => {
                        error.with_hint("without s3:ListBucket on the bucket, a key that is not there is forbidden")
                    }
                    false => error,
                });
            }
        };
        if got.content_length().is_some_and(|length| length > LARGEST) {
            return Err(Error::host(format!("{place} is too large for an env hook or a certificate")));
        }
        let etag = got.e_tag().map(str::to_owned);
        let bytes = got.body.collect().await.or_host(|| format!("cannot read {place}"))?.into_bytes();
        let text = String::from_utf8(bytes.to_vec()).or_host(|| format!("{place} is no text"))?;
        Ok(Some(Text { text, etag }))
    }

    /// Puts `text` there, encrypted, if what is there is still `before`.
    ///
    /// # Errors
    /// Exit 4 when it cannot be written, or somebody else wrote meanwhile.
    pub async fn put_text(&self, bucket: &str, key: &str, text: &str, before: Option<&Text>) -> Result<()> {
        let call = self.clients.s3.put_object().bucket(bucket).key(key).content_type("text/x-shellscript");
        let call = call.server_side_encryption(ServerSideEncryption::AwsKms);
        let call = match before {
            Some(before) => call.set_if_match(before.etag.clone()),
            None => call.if_none_match("*"),
        };
        let put = call.body(ByteStream::from(text.as_bytes().to_vec())).send().await;
        match put.map_err(AwsError::of("s3:PutObject")) {
            Ok(_) => Ok(()),
            Err(error) if error.is(&["PreconditionFailed", "ConditionalRequestConflict"]) => {
                Err(Error::host(format!("somebody wrote s3://{bucket}/{key} meanwhile")).with_hint("look at it again"))
            }
            Err(error) => Err(error.because(format!("cannot write s3://{bucket}/{key}"))),
        }
    }
}

impl Aws {
    /// Keeps a text in a bucket, encrypted by `key` of KMS or the account's own for S3, whatever was there.
    ///
    /// # Errors
    /// Exit 4 when it cannot be written.
    pub async fn put_object(&self, bucket: &str, key: &str, text: &str, kms_key: Option<&str>) -> Result<()> {
        let call = self.clients.s3.put_object().bucket(bucket).key(key).content_type("application/x-pem-file");
        let call =
            call.server_side_encryption(ServerSideEncryption::AwsKms).set_ssekms_key_id(kms_key.map(str::to_owned));
        let put = call.body(ByteStream::from(text.as_bytes().to_vec())).send().await;
        let put = put.map_err(AwsError::of("s3:PutObject"));
        put.map(drop).map_err(|error| error.because(format!("cannot write s3://{bucket}/{key}")))
    }

    /// The key of KMS that encrypts an object; none if there is no such object.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn object_key(&self, bucket: &str, key: &str) -> Result<Option<String>> {
        // IAM knows HEAD as the same right.
        let head = self.clients.s3.head_object().bucket(bucket).key(key).send().await;
        match head.map_err(AwsError::of("s3:GetObject")) {
            Ok(head) => Ok(head.ssekms_key_id),
            Err(error) if error.is(&["NotFound", "NoSuchKey"]) => Ok(None),
            Err(error) => Err(error.because(format!("cannot look at s3://{bucket}/{key}"))),
        }
    }

    /// The key of KMS that encrypts a SecureString; none if there is no such parameter.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn secret_key(&self, name: &str) -> Result<Option<String>> {
        let filter = ParameterStringFilter::builder().key("Name").option("Equals").values(name).build();
        let filter = filter.or_host(|| "cannot ask for a parameter".to_owned())?;
        let answer = self.clients.ssm.describe_parameters().parameter_filters(filter).send().await;
        let answer = answer.map_err(AwsError::of("ssm:DescribeParameters"));
        let answer =
            answer.map_err(|error| error.because(format!("cannot see how the parameter {name} is encrypted")))?;
        Ok(answer.parameters().first().and_then(|parameter| parameter.key_id()).map(str::to_owned))
    }

    /// The value of a parameter, decrypted; none if there is none.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn secret(&self, name: &str) -> Result<Option<String>> {
        let got = self.clients.ssm.get_parameter().name(name).with_decryption(true).send().await;
        match got.map_err(AwsError::of("ssm:GetParameter")) {
            Ok(got) => Ok(got.parameter.and_then(|parameter| parameter.value)),
            Err(error) if error.is(&["ParameterNotFound"]) => Ok(None),
            Err(error) => Err(error.because(format!("cannot read the parameter {name}"))),
        }
    }

    /// Keeps a value as a SecureString, encrypted by `key` of KMS or the account's own for SSM.
    ///
    /// # Errors
    /// Exit 4.
    pub async fn put_secret(&self, name: &str, value: &str, key: Option<&str>) -> Result<()> {
        let call = self.clients.ssm.put_parameter().name(name).value(value).overwrite(true);
        // The other tier costs money: nobody pays for it unasked.
        let call = call.r#type(ParameterType::SecureString).tier(ParameterTier::Standard);
        let put = call.set_key_id(key.map(str::to_owned)).send().await;
        let put = put.map_err(AwsError::of("ssm:PutParameter"));
        put.map(drop).map_err(|error| error.because(format!("cannot write the parameter {name}")))
    }
}
