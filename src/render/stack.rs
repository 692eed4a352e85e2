//! The builder's stack and what baking needs, as CloudFormation and Terraform.

use askama::Template;

use super::word;
use crate::catalog;
use crate::error::{Context as _, Error, Result};
use crate::recipe::{Recipe, parse_size};
use crate::release::{Arch, Version};

/// What a builder does for itself at boot, beside what its image does.
const USER_DATA: &str = include_str!("../../assets/render/builder-user-data.sh");

/// Columns of the block in which the CloudFormation template has it.
const INDENT: usize = 16;

/// The port of a daemon whose recipe names none.
const PORT: u16 = 1234;

/// The builder's stack.
#[derive(Debug, Clone)]
pub struct Builder {
    generated_by: String,
    version: Version,
    arch: Arch,
    ssm_parameter: String,
    instance_type: String,
    port: u16,
    /// Where the daemon's certificate is, if it has one.
    tls: Option<Tls>,
    volume_mount: String,
    volume_size_gib: u64,
}

/// Where the daemon's certificate is.
#[derive(Debug, Clone)]
enum Tls {
    /// Below this prefix of SSM parameters.
    Parameters(String),
    /// Below this bucket and prefix.
    Bucket(String),
}

impl Tls {
    fn at(place: &str) -> Self {
        match place.strip_prefix("s3://") {
            Some(bucket) => Tls::Bucket(bucket.to_owned()),
            None => Tls::Parameters(place.to_owned()),
        }
    }
}

#[derive(Template)]
#[template(path = "builder.yml", escape = "none")]
struct CloudFormation<'a> {
    s: &'a Builder,
    user_data_yaml: String,
}

#[derive(Template)]
#[template(path = "builder.tf", escape = "none")]
struct Terraform<'a> {
    s: &'a Builder,
    user_data_hcl: String,
}

#[derive(Template)]
#[template(path = "prerequisites.yml", escape = "none")]
struct Prerequisites<'a> {
    generated_by: &'a str,
}

impl Builder {
    /// For the images of `recipe` that are promoted to `channel`.
    ///
    /// # Errors
    /// Exit 2 when the recipe is none of a builder with one data volume, or a value cannot be used.
    pub fn new(
        recipe: &Recipe,
        version: Version,
        arch: Arch,
        channel: &str,
        instance_type: Option<&str>,
        generated_by: String,
    ) -> Result<Self> {
        let [volume] = recipe.volumes.as_slice() else {
            return Err(Error::usage(format!(
                "the recipe `{}` has {} data volumes, a builder's stack is for one: its cache",
                recipe.name,
                recipe.volumes.len()
            ))
            .with_hint("name the builder's recipe: `amibake render cloudformation builder`"));
        };
        let usual = match arch {
            Arch::Amd64 => "m7i.2xlarge",
            Arch::Arm64 => "m7g.2xlarge",
        };
        let instance_type = instance_type.unwrap_or(usual).to_owned();
        word("--instance-type", &instance_type, ".-")?;
        if processors(&instance_type).is_some_and(|has| has != arch) {
            return Err(Error::usage(format!("{instance_type} has no {arch} processors, the image is for {arch}"))
                .with_hint(format!("{usual}, or another `--arch`")));
        }
        word("--channel", channel, "_.-")?;
        // What the recipe's own rules let through, held to what needs no quotes here.
        word("the volume's mount", &volume.mount, "/_.-")?;
        let size = parse_size(&volume.size).or_usage(|| format!("`{}` is no size", volume.size))?;
        Ok(Self {
            generated_by,
            version,
            arch,
            ssm_parameter: catalog::parameter(&recipe.name, arch, channel),
            instance_type,
            port: recipe.buildkitd.as_ref().map_or(PORT, |daemon| daemon.port),
            tls: recipe.buildkitd.as_ref().filter(|daemon| daemon.tls).map(|daemon| Tls::at(&daemon.tls_from)),
            volume_mount: volume.mount.clone(),
            volume_size_gib: size.div_ceil(1 << 30),
        })
    }

    /// As a CloudFormation template.
    ///
    /// # Errors
    /// Exit 4, never in a program that passed its tests.
    pub fn cloudformation(&self) -> Result<String> {
        let indented: Vec<String> = USER_DATA
            .lines()
            .map(|line| if line.is_empty() { String::new() } else { format!("{:INDENT$}{line}", "") })
            .collect();
        // The first line's columns are in the template.
        let template = CloudFormation { s: self, user_data_yaml: indented.join("\n").trim_start().to_owned() };
        template.render().or_host(|| "the template cannot be filled in".to_owned())
    }

    /// As a Terraform configuration.
    ///
    /// # Errors
    /// Exit 4, never in a program that passed its tests.
    pub fn terraform(&self) -> Result<String> {
        // In a heredoc of HCL these two would begin something.
        let user_data_hcl = USER_DATA.replace("${", "$${").replace("%{", "%%{").trim_end().to_owned();
        let template = Terraform { s: self, user_data_hcl };
        template.render().or_host(|| "the template cannot be filled in".to_owned())
    }
}

/// The processors of an instance type, as its name tells: Graviton's have a `g` after the generation ("Instance type naming
/// conventions", EC2 Instance Types Guide), and `a1` came before that. None for a name of another form.
fn processors(instance_type: &str) -> Option<Arch> {
    let family = instance_type.split('.').next()?;
    let generation = family.find(|char: char| char.is_ascii_digit())?;
    let attributes = family[generation..].trim_start_matches(|char: char| char.is_ascii_digit());
    let named = family[..generation].chars().all(|char| char.is_ascii_lowercase()) && !attributes.contains('-');
    let graviton = attributes.contains('g') || family == "a1";
    named.then_some(if graviton { Arch::Arm64 } else { Arch::Amd64 })
}

/// The network, the group and the profile that baking needs, as a CloudFormation template.
///
/// # Errors
/// Exit 4, never in a program that passed its tests.
pub fn prerequisites(generated_by: &str) -> Result<String> {
    Prerequisites { generated_by }.render().or_host(|| "the template cannot be filled in".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_by_the_name() {
        for name in ["m7g.large", "c6gn.16xlarge", "t4g.micro", "im4gn.large", "is4gen.large", "a1.large", "x2gd.large"]
        {
            assert_eq!(processors(name), Some(Arch::Arm64), "{name}");
        }
        for name in ["m7i.2xlarge", "g4dn.xlarge", "gr6.4xlarge", "c5a.large", "t3.micro", "p4de.24xlarge"] {
            assert_eq!(processors(name), Some(Arch::Amd64), "{name}");
        }
        assert_eq!(processors("u-6tb1.metal"), None);
    }
}
