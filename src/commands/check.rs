//! `amibake check`.

use std::collections::BTreeMap;

use clap::Args;
use futures_util::future::{join, join_all};
use jiff::Timestamp;
use serde_json::json;

use super::images::{age, all};
use super::prepare::{self, Read, arches, load, names_or_all, until_cancelled};
use super::releases::{ReleasePlace, lock_if_any, reporter};
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::catalog::{Entry, Finding, Standing, newest_image, of_image, of_pair, of_release};
use crate::cli::{Planning, Settings};
use crate::config::FILE;
use crate::error::{Error, Exit, Result, in_a_line};
use crate::plan::Plan;
use crate::provider::aws::Aws;
use crate::provider::local::Dist;
use crate::provider::{Catalog, Provider};
use crate::recipe::ProviderKind;
use crate::release::{Arch, Channel, Lock, Platform};
use crate::report;

/// `amibake check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Names or paths of recipes [default: all in recipes/]
    #[arg(value_name = "RECIPE")]
    names: Vec<String>,
    #[command(flatten)]
    pub(crate) planning: Planning,
    /// Another list of releases than GitHub's, in the form of its REST API
    #[arg(long, value_name = "URL", env = "AMIBAKE_RELEASE_INDEX")]
    release_index: Option<url::Url>,
    /// Which versions count
    #[arg(long, value_name = "CHANNEL", default_value = "stable")]
    channel: Channel,
    /// Images older than this are out of date: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = age)]
    max_age: Option<u64>,
    /// Also the certificates that `amibake certs` keeps there, below a prefix of SSM parameters or s3://BUCKET/PREFIX: those
    /// that end within 30 days
    #[arg(long, value_name = "PLACE", help_heading = "AWS")]
    certs: Option<String>,
}

pub(crate) fn run(settings: &Settings, args: &CheckArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let (findings, failure) = until_cancelled(&cancel, look(settings, args)).await?;
        let out_of_date = findings.iter().any(|finding| finding.standing == Standing::OutOfDate);
        if args.planning.json {
            report::print_json(&json!({
                "out_of_date": out_of_date, "findings": findings, "error": failure.as_ref().map(report::error_json),
            }));
        } else {
            report::print(&table(&findings));
        }
        match (out_of_date, failure) {
            (true, _) => Ok(Exit::OutOfDate),
            (false, None) => Ok(Exit::Done),
            // Whether there is a newer BuildKit is the first question: without an answer nothing is current.
            (false, Some(error)) => {
                settings.talk.error(&error);
                Ok(error.exit())
            }
        }
    })
}

/// Everything side by side: the list of releases, and what there is of images and bases.
async fn look(settings: &Settings, args: &CheckArgs) -> Result<(Vec<Finding>, Option<Error>)> {
    let reporter = reporter(settings);
    let lock = lock_if_any(settings)?.ok_or_else(|| {
        Error::usage(format!("there is no lock {}", settings.lock.display()))
            .with_hint("`amibake update` writes one with the newest release")
    })?;
    let recipes = load(settings, &names_or_all(settings, &args.names)?, &args.planning.set)?;
    let place = ReleasePlace::at(args.planning.release_mirror.clone(), args.release_index.clone());
    let arches = arches(&args.planning)?;
    let (index, images) =
        join(place.index(settings, &reporter), images(settings, args, &recipes, &lock, &arches, &reporter)).await;
    let platforms: Vec<Platform> = lock.artifacts.keys().copied().collect();
    let (release, mut failure) = match index {
        Ok(index) => {
            let newest = index.newest(args.channel, &platforms).map(|listed| listed.version);
            let mut release = of_release(lock.version, newest);
            let over =
                index.passed_over(args.channel, &platforms, newest.map_or(lock.version, |it| it.max(lock.version)));
            for listed in over {
                release.found.push_str(&format!("; {} lacks tarballs", listed.version));
            }
            (release, None)
        }
        Err(error) => (Finding::new("BuildKit", "release", Standing::Unknown, in_a_line(&error)), Some(error)),
    };
    let certificates = match &args.certs {
        None => Vec::new(),
        Some(prefix) => {
            let account = settings.account(args.planning.region.clone(), args.planning.profile.clone());
            match super::certs::standing(settings, prefix, &account).await {
                Ok(findings) => findings,
                Err(error) if error.exit() == Exit::Usage => return Err(error),
                // They were asked for by name: an alarm must not go silent because it may no longer look.
                Err(error) => {
                    let finding = Finding::new(prefix, "certificate", Standing::Unknown, in_a_line(&error));
                    failure.get_or_insert(error);
                    vec![finding]
                }
            }
        }
    };
    // What a project demands of its lock is demanded by every bake: `update` may find it, or a release that has it.
    let trust = settings.config.trust.require.and_then(|least| lock.demand(least).err());
    let trust = trust.map(|error| Finding::new("BuildKit", "trust", Standing::OutOfDate, format!("{error} ({FILE})")));
    let release = std::iter::once(release).chain(trust);
    Ok((release.chain(images?).chain(certificates).collect(), failure))
}

/// What is known of images and bases; what is not, says why.
async fn images(
    settings: &Settings,
    args: &CheckArgs,
    recipes: &[Read],
    lock: &Lock,
    arches: &[Arch],
    reporter: &Reporter,
) -> Result<Vec<Finding>> {
    let unknown = |error: &Error| Finding::new("images", "image", Standing::Unknown, in_a_line(error));
    let (provider, entries) = match reach(settings, &args.planning, reporter).await {
        Ok(reached) => reached,
        Err(error) if error.exit() == Exit::Usage => return Err(error),
        Err(error) => return Ok(vec![unknown(&error)]),
    };
    let format = prepare::format(&args.planning)?;
    let each = arches.iter().flat_map(|arch| recipes.iter().map(move |read| (read, *arch)));
    let planned = join_all(each.map(|(read, arch)| {
        let provider = &*provider;
        async move {
            let plan = prepare::planned(read, lock, provider, &args.planning, arch, format).await;
            (read.loaded.recipe.name.clone(), arch, plan)
        }
    }))
    .await;
    let oldest = args.max_age.map(|seconds| {
        let now = Timestamp::now().as_second();
        Timestamp::from_second(now.saturating_sub_unsigned(seconds)).unwrap_or(Timestamp::MIN)
    });
    let mut findings = Vec::new();
    let mut newest: BTreeMap<Arch, Vec<&Entry>> = BTreeMap::new();
    for (recipe, arch, plan) in &planned {
        let image = newest_image(&entries, recipe, *arch);
        newest.entry(*arch).or_default().extend(image);
        findings.extend(of_plan(recipe, *arch, plan, image, oldest));
    }
    findings.extend(newest.iter().filter_map(|(arch, images)| of_pair(*arch, images)));
    Ok(findings)
}

fn of_plan(
    recipe: &str,
    arch: Arch,
    plan: &Result<Plan>,
    image: Option<&Entry>,
    oldest: Option<Timestamp>,
) -> Vec<Finding> {
    match plan {
        Ok(plan) => of_image(plan, image, oldest),
        Err(error) => {
            let about = format!("{recipe} ({arch})");
            vec![Finding::new(&about, "base", Standing::Unknown, in_a_line(error))]
        }
    }
}

/// Who supplies bases, and every image there is.
async fn reach(
    settings: &Settings,
    planning: &Planning,
    reporter: &Reporter,
) -> Result<(Box<dyn Provider>, Vec<Entry>)> {
    let catalog: Box<dyn Catalog> = match planning.provider {
        ProviderKind::Local => Box::new(Dist::new(settings.dist(planning)?)),
        ProviderKind::Aws => {
            let account = settings.account(planning.region.clone(), planning.profile.clone());
            Box::new(Aws::connect(&account, None, reporter.clone()).await?)
        }
    };
    let provider = prepare::provider(settings, planning, reporter.clone()).await?;
    let entries = all(&[catalog]).await?;
    Ok((provider, entries))
}

fn table(findings: &[Finding]) -> String {
    let about = findings.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
    let what = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let line = |finding: &Finding| {
        let mark = match finding.standing {
            Standing::Current => '✓',
            Standing::OutOfDate => '✗',
            Standing::Unknown => '?',
        };
        format!("{mark} {:about$}  {:what$}  {}", finding.about, finding.what, report::clean(&finding.found))
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}
