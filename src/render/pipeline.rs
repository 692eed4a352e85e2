//! The dynamic Buildkite pipeline: one step for each image and architecture, so that a fleet of agents shares the work, and
//! one that promotes what they baked.

use serde_json::{Value, json};

use super::{ASSUME_ROLE, Baking, dollars};

/// Minutes that a bake with its test boot may take: twice what the recipes' own limits add up to.
const BAKE_MINUTES: u32 = 180;

/// What the steps do.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// What is baked, and how.
    pub baking: Baking,
    /// Take `amibake.lock` from the build's artifacts: an earlier step moved it.
    pub lock_artifact: bool,
    /// Images older than this are baked anew: `30d`.
    pub max_age: Option<String>,
    /// Promote what was baked.
    pub promote: bool,
}

/// The pipeline, as `buildkite-agent pipeline upload` takes it on stdin (it replaces `$` and `$$`).
#[must_use]
pub fn pipeline(options: &Pipeline) -> Value {
    let baking = &options.baking;
    let max_age = options.max_age.as_ref().map(|age| format!(" --max-age {age}")).unwrap_or_default();
    let each = baking.recipes.iter().flat_map(|recipe| baking.arches.iter().map(move |arch| (recipe, *arch)));
    let mut keys = Vec::new();
    let mut steps = Vec::new();
    for (recipe, arch) in each {
        let key = format!("amibake-{recipe}-{arch}").replace('.', "-");
        let commands = [
            begin(options),
            "code=0".to_owned(),
            format!(
                "amibake build {recipe} --arch {arch} --verify{max_age} --summary summary.md --ids ids.txt || code=$?"
            ),
            "style=success".to_owned(),
            "[ \"$code\" = 0 ] || style=error".to_owned(),
            // Neither is there if nothing was begun.
            format!("[ ! -s summary.md ] || buildkite-agent annotate --context {key} --style \"$style\" <summary.md"),
            "[ -e ids.txt ] || : >ids.txt".to_owned(),
            "while read -r recipe arch image; do".to_owned(),
            "  buildkite-agent meta-data set \"amibake:$recipe:$arch\" \"$image\"".to_owned(),
            "done <ids.txt".to_owned(),
            "exit \"$code\"".to_owned(),
        ];
        let mut step = step(options, &format!(":package: {recipe} ({arch})"), &key, &commands.join("\n"));
        step["timeout_in_minutes"] = BAKE_MINUTES.into();
        // An agent that was lost: what it left is found by the next run, and the image is taken up.
        step["retry"] = json!({ "automatic": [{ "exit_status": -1, "limit": 1 }] });
        steps.push(step);
        keys.push(key);
    }
    if options.promote {
        let stack = baking.update_stack.as_ref().map(|stack| format!(" --update-stack {stack}")).unwrap_or_default();
        let (promoted, arches, channel) = (baking.promoted(), baking.arch_list(), &baking.channel);
        let commands = [
            begin(options),
            format!("amibake promote {promoted} --arch {arches} --channel {channel}{stack} | tee promoted.txt"),
            "{ echo '```'; cat promoted.txt; echo '```'; } |".to_owned(),
            "  buildkite-agent annotate --context amibake-promote --style success".to_owned(),
        ];
        let mut step = step(options, ":rocket: promote", "amibake-promote", &commands.join("\n"));
        step["depends_on"] = keys.into();
        steps.push(step);
    }
    json!({ "steps": steps })
}

fn begin(options: &Pipeline) -> String {
    let mut lines = vec!["set -euo pipefail".to_owned(), options.baking.install.clone()];
    if let Some(region) = &options.baking.region {
        lines.push(format!("export AWS_REGION={region}"));
    }
    if options.lock_artifact {
        lines.push("buildkite-agent artifact download amibake.lock .".to_owned());
    }
    lines.join("\n")
}

fn step(options: &Pipeline, label: &str, key: &str, command: &str) -> Value {
    let mut step = json!({ "label": label, "key": key, "command": dollars(command) });
    if let Some(role) = &options.baking.role {
        step["plugins"] = json!([{ ASSUME_ROLE: { "role-arn": role } }]);
    }
    if let Some(queue) = &options.baking.queue {
        step["agents"] = json!({ "queue": queue });
    }
    step
}
