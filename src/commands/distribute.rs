//! `amibake distribute`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::prepare::{given, until_cancelled};
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::catalog::{Entry, State, Users, Wish};
use crate::cli::Settings;
use crate::error::{Error, Exit, Result, in_a_line, render};
use crate::provider::Catalog as _;
use crate::provider::aws::{Aws, Placed};
use crate::recipe::Distribute;
use crate::release::Arch;
use crate::report;

/// `amibake distribute`.
#[derive(Debug, Args)]
pub struct DistributeArgs {
    /// Recipes, for their newest images, or ids of images
    #[arg(value_name = "RECIPE|IMAGE", required = true)]
    images: Vec<String>,
    /// Regions to copy to, instead of the recipe's
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    to: Vec<String>,
    /// Key that encrypts the copy in a region; may be repeated
    #[arg(long, value_name = "REGION=KEY", value_parser = key)]
    kms_key: Vec<(String, String)>,
    /// Accounts that may use it, instead of the recipe's
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = crate::cli::account)]
    account: Vec<String>,
    /// Organizations that may, by ARN
    #[arg(long, value_name = "ARN", value_delimiter = ',')]
    organization: Vec<String>,
    /// Organizational units that may, by ARN
    #[arg(long, value_name = "ARN", value_delimiter = ',')]
    organizational_unit: Vec<String>,
    /// Days from its making until it is deprecated, in every region
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    deprecate_after_days: Option<u32>,
    /// Keep it from being deregistered
    #[arg(long)]
    protect: bool,
    /// Let everybody use it: only if the account lets images be public
    #[arg(long)]
    public: bool,
    /// Architectures, for recipes [default: those that there are images of]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Region that it is in [default: as the AWS CLI finds it]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn key(text: &str) -> std::result::Result<(String, String), String> {
    let split = text.split_once('=').filter(|(region, key)| !region.is_empty() && !key.is_empty());
    split.map(|(region, key)| (region.to_owned(), key.to_owned())).ok_or_else(|| "write REGION=KEY".to_owned())
}

/// What came of an image in a region.
struct Done<'e> {
    entry: &'e Entry,
    region: String,
    result: Result<Placed>,
}

pub(crate) fn run(settings: &Settings, args: &DistributeArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let account = settings.account(args.region.clone(), args.profile.clone());
        let look = async {
            let aws = Aws::connect(&account, None, reporter.clone()).await?;
            let aws = aws.remembering(settings.cache.join("aws-waits.json"));
            let entries = aws.images().await?;
            Ok((aws, entries))
        };
        let (aws, entries) = until_cancelled(&cancel, look).await?;
        let mut work = Vec::new();
        for entry in chosen(args, &entries)? {
            let wish = wish(settings, args, &entry.recipe)?;
            if wish == Wish::default() {
                return Err(Error::usage(format!("nothing is said of where {} goes, or who may use it", entry.recipe))
                    .with_hint("say it in `[distribute]` of the recipe, or by --to, --account and the like"));
            }
            work.push((entry, wish));
        }
        // Whatever fails, the rest goes on; an interruption is heard by every wait.
        let done = join_all(work.iter().map(|(entry, wish)| async {
            let placed = aws.distribute(entry, wish, &cancel).await;
            placed.into_iter().map(|(region, result)| Done { entry, region, result }).collect::<Vec<_>>()
        }));
        let done: Vec<Done<'_>> = done.await.into_iter().flatten().collect();
        tell(args, &done, &reporter);
        let worst = done.iter().filter_map(|one| one.result.as_ref().err()).map(Error::exit);
        Ok(match (cancel.is_cancelled(), worst.max_by_key(|exit| exit.code())) {
            (true, _) => Exit::Interrupted,
            (false, Some(exit)) => exit,
            (false, None) => Exit::Done,
        })
    })
}

fn chosen<'e>(args: &DistributeArgs, entries: &'e [Entry]) -> Result<Vec<&'e Entry>> {
    let mut chosen = Vec::new();
    for name in &args.images {
        let finished = entries.iter().filter(|entry| entry.state == State::Finished && entry.source.is_none());
        let found: Vec<&Entry> = if name.starts_with("ami-") {
            finished.filter(|entry| entry.id == *name).collect()
        } else {
            let archs = if args.arch.is_empty() { Arch::ALL.to_vec() } else { args.arch.clone() };
            let of = |arch: Arch| {
                let ours = finished.clone().filter(|entry| entry.recipe == *name && entry.arch == arch);
                ours.max_by_key(|entry| (entry.created, &entry.id))
            };
            archs.into_iter().filter_map(of).collect()
        };
        if found.is_empty() {
            return Err(Error::usage(format!("there is no finished image called {name} that was baked here"))
                .with_hint("`amibake images` lists what there is; --region names another region"));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// What the recipe says, as far as flags say nothing else.
fn wish(settings: &Settings, args: &DistributeArgs, recipe: &str) -> Result<Wish> {
    let exists = settings.project.join("recipes").join(format!("{recipe}.toml")).exists();
    let said = if exists { given(settings, recipe)?.recipe.distribute } else { Distribute::default() };
    let either = |flag: &[String], said: &[String]| -> BTreeSet<String> {
        if flag.is_empty() { said.iter().cloned().collect() } else { flag.iter().cloned().collect() }
    };
    let mut keys: BTreeMap<String, String> = said.kms_keys.clone();
    keys.extend(args.kms_key.iter().cloned());
    let regions = either(&args.to, &said.regions);
    if let Some(region) = args.kms_key.iter().map(|(region, _)| region).find(|region| !regions.contains(*region)) {
        return Err(Error::usage(format!("--kms-key names {region}, where nothing is copied to"))
            .with_hint(format!("add it: --to {region}")));
    }
    Ok(Wish {
        regions,
        keys,
        users: Users {
            accounts: either(&args.account, &said.accounts),
            organizations: either(&args.organization, &said.organizations),
            units: either(&args.organizational_unit, &said.organizational_units),
            public: args.public,
        },
        deprecate_after_days: args.deprecate_after_days.or(said.deprecate_after_days),
        protect: args.protect || said.protect,
    })
}

fn tell(args: &DistributeArgs, done: &[Done<'_>], reporter: &Reporter) {
    if args.json {
        let places: Vec<Value> = done
            .iter()
            .map(|one| {
                let mut json = json!({ "source": one.entry.id, "recipe": one.entry.recipe, "arch": one.entry.arch, "region": one.region });
                match &one.result {
                    Ok(placed) => {
                        json["image"] = placed.id.clone().into();
                        json["copied"] = placed.copied.into();
                        json["done"] = placed.done.iter().map(ToString::to_string).collect::<Vec<_>>().into();
                    }
                    Err(error) => json["error"] = in_a_line(error).into(),
                }
                json
            })
            .collect();
        report::print_json(&json!({ "places": places }));
    }
    for one in done {
        match &one.result {
            Ok(placed) if !args.json => {
                let copied = placed.copied.then(|| "copied".to_owned());
                let done: Vec<String> = copied.into_iter().chain(placed.done.iter().map(ToString::to_string)).collect();
                let done = if done.is_empty() { "nothing to do".to_owned() } else { done.join("; ") };
                report::print(&format!("{}  {}  {done}", one.region, placed.id));
            }
            Ok(_) => {}
            Err(error) => {
                reporter.warn(format!("{} is not whole in {}", one.entry.id, one.region));
                report::say(render(error).trim_end());
            }
        }
    }
    if done.iter().any(|one| one.result.is_err()) {
        reporter.note("run it again: it does what is missing");
    }
}
