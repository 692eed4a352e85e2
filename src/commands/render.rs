//! `amibake render`: what users paste elsewhere.

use clap::Args;

use super::prepare::{load, names_or_all};
use crate::cli::{Settings, account};
use crate::error::{Exit, Result};
use crate::provider::aws::policy;
use crate::recipe::Recipe;
use crate::report;

/// `amibake render iam-policy`.
#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// Names or paths of the recipes that it is for [default: all in recipes/]
    #[arg(value_name = "RECIPE")]
    pub recipes: Vec<String>,
    /// Of the machine that is baked on, instead of who bakes
    #[arg(long, conflicts_with = "catalog")]
    pub instance: bool,
    /// Of who lists, removes and promotes images, instead of who bakes them
    #[arg(long)]
    pub catalog: bool,
    /// With --catalog: the CloudFormation stack that `promote --update-stack` may update
    #[arg(long, value_name = "NAME", requires = "catalog")]
    pub stack: Option<String>,
    /// Hold it to a region [default: any]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Hold it to an account [default: the one that the policy is in]
    #[arg(long, value_name = "ID", value_parser = account)]
    pub account: Option<String>,
    /// Role of the instance profile, with its path if it has one [default: called as the profile]
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,
    /// Override a value of the recipes; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

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
