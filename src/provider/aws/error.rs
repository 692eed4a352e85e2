//! The one error of all AWS calls: operation, code, message, request id. Codes are matched, never text.

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Error, Exit};

/// A call that failed after every retry.
#[derive(Debug)]
pub(super) struct AwsError {
    /// As the service's API reference spells it: `ec2:RunInstances`.
    pub(super) operation: &'static str,
    /// The service's own code; none when no answer of the service came.
    pub(super) code: Option<String>,
    message: String,
    request_id: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl std::fmt::Display for AwsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.operation)?;
        if let Some(code) = &self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AwsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Whether a call failed because there was nobody to make it as.
fn no_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.is::<aws_credential_types::provider::error::CredentialsError>())
}

impl AwsError {
    /// Of a call to `operation`. For `map_err`: `.map_err(AwsError::of("ec2:RunInstances"))`.
    pub(super) fn of<E, R>(operation: &'static str) -> impl FnOnce(SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        move |error| {
            // The key under which every SDK of AWS keeps the request's id.
            let request_id = error.as_service_error().and_then(|error| error.meta().extra("aws_request_id"));
            let request_id = request_id.map(str::to_owned);
            let (code, message) = (error.code().map(str::to_owned), error.message().map(str::to_owned));
            match message.or_else(|| code.as_ref().map(|_| "no message".to_owned())) {
                Some(message) => Self { operation, code, message, request_id, source: None },
                None => {
                    let message = match no_credentials(&error) {
                        true => "there are no credentials that can be used",
                        false => "no answer that could be used",
                    };
                    let (message, source) = (message.to_owned(), Some(Box::new(error) as _));
                    Self { operation, code, message, request_id, source }
                }
            }
        }
    }

    /// Of a request that could not be made up: a bug of ours.
    pub(super) fn unsent<E>(operation: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |error| Self {
            operation,
            code: None,
            message: "the request could not be made up".to_owned(),
            request_id: None,
            source: Some(error.into()),
        }
    }

    /// Whether the service's code is one of `codes`.
    pub(super) fn is(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// The error for a person: `message` is what could not be done.
    pub(super) fn because(self, message: impl Into<String>) -> Error {
        let error = Error::new(Exit::Host, message);
        let hint = self.hint();
        let error = error.with_source(self);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// What to do about the codes that any call may end with.
    fn hint(&self) -> Option<String> {
        if self.source.as_deref().is_some_and(|source| no_credentials(source)) {
            return Some(
                "name a profile with --profile or AWS_PROFILE, or sign in (for SSO: `aws sso login`); `aws configure list` \
                 says what the AWS CLI finds"
                    .to_owned(),
            );
        }
        let code = self.code.as_deref();
        let service = self.operation;
        match code {
            Some("UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException") => Some(format!(
                "the credentials lack the permission `{service}`: `amibake render iam-policy` prints the whole policy"
            )),
            Some("ExpiredToken" | "ExpiredTokenException" | "RequestExpired") => {
                Some("the credentials have expired: sign in again (for SSO: `aws sso login`)".to_owned())
            }
            Some("AuthFailure" | "InvalidClientTokenId" | "UnrecognizedClientException" | "SignatureDoesNotMatch") => {
                Some(
                    "AWS does not accept the credentials: `aws sts get-caller-identity` says whose they are".to_owned(),
                )
            }
            Some("OptInRequired") => Some("the account has not enabled this region".to_owned()),
            None => Some("check the network, the region and the credentials: `aws sts get-caller-identity`".to_owned()),
            Some(_) => None,
        }
    }
}
