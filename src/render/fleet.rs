//! What jobs need to reach the builder: the env hook of the Elastic CI Stack, and a step that builds.

use askama::Template;

use super::word;
use crate::doctor;
use crate::error::{Context as _, Error, Result};
use crate::plan::quote::sh;
use crate::recipe;

/// How a job learns where the builder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `tcp://HOST:PORT`.
    Literal(String),
    /// From an SSM parameter of this name, in each job.
    Parameter(String),
}

/// The env hook.
#[derive(Debug, Clone)]
pub struct EnvHook {
    /// The first line of the file.
    pub generated_by: String,
    /// Where the builder is.
    pub address: Address,
    /// Region of the parameters; by default as the agent's environment says.
    pub region: Option<String>,
    /// Where the client's certificate is, if the builder wants one: a prefix of parameters or `s3://bucket/prefix`, and
    /// below it `client/{ca,cert,key}`.
    pub tls: Option<String>,
}

/// The same, as words of a shell.
#[derive(Template)]
#[template(path = "env-hook.sh", escape = "none")]
struct HookValues<'a> {
    generated_by: &'a str,
    literal: Option<String>,
    parameter: Option<String>,
    region: Option<String>,
    /// Where the client's part is, and the command that prints `$file` of it.
    tls: Option<(String, String)>,
}

impl EnvHook {
    /// The file.
    ///
    /// # Errors
    /// Exit 2 for a value that can be no address, parameter or region.
    pub fn text(&self) -> Result<String> {
        match &self.address {
            Address::Literal(address) => check_address(address)?,
            Address::Parameter(name) => check_parameter("--ssm-parameter", name)?,
        }
        if let Some(region) = &self.region {
            word("--region", region, "-")?;
        }
        if let Some(place) = &self.tls {
            check_place("--tls-from", place)?;
        }
        let (literal, parameter) = match &self.address {
            Address::Literal(address) => (Some(sh(address)), None),
            Address::Parameter(name) => (None, Some(sh(name))),
        };
        let region = self.region.as_deref().map(sh);
        let tls = self.tls.as_deref().map(|place| (sh(place), fetch(place, region.as_deref())));
        let values = HookValues { generated_by: &self.generated_by, literal, parameter, region, tls };
        values.render().or_host(|| "the template cannot be filled in".to_owned())
    }
}

/// The command that prints `$file` of the client's part.
fn fetch(place: &str, region: Option<&str>) -> String {
    let region = region.map(|region| format!(" --region {region}")).unwrap_or_default();
    let place = sh(place);
    if place.starts_with("s3://") {
        return format!("aws s3 cp --only-show-errors{region} {place}\"/client/$file\" -");
    }
    format!(
        "aws ssm get-parameter --name {place}\"/client/$file\"{region} --with-decryption \\\n            \
         --query Parameter.Value --output text"
    )
}

/// Where certificates are kept: below a prefix of SSM parameters, or in a bucket.
///
/// # Errors
/// Exit 2.
pub fn check_place(flag: &str, place: &str) -> Result<()> {
    recipe::judge("TlsPlace", place).map_err(|fault| Error::usage(format!("{flag}: {fault}")))
}

fn check_address(address: &str) -> Result<()> {
    let fault = match doctor::Address::parse(address) {
        Ok(doctor::Address::Tcp { host, .. })
            if host.chars().all(|char| char.is_ascii_alphanumeric() || ".-:_".contains(char)) =>
        {
            return Ok(());
        }
        Ok(_) => "no socket of the agent's own, and no other characters than those of a host name".to_owned(),
        Err(bad) => bad.fault,
    };
    // Not the address itself: people put passwords into them.
    Err(Error::usage(format!("--address is no address of a builder: {fault}")).with_hint("tcp://builder.internal:1234"))
}

/// A name of an SSM parameter ("PutParameter", Systems Manager API reference), from its root on.
///
/// # Errors
/// Exit 2.
pub fn check_parameter(flag: &str, name: &str) -> Result<()> {
    word(flag, name, "/_.-")?;
    if name.starts_with('/') && !name.ends_with('/') {
        return Ok(());
    }
    Err(Error::usage(format!("{flag} `{name}` begins with no `/`, or ends with one")))
}

/// Who logs in to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Login {
    /// Buildkite's ECR plugin.
    Ecr,
    /// The docker-login plugin, for any registry.
    DockerLogin,
    /// The docker-image-push plugin: it pushes what the agent's docker holds.
    ImagePush,
}

/// A step that builds and pushes.
#[derive(Debug, Clone)]
pub struct Step {
    /// The first line of the file.
    pub generated_by: String,
    /// Who logs in.
    pub login: Login,
    /// Where the image goes: `123456789012.dkr.ecr.eu-central-1.amazonaws.com/app`.
    pub repository: String,
    /// User of the registry; for docker-login.
    pub username: Option<String>,
    /// `linux/amd64,linux/arm64`; by default the builder's own.
    pub platforms: Option<String>,
    /// Queue of the agents.
    pub queue: Option<String>,
    /// Whether the builder wants a client's certificate.
    pub tls: bool,
}

#[derive(Template)]
#[template(path = "step.yml", escape = "none")]
struct StepValues<'a> {
    generated_by: &'a str,
    login: Login,
    repository: &'a str,
    repository_name: &'a str,
    registry: &'a str,
    cache: String,
    ecr_account: &'a str,
    ecr_region: &'a str,
    username: &'a str,
    platforms: Option<&'a str>,
    queue: Option<&'a str>,
    tls: bool,
}

impl Step {
    /// The pipeline.
    ///
    /// # Errors
    /// Exit 2 for a value that does not fit, and for several platforms where the agent's docker must hold the image.
    pub fn text(&self) -> Result<String> {
        word("--repository", &self.repository, "/:._-")?;
        let (registry, name) =
            self.repository.split_once('/').filter(|(registry, _)| registry.contains('.')).ok_or_else(|| {
                Error::usage(format!("--repository `{}` does not begin with a registry", self.repository))
                    .with_hint("123456789012.dkr.ecr.eu-central-1.amazonaws.com/app, docker.io/me/app")
            })?;
        let last = name.rsplit('/').next().unwrap_or(name);
        if name.is_empty() || last.contains(':') {
            return Err(Error::usage(format!("--repository `{}` names a tag, or no repository", self.repository))
                .with_hint("the tag is the commit"));
        }
        if let Some(queue) = &self.queue {
            word("--queue", queue, "_.-")?;
        }
        if let Some(platforms) = &self.platforms {
            word("--platform", platforms, "/,")?;
            if self.login == Login::ImagePush && platforms.contains(',') {
                return Err(Error::usage("docker holds images of one platform: image-push takes one --platform")
                    .with_hint("`--login ecr` pushes several from the builder"));
            }
        }
        let ecr = ecr(registry);
        if self.login != Login::DockerLogin && ecr.is_none() {
            return Err(Error::usage(format!("{registry} is no registry of ECR"))
                .with_hint("`--login docker-login` is for any registry"));
        }
        let username = match (self.login, &self.username) {
            (Login::DockerLogin, None) => return Err(Error::usage("--username is needed for docker-login")),
            (_, Some(username)) => {
                word("--username", username, "@._-")?;
                username.as_str()
            }
            _ => "",
        };
        let (ecr_account, ecr_region) = ecr.unwrap_or_default();
        let values = StepValues {
            generated_by: &self.generated_by,
            login: self.login,
            repository: &self.repository,
            repository_name: name,
            registry,
            cache: format!("{}:buildcache", self.repository),
            ecr_account,
            ecr_region,
            username,
            platforms: self.platforms.as_deref(),
            queue: self.queue.as_deref(),
            tls: self.tls,
        };
        values.render().or_host(|| "the template cannot be filled in".to_owned())
    }
}

/// Account and region of a registry of ECR: `123456789012.dkr.ecr.eu-central-1.amazonaws.com`.
fn ecr(registry: &str) -> Option<(&str, &str)> {
    let (account, rest) = registry.split_once(".dkr.ecr.")?;
    let region = rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))?;
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some((account, region))
}
