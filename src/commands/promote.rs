//! `amibake promote` and `amibake rollback`.

use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::prepare::until_cancelled;
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::catalog::{self, Entry};
use crate::cli::Settings;
use crate::error::{Error, Exit, Result};
use crate::provider::Catalog as _;
use crate::provider::aws::Aws;
use crate::release::Arch;
use crate::report;

/// What both commands take.
#[derive(Debug, Args)]
pub struct Channel {
    /// Name of the channel
    #[arg(long, value_name = "NAME", default_value = "stable", value_parser = channel)]
    channel: String,
    /// Architectures, for recipes [default: those that there are images of]
    #[arg(long, value_name = "ARCH", value_delimiter = ',')]
    arch: Vec<Arch>,
    /// All of them or none, and only with one BuildKit version
    #[arg(long)]
    pair: bool,
    /// Update this CloudFormation stack afterwards, with its own template and parameters, and wait
    #[arg(long, value_name = "STACK")]
    update_stack: Option<String>,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// As one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// `amibake promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Recipes, for their newest verified images, or ids of images [default with --pair: builder and agent]
    #[arg(value_name = "RECIPE|IMAGE", required_unless_present = "pair")]
    images: Vec<String>,
    #[command(flatten)]
    pub(crate) channel: Channel,
}

/// `amibake rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Recipes [default with --pair: builder and agent]
    #[arg(value_name = "RECIPE", required_unless_present = "pair")]
    recipes: Vec<String>,
    #[command(flatten)]
    pub(crate) channel: Channel,
}

fn channel(text: &str) -> std::result::Result<String, String> {
    catalog::check_channel(text).map(|()| text.to_owned())
}

/// A channel and the image that it is to hold.
struct Wanted<'e> {
    parameter: String,
    entry: &'e Entry,
    /// What it holds now.
    before: Option<String>,
}

impl Wanted<'_> {
    fn holds(&self) -> bool {
        self.before.as_deref() == Some(&self.entry.id)
    }
}

pub(crate) fn promote(settings: &Settings, args: &PromoteArgs) -> Result<Exit> {
    carry_out(settings, &args.channel, async |aws, entries, _| {
        let mut wanted = Vec::new();
        for entry in chosen(&named(&args.images, args.channel.pair), &args.channel, entries)? {
            if let Some((fault, hint)) = catalog::refusal(entry) {
                return Err(Error::failed(format!("it is not promoted: {fault}")).with_hint(hint));
            }
            let parameter = catalog::parameter(&entry.recipe, entry.arch, &args.channel.channel);
            wanted.push(Wanted { before: aws.channel(&parameter).await?, parameter, entry });
        }
        Ok(wanted)
    })
}

pub(crate) fn rollback(settings: &Settings, args: &RollbackArgs) -> Result<Exit> {
    carry_out(settings, &args.channel, async |aws, entries, reporter| {
        let mut wanted = Vec::new();
        for recipe in named(&args.recipes, args.channel.pair) {
            let mut any = false;
            for arch in
                Arch::ALL.into_iter().filter(|arch| args.channel.arch.is_empty() || args.channel.arch.contains(arch))
            {
                let parameter = catalog::parameter(&recipe, arch, &args.channel.channel);
                let Some(current) = aws.channel(&parameter).await? else { continue };
                any = true;
                let history = aws.channel_history(&parameter).await?;
                let (found, skipped) = catalog::before(&history, &current, entries);
                if skipped > 0 {
                    reporter.warn(format!("{parameter}: {skipped} images that it held before are gone"));
                }
                let entry = found.ok_or_else(|| {
                    Error::failed(format!("{parameter} held no other image that is still there"))
                        .with_hint("`amibake promote IMAGE` gives it one")
                })?;
                wanted.push(Wanted { before: Some(current), parameter, entry });
            }
            if !any {
                let channel = &args.channel.channel;
                return Err(Error::failed(format!("{recipe} has never been promoted to {channel}"))
                    .with_hint("`amibake images` lists what is promoted"));
            }
        }
        Ok(wanted)
    })
}

fn named(names: &[String], pair: bool) -> Vec<String> {
    if names.is_empty() && pair { ["builder", "agent"].map(str::to_owned).to_vec() } else { names.to_vec() }
}

/// The entries that recipes and ids mean.
fn chosen<'e>(names: &[String], channel: &Channel, entries: &'e [Entry]) -> Result<Vec<&'e Entry>> {
    let mut chosen = Vec::new();
    for name in names {
        if name.starts_with("ami-") {
            let entry = entries.iter().find(|entry| entry.id == *name).ok_or_else(|| {
                Error::usage(format!("there is no image of ours called {name}"))
                    .with_hint("`amibake images` lists them")
            })?;
            chosen.push(entry);
            continue;
        }
        let archs = if channel.arch.is_empty() { Arch::ALL.to_vec() } else { channel.arch.clone() };
        let found: Vec<(Arch, Option<&Entry>)> =
            archs.into_iter().map(|arch| (arch, catalog::newest(entries, name, arch))).collect();
        let missing = |arch: Arch| {
            // One that there is, and may not be promoted, says more than that there is none.
            let unfit = entries.iter().filter(|entry| entry.recipe == *name && entry.arch == arch);
            let unfit = unfit.max_by_key(|entry| entry.created).and_then(catalog::refusal);
            let (why, hint) = unfit.unwrap_or_else(|| {
                (
                    format!("there is no image of {name} for {arch}"),
                    format!("`amibake build {name} --verify` makes one"),
                )
            });
            Error::failed(format!("nothing is promoted: {why}")).with_hint(hint)
        };
        if let Some((arch, _)) = found.iter().find(|(_, entry)| entry.is_none())
            && (!channel.arch.is_empty() || found.iter().all(|(_, entry)| entry.is_none()))
        {
            return Err(missing(*arch));
        }
        chosen.extend(found.into_iter().filter_map(|(_, entry)| entry));
    }
    Ok(chosen)
}

fn carry_out(
    settings: &Settings,
    args: &Channel,
    choose: impl for<'e> AsyncFnOnce(&Aws, &'e [Entry], &Reporter) -> Result<Vec<Wanted<'e>>>,
) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let account = settings.account(args.region.clone(), args.profile.clone());
        let look = async {
            let aws = Aws::connect(&account, None, reporter.clone()).await?;
            let entries = aws.images().await?;
            Ok((aws, entries))
        };
        let (aws, entries) = until_cancelled(&cancel, look).await?;
        let wanted = until_cancelled(&cancel, choose(&aws, &entries, &reporter)).await?;
        if args.pair {
            check_pair(&wanted)?;
        }
        write(&aws, &wanted, args.pair, &reporter, &cancel).await?;
        let updated = match &args.update_stack {
            Some(stack) => Some(update(&aws, stack, &reporter, &cancel).await?),
            None => None,
        };
        tell(args, &wanted, updated, &reporter);
        Ok(Exit::Done)
    })
}

/// A pair is a builder and an agent of each architecture, with one BuildKit.
fn check_pair(wanted: &[Wanted<'_>]) -> Result<()> {
    let entries: Vec<&Entry> = wanted.iter().map(|one| one.entry).collect();
    let hint = "bake both from one lock: `amibake build --all --verify`";
    if let Some(odd) = catalog::mismatch(&entries) {
        return Err(Error::failed(format!("they are no pair: {odd}")).with_hint(hint));
    }
    for entry in &entries {
        if !entries.iter().any(|other| other.arch == entry.arch && other.recipe != entry.recipe) {
            let words = format!("they are no pair: {} for {} has no counterpart", entry.recipe, entry.arch);
            return Err(Error::failed(words).with_hint(hint));
        }
    }
    Ok(())
}

/// Writes what is not there yet. Of a pair, what was written is put back when the rest cannot be.
async fn write(
    aws: &Aws,
    wanted: &[Wanted<'_>],
    pair: bool,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut written: Vec<&Wanted<'_>> = Vec::new();
    for one in wanted.iter().filter(|one| !one.holds()) {
        // Not dropped in the middle: nobody would know whether it was written.
        let result = if cancel.is_cancelled() {
            Err(Error::interrupted())
        } else {
            // One that fails may have been written all the same.
            written.push(one);
            aws.set_channel(&one.parameter, &one.entry.id, &one.entry.recipe).await
        };
        let Err(error) = result else { continue };
        if pair {
            for done in written.iter().rev() {
                let put = aws.put_back_channel(&done.parameter, done.before.as_deref(), &done.entry.recipe).await;
                match put {
                    Ok(()) => reporter.note(format!("{} is as it was", done.parameter)),
                    Err(failed) => reporter.warn(format!(
                        "{} is not as it was: {}",
                        done.parameter,
                        crate::error::in_a_line(&failed)
                    )),
                }
            }
        }
        return Err(error);
    }
    Ok(())
}

async fn update(aws: &Aws, stack: &str, reporter: &Reporter, cancel: &CancellationToken) -> Result<bool> {
    reporter.note(format!("updating the stack {stack}; an interruption does not stop that"));
    let updated = aws.update_stack(stack, cancel).await?;
    reporter.note(match updated {
        true => format!("the stack {stack} is updated"),
        false => format!("the stack {stack} has nothing to update: it reads another parameter, or has this image"),
    });
    Ok(updated)
}

fn tell(args: &Channel, wanted: &[Wanted<'_>], updated: Option<bool>, reporter: &Reporter) {
    if args.json {
        let promoted: Vec<Value> = wanted
            .iter()
            .map(|one| {
                json!({
                    "parameter": one.parameter, "image": one.entry.id, "recipe": one.entry.recipe, "arch": one.entry.arch,
                    "buildkit": one.entry.buildkit, "before": one.before, "changed": !one.holds(),
                })
            })
            .collect();
        report::print_json(&json!({ "channel": args.channel, "promoted": promoted, "stack_updated": updated }));
    } else {
        for one in wanted {
            let Wanted { parameter, entry, before } = one;
            let was = match before {
                Some(_) if one.holds() => " (as before)".to_owned(),
                Some(before) => format!(" (before: {before})"),
                None => String::new(),
            };
            report::print(&format!("{parameter}  {}{was}", entry.id));
        }
    }
    if updated.is_none() && wanted.iter().any(|one| !one.holds()) {
        reporter.note(
            "instances that run stay as they are: an Elastic CI Stack reads its ImageIdParameter at a stack update only \
             (--update-stack NAME), a launch template with resolve:ssm: at its next launch",
        );
    }
}
