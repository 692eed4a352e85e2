//! Scheduled pipelines: check, update, bake, test boot, promote.

use std::str::FromStr;

use askama::Template;

use super::{ASSUME_ROLE, Baking, dollars, word};
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

/// When: five fields, as `cron` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron([String; 5]);

impl FromStr for Cron {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let fits = |field: &String| field.chars().all(|char| char.is_ascii_alphanumeric() || "*/,-".contains(char));
        match <[String; 5]>::try_from(fields) {
            Ok(fields) if fields.iter().all(fits) => Ok(Self(fields)),
            _ => Err("expected five fields: minute, hour, day, month, weekday: `17 4 * * 1-5`".to_owned()),
        }
    }
}

impl std::fmt::Display for Cron {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Cron {
    /// EventBridge's form: a year behind, one of the two days a `?`, and days of the week counted from 1 for Sunday
    /// (EventBridge Scheduler User Guide, "Cron-based schedules").
    ///
    /// # Errors
    /// Exit 2 where it has no such form.
    fn eventbridge(&self) -> Result<String> {
        let [minute, hour, day, month, weekday] = &self.0;
        let days = match (day.as_str(), weekday.as_str()) {
            (day, "*") => (day.to_owned(), "?".to_owned()),
            ("*", weekday) => ("?".to_owned(), from_sunday(weekday)),
            _ => {
                return Err(Error::usage(format!("`{self}` names days of the month and of the week"))
                    .with_hint("EventBridge takes one of the two: let the other be `*`"));
            }
        };
        Ok(format!("{minute} {hour} {} {month} {} *", days.0, days.1))
    }
}

/// cron counts weekdays from 0 for Sunday (7 is Sunday, too), EventBridge from 1. Steps keep their width.
fn from_sunday(field: &str) -> String {
    let (days, step) = field.split_once('/').map_or((field, None), |(days, step)| (days, Some(step)));
    let shift = |number: &str| number.parse::<u8>().map_or(number.to_owned(), |day| (day % 7 + 1).to_string());
    let ranges: Vec<String> =
        days.split(',').map(|range| range.split('-').map(shift).collect::<Vec<_>>().join("-")).collect();
    step.map_or_else(|| ranges.join(","), |step| format!("{}/{step}", ranges.join(",")))
}

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
    /// Label of the GitHub runners.
    pub runner: String,
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
        word("--runner", &self.runner, "_.-")?;
        word("--max-age", &self.max_age, "")?;
        let needed = |value: &'_ Option<String>, flag: &str, why: &str| {
            value.clone().ok_or_else(|| Error::usage(format!("{flag} is needed: {why}")))
        };
        let rendered = match target {
            Target::Buildkite => Buildkite { s: self, b, plugin: ASSUME_ROLE }.render(),
            Target::GithubActions => {
                let role = needed(&b.role, "--role", "a workflow assumes it by OIDC, and holds no key")?;
                let region = needed(&b.region, "--region", "GitHub's runners are in none")?;
                GithubActions { s: self, b, role: &role, region: &region }.render()
            }
            Target::Eventbridge => Eventbridge { s: self, b, cron: self.cron.eventbridge()? }.render(),
        };
        rendered.or_host(|| "the template cannot be filled in".to_owned())
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
