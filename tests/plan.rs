//! Plans as values: what is decided, how it reads, what is refused, and what the fingerprint covers.

#[cfg(test)]
mod plan_support;

use amibake::error::render;
use amibake::plan::{Facts, Plan, plan, render_text, wanted_assets};
use amibake::recipe::{ProviderKind, Recipe, StepSpec};
use amibake::release::{Arch, Lock, Version};
use plan_support::{NASTY, facts, lock, nasty, options, recipe};
use proptest::prelude::*;

#[test]
fn a_plan_as_text() {
    insta::assert_snapshot!(render_text(&nasty()));
}

/// Scripts are in the text's snapshot, whole.
#[test]
fn a_plan_as_json() {
    let mut json = serde_json::to_value(nasty()).unwrap();
    let plan = json.as_object_mut().unwrap();
    let shorten = |step: &mut serde_json::Value| {
        let script = step["script"].as_str().unwrap();
        assert!(script.starts_with("#!/bin/bash\n") && script.ends_with('\n'));
        step["script"] = "…".into();
    };
    plan["steps"].as_array_mut().unwrap().iter_mut().for_each(shorten);
    plan["checks"].as_array_mut().unwrap().iter_mut().for_each(shorten);
    shorten(&mut plan["seal"]);
    insta::assert_json_snapshot!(json);
}

#[test]
fn planning_is_a_function() {
    assert_eq!(nasty(), nasty());
}

#[test]
fn assets_that_are_wanted() {
    let wanted: Vec<String> = wanted_assets(&recipe(NASTY)).into_iter().collect();
    assert_eq!(wanted, ["blob.bin", "sample.conf", "sample.service"]);
}

#[test]
fn names_are_unique_and_derived_where_none_is_given() {
    let names: Vec<String> = nasty().steps.into_iter().map(|step| step.name).collect();
    assert_eq!(
        names,
        [
            "packages: git, docker.io=20.10.24+dfsg1-1+deb12u1 and 1 more",
            "only where there is apt",
            "buildkit: all of it",
            "buildkit: bin/buildctl",
            "file /etc/o'dd $(dir)/na\"me `x` é %n",
            "file /etc/binary",
            "file /etc/binary (2)",
            "templated",
            "unit sample.service",
            "unit sample@.service",
            "quotes 'in' \"names\" $(x)",
        ]
    );
    let many = recipe(
        "name = \"x\"\n[[step]]\nkind = \"packages\"\napt = [\"a-package-with-a-name\", \"another-long-package\", \"third\", \
         \"fourth\"]\n[[step]]\nkind = \"run\"\nname = \"file /x\"\nscript = \"true\"\n[[step]]\nkind = \"file\"\npath = \
         \"/x\"\ncontent = \"\"\n",
    );
    let plan = plan(&many, &lock(), &facts(), &options()).unwrap();
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        ["packages: a-package-with-a-name, another-long-package, third and 1 more", "file /x", "file /x (2)"]
    );
}

#[test]
fn a_stand_in_shows_in_name_and_tags() {
    let stand_in = Lock { stand_in: true, ..lock() };
    let plan = plan(&recipe(NASTY), &stand_in, &facts(), &options()).unwrap();
    assert!(plan.image.name.0.starts_with("sample-v0.31.2-standin-amd64-"), "{}", plan.image.name);
    assert_eq!(plan.image.tags["amibake:stand-in"], "true");
    assert!(render_text(&plan).contains("STAND-IN"));
    assert_eq!(nasty().image.tags["amibake:stand-in"], "false");
}

/// A recipe with one more piece of TOML, planned; the fault as it is printed.
fn fault(more: &str, change: impl FnOnce(&mut Recipe, &mut Lock, &mut Facts)) -> String {
    let (mut recipe, mut lock, mut facts) = (recipe(&format!("name = \"sample\"\n{more}")), lock(), facts());
    change(&mut recipe, &mut lock, &mut facts);
    let error = plan(&recipe, &lock, &facts, &options()).expect_err("a fault");
    assert_eq!(error.exit().code(), 2);
    render(&error)
}

#[test]
fn faults() {
    let unit = |more: &str| {
        format!(
            "[[step]]\nkind = \"unit\"\nunit = \"a@.service\"\ncontent = \"[Service]\\nExecStart=/bin/true\\n\"\n{more}"
        )
    };
    let file = |more: &str| format!("[[step]]\nkind = \"file\"\npath = \"/x\"\n{more}");
    let long = "v".repeat(256);
    let faults = [
        fault("", |_, lock, _| _ = lock.artifacts.pop_first()),
        fault("", |_, lock, _| lock.artifacts.clear()),
        fault("", |_, _, facts| facts.base.arch = Arch::Arm64),
        fault("[machine]\ndisk = \"2GiB\"", |_, _, _| ()),
        fault("[machine]\ndisk = \"3GiB\"", |_, _, facts| facts.base.disk_bytes += 1),
        fault("[buildkitd]", |_, lock, _| lock.version = Version::new(0, 12, 5)),
        fault(&unit(""), |_, _, _| ()),
        fault(&unit("enable = false\nstart = true"), |_, _, _| ()),
        fault(&file("asset = \"none\""), |_, _, _| ()),
        fault(&file("asset = \"blob.bin\"\ntemplate = true"), |_, _, _| ()),
        fault(&file("content = \"a\\n{{ buildkitd.port }}\"\ntemplate = true"), |_, _, _| ()),
        fault(&file("asset = \"sample.conf\"\ntemplate = true"), |_, _, _| ()),
        fault(&format!("[tags]\nteam = \"{long}\""), |_, _, _| ()),
        fault(&format!("[tags]\n{} = \"x\"", &long[..128]), |_, _, _| ()),
        fault("[tags]\n\"amibake:recipe\" = \"x\"", |_, _, _| ()),
        fault("", |recipe, _, _| recipe.tags.extend((0..45).map(|number| (format!("t{number}"), String::new())))),
    ];
    insta::assert_snapshot!(faults.join("\n"));
}

#[test]
fn a_unit_template_with_a_default_instance_can_be_enabled() {
    let unit = recipe(
        "name = \"x\"\n[[step]]\nkind = \"unit\"\nunit = \"a@.service\"\ncontent = \
         \"[Service]\\nExecStart=/bin/true\\n[Install]\\nDefaultInstance=one\\nWantedBy=multi-user.target\\n\"\n",
    );
    assert!(plan(&unit, &lock(), &facts(), &options()).is_ok());
}

#[test]
fn host_network_and_the_first_version_with_a_bridge_are_fine() {
    for (more, version) in [
        ("[buildkitd]\nnetwork = \"host\"", Version::new(0, 12, 5)),
        ("[buildkitd]", Version::new(0, 13, 0)),
        ("", Version::new(0, 9, 0)),
    ] {
        let lock = Lock { version, ..lock() };
        assert!(
            plan(&recipe(&format!("name = \"x\"\n{more}")), &lock, &facts(), &options()).is_ok(),
            "{more} {version}"
        );
    }
}

#[test]
fn checks_know_when_and_where_they_run() {
    let checks = nasty().checks;
    let when: Vec<_> = checks
        .iter()
        .map(|check| (check.at_bake, check.at_boot, check.peer.as_deref(), check.skipped.as_deref()))
        .collect();
    assert_eq!(
        when,
        [
            (true, true, None, None),
            (false, true, None, Some("only on aws")),
            (true, false, None, None),
            (false, true, Some("builder"), None),
        ]
    );
    let on_aws =
        plan(&recipe(NASTY), &lock(), &facts(), &amibake::plan::Options { provider: ProviderKind::Aws, ..options() });
    assert!(on_aws.unwrap().checks.iter().all(|check| check.skipped.is_none()));
}

fn planned(text: &str, change: impl FnOnce(&mut Recipe, &mut Lock, &mut Facts)) -> Plan {
    let (mut recipe, mut lock, mut facts) = (recipe(text), lock(), facts());
    change(&mut recipe, &mut lock, &mut facts);
    plan(&recipe, &lock, &facts, &options()).expect("a recipe that can be planned")
}

/// The first step of a kind.
fn step_of(recipe: &mut Recipe, wanted: fn(&StepSpec) -> bool) -> &mut StepSpec {
    recipe.steps.iter_mut().find(|step| wanted(step)).expect("such a step")
}

/// Puts another letter in the place of one.
fn change_one(text: &mut String, at: usize) {
    let at = at % text.chars().count();
    *text = text.chars().enumerate().map(|(index, char)| if index == at { other(char) } else { char }).collect();
}

fn other(char: char) -> char {
    if char == 'q' { 'z' } else { 'q' }
}

#[test]
fn what_does_not_shape_the_image_leaves_the_fingerprint_alone() {
    let fingerprint = nasty().fingerprint;
    let same =
        |change: fn(&mut Recipe, &mut Lock, &mut Facts)| assert_eq!(planned(NASTY, change).fingerprint, fingerprint);
    let remarked = NASTY.replace("\n[[", "\n# a remark\n[[").replace("kind = ", "kind    = ");
    assert_eq!(planned(&remarked, |_, _, _| ()).fingerprint, fingerprint);
    same(|recipe, _, _| recipe.description = "other".to_owned());
    same(|recipe, _, _| recipe.name = "renamed".to_owned());
    same(|recipe, _, _| recipe.tags.clear());
    same(|recipe, _, _| recipe.machine.cpus = 1);
    same(|recipe, _, _| recipe.machine.memory = "1GiB".to_owned());
    same(|recipe, _, _| recipe.machine.timeout = "2h".to_owned());
    same(|recipe, _, _| recipe.checks.clear());
    same(|_, lock, _| lock.artifacts.values_mut().for_each(|artifact| artifact.url.push_str("/elsewhere")));
    same(|_, _, facts| facts.base.name.push('x'));
    same(|_, _, facts| facts.base.location.push('x'));
    same(|_, _, facts| _ = facts.assets.insert("unused".to_owned(), Vec::new()));
    same(|recipe, _, _| {
        for step in &mut recipe.steps {
            match step {
                StepSpec::Run { name, timeout, .. } => (*name, *timeout) = ("other".to_owned(), None),
                StepSpec::Packages { name, timeout, .. } | StepSpec::Buildkit { name, timeout, .. } => {
                    (*name, *timeout) = (Some(format!("p{timeout:?}{}", name.is_some())), Some("1m".to_owned()));
                }
                StepSpec::File { name, path, .. } => *name = Some(format!("file at {path}")),
                StepSpec::Unit { name, unit, .. } => *name = Some(format!("the unit {unit}")),
            }
        }
    });
    let elsewhere = amibake::plan::Options {
        format: amibake::plan::ImageFormat::Raw,
        standalone: false,
        provider: ProviderKind::Aws,
        overrides: Vec::new(),
        ..options()
    };
    assert_eq!(plan(&recipe(NASTY), &lock(), &facts(), &elsewhere).unwrap().fingerprint, fingerprint);
}

#[test]
fn what_shapes_the_image_changes_the_fingerprint() {
    let mut seen = vec![nasty().fingerprint];
    let mut differs = |change: fn(&mut Recipe, &mut Lock, &mut Facts)| {
        let fingerprint = planned(NASTY, change).fingerprint;
        assert!(!seen.contains(&fingerprint));
        seen.push(fingerprint);
    };
    differs(|recipe, _, _| recipe.machine.disk = Some("13GiB".to_owned()));
    differs(|recipe, _, _| recipe.volumes[0].name = "other".to_owned());
    differs(|recipe, _, _| recipe.volumes[0].mount = "/var/lib/other".to_owned());
    differs(|recipe, _, _| recipe.volumes[0].size = "21GiB".to_owned());
    differs(|recipe, _, _| recipe.volumes[0].volume_type = "io2".to_owned());
    differs(|recipe, _, _| recipe.volumes[0].filesystem = amibake::recipe::Filesystem::Ext4);
    differs(|recipe, _, _| recipe.volumes.clear());
    differs(|recipe, _, _| recipe.buildkitd.as_mut().unwrap().port = 1);
    differs(|recipe, _, _| _ = recipe.steps.pop());
    differs(|recipe, _, _| recipe.steps.clear());
    differs(|_, lock, _| lock.version = Version::new(0, 31, 3));
    differs(|_, lock, _| lock.stand_in = true);
    let arm = amibake::plan::Options { arch: Arch::Arm64, ..options() };
    let mut on_arm = facts();
    on_arm.base.arch = Arch::Arm64;
    assert!(!seen.contains(&plan(&recipe(NASTY), &lock(), &on_arm, &arm).unwrap().fingerprint));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_byte_of_anything_that_is_in_the_image_changes_the_fingerprint(which in 0..8, at in 0..10_000_usize, bit in 0..8_u8) {
        let changed = planned(NASTY, |recipe, lock, facts| {
            let is_file = |step: &StepSpec| matches!(step, StepSpec::File { content: Some(_), .. });
            match (which, step_of(recipe, is_file)) {
                (0, StepSpec::File { content: Some(content), .. }) => change_one(content, at),
                (1, StepSpec::File { path, .. }) => change_one(path, 1 + at % (path.chars().count() - 1)),
                (2, StepSpec::File { owner, .. }) => change_one(owner, at),
                (3, StepSpec::File { mode, .. }) => *mode = format!("{:04o}", 0o4750 ^ (1 << (at % 12))),
                (4, _) => {
                    let blob = facts.assets.get_mut("blob.bin").unwrap();
                    let at = at % blob.len();
                    blob[at] ^= 1 << bit;
                }
                (5, _) => change_one(&mut facts.base.identity, at),
                (6, _) => {
                    let artifact = lock.artifacts.get_mut(&amibake::release::Platform(Arch::Amd64)).unwrap();
                    let mut digits = artifact.sha256.to_string();
                    digits.replace_range(at % 64..at % 64 + 1, "c");
                    artifact.sha256 = digits.parse().unwrap();
                }
                _ => {
                    let StepSpec::Run { script, .. } = step_of(recipe, |step| matches!(step, StepSpec::Run { .. })) else {
                        unreachable!()
                    };
                    change_one(script, at % (script.len() - 1));
                }
            }
        });
        prop_assert_ne!(changed.fingerprint, nasty().fingerprint);
    }

    #[test]
    fn the_order_of_steps_changes_the_fingerprint(one in 0..11_usize, two in 0..11_usize) {
        let swapped = planned(NASTY, |recipe, _, _| recipe.steps.swap(one, two));
        prop_assert_eq!(swapped.fingerprint == nasty().fingerprint, one == two);
    }
}
