//! Templates of files and units: MiniJinja with strict names, and just what a recipe and its release can tell.
//!
//! A template sees `recipe.name`, `arch`, `uname`, `buildkit` (`version`, `major`, `minor`, `patch`), `buildkitd` (the
//! recipe's table), `volumes` (each `name`, `mount`, `size_bytes`, `filesystem`, `label`, `serial`); the function
//! `at_least("v0.17.0")`; and the filters `seconds`, `bytes`, `sh`, `toml` and `systemd`. Nothing of the host, the
//! provider or the time: the same recipe and release give the same text.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};

use super::VolumePlan;
use super::quote::quote;
use crate::error::{Error as OurError, Result};
use crate::recipe::{Recipe, parse_duration, parse_size};
use crate::release::{Arch, Version};

/// Renders templates for one plan.
pub(super) struct Templates {
    environment: Environment<'static>,
    context: Value,
}

impl Templates {
    pub(super) fn new(recipe: &Recipe, arch: Arch, version: Version, volumes: &[VolumePlan]) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()
                .map_err(|error| OurError::usage(error.to_string()))?,
        );
        environment.add_function("at_least", move |least: &str| at_least(version, least));
        environment
            .add_filter("seconds", |text: &str| parse_duration(text).map(|time| time.as_secs()).map_err(invalid));
        environment.add_filter("bytes", |text: &str| parse_size(text).map_err(invalid));
        environment.add_filter("sh", |value: Value| quote(&value.to_string()));
        environment.add_filter("toml", |value: Value| toml_literal(&value));
        environment.add_filter("systemd", |text: Value| systemd_word(&text.to_string()));
        let volumes: Vec<Value> = volumes
            .iter()
            .map(|volume| {
                context! {
                    name => &volume.name, mount => &volume.mount, size_bytes => volume.size_bytes,
                    filesystem => volume.filesystem.as_str(), label => volume.label(), serial => volume.serial(),
                }
            })
            .collect();
        let mut context = context! {
            recipe => context! { name => &recipe.name },
            arch => arch.as_str(), uname => arch.uname(), volumes => volumes,
            buildkit => context! {
                version => version.to_string(), major => version.major, minor => version.minor, patch => version.patch,
            },
        };
        if let Some(buildkitd) = &recipe.buildkitd {
            context = context! { buildkitd => Value::from(Serde(buildkitd)), ..context };
        }
        Ok(Self { environment, context })
    }

    /// Renders `text`, which messages call `name`.
    ///
    /// # Errors
    /// Exit 2 with the template's line.
    pub(super) fn render(&self, name: &str, text: &str) -> Result<String> {
        self.environment.render_named_str(name, text, &self.context).map_err(|error| {
            let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
            let shown = text.lines().nth(error.line().unwrap_or(1).saturating_sub(1)).unwrap_or_default();
            let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            OurError::usage(format!("template {name}{line} does not render: {what}"))
                .with_detail(format!("  | {shown}"))
                .with_hint("templates see recipe, arch, uname, buildkit, buildkitd and volumes; see docs/plan.md")
        })
    }
}

fn invalid(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.to_string())
}

fn at_least(version: Version, least: &str) -> Result<bool, Error> {
    let least: Version = least.parse().map_err(|error: crate::release::BadVersion| invalid(error))?;
    Ok(version >= least)
}

/// `value` as it stands in a TOML file.
fn toml_literal(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::Seq | ValueKind::Iterable => {
            toml::Value::try_from(value).map(|literal| literal.to_string()).map_err(invalid)
        }
        kind => Err(invalid(format!("{kind} has no TOML literal here"))),
    }
}

/// `text` as one argument in a unit's `ExecStart=` (systemd.service(5), "Command lines"): specifiers and variables do not
/// expand, quotes and blanks stay.
fn systemd_word(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '%' => escaped.push_str("%%"),
            '$' => escaped.push_str("$$"),
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    let plain = !escaped.is_empty() && escaped.chars().all(|c| c.is_ascii_alphanumeric() || "_@%+=:,./-$".contains(c));
    if plain { escaped } else { format!("\"{escaped}\"") }
}
