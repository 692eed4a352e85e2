//! `amibake doctor`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::prepare::until_cancelled;
use super::releases::reporter;
use super::signals::cancel_on_signal;
use crate::cli::Settings;
use crate::doctor::{self, Around, Check, Client, Finding, Options, Told, Verdict};
use crate::error::{Context as _, Error, Exit, Result};
use crate::provider::Catalog as _;
use crate::provider::aws::Aws;
use crate::release::Lock;
use crate::report;

/// How long `buildctl --version` may take.
const ANSWERS: Duration = Duration::from_secs(10);

/// `amibake doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The daemon, as buildctl is told it
    #[arg(long, value_name = "URL", env = "BUILDKIT_HOST")]
    host: Option<String>,
    /// Folder with ca.pem, cert.pem and key.pem, as buildctl's --tlsdir
    #[arg(long, value_name = "DIR")]
    tlsdir: Option<PathBuf>,
    /// Name in the daemon's certificate, where it is not the one in the address
    #[arg(long, value_name = "NAME", requires = "tlsdir")]
    tls_server_name: Option<String>,
    /// Read the log of a failed job instead; - for standard input. Exit status 0 says that it holds no fault that is known,
    /// not that all is well
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tlsdir", "tls_server_name"])]
    from_log: Option<PathBuf>,
    /// Ask AWS too: the builder's instance, security groups, routes, network ACLs and images, and by Systems Manager its
    /// disks, cache, clock and daemon
    #[arg(long, conflicts_with = "from_log", help_heading = "AWS")]
    aws: bool,
    /// The builder: an instance, or the name of its stack [default: who has the address of --host, else the only one]
    #[arg(long, value_name = "ID|STACK", requires = "aws", help_heading = "AWS")]
    builder: Option<String>,
    /// Security group of the agents [default: what amibake.toml says, else this machine's, if it is one]
    #[arg(long, value_name = "GROUP", requires = "aws", help_heading = "AWS")]
    agents: Option<String>,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION", requires = "aws", help_heading = "AWS")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME", requires = "aws", help_heading = "AWS")]
    profile: Option<String>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(settings: &Settings, args: &DoctorArgs) -> Result<Exit> {
    match &args.from_log {
        Some(path) => from_log(path, args),
        None => live(settings, args),
    }
}

fn from_log(path: &Path, args: &DoctorArgs) -> Result<Exit> {
    // What the job's environment says is no wish of the user's, and clap does not tell the two apart.
    if args.host.as_ref().is_some_and(|host| std::env::var("BUILDKIT_HOST").as_ref() != Ok(host)) {
        return Err(Error::usage("--from-log reads a log, and asks no --host").with_hint("leave one of the two out"));
    }
    let findings = read(path)?;
    if args.json {
        // A log that tells of no fault tells nothing of health either.
        let healthy = if findings.is_empty() { None } else { Some(false) };
        report::print_json(&json!({ "healthy": healthy, "findings": findings }));
    } else if findings.is_empty() {
        report::print("no fault that is known is in this log");
        report::say("hint: run `amibake doctor` where the job runs: it looks at the connection itself");
    } else {
        report::print(findings.iter().map(shown).collect::<Vec<_>>().join("\n\n").as_str());
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Failed })
}

fn shown(finding: &Finding) -> String {
    let Finding { line, said, cause, hint, .. } = finding;
    format!("✗ line {line}: {said}\n  {cause}\n  hint: {hint}")
}

/// What a log tells; it may be longer than memory.
fn read(path: &Path) -> Result<Vec<Finding>> {
    if path == Path::new("-") {
        return doctor::read_log(std::io::stdin().lock()).or_usage(|| "cannot read standard input".into());
    }
    let log = std::fs::File::open(path).and_then(|file| doctor::read_log(std::io::BufReader::new(file)));
    log.or_usage(|| format!("cannot read the log {}", path.display()))
}

fn live(settings: &Settings, args: &DoctorArgs) -> Result<Exit> {
    let locked = if settings.lock.exists() { Some(Lock::load(&settings.lock)?.version.to_string()) } else { None };
    let host = args.host.clone().or_else(doctor::daemon_here);
    let (checks, unasked) = super::block_on(async {
        let options = Options {
            host: host.clone(),
            elsewhere: args.aws,
            client: Client { dir: args.tlsdir.clone(), server_name: args.tls_server_name.clone() },
            buildctl: buildctl().await,
            locked: locked.clone(),
            // Where builds of the stack's agents lie, if this is one, and where their scratch files go.
            folders: ["/var/lib/buildkite-agent", "/var/tmp"]
                .map(PathBuf::from)
                .into_iter()
                .filter(|path| path.exists())
                .collect(),
            free,
        };
        let mut checks = doctor::examine(&options, Timestamp::now()).await;
        if !args.aws {
            checks.extend(doctor::inside_here().await?.unwrap_or_default());
            return Ok((checks, None));
        }
        // No region, no credentials: what was found before is told all the same.
        let told = match around(settings, args, host.clone(), locked.clone()).await {
            Err(error) if error.exit() != Exit::Interrupted => Told { checks: Vec::new(), unasked: Some(error) },
            told => told?,
        };
        checks.extend(told.checks);
        Ok::<_, Error>((checks, told.unasked))
    })?;
    let wrong = checks.iter().any(|check| check.verdict == Verdict::Wrong);
    // Where AWS was to be asked and did not answer, nothing can be called healthy.
    let healthy = if wrong { Some(false) } else { unasked.is_none().then_some(true) };
    if args.json {
        let error = unasked.as_ref().map(report::error_json);
        report::print_json(&json!({ "healthy": healthy, "checks": checks, "error": error }));
    } else {
        report::print(&table(&checks));
    }
    if let Some(error) = &unasked {
        settings.talk.error(error);
    }
    Ok(match (wrong, unasked) {
        (true, _) => Exit::Failed,
        (false, Some(error)) => error.exit(),
        (false, None) => Exit::Done,
    })
}

/// What AWS tells.
async fn around(settings: &Settings, args: &DoctorArgs, host: Option<String>, locked: Option<String>) -> Result<Told> {
    let cancel = cancel_on_signal(&settings.runs)?;
    let look = async {
        let account = settings.account(args.region.clone(), args.profile.clone());
        let aws = Aws::connect(&account, None, reporter(settings)).await?;
        let region = aws.region().unwrap_or_default().to_owned();
        let agents = args.agents.clone().or_else(|| settings.config.agents.security_group.clone());
        let around = Around { builder: args.builder.clone(), agents, host, locked };
        doctor::look_around(&aws, &around, &region, &cancel).await
    };
    until_cancelled(&cancel, look).await
}

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
    let line = |check: &Check| {
        let mark = match check.verdict {
            Verdict::Fine => '✓',
            Verdict::Warning => '!',
            Verdict::Wrong => '✗',
            Verdict::Skipped => '-',
        };
        let mut line = format!("{mark} {:width$}  {}", check.check, report::clean(&check.found));
        if let Some(hint) = &check.hint {
            line.push_str(&format!("\n  {:width$}  hint: {hint}", ""));
        }
        line
    };
    checks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The version of this machine's buildctl.
async fn buildctl() -> Option<String> {
    let mut command = tokio::process::Command::new("buildctl");
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWERS, command.output()).await.ok()?.ok()?;
    // `buildctl github.com/moby/buildkit v0.13.2 <commit>`
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find(|word| word.starts_with('v') && word.contains('.')).map(str::to_owned)
}

/// Free and all bytes of the file system that `folder` is on.
fn free(folder: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}
