//! What users paste elsewhere: askama templates in `assets/render`, and pipelines made on the spot. PURE: options in, text
//! out. Every value is held to what can stand in the template's language; nothing is pasted in that could end a string.

mod cron;
mod fleet;
mod pipeline;
mod schedule;
mod stack;

pub use cron::Cron;
pub use fleet::{Address, EnvHook, Login, Step, check_parameter, check_place};
pub use pipeline::{Pipeline, pipeline};
pub use schedule::{Schedule, Target};
pub use stack::{Builder, prerequisites};

use crate::error::{Error, Result};
use crate::release::Arch;

/// The plugin that assumes a role by OIDC in a Buildkite job, at the version that was read.
const ASSUME_ROLE: &str = "aws-assume-role-with-web-identity#v1.6.0";

/// What all that bakes on a schedule takes.
#[derive(Debug, Clone)]
pub struct Baking {
    /// Recipes, by name.
    pub recipes: Vec<String>,
    /// Architectures.
    pub arches: Vec<Arch>,
    /// AWS region; by default as the job's environment says.
    pub region: Option<String>,
    /// ARN of the role that jobs assume by OIDC.
    pub role: Option<String>,
    /// Channel that images are promoted to.
    pub channel: String,
    /// CloudFormation stack that is updated afterwards.
    pub update_stack: Option<String>,
    /// Queue of the Buildkite agents that run the jobs.
    pub queue: Option<String>,
    /// A line of shell that puts amibake on the PATH.
    pub install: String,
}

impl Baking {
    /// Holds every value to what its place allows.
    ///
    /// # Errors
    /// Exit 2 naming the value.
    pub fn check(&self) -> Result<()> {
        for recipe in &self.recipes {
            word("recipe", recipe, "_.-")?;
        }
        // Each has steps with keys of its own, which may be there once.
        for (at, recipe) in self.recipes.iter().enumerate() {
            if self.recipes[..at].contains(recipe) {
                return Err(Error::usage(format!("recipe `{recipe}` is named twice")));
            }
        }
        word("channel", &self.channel, "_.-")?;
        for (what, value, others) in [
            ("--region", &self.region, "-"),
            ("--role", &self.role, ":/+=,.@_-"),
            ("--update-stack", &self.update_stack, "-"),
            ("--queue", &self.queue, "_.-"),
        ] {
            if let Some(value) = value {
                word(what, value, others)?;
            }
        }
        if self
            .role
            .as_ref()
            .is_some_and(|role| !(role.starts_with("arn:aws") && role.contains(":iam::") && role.contains(":role/")))
        {
            return Err(Error::usage("--role is no ARN of a role").with_hint("arn:aws:iam::123456789012:role/images"));
        }
        if self.install.trim().is_empty() || self.install.chars().any(char::is_control) {
            return Err(
                Error::usage("--install is one line of shell").with_hint("put several commands on one line: `a && b`")
            );
        }
        Ok(())
    }

    fn arch_list(&self) -> String {
        self.arches.iter().map(Arch::to_string).collect::<Vec<_>>().join(",")
    }

    /// What `amibake promote` is told: builder and agent are a pair by themselves.
    fn promoted(&self) -> String {
        let mut names: Vec<&str> = self.recipes.iter().map(String::as_str).collect();
        names.sort_unstable();
        match names.as_slice() {
            ["agent", "builder"] => "--pair".to_owned(),
            [one] => (*one).to_owned(),
            _ => format!("--pair {}", self.recipes.join(" ")),
        }
    }
}

/// A value of letters, digits and `others`: it needs quotes in no language.
fn word(what: &str, value: &str, others: &str) -> Result<()> {
    let fits = |char: char| char.is_ascii_alphanumeric() || others.contains(char);
    if !value.is_empty() && value.chars().all(fits) && !value.starts_with('-') {
        return Ok(());
    }
    let shown: String = value.chars().take(80).collect();
    Err(Error::usage(format!("{what} `{}` cannot be used", crate::report::clean(&shown))).with_hint(format!(
        "it is made of letters, digits and {}",
        others.chars().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(" ")
    )))
}

/// How every rendered file begins, behind its language's sign of a comment.
pub const RENDERED: &str = "Rendered by amibake";

/// Names the program, the images and the release that something was rendered for.
#[must_use]
pub fn generated_by(recipes: &[String], version: Option<crate::release::Version>) -> String {
    let release = version.map_or_else(String::new, |version| format!(", BuildKit {version}"));
    format!("{RENDERED} {} for {}{release}.", env!("CARGO_PKG_VERSION"), recipes.join(" and "))
}

/// `$` that stays when `buildkite-agent pipeline upload` replaces variables.
fn dollars(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests;
