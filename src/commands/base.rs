//! `amibake base`.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::Settings;
use crate::error::{Error, Exit, Result};
use crate::provider::local::base;
use crate::release::Arch;
use crate::report;

/// `amibake base`.
#[derive(Debug, Subcommand)]
pub enum BaseCommand {
    /// Make the base disk, from this machine's own package sources
    #[command(after_help = "Example:\n  amibake base create\n\n\
        Needs mmdebstrap and, for that, root or user namespaces. Prints the disk's path.")]
    Create(BaseCreateArgs),
    /// List the base disks in the cache
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// `amibake base create`.
#[derive(Debug, Args)]
pub struct BaseCreateArgs {
    /// Make it anew
    #[arg(long)]
    force: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl BaseCommand {
    /// Whether it answers as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            BaseCommand::Create(args) => args.json,
            BaseCommand::List { json } => *json,
        }
    }
}

pub(crate) fn run(settings: &Settings, command: &BaseCommand) -> Result<Exit> {
    match command {
        BaseCommand::Create(args) => create(settings, args),
        BaseCommand::List { json } => list(settings, *json),
    }
}

fn create(settings: &Settings, args: &BaseCreateArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let reporter = Reporter::new("", vec![Arc::clone(&settings.talk.sink())]);
        let arch = Arch::host().ok_or_else(|| Error::usage("amibake makes no base for this machine's architecture"))?;
        let path = base::create(&settings.cache, arch, args.force, &reporter, &cancel).await?;
        if args.json {
            report::print_json(&json!({ "path": path }));
        } else {
            report::print(&path.display().to_string());
        }
        Ok(Exit::Done)
    })
}

fn list(settings: &Settings, json: bool) -> Result<Exit> {
    let bases = base::list(&settings.cache)?;
    if json {
        report::print_json(&json!({ "bases": bases }));
    } else {
        if bases.is_empty() && !settings.talk.quiet {
            report::say("note: there are none yet: `amibake base create` makes one");
        }
        for base in &bases {
            report::print(&format!("{}  {}  {}", base.name, report::human_bytes(base.disk_bytes), base.path.display()));
        }
    }
    Ok(Exit::Done)
}
