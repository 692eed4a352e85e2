//! `amibake plan`.

use super::prepare::prepare;
use crate::cli::{PlanArgs, Settings};
use crate::error::{Exit, Result};
use crate::plan::render_text;
use crate::report;

pub(crate) fn run(settings: &Settings, args: &PlanArgs) -> Result<Exit> {
    super::block_on(async {
        let prepared = prepare(settings, &args.planning, std::slice::from_ref(&args.recipe)).await?;
        for plan in &prepared.plans {
            if args.planning.json {
                report::print_json(plan);
            } else {
                report::print(&render_text(plan));
            }
        }
        Ok(Exit::Done)
    })
}
