//! Scheduled pipelines: check, update, bake, test boot, promote.

use askama::Template;
use clap::ValueEnum as _;

use super::{ASSUME_ROLE, Baking, Cron, dollars, word};
use crate::error::{Context as _, Error, Result};
use crate::plan::quote;

/// Who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// A Buildkite pipeline.
    Buildkite,
    /// A GitHub Actions workflow.
    GithubActions,
    /// EventBridge Scheduler and CodeBuild, as CloudFormation.
    Eventbridge,
}

/// GitHub's own.
const RUNNER: &str = "ubuntu-latest";

/// A pipeline on a schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What is baked, and how.
    pub baking: Baking,
    /// When.
    pub cron: Cron,
    /// Images older than this are baked anew: `30d`.
    pub max_age: String,
    /// Branch that a moved lock is pushed to, instead of the one that runs.
    pub branch: Option<String>,
    /// Label of the GitHub runners, instead of GitHub's newest Ubuntu.
    pub runner: Option<String>,
    /// The first line of the file.
    pub generated_by: String,
}

#[derive(Template)]
#[template(path = "schedule-buildkite.yml", escape = "none")]
struct Buildkite<'a> {
    s: &'a Schedule,
    b: &'a Baking,
    plugin: &'static str,
}

#[derive(Template)]
#[template(path = "schedule-github-actions.yml", escape = "none")]
struct GithubActions<'a> {
    s: &'a Schedule,
    b: &'a Baking,
    role: &'a str,
    region: &'a str,
    runner: &'a str,
}

#[derive(Template)]
#[template(path = "schedule-eventbridge.yml", escape = "none")]
struct Eventbridge<'a> {
    s: &'a Schedule,
    b: &'a Baking,
    cron: String,
}

impl Schedule {
    /// The file to paste.
    ///
    /// # Errors
    /// Exit 2 for what cannot be said in the target's language.
    pub fn render(&self, target: Target) -> Result<String> {
        let b = &self.baking;
        b.check()?;
        if let Some(branch) = &self.branch {
            word("--branch", branch, "._/-")?;
        }
        if let Some(runner) = &self.runner {
            word("--runner", runner, "_.-")?;
        }
        word("--max-age", &self.max_age, "")?;
        self.check_fit(target)?;
        let rendered = match target {
            Target::Buildkite => Buildkite { s: self, b, plugin: ASSUME_ROLE }.render(),
            Target::GithubActions => {
                // Both are there: `check_fit` saw to it.
                let (role, region) = (b.role.as_deref().unwrap_or_default(), b.region.as_deref().unwrap_or_default());
                GithubActions { s: self, b, role, region, runner: self.runner.as_deref().unwrap_or(RUNNER) }.render()
            }
            Target::Eventbridge => Eventbridge { s: self, b, cron: self.cron.eventbridge()? }.render(),
        };
        rendered.or_host(|| "the template cannot be filled in".to_owned())
    }

    /// Options that a target needs, and those that it would have to pass over in silence.
    fn check_fit(&self, target: Target) -> Result<()> {
        let Baking { role, region, queue, .. } = &self.baking;
        let given = |options: &[(&'static str, bool)]| -> Vec<&'static str> {
            options.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect()
        };
        let (useless, why) = match target {
            Target::Buildkite => (given(&[("--runner", self.runner.is_some())]), "the agents are chosen by --queue"),
            Target::GithubActions => (given(&[("--queue", queue.is_some())]), "the runners are chosen by --runner"),
            Target::Eventbridge => {
                let options =
                    [("--role", role.is_some()), ("--queue", queue.is_some()), ("--runner", self.runner.is_some())];
                (given(&options), "the stack makes its own role, and CodeBuild runs the job")
            }
        };
        let name = target.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        if !useless.is_empty() {
            let verb = if useless.len() == 1 { "means" } else { "mean" };
            let message = format!("{} {verb} nothing to {name}", useless.join(" and "));
            return Err(Error::usage(message).with_hint(format!("leave it out: {why}")));
        }
        let missing = given(&[("--role", role.is_none()), ("--region", region.is_none())]);
        if target == Target::GithubActions && !missing.is_empty() {
            let verb = if missing.len() == 1 { "is" } else { "are" };
            return Err(Error::usage(format!("{} {verb} needed for {name}", missing.join(" and "))).with_hint(
                "a workflow assumes the role by OIDC and holds no key, and GitHub's runners are in no region",
            ));
        }
        Ok(())
    }

    /// Whether a moved lock goes to a branch of its own, and which one.
    fn branch_or<'a>(&'a self, usual: &'a str) -> &'a str {
        self.branch.as_deref().unwrap_or(usual)
    }
}

impl Baking {
    /// The line that installs amibake, as `buildkite-agent pipeline upload` leaves it to the shell.
    fn install_uploaded(&self) -> String {
        dollars(&self.install)
    }

    /// The same as one argument of a command.
    fn install_argument(&self) -> String {
        dollars(&quote::sh(&self.install))
    }

    /// The same as a string of YAML: JSON's are.
    fn install_yaml(&self) -> String {
        serde_json::Value::from(self.install.as_str()).to_string()
    }

    /// The same in a text that CloudFormation's `Fn::Sub` reads, which keeps `${!`.
    fn install_substituted(&self) -> String {
        self.install_yaml().replace("${", "${!")
    }
}
