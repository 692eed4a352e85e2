//! `amibake render`: what users paste elsewhere.

use clap::{Args, Subcommand};
use similar::TextDiff;

use super::pipeline;
use super::prepare::{given, load, names_or_all, until_cancelled};
use super::releases::{lock_if_any, reporter};
use super::signals::cancel_on_signal;
use crate::cli::{Settings, account};
use crate::error::{Error, Exit, Result};
use crate::provider::aws::{Aws, policy};
use crate::recipe::Recipe;
use crate::release::{Arch, Lock};
use crate::render::{Address, Builder, EnvHook, Login, RENDERED, Step, generated_by, prerequisites};
use crate::report;

/// `amibake render`.
#[derive(Debug, Subcommand)]
pub enum RenderCommand {
    /// The least that IAM must allow who bakes, or the machine that is baked on
    #[command(after_help = "Examples:\n  \
        amibake render iam-policy --region eu-central-1 --account 123456789012 > baker.json\n  \
        amibake render iam-policy --instance > machine.json\n  \
        amibake render iam-policy --catalog --stack buildkite > promoter.json\n  \
        amibake render iam-policy --doctor > doctor.json\n  \
        aws iam create-policy --policy-name amibake --policy-document file://baker.json\n\n\
        The machine's role is one that ec2.amazonaws.com may assume; whoever bakes may change and remove only\n\
        what bears the tag amibake:run.")]
    IamPolicy(IamPolicyArgs),
    /// A complete pipeline that bakes anew when something has moved: check, update, build, test boot, promote
    #[command(after_help = "Examples:\n  \
        amibake render schedule --for buildkite --queue images > .buildkite/amibake.yml\n  \
        amibake render schedule --for github-actions --region eu-central-1 \\\n    \
        --role arn:aws:iam::123456789012:role/images > .github/workflows/amibake.yml\n  \
        amibake render schedule --for eventbridge --cron '17 4 * * 1-5' > schedule.yml\n\n\
        Roles are assumed by OIDC, no key is kept, and two runs never overlap.")]
    Schedule(Box<pipeline::ScheduleArgs>),
    /// The Elastic CI Stack's env hook: tells jobs where the builder is
    #[command(after_help = "Examples:\n  \
        amibake render env-hook --address tcp://builder.internal:1234\n  \
        amibake render env-hook --ssm-parameter /builder/address --region eu-central-1\n  \
        amibake render env-hook --address tcp://builder.internal:1234 --upload my-secrets --pipeline my-app --yes\n\n\
        For one pipeline (SLUG/env in the secrets bucket) only that one gets it, for all (env) every job does.\n\
        Where something is there already, the difference is shown first.")]
    EnvHook(EnvHookArgs),
    /// A Buildkite pipeline that builds an image on the builder and pushes it
    #[command(after_help = "Examples:\n  \
        amibake render pipeline --repository 123456789012.dkr.ecr.eu-central-1.amazonaws.com/app\n  \
        amibake render pipeline --repository docker.io/me/app --login docker-login --username me \\\n    \
        --platform linux/amd64,linux/arm64")]
    Pipeline(StepArgs),
    /// The builder's stack as CloudFormation: launch template, group, cache volume, name, alarms
    #[command(
        name = "cloudformation",
        after_help = "Examples:\n  amibake render cloudformation > builder.yml\n  \
        aws cloudformation deploy --template-file builder.yml --stack-name builder --capabilities CAPABILITY_IAM \\\n    \
        --parameter-overrides Vpc=vpc-… Subnets=subnet-… AgentSecurityGroup=sg-…\n\n\
        Only the agents' security group reaches the daemon; the cache volume follows the instance and outlives the stack."
    )]
    Cloudformation(BuilderArgs),
    /// The builder's stack as Terraform
    #[command(after_help = "Example:\n  amibake render terraform --arch arm64 > builder.tf")]
    Terraform(BuilderArgs),
    /// What baking needs as CloudFormation: network, security group, instance profile
    #[command(after_help = "Example:\n  amibake render prerequisites > prerequisites.yml")]
    Prerequisites,
}

/// Prints what is asked for.
pub(crate) fn run(settings: &Settings, command: &RenderCommand) -> Result<Exit> {
    match command {
        RenderCommand::IamPolicy(args) => iam_policy(settings, args),
        RenderCommand::Schedule(args) => pipeline::schedule(settings, args),
        RenderCommand::EnvHook(args) => env_hook(settings, args),
        RenderCommand::Pipeline(args) => step(settings, args),
        RenderCommand::Cloudformation(args) => cloudformation(settings, args),
        RenderCommand::Terraform(args) => terraform(settings, args),
        RenderCommand::Prerequisites => needed(settings),
    }
}

/// `amibake render iam-policy`.
#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// Names or paths of the recipes that it is for [default: all in recipes/]
    #[arg(value_name = "RECIPE")]
    pub recipes: Vec<String>,
    /// Of the machine that is baked on, instead of who bakes
    #[arg(long, conflicts_with_all = ["catalog", "doctor"])]
    pub instance: bool,
    /// Of who lists, removes and promotes images, instead of who bakes them
    #[arg(long, conflicts_with = "doctor")]
    pub catalog: bool,
    /// Of who runs `amibake doctor --aws` and `amibake init`, instead of who bakes
    #[arg(long)]
    pub doctor: bool,
    /// With --catalog: the CloudFormation stack that `promote --update-stack` may update
    #[arg(long, value_name = "NAME", requires = "catalog")]
    pub stack: Option<String>,
    /// Hold it to a region [default: any]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Hold it to an account [default: the one that the policy is in]
    #[arg(long, value_name = "ID", value_parser = account)]
    pub account: Option<String>,
    /// Role of the instance profile, with its path if it has one [default: called as the profile]
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,
    /// Override a value of the recipes; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

fn iam_policy(settings: &Settings, args: &IamPolicyArgs) -> Result<Exit> {
    // Whoever looks from elsewhere has no recipes.
    let loaded = match args.doctor {
        true => Vec::new(),
        false => load(settings, &names_or_all(settings, &args.recipes)?, &args.set)?,
    };
    let recipes: Vec<&Recipe> = loaded.iter().map(|one| &one.loaded.recipe).collect();
    let scope = policy::Scope { region: args.region.clone(), account: args.account.clone(), role: args.role.clone() };
    let policy = match (args.instance, args.catalog, args.doctor) {
        (true, ..) => policy::instance(&scope, &recipes),
        (_, true, _) => policy::keeper(&scope, args.stack.as_deref()),
        (.., true) => policy::doctor(&scope),
        _ => policy::baker(&scope, &recipes),
    };
    report::print_json(&policy);
    Ok(Exit::Done)
}

/// `amibake render env-hook`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("builder").required(true))]
pub struct EnvHookArgs {
    /// Address of the builder: tcp://builder.internal:1234
    #[arg(long, value_name = "ADDRESS", group = "builder")]
    address: Option<String>,
    /// SSM parameter that holds the address, read in each job
    #[arg(long, value_name = "NAME", group = "builder")]
    ssm_parameter: Option<String>,
    /// Where `amibake certs` keeps the client's certificate, if the builder wants one: a prefix of SSM parameters
    /// (/builder/tls) or s3://BUCKET/PREFIX [default: what recipes/builder.toml says, if it has tls]
    #[arg(long, value_name = "PLACE")]
    tls_from: Option<String>,
    /// Region of the parameters, and of the bucket [default: as the environment says]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Profile of the AWS configuration, for --upload
    #[arg(long, value_name = "NAME", requires = "upload")]
    profile: Option<String>,
    /// Show the difference to the hook in this secrets bucket; with --yes, put it there [without a name: the bucket of
    /// amibake.toml]
    #[arg(long, value_name = "BUCKET", num_args = 0..=1, default_missing_value = "")]
    upload: Option<String>,
    /// With --upload: only for this pipeline, by its slug [default: for all]
    #[arg(long, value_name = "SLUG", requires = "upload")]
    pipeline: Option<String>,
    /// Put it there
    #[arg(long, requires = "upload")]
    yes: bool,
    /// Even over a hook that is none of amibake's
    #[arg(long, requires = "yes")]
    replace: bool,
}

fn env_hook(settings: &Settings, args: &EnvHookArgs) -> Result<Exit> {
    let version = lock_if_any(settings)?.map(|lock| lock.version);
    let address = match (&args.address, &args.ssm_parameter) {
        (Some(address), _) => Address::Literal(address.clone()),
        (None, Some(name)) => Address::Parameter(name.clone()),
        (None, None) => return Err(Error::usage("neither --address nor --ssm-parameter is given")),
    };
    let hook = EnvHook {
        generated_by: generated_by(&["agents".to_owned()], version),
        address,
        region: args.region.clone(),
        tls: args.tls_from.clone().or_else(|| asked_for(settings)),
    };
    let text = hook.text()?;
    match &args.upload {
        None => {
            report::print(&text);
            Ok(Exit::Done)
        }
        Some(bucket) => {
            let bucket = match (bucket.as_str(), &settings.config.agents.secrets_bucket) {
                ("", Some(bucket)) => bucket,
                ("", None) => {
                    return Err(Error::usage(
                        "--upload names no bucket, and amibake.toml has no [agents] secrets_bucket",
                    )
                    .with_hint("`amibake init` finds the stack's"));
                }
                _ => bucket,
            };
            super::block_on(upload(settings, args, bucket, &text))
        }
    }
}

/// Where the certificates are that the project's builder asks its agents for, if it asks for any. A recipe with a fault is for
/// `validate` to tell.
fn asked_for(settings: &Settings) -> Option<String> {
    let daemon = given(settings, "builder").ok()?.recipe.buildkitd.filter(|daemon| daemon.tls)?;
    reporter(settings)
        .note(format!("the builder's recipe has tls = true: certificates are fetched from {}", daemon.tls_from));
    Some(daemon.tls_from)
}

async fn upload(settings: &Settings, args: &EnvHookArgs, bucket: &str, text: &str) -> Result<Exit> {
    let cancel = cancel_on_signal(&settings.runs)?;
    let reporter = reporter(settings);
    let key = match &args.pipeline {
        // A slug is a part of an address of Buildkite's.
        Some(slug)
            if !slug.is_empty() && slug.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char)) =>
        {
            format!("{slug}/env")
        }
        Some(slug) => return Err(Error::usage(format!("`{slug}` is no slug of a pipeline"))),
        None => "env".to_owned(),
    };
    let look = async {
        let account = settings.account(args.region.clone(), args.profile.clone());
        let aws = Aws::connect(&account, None, reporter.clone()).await?;
        let before = aws.text(bucket, &key).await?;
        Ok((aws, before))
    };
    let (aws, before) = until_cancelled(&cancel, look).await?;
    let there = before.as_ref().map_or("", |before| before.text.as_str());
    if there == text {
        reporter.note(format!("s3://{bucket}/{key} is this already"));
        return Ok(Exit::Done);
    }
    let (from, to) = (format!("s3://{bucket}/{key}"), "rendered".to_owned());
    report::print(&TextDiff::from_lines(there, text).unified_diff().header(&from, &to).to_string());
    let foreign = !there.is_empty() && !there.starts_with(&format!("# {RENDERED}"));
    if foreign && !args.replace {
        let message = format!("s3://{bucket}/{key} is none of amibake's");
        return Err(
            Error::usage(message).with_hint("add what is rendered to it by hand, or let it go with --yes --replace")
        );
    }
    if !args.yes {
        reporter.note("nothing was put there: --yes does it");
        return Ok(Exit::Done);
    }
    // Not dropped in the middle: it is one call.
    aws.put_text(bucket, &key, text, before.as_ref()).await?;
    reporter.note(format!("s3://{bucket}/{key} is what jobs get from now on"));
    Ok(Exit::Done)
}

/// `amibake render pipeline`.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// Where the image goes: 123456789012.dkr.ecr.eu-central-1.amazonaws.com/app
    #[arg(long, value_name = "REPOSITORY")]
    repository: String,
    /// Who logs in to the registry
    #[arg(long, value_name = "HOW", default_value = "ecr")]
    login: Login,
    /// User of the registry, for docker-login
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Platforms of the image: linux/amd64,linux/arm64 [default: the builder's own]
    #[arg(long, value_name = "PLATFORMS")]
    platform: Option<String>,
    /// Queue of the agents
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// The builder wants a client's certificate (env-hook --tls-from)
    #[arg(long)]
    tls: bool,
}

fn step(settings: &Settings, args: &StepArgs) -> Result<Exit> {
    let version = lock_if_any(settings)?.map(|lock| lock.version);
    let step = Step {
        generated_by: generated_by(&["agents".to_owned()], version),
        login: args.login,
        repository: args.repository.clone(),
        username: args.username.clone(),
        platforms: args.platform.clone(),
        queue: args.queue.clone(),
        tls: args.tls,
    };
    report::print(&step.text()?);
    Ok(Exit::Done)
}

/// `amibake render cloudformation` and `amibake render terraform`.
#[derive(Debug, Args)]
pub struct BuilderArgs {
    /// Name or path of the builder's recipe
    #[arg(value_name = "RECIPE", default_value = "builder")]
    recipe: String,
    /// Architecture
    #[arg(long, value_name = "ARCH", default_value = "amd64")]
    arch: Arch,
    /// Channel whose image is launched
    #[arg(long, value_name = "NAME", default_value = "stable")]
    channel: String,
    /// Instance type [default: m7i.2xlarge, on arm64 m7g.2xlarge]
    #[arg(long, value_name = "TYPE")]
    instance_type: Option<String>,
    /// Override a value of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn builder(settings: &Settings, args: &BuilderArgs) -> Result<Builder> {
    let loaded = load(settings, std::slice::from_ref(&args.recipe), &args.set)?;
    let [read] = loaded.as_slice() else { return Err(Error::usage("one recipe is rendered at a time")) };
    let recipe = &read.loaded.recipe;
    let version = Lock::load(&settings.lock)?.version;
    let generated_by = generated_by(std::slice::from_ref(&recipe.name), Some(version));
    Builder::new(recipe, version, args.arch, &args.channel, args.instance_type.as_deref(), generated_by)
}

fn cloudformation(settings: &Settings, args: &BuilderArgs) -> Result<Exit> {
    report::print(&builder(settings, args)?.cloudformation()?);
    Ok(Exit::Done)
}

fn terraform(settings: &Settings, args: &BuilderArgs) -> Result<Exit> {
    report::print(&builder(settings, args)?.terraform()?);
    Ok(Exit::Done)
}

fn needed(settings: &Settings) -> Result<Exit> {
    let version = lock_if_any(settings)?.map(|lock| lock.version);
    report::print(&prerequisites(&generated_by(&["bakes".to_owned()], version))?);
    Ok(Exit::Done)
}
