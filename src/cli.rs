//! The command line: clap's arguments, and the settings that a command works with.

mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands;
use crate::error::{Exit, Result};
use crate::plan::ImageFormat;
use crate::provider::local::base::Override;
use crate::recipe::ProviderKind;
use crate::release::{Arch, Mirror};
use crate::report::{Color, Talk};

pub use settings::Settings;
pub(crate) use settings::absolute;

/// Bakes the matched builder and agent machine images for remote BuildKit builds.
#[derive(Debug, Parser)]
#[command(
    name = "amibake",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        amibake build --all              bake every recipe in recipes/ on AWS, side by side\n  \
        amibake build --all --provider local   the same in QEMU on this machine (once before: amibake base create)\n  \
        amibake verify builder agent     boot both images as a pair and run every check\n  \
        amibake plan builder             print what a build would do, to the byte\n\n\
        Exit status: 0 done, 1 bake or check failed, 2 usage or recipe, 3 verification refused,\n\
        4 cloud or host refused, 5 done but leftovers remain, 10 out of date (check), 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Project folder: holds recipes/ and amibake.lock
    #[arg(short = 'C', long, global = true, value_name = "DIR", default_value = ".", hide_default_value = true)]
    directory: PathBuf,
    /// Lock file [default: amibake.lock in the project folder]
    #[arg(long, global = true, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Folder of downloads and base disks [default: $XDG_CACHE_HOME/amibake]
    #[arg(long, global = true, value_name = "DIR", env = "AMIBAKE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    color: Color,
    /// Stream all output of the machines
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bake images from recipes
    #[command(after_help = "Examples:\n  \
        amibake build builder\n  \
        amibake build --all --json\n  \
        amibake build builder --set buildkitd.port=2345 --set volume.cache.size=500GiB\n  \
        amibake build agent --force --format raw")]
    Build(BuildArgs),
    /// Print what a build would do, without doing it
    #[command(after_help = "Examples:\n  amibake plan builder\n  amibake plan agent --json | jq .fingerprint")]
    Plan(PlanArgs),
    /// Check recipes: every fault of a file at once, by line and column
    #[command(after_help = "Examples:\n  amibake validate\n  amibake validate builder --set machine.memory=4GiB")]
    Validate(ValidateArgs),
    /// Boot baked images as a group and run every check, over a reboot
    #[command(after_help = "Examples:\n  amibake verify builder agent\n  amibake verify builder --keep")]
    Verify(VerifyArgs),
    /// Say whether something is out of date: BuildKit, bases, recipes, images
    #[command(after_help = "Examples:\n  amibake check\n  amibake check --arch amd64,arm64 --max-age 30d\n  \
        amibake check; [ $? = 10 ] && amibake update && amibake build --all --verify\n\n\
        Launches nothing and downloads no tarball. What cannot be asked (no AWS at hand) is said and does not count.\n\
        Exit status 0 if all is current, 10 if something is out of date, others are errors.")]
    Check(commands::check::CheckArgs),
    /// List BuildKit's releases, and what evidence each offers
    #[command(after_help = "Examples:\n  amibake releases\n  amibake releases --channel rc --json\n\n\
        Read from GitHub's API; an unchanged list costs nothing of its quota. GITHUB_TOKEN or GH_TOKEN allows more requests.")]
    Releases(commands::releases::ReleasesArgs),
    /// Move the lock to another BuildKit release, once everything that vouches for it was looked at
    #[command(after_help = "Examples:\n  amibake update                  to the newest stable release\n  \
        amibake update --to v0.31.2     to this one; needs no list of releases\n  amibake update --dry-run --json\n\n\
        For every platform: the Sigstore bundle (mandatory since v0.27.0), digests that others publish, the provenance\n\
        and the index must all agree, and the tarball with them. Exit status 3 if anything is refused: the lock then stays.")]
    Update(commands::update::UpdateArgs),
    /// Show all evidence for a BuildKit release, and whether it holds
    #[command(after_help = "Examples:\n  amibake verify-release              the release of the lock\n  \
        amibake verify-release v0.32.2 --json\n\n\
        ✓ holds, and proves it   ~ agrees, and proves nothing   - is not there   ✗ is refused\n\
        Exit status 3 if anything is refused.")]
    VerifyRelease(commands::verify_release::VerifyReleaseArgs),
    /// Fetch and verify the locked BuildKit release, and print path and digest
    #[command(after_help = "Examples:\n  amibake fetch\n  amibake fetch --arch arm64 --json\n  \
        amibake fetch --extract bin/buildctl --to ~/.local/bin")]
    Fetch(FetchArgs),
    /// Find and remove what killed bakes left behind: on AWS by its tags alone, locally by the journals
    #[command(after_help = "Examples:\n  amibake gc                                  what is past its time\n  \
        amibake gc --yes                            remove it\n  \
        amibake gc --run 20261124t145112-3fa9c1     all of one run, whatever its time\n  \
        amibake gc --provider local                 also tarballs in the cache that the lock does not pin\n\n\
        Never a finished image, never anything without the tag amibake:run, and never anything of a run whose journal in\n\
        this project says that it lives, unless --run names it. In buckets, only tarballs called\n\
        amibake/<run>/<sha256>.tar.gz that are a day old. Exit status 5 if something is left.")]
    Gc(commands::gc::GcArgs),
    /// List the images that were baked: what they cost, who uses them, which channel they are promoted to
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  amibake images\n  \
        amibake images --region us-east-1,eu-central-1 --recipe builder\n  amibake images --unused --older-than 30d --json\n  \
        amibake images show ami-0123456789abcdef0\n\n\
        Sizes are what EC2 says a snapshot's blocks are, or its volume's size, which is more. Snapshots share blocks: what\n\
        they cost is less."
    )]
    Images(commands::images::ImagesArgs),
    /// Copy images to other regions, share them, and set when they are deprecated
    #[command(
        after_help = "Examples:\n  amibake distribute builder agent                what `[distribute]` of the recipes says\n  \
        amibake distribute builder --to eu-central-1,us-west-2 --kms-key eu-central-1=alias/images\n  \
        amibake distribute ami-0123456789abcdef0 --account 123456789012 --deprecate-after-days 90\n\n\
        All regions side by side, at most 20 copies at once into one. What fails in one region loses nothing in the others;\n\
        run it again, and it does what is missing: copies that are under way are waited for. Nothing that others were given\n\
        is taken away. An image that AWS's own key encrypts cannot be shared."
    )]
    Distribute(commands::distribute::DistributeArgs),
    /// Tell launch templates and the Elastic CI Stack which image to use: write it into a channel's SSM parameter
    #[command(
        after_help = "Examples:\n  amibake promote builder                     its newest verified image, to /amibake/builder/<arch>/stable\n  \
        amibake promote --pair                      builder and agent together, or not at all\n  \
        amibake promote ami-0123456789abcdef0 --channel canary\n  \
        amibake promote --pair --update-stack buildkite\n\n\
        Refused: an image that was never seen to boot and pass its checks (`build --verify`, `verify`), and a pair with two\n\
        BuildKit versions. What runs stays as it is: the Elastic CI Stack reads ImageIdParameter at a stack update only."
    )]
    Promote(commands::promote::PromoteArgs),
    /// Return a channel to the image that it held before
    #[command(after_help = "Examples:\n  amibake rollback builder\n  amibake rollback --pair --channel canary\n\n\
        The one before is the newest other image of the parameter's history that still exists. A second rollback returns\n\
        to where it was.")]
    Rollback(commands::promote::RollbackArgs),
    /// Remove old images that nobody uses, with their snapshots
    #[command(after_help = "Examples:\n  amibake prune                          what would go\n  \
        amibake prune --keep-last 2 --yes      remove it\n  amibake prune --older-than 90d --recipe agent\n\n\
        Never one that is promoted or was promoted before, is used by an instance, a launch template (in any version), a\n\
        launch configuration or a parameter, is protected, bears the tag amibake:keep, is not finished, or is younger than\n\
        a day. An image and its copies go together, in the regions that are looked at. A rule of the Recycle Bin keeps what it is for.\n\
        Exit status 5 if something could not be removed.")]
    Prune(commands::prune::PruneArgs),
    /// Find out why a job does not reach its builder, and say what to do
    #[command(
        after_help = "Examples:\n  amibake doctor                                  on an agent, in a job: BUILDKIT_HOST is set\n  \
        amibake doctor --host tcp://10.0.1.7:1234\n  amibake doctor --host tcp://builder.internal:1234 --tlsdir ~/buildkit\n  \
        amibake doctor --from-log job.log\n  amibake doctor --aws --builder builder          from anywhere with rights to look\n\n\
        Looks in the order in which a connection is made, and stops at the first cause. On a builder it looks at that too.\n\
        Exit status 0 if nothing is wrong, 1 if something is."
    )]
    Doctor(commands::doctor::DoctorArgs),
    /// Set a project up: recipes, and amibake.toml with what the Elastic CI Stack's CloudFormation stack tells
    #[command(after_help = "Examples:\n  amibake init --region eu-central-1\n  \
        amibake init --stack buildkite --subnet subnet-0123456789abcdef0 --instance-profile amibake --no-input\n  \
        amibake init --offline --region eu-central-1 --agents sg-0123456789abcdef0\n\n\
        Whatever amibake.toml says otherwise stays, and recipes that are there are not touched. Run it again when something\n\
        has changed.")]
    Init(commands::init::InitArgs),
    /// Print a Buildkite pipeline with one step for each image and architecture
    #[command(after_help = "Examples:\n  amibake pipeline | buildkite-agent pipeline upload\n  \
        amibake pipeline builder --arch arm64 --no-promote | buildkite-agent pipeline upload\n\n\
        Each step bakes, boots and checks one image, and tells the build about it: an annotation, and meta-data\n\
        `amibake:<recipe>:<arch>` with the image's id. Then the images are promoted.")]
    Pipeline(commands::pipeline::PipelineArgs),
    /// Certificates between agents and builder, by an authority of your own
    Certs {
        #[command(subcommand)]
        command: commands::certs::CertsCommand,
    },
    /// Print what is pasted elsewhere
    Render {
        #[command(subcommand)]
        command: commands::render::RenderCommand,
    },
    /// The disk that local bakes start from
    Base {
        #[command(subcommand)]
        command: commands::base::BaseCommand,
    },
    /// Print the JSON Schema of recipes, for editors
    #[command(after_help = "Example:\n  amibake schema > recipes/schema.json")]
    Schema,
    /// Print a shell's completion script
    #[command(after_help = "Examples:\n  amibake completions bash > /etc/bash_completion.d/amibake\n  \
        amibake completions zsh > \"${fpath[1]}/_amibake\"")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder: amibake.1 and one for each command
    #[command(after_help = "Example:\n  amibake man ~/.local/share/man/man1")]
    Man {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print the version
    Version {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// An account's id, as a flag has it.
pub(crate) fn account(text: &str) -> std::result::Result<String, String> {
    let fine = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if fine { Ok(text.to_owned()) } else { Err("an account's id has 12 digits".to_owned()) }
}

/// What every command that plans takes.
#[derive(Debug, Clone, Args)]
pub struct Planning {
    /// Who supplies machines: EC2 and Systems Manager, or QEMU on this host
    #[arg(long, value_name = "PROVIDER", default_value = "aws", env = "AMIBAKE_PROVIDER")]
    pub provider: ProviderKind,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION", help_heading = "AWS")]
    pub region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME", help_heading = "AWS")]
    pub profile: Option<String>,
    /// Architectures of the images: amd64, arm64 or both [default: amd64 on AWS, locally this machine's]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    pub arch: Vec<Arch>,
    /// Override a value of every recipe named, or of one (builder:machine.memory=4GiB); may be repeated
    #[arg(long, value_name = "[RECIPE:]KEY=VALUE")]
    pub set: Vec<String>,
    /// Take releases from here instead of where the lock says: an http(s) address or a folder
    #[arg(long, value_name = "URL|DIR", env = "AMIBAKE_RELEASE_MIRROR")]
    pub release_mirror: Option<Mirror>,
    /// Start from this disk image (raw or qcow2, systemd 252 or newer) instead of the recipe's base
    #[arg(long, value_name = "PATH|URL", help_heading = "Local")]
    pub base: Option<String>,
    /// Its SHA-256; required for an address
    #[arg(long, value_name = "DIGEST", requires = "base", help_heading = "Local")]
    pub base_sha256: Option<String>,
    /// How images are stored [default: qcow2]
    #[arg(long, help_heading = "Local")]
    pub format: Option<ImageFormat>,
    /// Store only what differs from the base, which the image then needs
    #[arg(long, help_heading = "Local")]
    pub thin: bool,
    /// Folder of finished images [default: dist in the project folder]
    #[arg(long, value_name = "DIR")]
    pub dist: Option<PathBuf>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Which recipes.
#[derive(Debug, Clone, Args)]
pub struct Recipes {
    /// Names (builder: recipes/builder.toml) or paths of recipes
    #[arg(value_name = "RECIPE")]
    pub names: Vec<String>,
    /// Every recipe in recipes/
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
}

/// `amibake build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    pub(crate) recipes: Recipes,
    #[command(flatten)]
    pub(crate) planning: Planning,
    /// Bake even if an image with that fingerprint exists
    #[arg(long)]
    pub force: bool,
    /// Bake even if an image with that fingerprint exists, if it is older than this: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = commands::images::age)]
    pub max_age: Option<u64>,
    /// Boot each new image and run its boot checks before it counts
    #[arg(long)]
    pub verify: bool,
    /// Leave the machine of a failed bake for inspection, and say how to reach it
    #[arg(long)]
    pub keep: bool,
    /// Add the results to this file as a table of Markdown: a job's summary or annotation
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Write a line `<recipe> <arch> <image>` to this file for each image
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
}

/// `amibake plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Name or path of the recipe
    pub recipe: String,
    #[command(flatten)]
    pub(crate) planning: Planning,
}

/// `amibake validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Names or paths of recipes [default: all in recipes/]
    #[arg(value_name = "RECIPE")]
    pub names: Vec<String>,
    /// Override a value of every recipe named, or of one (builder:machine.memory=4GiB); may be repeated
    #[arg(long, value_name = "[RECIPE:]KEY=VALUE")]
    pub set: Vec<String>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `amibake verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub(crate) recipes: Recipes,
    #[command(flatten)]
    pub(crate) planning: Planning,
    /// Do not reboot images with data volumes
    #[arg(long)]
    pub no_restart: bool,
    /// Leave the machines running, and say how to reach them
    #[arg(long)]
    pub keep: bool,
}

/// `amibake fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Architecture; may be repeated [default: all that the lock pins]
    #[arg(long)]
    pub arch: Vec<Arch>,
    /// Take releases from here instead of where the lock says: an http(s) address or a folder
    #[arg(long, value_name = "URL|DIR", env = "AMIBAKE_RELEASE_MIRROR")]
    pub release_mirror: Option<Mirror>,
    /// Extract one file of the release, for example bin/buildctl
    #[arg(long, value_name = "MEMBER", requires = "to")]
    pub extract: Option<String>,
    /// Folder that the extracted file goes to
    #[arg(long, value_name = "DIR", requires = "extract")]
    pub to: Option<PathBuf>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

impl Planning {
    /// What `--base` and `--base-sha256` say.
    pub(crate) fn base_override(&self) -> Option<Override> {
        let image = self.base.clone()?;
        let digest = self.base_sha256.as_ref();
        let digest =
            digest.map(|digest| if digest.contains(':') { digest.clone() } else { format!("sha256:{digest}") });
        Some(Override { image, digest })
    }
}

/// Parses, runs, and says how it ended.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A bake that panics cleans up behind it; what is told here is for the bug report.
        crate::report::say(&format!("error: amibake has a fault: {panic}\nhint: please report it with this message"));
    }));
    let matches = without_empty_variables(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let fine =
                matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
            return if fine { Exit::Done } else { Exit::Usage }.into();
        }
    };
    let json = cli.command.json();
    let talk = Talk { color: cli.global.color, verbose: cli.global.verbose, quiet: cli.global.quiet };
    // What the program knows by itself needs no folder.
    match &cli.command {
        Command::Schema => return ended(commands::info::schema()),
        Command::Completions { shell } => return ended(commands::info::completions(*shell)),
        Command::Version { json } => return ended(commands::info::version(*json)),
        Command::Man { folder } => {
            return match commands::info::man(folder) {
                Ok(exit) => ended(exit),
                Err(error) => {
                    talk.error(&error);
                    error.exit().into()
                }
            };
        }
        _ => {}
    }
    let settings = Settings::new(&cli.global, |name| std::env::var(name).ok());
    match settings.and_then(|settings| run(&settings, cli.command)) {
        Ok(exit) => ended(exit),
        Err(error) => {
            if json {
                crate::report::print_json(&serde_json::json!({ "error": crate::report::error_json(&error) }));
            }
            talk.error(&error);
            error.exit().into()
        }
    }
}

fn ended(exit: Exit) -> ExitCode {
    // What was asked for was done, but nobody can read the answer.
    if exit == Exit::Done && crate::report::lost() { Exit::Host.into() } else { exit.into() }
}

/// A variable that is set to nothing is as good as unset: CI systems pass on empty ones.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if empty(&arg) { arg.env(clap::builder::Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Command::Build(args) => args.planning.json,
            Command::Plan(args) => args.planning.json,
            Command::Verify(args) => args.planning.json,
            Command::Validate(args) => args.json,
            Command::Fetch(args) => args.json,
            Command::Check(args) => args.planning.json,
            Command::Certs { command: commands::certs::CertsCommand::Show(args) } => args.json,
            Command::Releases(args) => args.json,
            Command::Update(args) => args.json,
            Command::VerifyRelease(args) => args.json,
            Command::Gc(args) => args.json,
            Command::Doctor(args) => args.json,
            Command::Images(args) => args.which.json,
            Command::Prune(args) => args.which.json,
            Command::Distribute(args) => args.json,
            Command::Promote(args) => args.channel.json,
            Command::Rollback(args) => args.channel.json,
            Command::Base { command } => command.json(),
            Command::Version { json } => *json,
            Command::Certs { .. }
            | Command::Render { .. }
            | Command::Init(_)
            | Command::Pipeline(_)
            | Command::Man { .. }
            | Command::Schema
            | Command::Completions { .. } => false,
        }
    }
}

fn run(settings: &Settings, command: Command) -> Result<Exit> {
    match command {
        Command::Build(args) => commands::build::run(settings, &args),
        Command::Plan(args) => commands::plan::run(settings, &args),
        Command::Validate(args) => commands::validate::run(settings, &args),
        Command::Verify(args) => commands::verify::run(settings, &args),
        Command::Fetch(args) => commands::fetch::run(settings, &args),
        Command::Certs { command } => commands::certs::run(settings, &command),
        Command::Check(args) => commands::check::run(settings, &args),
        Command::Releases(args) => commands::releases::run(settings, &args),
        Command::Update(args) => commands::update::run(settings, &args),
        Command::VerifyRelease(args) => commands::verify_release::run(settings, &args),
        Command::Gc(args) => commands::gc::run(settings, &args),
        Command::Doctor(args) => commands::doctor::run(settings, &args),
        Command::Init(args) => commands::init::run(settings, &args),
        Command::Images(args) => commands::images::run(settings, &args),
        Command::Prune(args) => commands::prune::run(settings, &args),
        Command::Distribute(args) => commands::distribute::run(settings, &args),
        Command::Promote(args) => commands::promote::promote(settings, &args),
        Command::Rollback(args) => commands::promote::rollback(settings, &args),
        Command::Render { command } => commands::render::run(settings, &command),
        Command::Pipeline(args) => commands::pipeline::pipeline(settings, &args),
        Command::Base { command } => commands::base::run(settings, &command),
        Command::Schema => Ok(commands::info::schema()),
        Command::Completions { shell } => Ok(commands::info::completions(shell)),
        Command::Man { folder } => commands::info::man(&folder),
        Command::Version { json } => Ok(commands::info::version(json)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
