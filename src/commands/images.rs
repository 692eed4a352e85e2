//! `amibake images`: what exists, and what `prune` and others ask of the same catalog.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::prepare::{given, until_cancelled};
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::catalog::{self, Entry, Filter, SNAPSHOT_PRICE, State};
use crate::cli::Settings;
use crate::error::{Error, Exit, Result};
use crate::provider::Catalog;
use crate::provider::aws::Aws;
use crate::provider::local::Dist;
use crate::recipe::{self, ProviderKind};
use crate::release::Arch;
use crate::release::evidence::Level;
use crate::report;

/// Which catalog, and which of its images.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Who keeps them: EC2, or the folder of finished images
    #[arg(long, value_name = "PROVIDER", default_value = "aws", env = "AMIBAKE_PROVIDER", global = true)]
    pub(super) provider: ProviderKind,
    /// AWS regions, side by side [default: as the AWS CLI finds it, and those that the recipes are distributed to]
    #[arg(long, value_name = "REGION", value_delimiter = ',', help_heading = "AWS", global = true)]
    pub(super) region: Vec<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME", help_heading = "AWS", global = true)]
    pub(super) profile: Option<String>,
    /// Folder of finished images [default: dist in the project folder]
    #[arg(long, value_name = "DIR", help_heading = "Local", global = true)]
    pub(super) dist: Option<PathBuf>,
    /// Only of this recipe
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// Only of these architectures
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// Only older than this: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<u64>,
    /// What a GiB of snapshots costs a month, in US dollars
    #[arg(long, value_name = "USD", default_value_t = SNAPSHOT_PRICE)]
    pub(super) snapshot_price: f64,
    /// As one JSON object on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// `amibake images`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct ImagesArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Only what nobody uses and no channel names
    #[arg(long)]
    unused: bool,
    #[command(subcommand)]
    command: Option<ImagesCommand>,
}

#[derive(Debug, Subcommand)]
enum ImagesCommand {
    /// Everything that is known of one image, with its manifest if that is here
    Show {
        /// `ami-…`, or the name of an image
        image: String,
    },
}

/// Seconds of an age: a whole number with `m`, `h`, `d` or `w`.
pub(crate) fn age(text: &str) -> std::result::Result<u64, String> {
    let units = [('m', 60), ('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(*unit)?.parse::<u64>().ok()?;
        number.checked_mul(*seconds)
    });
    parsed.ok_or_else(|| "an age is a whole number with m, h, d or w: 30d".to_owned())
}

impl Which {
    pub(super) fn filter(&self, unused: bool) -> Filter {
        Filter { recipe: self.recipe.clone(), archs: self.arch.clone(), older_than: self.older_than, unused }
    }

    /// The catalogs that are asked for: one for each region.
    pub(super) async fn catalogs(&self, settings: &Settings, reporter: &Reporter) -> Result<Vec<Box<dyn Catalog>>> {
        if self.provider == ProviderKind::Local {
            let dist = self.dist.as_deref().map_or_else(|| Ok(settings.project.join("dist")), crate::cli::absolute)?;
            return Ok(vec![Box::new(Dist::new(dist))]);
        }
        let mut regions: Vec<Option<String>> = self.region.iter().cloned().map(Some).collect();
        if regions.is_empty() {
            regions.push(None);
            regions.extend(distributed(settings).into_iter().map(Some));
        }
        let connect = regions.into_iter().map(|region| {
            let account = settings.account(region, self.profile.clone());
            async move { Aws::connect(&account, None, reporter.clone()).await }
        });
        let mut connected: Vec<Aws> = try_join_all(connect).await?;
        // Which one the configuration names is known only now.
        connected.sort_by(|one, other| one.region().cmp(&other.region()));
        connected.dedup_by(|one, other| one.region() == other.region());
        Ok(connected.into_iter().map(|aws| Box::new(aws) as Box<dyn Catalog>).collect())
    }
}

/// Regions that the project's recipes are distributed to. A recipe with a fault names none: that is for `validate` to say.
fn distributed(settings: &Settings) -> BTreeSet<String> {
    let names = recipe::all(&settings.project).unwrap_or_default();
    let loaded = names.iter().filter_map(|name| given(settings, name).ok());
    loaded.flat_map(|loaded| loaded.recipe.distribute.regions).collect()
}

/// Every image of every catalog, newest first.
pub(super) async fn all(catalogs: &[Box<dyn Catalog>]) -> Result<Vec<Entry>> {
    let listed = try_join_all(catalogs.iter().map(|catalog| catalog.images())).await?;
    let mut entries = listed.concat();
    entries.sort_by(|one, other| (other.created, &one.id).cmp(&(one.created, &other.id)));
    Ok(entries)
}

pub(crate) fn run(settings: &Settings, args: &ImagesArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let look = async {
            let catalogs = args.which.catalogs(settings, &reporter).await?;
            all(&catalogs).await
        };
        let entries = until_cancelled(&cancel, look).await?;
        let now = Timestamp::now();
        if let Some(ImagesCommand::Show { image }) = &args.command {
            return show(settings, args, &entries, image, now);
        }
        let filter = args.which.filter(args.unused);
        let shown: Vec<&Entry> = entries.iter().filter(|entry| filter.admits(entry, now)).collect();
        let price = args.which.snapshot_price;
        if args.which.json {
            let images: Vec<Value> = shown.iter().map(|entry| as_json(entry, &entries, price)).collect();
            report::print_json(&json!({ "images": images, "snapshot_price_usd": price }));
        } else if shown.is_empty() {
            reporter.note(if entries.is_empty() { "there is no image of ours here" } else { "no image is like that" });
        } else {
            report::print(&table(&shown, &entries, price, now));
        }
        Ok(Exit::Done)
    })
}

/// An entry, and what follows from it and the others.
pub(super) fn as_json(entry: &Entry, all: &[Entry], price: f64) -> Value {
    let mut json = json!(entry);
    json["bytes"] = entry.bytes().into();
    json["usd_per_month"] = ((entry.cost(price) * 100.0).round() / 100.0).into();
    json["in_use"] = entry.in_use().into();
    json["matched"] = catalog::matched(entry, all).into();
    json
}

pub(super) fn table(shown: &[&Entry], all: &[Entry], price: f64, now: Timestamp) -> String {
    let heading = [
        "IMAGE", "RECIPE", "BUILDKIT", "ARCH", "AGE", "BASE AGE", "SIZE", "$/MONTH", "PAIR", "CHANNEL", "USED BY",
        "REGION",
    ];
    let dash = || "-".to_owned();
    let row = |entry: &&Entry| {
        let channels: Vec<String> = entry.promoted.iter().cloned().collect();
        let note = match entry.state {
            // Only an AMI is promoted, for which it matters.
            State::Finished if entry.verified.is_some() || entry.region.is_none() => String::new(),
            State::Finished => " (not verified)".to_owned(),
            State::Unfinished => " (not finished)".to_owned(),
            State::Unusable => " (unusable)".to_owned(),
        };
        let users = match entry.uses.iter().collect::<Vec<_>>().as_slice() {
            [] => dash(),
            [one] => one.to_string(),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        };
        [
            format!("{}{note}", entry.id),
            entry.recipe.clone(),
            match entry.evidence {
                Some(Level::FirstUse) => format!("{} (UNAUTHENTICATED)", entry.buildkit),
                _ => entry.buildkit.to_string(),
            },
            entry.arch.to_string(),
            for_a_person(entry.age(now)),
            entry.base.created.map_or_else(dash, |at| for_a_person(seconds_since(at, now))),
            report::human_bytes(entry.bytes()),
            // What lies on this machine costs nothing by the month.
            if entry.region.is_some() { format!("{:.2}", entry.cost(price)) } else { dash() },
            if catalog::matched(entry, all) { "yes".to_owned() } else { "no".to_owned() },
            if channels.is_empty() { dash() } else { channels.join(", ") },
            users,
            entry.region.clone().unwrap_or_else(dash),
        ]
    };
    let rows: Vec<[String; 12]> = std::iter::once(heading.map(str::to_owned)).chain(shown.iter().map(row)).collect();
    report::table(&rows)
}

fn seconds_since(at: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second() - at.as_second()).unwrap_or(0)
}

/// An age in its largest unit.
pub(super) fn for_a_person(seconds: u64) -> String {
    match seconds {
        0..=3599 => format!("{} min", seconds / 60),
        3600..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn show(settings: &Settings, args: &ImagesArgs, entries: &[Entry], image: &str, now: Timestamp) -> Result<Exit> {
    let found: Vec<&Entry> = entries.iter().filter(|entry| entry.id == image || entry.name == image).collect();
    if found.is_empty() {
        return Err(Error::usage(format!("there is no image of ours called {image}"))
            .with_hint("`amibake images` lists them; --region names other regions"));
    }
    let price = args.which.snapshot_price;
    let dist = args.which.dist.as_deref().map_or_else(|| Ok(settings.project.join("dist")), crate::cli::absolute)?;
    let shown: Vec<Value> = found
        .iter()
        .map(|entry| {
            let mut json = as_json(entry, entries, price);
            json["age_seconds"] = entry.age(now).into();
            let manifest = std::fs::read(dist.join(&entry.name).join(report::MANIFEST)).ok();
            if let Some(manifest) = manifest.and_then(|text| serde_json::from_slice::<Value>(&text).ok()) {
                json["manifest"] = manifest;
            }
            json
        })
        .collect();
    // Everything there is to say has the form of an object: a person reads it as well.
    match (args.which.json, shown.as_slice()) {
        (false, [one]) => report::print_json(one),
        _ => report::print_json(&json!({ "images": shown })),
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!([age("30d"), age("12h"), age("2w"), age("5m")], [Ok(2_592_000), Ok(43_200), Ok(1_209_600), Ok(300)]);
        for text in ["", "30", "d", "1.5d", "30 d", "-1d", "99999999999999999999d", "1y"] {
            assert!(age(text).is_err(), "{text}");
        }
        assert_eq!([59, 7200, 172_800].map(for_a_person), ["0 min", "2 h", "2 d"]);
    }
}
