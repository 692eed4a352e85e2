//! `amibake base`.

use std::sync::Arc;

use serde_json::json;

use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::{BaseCreateArgs, Settings};
use crate::error::{Error, Exit, Result};
use crate::provider::local::base;
use crate::release::Arch;
use crate::report;

pub(crate) fn create(settings: &Settings, args: &BaseCreateArgs) -> Result<Exit> {
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

pub(crate) fn list(settings: &Settings, json: bool) -> Result<Exit> {
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
