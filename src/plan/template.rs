//! Templates (MiniJinja) in files and units: what they see, and how a fault in one is told.
//!
//! | name | value |
//! |---|---|
//! | `recipe.name` | the recipe's |
//! | `arch`, `uname` | `amd64`, `x86_64` · `arm64`, `aarch64` |
//! | `buildkit.version`, `.major`, `.minor`, `.patch` | the lock's: `v0.31.2`, 0, 31, 2 |
//! | `at_least("v0.17.0")` | whether the lock's version is that or newer |
//! | `buildkitd` | the recipe's table; undefined without one, as are its keys that have no value |
//! | `volumes` | list of `name`, `mount`, `size_bytes`, `filesystem`, `label`, `serial` |
//! | `… \| seconds`, `… \| bytes` | number of a duration (`15m`), of a size (`2GiB`) |
//! | `… \| sh`, `… \| systemd`, `… \| toml` | a shell word, an argument in a unit's `ExecStart=`, a TOML literal |
//!
//! Undefined is an error, nothing is escaped by itself, the last line keeps its end, and there is no `include`: what a
//! file holds is one asset and the plan.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error as Fault, ErrorKind, UndefinedBehavior, context};

use super::{VolumePlan, quote};
use crate::error::{Error, Result};
use crate::recipe::{Buildkitd, parse_duration, parse_size};
use crate::release::{Arch, Version};

/// Renders the templates of one plan.
pub(super) struct Templates {
    environment: Environment<'static>,
    context: Value,
}

impl Templates {
    /// For a recipe called `recipe`.
    pub(super) fn new(
        recipe: &str,
        arch: Arch,
        version: Version,
        buildkitd: Option<&Buildkitd>,
        volumes: &[VolumePlan],
    ) -> Self {
        let volumes: Vec<Value> = volumes.iter().map(volume).collect();
        let context = context! {
            recipe => context! { name => recipe },
            arch => arch.as_str(),
            uname => arch.uname(),
            buildkit => context! {
                version => version.to_string(),
                major => version.major,
                minor => version.minor,
                patch => version.patch,
            },
            buildkitd => buildkitd.map_or(Value::UNDEFINED, |buildkitd| Value::from(Serde(buildkitd))),
            volumes,
        };
        Self { environment: environment(version), context }
    }

    /// The text of `source`. `what` names it in a message: "template `x`".
    ///
    /// # Errors
    /// Exit 2 with the line.
    pub(super) fn render(&self, what: &str, source: &str) -> Result<String> {
        let rendered =
            self.environment.template_from_str(source).and_then(|template| template.render(self.context.clone()));
        rendered.map_err(|fault| explain(what, source, &fault))
    }
}

fn volume(volume: &VolumePlan) -> Value {
    context! {
        name => volume.name.as_str(),
        mount => volume.mount.as_str(),
        size_bytes => volume.size_bytes,
        filesystem => Value::from(Serde(volume.filesystem)),
        label => volume.label(),
        serial => volume.serial(),
    }
}

fn environment(version: Version) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_formatter(|output, _, value| {
        output.write_str(&printed(value)?)?;
        Ok(())
    });
    environment.add_function("at_least", move |wanted: &str| {
        let wanted: Version = wanted.parse().map_err(|error| invalid(format!("at_least: {error}")))?;
        Ok::<_, Fault>(version >= wanted)
    });
    environment.add_filter("seconds", |value: &Value| {
        let duration = parse_duration(text("seconds", value)?).map_err(|error| invalid(format!("seconds: {error}")))?;
        Ok::<_, Fault>(duration.as_secs())
    });
    environment.add_filter("bytes", |value: &Value| {
        parse_size(text("bytes", value)?).map_err(|error| invalid(format!("bytes: {error}")))
    });
    environment.add_filter("sh", |value: &Value| Ok::<_, Fault>(quote::sh(&argument("sh", value)?)));
    environment.add_filter("systemd", |value: &Value| Ok::<_, Fault>(quote::systemd(&argument("systemd", value)?)));
    environment.add_filter("toml", toml);
    environment
}

fn invalid(message: String) -> Fault {
    Fault::new(ErrorKind::InvalidOperation, message)
}

fn text<'v>(filter: &str, value: &'v Value) -> Result<&'v str, Fault> {
    value.as_str().ok_or_else(|| invalid(format!("{filter}: a string was expected, this is {}", value.kind())))
}

/// A string, number or boolean as configuration files spell it (MiniJinja's own booleans are Python's). A list or a table
/// has no spelling that every file shares: to print one is a slip.
fn printed(value: &Value) -> Result<String, Fault> {
    match value.kind() {
        ValueKind::String | ValueKind::Number => Ok(value.to_string()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Undefined => Err(Fault::from(ErrorKind::UndefinedError)),
        kind => Err(invalid(format!("a string, number or boolean was expected, this is {kind}"))),
    }
}

/// What a program can be given: as it is printed, without NUL.
fn argument(filter: &str, value: &Value) -> Result<String, Fault> {
    let text = printed(value)?;
    if quote::has_nul(&text) { Err(invalid(format!("{filter}: a string with a NUL byte"))) } else { Ok(text) }
}

fn toml(value: &Value) -> Result<String, Fault> {
    match value.kind() {
        ValueKind::String => Ok(quote::toml(text("toml", value)?)),
        // TOML's integers have 64 bits with a sign; its floats are not needed by any recipe.
        ValueKind::Number if value.as_i64().is_some() && value.is_integer() => Ok(value.to_string()),
        ValueKind::Bool => printed(value),
        ValueKind::Seq => {
            let items: Vec<String> = value.try_iter()?.map(|item| toml(&item)).collect::<Result<_, _>>()?;
            Ok(format!("[{}]", items.join(", ")))
        }
        ValueKind::Undefined => Err(Fault::from(ErrorKind::UndefinedError)),
        kind => Err(invalid(format!("toml: a string, integer, boolean or list was expected, this is {kind}"))),
    }
}

fn explain(what: &str, source: &str, fault: &Fault) -> Error {
    let reason = match fault.detail() {
        Some(detail) if fault.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", fault.kind()),
        None => fault.kind().to_string(),
    };
    let Some(number) = fault.line() else { return Error::usage(format!("{what} does not render: {reason}")) };
    let error = Error::usage(format!("{what} does not render: line {number}: {reason}"));
    let error = match source.lines().nth(number.saturating_sub(1)) {
        Some(line) => error.with_detail(format!("  {number} | {}", line.trim_end())),
        None => error,
    };
    if fault.kind() == ErrorKind::UndefinedError {
        return error.with_hint(
            "a key that may have no value is asked for with `is defined`; a table of the recipe that it leaves out is undefined",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::render;
    use crate::recipe::Filesystem;

    fn templates(buildkitd: Option<&Buildkitd>) -> Templates {
        let cache = VolumePlan {
            name: "cache".to_owned(),
            mount: "/var/lib/buildkit".to_owned(),
            size_bytes: 100 << 30,
            volume_type: "gp3".to_owned(),
            filesystem: Filesystem::Xfs,
        };
        Templates::new("builder", Arch::Arm64, Version::new(0, 31, 2), buildkitd, &[cache])
    }

    fn rendered(source: &str) -> String {
        templates(Some(&Buildkitd::default())).render("template `t`", source).unwrap()
    }

    #[test]
    fn the_context_is_the_documented_one() {
        for (source, expected) in [
            ("{{ recipe.name }} {{ arch }} {{ uname }}\n", "builder arm64 aarch64\n"),
            ("{{ buildkit.version }} {{ buildkit.major }}.{{ buildkit.minor }}.{{ buildkit.patch }}", "v0.31.2 0.31.2"),
            ("{{ at_least('v0.17.0') }} {{ at_least('v0.31.2') }} {{ at_least('v0.31.3') }}", "true true false"),
            ("{{ buildkitd.port + 1 }} {{ buildkitd.network }} {{ buildkitd.gc.max_used_percent }}", "1235 bridge 80"),
            ("{% if buildkitd.max_parallelism is defined %}x{% else %}y{% endif %}", "y"),
            (
                "{% for v in volumes %}{{ v.name }} {{ v.mount }} {{ v.size_bytes }} {{ v.filesystem }} {{ v.label }} \
                 {{ v.serial }}{% endfor %}",
                "cache /var/lib/buildkit 107374182400 xfs bake-cache amibake-cache",
            ),
            ("{{ '15m' | seconds }} {{ '2GiB' | bytes }}", "900 2147483648"),
            ("{{ \"it's\" | sh }} {{ 5 | sh }} {{ true | sh }}", r"'it'\''s' 5 true"),
            ("{{ '50% of $x' | systemd }}", "\"50%% of $$x\""),
            ("{{ ['a\"b', 1, true, ['c']] | toml }}", r#"["a\"b", 1, true, ["c"]]"#),
            ("<&> {{ '<&>' }}\n\n", "<&> <&>\n\n"),
        ] {
            assert_eq!(rendered(source), expected, "{source}");
        }
    }

    #[test]
    fn faults_name_template_line_and_reason() {
        let faults: Vec<String> = [
            "a\n{{ buildkitd.prot }}\n",
            "{{ nothing }}",
            "a\nb\n{% if x %}\n",
            "{{ 'x' | unknown_filter }}",
            "{{ at_least('0.17') }}",
            "\n{{ '15 minutes' | seconds }}",
            "{{ 15 | seconds }}",
            "{{ [1] | sh }}",
            "{{ 1.5 | toml }}",
            "{{ \"a\\u0000b\" | systemd }}",
            "{{ nothing | sh }}",
            "{{ buildkitd.gc }}",
            "{% include 'other' %}",
        ]
        .iter()
        .map(|source| render(&templates(Some(&Buildkitd::default())).render("template `x.conf`", source).unwrap_err()))
        .collect();
        insta::assert_snapshot!(faults.join("\n"));
        let error = templates(None).render("template `x`", "{{ buildkitd.port }}").unwrap_err();
        assert_eq!(error.exit().code(), 2);
    }
}
