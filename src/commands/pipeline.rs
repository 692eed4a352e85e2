//! `amibake pipeline` and `amibake render schedule`.

use clap::Args;

use super::images::age;
use super::prepare::{given, names_or_all};
use super::releases::{lock_if_any, reporter};
use crate::catalog::check_channel;
use crate::cli::Settings;
use crate::error::{Exit, Result};
use crate::recipe::{AwsBase, Recipe};
use crate::release::{Arch, Lock, Platform};
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
    #[arg(long, conflicts_with = "update_stack")]
    no_promote: bool,
}

/// `amibake render schedule`.
#[derive(Debug, Args)]
#[command(
    mut_arg("region", |arg| arg.help("AWS region; github-actions needs it [default: as the job's environment says]")),
    mut_arg("role", |arg| arg.help(
        "ARN of the role that jobs assume by OIDC; github-actions needs it, eventbridge makes its own \
         [default: the agents' own role]"
    )),
)]
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
    /// Branch that a moved lock is pushed to, and for eventbridge also baked from [default: the one that runs; for
    /// eventbridge main]
    #[arg(long, value_name = "BRANCH")]
    branch: Option<String>,
    /// GitHub runners [default: ubuntu-latest]
    #[arg(long, value_name = "LABEL")]
    runner: Option<String>,
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
        let recipes: Result<Vec<Recipe>> = names.iter().map(|name| Ok(given(settings, name)?.recipe)).collect();
        let recipes = recipes?;
        let mut arches = self.arch.clone();
        arches.sort_unstable();
        arches.dedup();
        let lock = lock_if_any(settings)?;
        for told in fails_each_time(&recipes, &arches, lock.as_ref()) {
            reporter(settings).warn(told);
        }
        let recipes = recipes.into_iter().map(|recipe| recipe.name).collect();
        let (region, role) = (self.region.clone(), self.role.clone());
        let (channel, update_stack) = (self.channel.clone(), self.update_stack.clone());
        let (queue, install) = (self.queue.clone(), self.install.clone());
        let baking = Baking { recipes, arches, region, role, channel, update_stack, queue, install };
        baking.check()?;
        Ok(baking)
    }
}

/// Steps that could never go well, as far as recipes and lock say. They may be about to change: so it is a warning.
fn fails_each_time(recipes: &[Recipe], arches: &[Arch], lock: Option<&Lock>) -> Vec<String> {
    let mut told = Vec::new();
    for arch in arches {
        if lock.is_some_and(|lock| lock.artifact(*arch).is_none()) {
            told.push(format!("the lock pins no tarball for {}: what is baked for it will fail", Platform(*arch)));
        }
        let lacking = |base: &AwsBase| {
            let named = [base.ssm_parameter.as_ref(), base.ami.as_ref(), base.filter.as_ref().map(|it| &it.name)];
            base.elastic_ci_stack.is_none() && named.iter().flatten().all(|each| each.get(*arch).is_none())
        };
        for recipe in recipes.iter().filter(|recipe| recipe.base.aws.as_ref().is_some_and(lacking)) {
            told.push(format!("recipe `{}` names no base for {arch}: what is baked for it will fail", recipe.name));
        }
    }
    if let Some(last) = told.last_mut() {
        last.push_str(" (--arch leaves an architecture out)");
    }
    told
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
