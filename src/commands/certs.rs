//! `amibake certs`.

mod place;

use std::fs;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::place::{At, Kept, Place, kept};
use super::releases::reporter;
use crate::catalog::{Finding, Standing};
use crate::certs::{self, Described, Fault, Pair, Purpose, Trusted};
use crate::cli::Settings;
use crate::error::{Context as _, Error, Exit, Result, in_a_line};
use crate::provider::aws::{Account, Aws};
use crate::report;

/// What is kept for whom, below the place: `<whose>/<what>`.
const CA: &str = "ca";
const SERVER: &str = "server";
const CLIENT: &str = "client";

/// `amibake certs`.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make an authority of your own, once; or, with --rotate, the one that follows it
    #[command(after_help = "Examples:\n  amibake certs init --ssm /builder/tls --region eu-central-1\n  \
        amibake certs init --s3 s3://ci-authority/builder\n  amibake certs init --dir tls\n  \
        amibake certs init --ssm /builder/tls --rotate\n\n\
        An authority ends, and nothing that it signed holds longer. --rotate makes the next one while there is time: both\n\
        are trusted until the old one ends. The builder takes that up within a day, and `certs renew` then replaces what\n\
        the old one signed.\n\n\
        To trust the old one no longer, because its key was stolen: remove all that is kept there, then `certs init` and\n\
        `certs issue`, and replace the builder.")]
    Init(InitArgs),
    /// Make the builder's certificate for its names, and the agents'
    #[command(after_help = "Example:\n  \
        amibake certs issue --ssm /builder/tls --name builder.ci.internal --name 10.0.1.7\n  \
        amibake certs issue --ssm /builder/tls --name builder.ci.internal --agents-to s3://buildkite-secrets/builder\n  \
        amibake certs issue --dir tls --name localhost\n\n\
        None holds longer than the authority.\n\
        One that is there is replaced only with --force: whoever holds it would be locked out.")]
    Issue(IssueArgs),
    /// Make anew what ends soon, with the names that it has
    #[command(after_help = "Examples:\n  amibake certs renew --ssm /builder/tls --within 30\n  \
        amibake certs renew --dir tls\n\n\
        Also what has no key of its own beside it, or is of no authority that is here. Says when the authority itself\n\
        ends soon: `certs init --rotate` makes the one that follows it.")]
    Renew(RenewArgs),
    /// Say what is there and when it ends
    #[command(
        after_help = "Examples:\n  amibake certs show --ssm /builder/tls --json\n  amibake certs show --dir tls\n\n\
        In a folder the keys are looked at, too. Exit status 1 if one of them is of no use, and why."
    )]
    Show(ShowArgs),
}

/// Where certificates and keys are kept: never in an image, a log or a plan.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("place").args(["ssm", "s3", "dir"]).required(true))]
pub struct PlaceArgs {
    /// SSM parameters below this prefix; keys as SecureStrings
    #[arg(long, value_name = "PREFIX")]
    ssm: Option<String>,
    /// Objects below s3://BUCKET/PREFIX, encrypted by KMS; not the agents' secrets bucket, which every job may read
    #[arg(long, value_name = "PLACE")]
    s3: Option<String>,
    /// A folder on this machine
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION", help_heading = "AWS")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME", help_heading = "AWS")]
    profile: Option<String>,
    /// Key of KMS that encrypts SecureStrings or objects [default: that of what is there, else the account's own for SSM or S3]
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
    /// Make the one that follows the one that is there
    #[arg(long)]
    rotate: bool,
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
    #[command(flatten)]
    copy: CopyArgs,
}

/// Where else the agents' part goes.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Also put the agents' certificate and key here, and nothing else: /PREFIX of SSM parameters or s3://BUCKET/PREFIX, such
    /// as the Elastic CI Stack's secrets bucket, which all its agents may read
    #[arg(long, value_name = "PLACE", help_heading = "AWS")]
    agents_to: Option<String>,
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
    #[command(flatten)]
    copy: CopyArgs,
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

/// A certificate that has no more days left than this is to be renewed.
const SOON: u32 = 30;

/// How long the certificates hold that are kept at `prefix`, of SSM parameters or in a bucket: for `check`.
pub(super) async fn standing(settings: &Settings, prefix: &str, account: &Account) -> Result<Vec<Finding>> {
    let (region, profile) = (account.region.clone(), account.profile.clone());
    let args = PlaceArgs::named(prefix, region, profile, None);
    let (place, now) = (args.open(settings).await?, Timestamp::now());
    let mut findings = Vec::new();
    for whose in [CA, SERVER, CLIENT] {
        let about = place.shown(whose, "cert");
        findings.push(match place.described(whose).await {
            // Damaged: a new one is needed.
            Err(error) if error.exit() == Exit::Usage => {
                Finding::new(&about, "certificate", Standing::OutOfDate, in_a_line(&error))
            }
            Err(error) => return Err(error),
            Ok(None) => Finding::new(&about, "certificate", Standing::OutOfDate, "there is none"),
            Ok(Some(described)) => {
                let standing =
                    if described.days_left(now) > i64::from(SOON) { Standing::Current } else { Standing::OutOfDate };
                Finding::new(&about, "certificate", standing, format!("holds until {}", date(described.not_after)))
            }
        });
    }
    Ok(findings)
}

impl PlaceArgs {
    /// One in AWS, by what it looks like.
    fn named(place: &str, region: Option<String>, profile: Option<String>, kms_key: Option<String>) -> Self {
        let (ssm, s3) = match place.starts_with("s3://") {
            true => (None, Some(place.to_owned())),
            false => (Some(place.to_owned()), None),
        };
        Self { ssm, s3, dir: None, region, profile, kms_key }
    }

    /// Opens a place that keys of the authority and of the builder are kept at: not the one that every job may read.
    async fn open_for_keys(&self, settings: &Settings) -> Result<Place> {
        let place = self.open(settings).await?;
        let secrets = settings.config.agents.secrets_bucket.as_ref();
        if let Place::Aws { at: At::Bucket(bucket, _), .. } = &place
            && Some(bucket) == secrets
        {
            let message =
                format!("s3://{bucket} is the agents' secrets bucket: every job could read the authority's key");
            return Err(Error::usage(message).with_hint(
                "keep them as SSM parameters or in a bucket of their own; --agents-to puts the agents' part there",
            ));
        }
        Ok(place)
    }

    async fn open(&self, settings: &Settings) -> Result<Place> {
        if let Some(dir) = &self.dir {
            return Ok(Place::Dir(crate::cli::absolute(dir)?));
        }
        let at = match (&self.ssm, &self.s3) {
            (Some(prefix), _) => {
                crate::render::check_parameter("--ssm", prefix)?;
                At::Parameters(prefix.clone())
            }
            (None, Some(place)) => {
                crate::render::check_place("--s3", place)?;
                let path = place.strip_prefix("s3://").and_then(|path| path.split_once('/'));
                let (bucket, prefix) = path.ok_or_else(|| Error::usage(format!("--s3 `{place}` names no bucket")))?;
                At::Bucket(bucket.to_owned(), prefix.to_owned())
            }
            (None, None) => return Err(Error::usage("none of --ssm, --s3 and --dir is given")),
        };
        let account = settings.account(self.region.clone(), self.profile.clone());
        let aws = Aws::connect(&account, None, reporter(settings)).await?;
        Ok(Place::Aws { aws: Box::new(aws), at, key: self.kms_key.clone() })
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
    let (place, now) = (args.place.open_for_keys(settings).await?, Timestamp::now());
    let authority = certs::authority(&args.name, args.days, now)?;
    if let Place::Dir(dir) = &place {
        fs::create_dir_all(dir).or_host(|| format!("cannot make {}", dir.display()))?;
    }
    let _alone = place.alone().await?;
    for what in ["cert", "key"] {
        if !args.rotate && place.get(CA, what).await?.is_some() {
            return Err(Error::usage(format!("there is an authority already at {}", place.shown(CA, what))).with_hint(
                "--rotate makes the one that follows it: what this one signed stays good until it is replaced or ends",
            ));
        }
    }
    let former = place.trusted(now).await?.map(|trusted| trusted.bundle()).unwrap_or_default();
    if args.rotate && former.is_empty() {
        return Err(Error::usage(format!("there is no authority at {} to follow", place.shown(CA, "cert")))
            .with_hint("without --rotate, `amibake certs init` makes the first one"));
    }
    let trusted = Trusted::new(&authority.certificate, &former, now)?;
    // Who is to trust the new one comes first, and its key last but for what it belongs to.
    let mut files = Vec::new();
    for whose in [SERVER, CLIENT] {
        if place.get(whose, "cert").await?.is_some() {
            files.push((whose, "ca", trusted.bundle()));
        }
    }
    if !former.is_empty() {
        files.push((CA, "old", former));
    }
    files.push((CA, "key", authority.key().to_owned()));
    files.push((CA, "cert", authority.certificate.clone()));
    place.keep(&files).await?;
    tell(settings, &place, CA, &authority)?;
    for former in trusted.former() {
        let until = date(former.not_after);
        reporter(settings).note(format!("`{}` before it is trusted until {until}", report::clean(&former.subject)));
    }
    if trusted.former().next().is_some() {
        reporter(settings).note(
            "in a day, when the builder has taken this up, `amibake certs renew --within 3650` has the new one sign all",
        );
    }
    Ok(Exit::Done)
}

async fn issue(settings: &Settings, args: &IssueArgs) -> Result<Exit> {
    let (place, now) = (args.place.open_for_keys(settings).await?, Timestamp::now());
    let _alone = place.alone().await?;
    let (authority, trusted) = place.authority(now).await?;
    for whose in [SERVER, CLIENT] {
        if !args.force && place.get(whose, "cert").await?.is_some() {
            return Err(Error::usage(format!("there is one already at {}", place.shown(whose, "cert")))
                .with_hint("`amibake certs renew` makes what ends soon anew; --force replaces it now"));
        }
    }
    if let Ok(Some(there)) = place.described(SERVER).await
        && trusted.waits(&there, now)
    {
        reporter(settings).warn(
            "the new authority signs these, and a builder that runs may not know it for a day: it refuses the agents until then",
        );
    }
    let server = certs::server(&authority, &args.name, args.days, now)?;
    let client = certs::client(&authority, "agents", args.days, now)?;
    let pairs = [(SERVER, &server), (CLIENT, &client)];
    let files: Vec<Kept> = pairs.iter().flat_map(|(whose, pair)| kept(whose, pair, &trusted)).collect();
    place.keep(&files).await?;
    for (whose, pair) in pairs {
        tell(settings, &place, whose, pair)?;
    }
    warn_of_its_end(settings, &trusted, args.days, now);
    hand_on(settings, &args.place, &args.copy, &place).await?;
    Ok(Exit::Done)
}

/// Copies the agents' part, and nothing else, to where they read it.
async fn hand_on(settings: &Settings, from: &PlaceArgs, copy: &CopyArgs, place: &Place) -> Result<()> {
    let Some(to) = &copy.agents_to else { return Ok(()) };
    let to =
        PlaceArgs::named(to, from.region.clone(), from.profile.clone(), from.kms_key.clone()).open(settings).await?;
    let mut files: Vec<Kept> = Vec::new();
    let mut same = true;
    for what in ["ca", "key", "cert"] {
        let Some(text) = place.get(CLIENT, what).await? else { return Ok(()) };
        same &= to.get(CLIENT, what).await?.as_ref() == Some(&text);
        files.push((CLIENT, what, text));
    }
    if !same {
        to.keep(&files).await?;
        reporter(settings).note(format!("{} is what agents read", to.shown(CLIENT, "cert")));
    }
    Ok(())
}

async fn renew(settings: &Settings, args: &RenewArgs) -> Result<Exit> {
    let (place, now, talk) = (args.place.open_for_keys(settings).await?, Timestamp::now(), reporter(settings));
    let _alone = place.alone().await?;
    let (authority, trusted) = place.authority(now).await?;
    let (mut files, mut made): (Vec<Kept>, Vec<(&'static str, Pair)>) = (Vec::new(), Vec::new());
    for whose in [SERVER, CLIENT] {
        let about = place.shown(whose, "cert");
        let (Some(described), Some(pem)) = (place.described(whose).await?, place.get(whose, "cert").await?) else {
            talk.warn(format!("{about} is not there: `amibake certs issue --force` makes all of them"));
            continue;
        };
        let fault = trusted.fault(&pem, place.get(whose, "key").await?.as_deref(), now);
        let ends = trusted.ends(&described);
        let left = certs::days_until(ends, now);
        // What ends with the authority that would sign it again cannot be made to hold longer.
        let longest = trusted.signing().is_some_and(|signing| signing.not_after <= ends);
        let waits = left <= i64::from(args.within) && trusted.waits(&described, now);
        if fault.is_none() && (left > i64::from(args.within) || longest || waits) {
            talk.note(format!("{about} holds for {}", days(left)));
            if waits {
                talk.warn(
                    "the new authority signs when the builder knows it, a day after it was made: run this again then",
                );
            }
            // Who is trusted may have changed: an authority ended, or an `init --rotate` was cut short.
            if place.get(whose, "ca").await?.is_none_or(|there| there != trusted.bundle()) {
                files.push((whose, "ca", trusted.bundle()));
            }
            continue;
        }
        if let Some(fault) = fault.filter(|fault| *fault != Fault::Ended) {
            talk.warn(format!("{about}: {fault}: making it anew"));
        }
        let pair = match described.purpose {
            Purpose::Server => certs::server(&authority, &described.names, args.days, now)?,
            _ => certs::client(&authority, &described.subject, args.days, now)?,
        };
        files.extend(kept(whose, &pair, &trusted));
        made.push((whose, pair));
    }
    place.keep(&files).await?;
    for (whose, pair) in &made {
        tell(settings, &place, whose, pair)?;
    }
    if made.is_empty() {
        talk.note("nothing was made anew");
    }
    warn_of_its_end(settings, &trusted, args.days.max(SOON), now);
    hand_on(settings, &args.place, &args.copy, &place).await?;
    Ok(Exit::Done)
}

fn tell(settings: &Settings, place: &Place, whose: &str, pair: &Pair) -> Result<Exit> {
    let described = certs::describe(&pair.certificate)?;
    reporter(settings).note(format!("{} holds until {}", place.shown(whose, "cert"), date(described.not_after)));
    Ok(Exit::Done)
}

/// When what is asked to hold for `asked` days cannot, because the authority ends before.
fn warn_of_its_end(settings: &Settings, trusted: &Trusted, asked: u32, now: Timestamp) {
    let Some(signing) = trusted.signing() else { return };
    let left = signing.days_left(now);
    // Made on one day for the same time, an authority ends before what it signs by the moments in between.
    if left + 1 < i64::from(asked) {
        let until = date(signing.not_after);
        reporter(settings).warn(format!(
            "the authority itself ends on {until}, in {}, and with it all that it signs: `amibake certs init --rotate` makes \
             the one that follows it",
            days(left)
        ));
    }
}

fn days(count: i64) -> String {
    if count == 1 { "1 day".to_owned() } else { format!("{count} days") }
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// A certificate that is there, and what is wrong with it.
struct Held {
    place: String,
    /// None of one that cannot be read.
    described: Option<Described>,
    /// When nobody accepts it any more.
    ends: Option<Timestamp>,
    fault: Option<Fault>,
}

impl Held {
    fn json(&self, now: Timestamp) -> Value {
        let mut json = self.described.as_ref().map_or_else(|| json!({}), |described| json!(described));
        json["place"] = self.place.clone().into();
        json["ends"] = json!(self.ends);
        json["days_left"] = json!(self.ends.map(|ends| certs::days_until(ends, now)));
        json["fault"] = json!(self.fault);
        json
    }

    fn row(&self, now: Timestamp) -> [String; 5] {
        let (Some(described), Some(ends)) = (&self.described, self.ends) else {
            return [self.place.clone(), "?".to_owned(), String::new(), String::new(), "DAMAGED".to_owned()];
        };
        let purpose = match described.purpose {
            Purpose::Authority => "authority",
            Purpose::Server => "builder",
            Purpose::Client => "agents",
        };
        let names = if described.names.is_empty() { described.subject.clone() } else { described.names.join(" ") };
        let left = match certs::days_until(ends, now) {
            _ if ends <= now => "ENDED".to_owned(),
            0 => "< 1".to_owned(),
            days => days.to_string(),
        };
        [self.place.clone(), purpose.to_owned(), report::clean(&names), date(ends), left]
    }
}

impl Place {
    async fn held(&self, trusted: &Trusted, now: Timestamp) -> Result<Vec<Held>> {
        let mut all = Vec::new();
        for whose in [CA, SERVER, CLIENT] {
            let place = self.shown(whose, "cert");
            if let Some(pem) = self.get(whose, "cert").await? {
                let described = certs::describe(&pem).ok();
                let ends = described.as_ref().map(|described| trusted.ends(described));
                let fault = self.fault(whose, &pem, described.as_ref(), trusted, now).await;
                all.push(Held { place, described, ends, fault });
            }
            if whose == CA {
                all.extend(trusted.former().map(|former| Held {
                    place: self.shown(CA, "old"),
                    described: Some(former.clone()),
                    ends: Some(former.not_after),
                    fault: None,
                }));
            }
        }
        Ok(all)
    }

    /// Keys are looked at in a folder only, and where this user may: who looks at parameters needs no right to read keys.
    async fn fault(
        &self,
        whose: &str,
        pem: &str,
        described: Option<&Described>,
        trusted: &Trusted,
        now: Timestamp,
    ) -> Option<Fault> {
        let Some(described) = described else { return Some(Fault::Unreadable) };
        let key = match self {
            Place::Dir(_) => self.get(whose, "key").await.ok(),
            Place::Aws { .. } => None,
        };
        let trusted = if whose == CA { &Trusted::default() } else { trusted };
        match key {
            Some(key) => trusted.fault(pem, key.as_deref(), now),
            None => trusted.fault_of(described, now),
        }
    }
}

async fn show(settings: &Settings, args: &ShowArgs) -> Result<Exit> {
    let (place, now, talk) = (args.place.open(settings).await?, Timestamp::now(), reporter(settings));
    // Of a damaged authority nothing can be said but that: the others are looked at all the same.
    let trusted = place.trusted(now).await.ok().flatten().unwrap_or_default();
    let held = place.held(&trusted, now).await?;
    if args.json {
        let all: Vec<Value> = held.iter().map(|held| held.json(now)).collect();
        report::print_json(&json!({ "certificates": all }));
    } else if held.is_empty() {
        talk.note("there is none: `amibake certs init` makes an authority");
    } else {
        let heading = ["CERTIFICATE", "FOR", "NAMES", "UNTIL", "DAYS LEFT"].map(str::to_owned);
        let rows = held.iter().map(|held| held.row(now));
        report::print(&report::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
    }
    for Held { place, described, ends, fault } in &held {
        if let Some(fault) = fault {
            talk.warn(format!("{place}: {fault}"));
        }
        match (described, ends) {
            (Some(described), Some(ends)) if *ends < described.not_after => {
                let own = date(described.not_after);
                talk.warn(format!("{place} says {own}, and ends with its authority on {}", date(*ends)));
            }
            _ => {}
        }
    }
    if let Some(signing) = trusted.signing()
        && signing.days_left(now) <= i64::from(SOON)
    {
        let left = days(signing.days_left(now));
        talk.warn(format!("the authority ends in {left}: `amibake certs init --rotate` makes the one that follows it"));
    }
    Ok(if held.iter().any(|held| held.fault.is_some()) { Exit::Failed } else { Exit::Done })
}
