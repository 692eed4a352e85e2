//! `amibake prune`.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use serde_json::json;

use super::images::{Which, all, as_json, for_a_person};
use super::prepare::until_cancelled;
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::catalog::{Choice, Entry, Policy, Why, choose};
use crate::cli::Settings;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::provider::Catalog;
use crate::report;

/// Images removed at once: each is a few calls of a rate-limited service.
const AT_ONCE: usize = 4;

/// `amibake prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Of each recipe and architecture, the newest so many stay
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,
    /// Remove them, and not only say so
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(settings: &Settings, args: &PruneArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let look = async {
            let catalogs = args.which.catalogs(settings, &reporter).await?;
            let entries = all(&catalogs).await?;
            Ok((catalogs, entries))
        };
        let (catalogs, entries) = until_cancelled(&cancel, look).await?;
        let now = Timestamp::now();
        let policy = Policy { keep_last: args.keep_last, filter: args.which.filter(false) };
        let choices = choose(&entries, &policy, now);
        let going: Vec<&Entry> = of(&entries, &choices, |choice| *choice == Choice::Goes);
        tell(args, &entries, &choices, &going, now, &reporter);
        let remain = if args.yes {
            // Each removal is whole or not begun: after an interruption those that are under way end.
            let removed = going.iter().map(|entry| async {
                if cancel.is_cancelled() { None } else { remove(&catalogs, entry, &reporter).await }
            });
            let removed: Vec<_> = removed.collect();
            let removed: Vec<Option<(&Entry, Error)>> = stream::iter(removed).buffer_unordered(AT_ONCE).collect().await;
            removed.into_iter().flatten().collect()
        } else {
            Vec::new()
        };
        if args.which.json {
            let price = args.which.snapshot_price;
            let going: Vec<_> = going.iter().map(|entry| as_json(entry, &entries, price)).collect();
            let staying = entries.iter().zip(&choices).filter_map(|(entry, choice)| match choice {
                Choice::Stays(why) => Some(json!({ "id": entry.id, "region": entry.region, "why": why.to_string() })),
                Choice::Goes => None,
            });
            let remain: Vec<_> =
                remain.iter().map(|(entry, error)| json!({ "id": entry.id, "reason": in_a_line(error) })).collect();
            report::print_json(&json!({
                "removed": args.yes, "going": going, "staying": staying.collect::<Vec<_>>(), "remain": remain,
            }));
        }
        match (cancel.is_cancelled(), remain.is_empty()) {
            (true, _) => Err(Error::interrupted()),
            (false, true) => Ok(Exit::Done),
            (false, false) => Ok(Exit::Leftovers),
        }
    })
}

fn of<'e>(entries: &'e [Entry], choices: &[Choice], wanted: impl Fn(&Choice) -> bool) -> Vec<&'e Entry> {
    entries.iter().zip(choices).filter(|(_, choice)| wanted(choice)).map(|(entry, _)| entry).collect()
}

fn tell(
    args: &PruneArgs,
    entries: &[Entry],
    choices: &[Choice],
    going: &[&Entry],
    now: Timestamp,
    reporter: &Reporter,
) {
    if args.which.json {
        return;
    }
    let price = args.which.snapshot_price;
    let heading = ["IMAGE", "RECIPE", "BUILDKIT", "ARCH", "AGE", "SIZE", "$/MONTH", "REGION"].map(str::to_owned);
    let row = |entry: &&Entry| {
        [
            entry.id.clone(),
            entry.recipe.clone(),
            entry.buildkit.to_string(),
            entry.arch.to_string(),
            for_a_person(entry.age(now)),
            report::human_bytes(entry.bytes()),
            format!("{:.2}", entry.cost(price)),
            entry.region.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    if going.is_empty() {
        reporter.note("nothing is to be removed");
    } else {
        let rows: Vec<_> = std::iter::once(heading).chain(going.iter().map(row)).collect();
        report::print(&report::table(&rows));
        let (bytes, cost): (u64, f64) =
            going.iter().fold((0, 0.0), |(bytes, cost), entry| (bytes + entry.bytes(), cost + entry.cost(price)));
        let freed = format!("{}, at most {cost:.2} $ a month", report::human_bytes(bytes));
        let images = if going.len() == 1 { "1 image".to_owned() } else { format!("{} images", going.len()) };
        reporter.note(if args.yes {
            format!("removing {images}: {freed}")
        } else {
            format!("{images} would go: {freed}; nothing was removed: --yes does it")
        });
    }
    // Why the rest stays, where that is not plain: by reason.
    let mut held = BTreeSet::new();
    for (entry, choice) in entries.iter().zip(choices) {
        if let Choice::Stays(why) = choice
            && !matches!(why, Why::NotMeant | Why::Newest | Why::Young)
        {
            held.insert(format!("{} stays: {why}", entry.id));
        }
    }
    for line in held {
        reporter.note(line);
    }
}

/// Removes one; why not, if it is still there.
async fn remove<'e>(
    catalogs: &[Box<dyn Catalog>],
    entry: &'e Entry,
    reporter: &Reporter,
) -> Option<(&'e Entry, Error)> {
    let catalog = catalogs.iter().find(|catalog| catalog.region() == entry.region.as_deref());
    let deleted = match catalog {
        Some(catalog) => catalog.delete(entry).await,
        None => Err(Error::host("its region is not looked at")),
    };
    match deleted {
        Ok(()) => {
            reporter.note(format!("removed {}", entry.id));
            None
        }
        Err(error) => {
            reporter.warn(format!("still there: {} ({})", entry.id, in_a_line(&error)));
            Some((entry, error))
        }
    }
}
