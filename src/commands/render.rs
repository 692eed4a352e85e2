//! `amibake render`: what users paste elsewhere.

use super::prepare::{load, names_or_all};
use crate::cli::{IamPolicyArgs, Settings};
use crate::error::{Exit, Result};
use crate::provider::aws::policy;
use crate::recipe::Recipe;
use crate::report;

pub(crate) fn iam_policy(settings: &Settings, args: &IamPolicyArgs) -> Result<Exit> {
    let loaded = load(&settings.project, &names_or_all(settings, &args.recipes)?, &args.set)?;
    let recipes: Vec<&Recipe> = loaded.iter().map(|one| &one.loaded.recipe).collect();
    let scope = policy::Scope { region: args.region.clone(), account: args.account.clone(), role: args.role.clone() };
    let policy = match (args.instance, args.catalog) {
        (true, _) => policy::instance(&scope, &recipes),
        (_, true) => policy::keeper(&scope, args.stack.as_deref()),
        _ => policy::baker(&scope, &recipes),
    };
    report::print_json(&policy);
    Ok(Exit::Done)
}
