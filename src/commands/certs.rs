//! `amibake certs`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::releases::reporter;
use crate::catalog::{Finding, Standing};
use crate::certs::{self, Described, Pair, Purpose};
use crate::cli::Settings;
use crate::error::{Context as _, Error, Exit, Result};
use crate::provider::aws::{Account, Aws};
use crate::report;

/// What is kept for whom, below the place: `<whose>/<what>`.
const CA: &str = "ca";
const SERVER: &str = "server";
const CLIENT: &str = "client";

/// `amibake certs`.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make an authority of your own, once
    #[command(after_help = "Example:\n  amibake certs init --ssm /builder/tls --region eu-central-1")]
    Init(InitArgs),
    /// Make the builder's certificate for its names, and the agents'
    #[command(after_help = "Example:\n  \
        amibake certs issue --ssm /builder/tls --name builder.ci.internal --name 10.0.1.7\n\n\
        One that is there is replaced only with --force: whoever holds it would be locked out.")]
    Issue(IssueArgs),
    /// Make anew what ends soon, with the names that it has
    #[command(after_help = "Example:\n  amibake certs renew --ssm /builder/tls --within 30")]
    Renew(RenewArgs),
    /// Say what is there and when it ends
    #[command(after_help = "Example:\n  amibake certs show --ssm /builder/tls --json")]
    Show(ShowArgs),
}

/// Where certificates and keys are kept: never in an image, a log or a plan.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// SSM parameters below this prefix; keys as SecureStrings
    #[arg(long, value_name = "PREFIX", required_unless_present = "dir")]
    ssm: Option<String>,
    /// A folder on this machine
    #[arg(long, value_name = "DIR", conflicts_with = "ssm")]
    dir: Option<PathBuf>,
    /// AWS region [default: as the AWS CLI finds it]
    #[arg(long, value_name = "REGION", help_heading = "AWS")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME", help_heading = "AWS")]
    profile: Option<String>,
    /// Key of KMS that encrypts SecureStrings [default: the account's own for SSM]
    #[arg(long, value_name = "KEY", help_heading = "AWS")]
    kms_key: Option<String>,
}

/// `amibake certs init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Name of the authority
    #[arg(long, value_name = "NAME", default_value = "amibake builders")]
    name: String,
    /// Days that it holds
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// `amibake certs issue`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Name or address by which agents reach the builder; may be repeated
    #[arg(long, value_name = "NAME", required = true)]
    name: Vec<String>,
    /// Days that they hold
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace those that are there
    #[arg(long)]
    force: bool,
}

/// `amibake certs renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Those that end within this many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    within: u32,
    /// Days that new ones hold
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// `amibake certs show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where they are.
enum Place {
    Dir(PathBuf),
    Ssm { aws: Box<Aws>, prefix: String, key: Option<String> },
}

/// A certificate that has no more days left than this is to be renewed.
const SOON: i64 = 30;

/// How long the certificates below an SSM prefix hold: for `check`.
pub(super) async fn standing(settings: &Settings, prefix: &str, account: &Account) -> Result<Vec<Finding>> {
    let (region, profile) = (account.region.clone(), account.profile.clone());
    let args = PlaceArgs { ssm: Some(prefix.to_owned()), dir: None, region, profile, kms_key: None };
    let (place, now) = (args.open(settings).await?, Timestamp::now());
    let mut findings = Vec::new();
    for whose in [CA, SERVER, CLIENT] {
        let about = place.shown(whose, "cert");
        findings.push(match place.get(whose, "cert").await? {
            None => Finding::new(&about, "certificate", Standing::OutOfDate, "there is none"),
            Some(pem) => {
                let described = certs::describe(&pem)?;
                let standing = if described.days_left(now) > SOON { Standing::Current } else { Standing::OutOfDate };
                let until = described.not_after.strftime("%Y-%m-%d");
                Finding::new(&about, "certificate", standing, format!("holds until {until}"))
            }
        });
    }
    Ok(findings)
}

impl PlaceArgs {
    async fn open(&self, settings: &Settings) -> Result<Place> {
        match (&self.dir, &self.ssm) {
            (Some(dir), _) => Ok(Place::Dir(crate::cli::absolute(dir)?)),
            (None, Some(prefix)) => {
                crate::render::check_parameter("--ssm", prefix)?;
                let account = settings.account(self.region.clone(), self.profile.clone());
                let aws = Aws::connect(&account, None, reporter(settings)).await?;
                Ok(Place::Ssm { aws: Box::new(aws), prefix: prefix.clone(), key: self.kms_key.clone() })
            }
            (None, None) => Err(Error::usage("neither --ssm nor --dir is given")),
        }
    }
}

impl Place {
    fn shown(&self, whose: &str, what: &str) -> String {
        match self {
            Place::Dir(dir) => dir.join(whose).join(format!("{what}.pem")).display().to_string(),
            Place::Ssm { prefix, .. } => format!("{prefix}/{whose}/{what}"),
        }
    }

    async fn get(&self, whose: &str, what: &str) -> Result<Option<String>> {
        match self {
            Place::Dir(_) => {
                let path = self.shown(whose, what);
                match fs::read_to_string(&path) {
                    Ok(text) => Ok(Some(text)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error).or_host(|| format!("cannot read {path}")),
                }
            }
            Place::Ssm { aws, .. } => aws.secret(&self.shown(whose, what)).await,
        }
    }

    /// Keeps it: a key for its owner's eyes alone.
    async fn put(&self, whose: &str, what: &str, text: &str) -> Result<()> {
        match self {
            Place::Dir(dir) => {
                let path = self.shown(whose, what);
                let put = || -> std::io::Result<()> {
                    let folder = dir.join(whose);
                    fs::create_dir_all(&folder)?;
                    // Private from its first byte on; certificates are for everybody.
                    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
                    file.write_all(text.as_bytes())?;
                    let mode = if what == "key" { 0o600 } else { 0o644 };
                    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
                    file.as_file().sync_all()?;
                    file.persist(&path)?;
                    Ok(())
                };
                put().or_host(|| format!("cannot write {path}"))
            }
            Place::Ssm { aws, key, .. } => aws.put_secret(&self.shown(whose, what), text, key.as_deref()).await,
        }
    }

    async fn pair(&self, whose: &str) -> Result<Option<Pair>> {
        Ok(match (self.get(whose, "cert").await?, self.get(whose, "key").await?) {
            (Some(certificate), Some(key)) => Some(Pair::of(certificate, key)),
            _ => None,
        })
    }

    async fn authority(&self) -> Result<Pair> {
        self.pair(CA).await?.ok_or_else(|| {
            Error::usage(format!("there is no authority at {}", self.shown(CA, "cert")))
                .with_hint("`amibake certs init` makes one")
        })
    }

    /// The key first: a certificate without its key is of no use, the other way round a new one can be made.
    async fn keep(&self, whose: &str, pair: &Pair, authority: &Pair) -> Result<()> {
        self.put(whose, "key", pair.key()).await?;
        self.put(whose, "cert", &pair.certificate).await?;
        if whose != CA {
            self.put(whose, "ca", &authority.certificate).await?;
        }
        Ok(())
    }
}

pub(crate) fn run(settings: &Settings, command: &CertsCommand) -> Result<Exit> {
    super::block_on(async {
        match command {
            CertsCommand::Init(args) => init(settings, args).await,
            CertsCommand::Issue(args) => issue(settings, args).await,
            CertsCommand::Renew(args) => renew(settings, args).await,
            CertsCommand::Show(args) => show(settings, args).await,
        }
    })
}

async fn init(settings: &Settings, args: &InitArgs) -> Result<Exit> {
    let place = args.place.open(settings).await?;
    if place.get(CA, "cert").await?.is_some() || place.get(CA, "key").await?.is_some() {
        return Err(Error::usage(format!("there is an authority already at {}", place.shown(CA, "cert")))
            .with_hint("everything that it signed would be worth nothing: remove it by hand if you mean it"));
    }
    let authority = certs::authority(&args.name, args.days, Timestamp::now())?;
    place.keep(CA, &authority, &authority).await?;
    tell(settings, &place, CA, &authority)
}

async fn issue(settings: &Settings, args: &IssueArgs) -> Result<Exit> {
    let place = args.place.open(settings).await?;
    let authority = place.authority().await?;
    for whose in [SERVER, CLIENT] {
        if !args.force && place.get(whose, "cert").await?.is_some() {
            return Err(Error::usage(format!("there is one already at {}", place.shown(whose, "cert")))
                .with_hint("`amibake certs renew` makes what ends soon anew; --force replaces it now"));
        }
    }
    let now = Timestamp::now();
    let server = certs::server(&authority, &args.name, args.days, now)?;
    let client = certs::client(&authority, "agents", args.days, now)?;
    for (whose, pair) in [(SERVER, &server), (CLIENT, &client)] {
        place.keep(whose, pair, &authority).await?;
        tell(settings, &place, whose, pair)?;
    }
    Ok(Exit::Done)
}

async fn renew(settings: &Settings, args: &RenewArgs) -> Result<Exit> {
    let place = args.place.open(settings).await?;
    let (authority, now) = (place.authority().await?, Timestamp::now());
    let ours = certs::describe(&authority.certificate)?;
    let mut any = false;
    for whose in [SERVER, CLIENT] {
        let Some(pem) = place.get(whose, "cert").await? else { continue };
        let described = certs::describe(&pem)?;
        if described.days_left(now) > i64::from(args.within) {
            reporter(settings).note(format!(
                "{} holds for {} days",
                place.shown(whose, "cert"),
                described.days_left(now)
            ));
            continue;
        }
        let pair = match described.purpose {
            Purpose::Server => certs::server(&authority, &described.names, args.days, now)?,
            _ => certs::client(&authority, &described.subject, args.days, now)?,
        };
        place.keep(whose, &pair, &authority).await?;
        tell(settings, &place, whose, &pair)?;
        any = true;
    }
    if !any {
        reporter(settings).note("nothing ends soon");
    }
    if ours.days_left(now) <= i64::from(args.days) {
        let left = ours.days_left(now);
        reporter(settings)
            .warn(format!("the authority itself holds for {left} days: what it signs does not outlive it"));
    }
    Ok(Exit::Done)
}

fn tell(settings: &Settings, place: &Place, whose: &str, pair: &Pair) -> Result<Exit> {
    let described = certs::describe(&pair.certificate)?;
    let until = described.not_after.strftime("%Y-%m-%d");
    reporter(settings).note(format!("{} holds until {until}", place.shown(whose, "cert")));
    Ok(Exit::Done)
}

async fn show(settings: &Settings, args: &ShowArgs) -> Result<Exit> {
    let place = args.place.open(settings).await?;
    let now = Timestamp::now();
    let mut found: Vec<(String, Described)> = Vec::new();
    for whose in [CA, SERVER, CLIENT] {
        if let Some(pem) = place.get(whose, "cert").await? {
            found.push((place.shown(whose, "cert"), certs::describe(&pem)?));
        }
    }
    if args.json {
        let found: Vec<Value> = found
            .iter()
            .map(|(place, described)| {
                let mut json = json!(described);
                json["place"] = place.clone().into();
                json["days_left"] = described.days_left(now).into();
                json
            })
            .collect();
        report::print_json(&json!({ "certificates": found }));
    } else if found.is_empty() {
        reporter(settings).note("there is none: `amibake certs init` makes an authority");
    } else {
        let heading = ["CERTIFICATE", "FOR", "NAMES", "UNTIL", "DAYS LEFT"].map(str::to_owned);
        let rows = found.iter().map(|(place, described)| {
            let purpose = match described.purpose {
                Purpose::Authority => "authority",
                Purpose::Server => "builder",
                Purpose::Client => "agents",
            };
            let names = if described.names.is_empty() { described.subject.clone() } else { described.names.join(" ") };
            let left = match described.days_left(now) {
                0 => "ENDED".to_owned(),
                days => days.to_string(),
            };
            let until = described.not_after.strftime("%Y-%m-%d").to_string();
            [place.clone(), purpose.to_owned(), report::clean(&names), until, left]
        });
        report::print(&report::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
    }
    Ok(Exit::Done)
}
