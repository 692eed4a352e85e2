//! `amibake pipeline` and `amibake render schedule`.

use clap::Args;

use super::images::age;
use super::prepare::names_or_all;
use super::releases::lock_if_any;
use crate::catalog::check_channel;
use crate::cli::Settings;
use crate::error::{Exit, Result};
use crate::recipe;
use crate::release::Arch;
use crate::render::{self, Baking, Cron, Pipeline, Schedule, Target, generated_by};
use crate::report;

/// What is baked, and how.
#[derive(Debug, Clone, Args)]
pub struct BakingArgs {
    /// Names of recipes [default: all in recipes/]
    #[arg(value_name = "RECIPE")]
    recipes: Vec<String>,
    /// Architectures
    #[arg(long, value_name = "ARCH", value_delimiter = ',', default_value = "amd64,arm64")]
    arch: Vec<Arch>,
    /// AWS region [default: as the job's environment says]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// ARN of the role that jobs assume by OIDC [default: the agents' own role]
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
    /// Channel that images are promoted to
    #[arg(long, value_name = "NAME", default_value = "stable", value_parser = channel)]
    channel: String,
    /// CloudFormation stack of the Elastic CI Stack that is updated afterwards
    #[arg(long, value_name = "STACK")]
    update_stack: Option<String>,
    /// Queue of the Buildkite agents
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// A line of shell that puts amibake on the PATH [default: it is there, or the job fails]
    #[arg(long, value_name = "SHELL", default_value = "command -v amibake", hide_default_value = true)]
    install: String,
}

/// `amibake pipeline`.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    #[command(flatten)]
    baking: BakingArgs,
    /// Take amibake.lock from the build's artifacts: an earlier step moved it
    #[arg(long)]
    lock_artifact: bool,
    /// Images older than this are baked anew
    #[arg(long, value_name = "AGE", value_parser = age_text)]
    max_age: Option<String>,
    /// Do not promote what was baked
    #[arg(long)]
    no_promote: bool,
}

/// `amibake render schedule`.
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// Who runs it
    #[arg(long = "for", value_name = "TARGET")]
    target: Target,
    #[command(flatten)]
    baking: BakingArgs,
    /// When: minute, hour, day, month and weekday, as cron has them
    #[arg(long, value_name = "CRON", default_value = "17 4 * * *")]
    cron: Cron,
    /// Images older than this are baked anew
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = age_text)]
    max_age: String,
    /// Branch that a moved lock is pushed to [default: the one that runs]
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// GitHub runners
    #[arg(long, value_name = "LABEL", default_value = "ubuntu-latest")]
    runner: String,
}

fn channel(text: &str) -> std::result::Result<String, String> {
    check_channel(text).map(|()| text.to_owned())
}

fn age_text(text: &str) -> std::result::Result<String, String> {
    age(text).map(|_| text.to_owned())
}

impl BakingArgs {
    fn baking(&self, settings: &Settings) -> Result<Baking> {
        // By the names that the recipes have: a path is not what a job is told.
        let names = names_or_all(settings, &self.recipes)?;
        let recipes: Result<Vec<String>> =
            names.iter().map(|name| Ok(recipe::load(&settings.project, name, &[])?.recipe.name)).collect();
        let (arches, region, role) = (self.arch.clone(), self.region.clone(), self.role.clone());
        let (channel, update_stack) = (self.channel.clone(), self.update_stack.clone());
        let (queue, install) = (self.queue.clone(), self.install.clone());
        let baking = Baking { recipes: recipes?, arches, region, role, channel, update_stack, queue, install };
        baking.check()?;
        Ok(baking)
    }
}

pub(crate) fn pipeline(settings: &Settings, args: &PipelineArgs) -> Result<Exit> {
    let baking = args.baking.baking(settings)?;
    let (lock_artifact, promote) = (args.lock_artifact, !args.no_promote);
    let max_age = args.max_age.clone();
    report::print_json(&render::pipeline(&Pipeline { baking, lock_artifact, max_age, promote }));
    Ok(Exit::Done)
}

pub(crate) fn schedule(settings: &Settings, args: &ScheduleArgs) -> Result<Exit> {
    let baking = args.baking.baking(settings)?;
    let version = lock_if_any(settings)?.map(|lock| lock.version);
    let generated_by = generated_by(&baking.recipes, version);
    let (cron, max_age) = (args.cron.clone(), args.max_age.clone());
    let (branch, runner) = (args.branch.clone(), args.runner.clone());
    let schedule = Schedule { baking, cron, max_age, branch, runner, generated_by };
    report::print(&schedule.render(args.target)?);
    Ok(Exit::Done)
}
