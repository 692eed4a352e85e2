use super::*;
use crate::error::Exit;

fn baking() -> Baking {
    Baking {
        recipes: vec!["agent".to_owned(), "builder".to_owned()],
        arches: Arch::ALL.to_vec(),
        region: Some("eu-central-1".to_owned()),
        role: Some("arn:aws:iam::123456789012:role/images".to_owned()),
        channel: "stable".to_owned(),
        update_stack: None,
        queue: None,
        install: "command -v amibake".to_owned(),
    }
}

fn schedule(baking: Baking) -> Schedule {
    let (cron, max_age, runner) = ("17 4 * * *".parse().unwrap(), "30d".to_owned(), None);
    Schedule { baking, cron, max_age, branch: None, runner, generated_by: "Rendered by a test.".to_owned() }
}

#[test]
fn what_could_leave_its_place_is_refused() {
    let refused = |change: &dyn Fn(&mut Schedule)| {
        for target in [Target::Buildkite, Target::GithubActions, Target::Eventbridge] {
            let mut schedule = schedule(baking_for(target));
            schedule.render(target).unwrap();
            change(&mut schedule);
            assert_eq!(schedule.render(target).unwrap_err().exit(), Exit::Usage);
        }
    };
    refused(&|schedule| schedule.baking.region = Some("eu; rm -rf /".to_owned()));
    refused(&|schedule| schedule.baking.role = Some("arn:aws:iam::1:role/x\nrun: evil".to_owned()));
    refused(&|schedule| schedule.baking.role = Some("images".to_owned()));
    refused(&|schedule| schedule.baking.update_stack = Some("$(evil)".to_owned()));
    refused(&|schedule| schedule.baking.queue = Some("a: b".to_owned()));
    refused(&|schedule| schedule.baking.install = "one\ntwo".to_owned());
    refused(&|schedule| schedule.baking.install = " ".to_owned());
    refused(&|schedule| schedule.branch = Some("--force".to_owned()));
    refused(&|schedule| schedule.runner = Some("[self-hosted, x]".to_owned()));
}

/// Without what the target has no use for.
fn baking_for(target: Target) -> Baking {
    let role = baking().role.filter(|_| target != Target::Eventbridge);
    Baking { role, ..baking() }
}

#[test]
fn a_workflow_needs_a_role_and_a_region_and_both_are_told() {
    let told = |role: bool, region: bool| {
        let (role, region) = (baking().role.filter(|_| role), baking().region.filter(|_| region));
        let schedule = schedule(Baking { role, region, ..baking() });
        schedule.render(Target::Buildkite).unwrap();
        let error = schedule.render(Target::GithubActions).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        error.to_string()
    };
    assert_eq!(told(false, true), "--role is needed for github-actions");
    assert_eq!(told(true, false), "--region is needed for github-actions");
    assert_eq!(told(false, false), "--role and --region are needed for github-actions");
    schedule(Baking { region: None, ..baking_for(Target::Eventbridge) }).render(Target::Eventbridge).unwrap();
}

#[test]
fn what_a_target_has_no_use_for_is_refused() {
    let refused = |target, change: &dyn Fn(&mut Schedule)| {
        let mut schedule = schedule(baking_for(target));
        change(&mut schedule);
        let error = schedule.render(target).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        error.to_string()
    };
    let queue = |schedule: &mut Schedule| schedule.baking.queue = Some("images".to_owned());
    let runner = |schedule: &mut Schedule| schedule.runner = Some("self-hosted".to_owned());
    assert_eq!(refused(Target::Buildkite, &runner), "--runner means nothing to buildkite");
    assert_eq!(refused(Target::GithubActions, &queue), "--queue means nothing to github-actions");
    assert_eq!(refused(Target::Eventbridge, &queue), "--queue means nothing to eventbridge");
    let all = |schedule: &mut Schedule| {
        queue(schedule);
        runner(schedule);
        schedule.baking.role = baking().role;
    };
    assert_eq!(refused(Target::Eventbridge, &all), "--role and --queue and --runner mean nothing to eventbridge");
}

#[test]
fn a_recipe_that_is_named_twice_is_refused() {
    let twice = Baking { recipes: vec!["agent".to_owned(), "agent".to_owned()], ..baking() };
    assert_eq!(twice.check().unwrap_err().to_string(), "recipe `agent` is named twice");
}

#[test]
fn cron_in_eventbridges_form() {
    let form = |text: &str| {
        let mut schedule = schedule(baking_for(Target::Eventbridge));
        schedule.cron = text.parse().unwrap();
        let rendered = schedule.render(Target::Eventbridge)?;
        Ok::<_, Error>(
            rendered.lines().find_map(|line| line.trim().strip_prefix("Default: cron(").map(str::to_owned)).unwrap(),
        )
    };
    for (cron, expected) in [
        ("17 4 * * *", "17 4 * * ? *)"),
        ("17 4 * * 1-5", "17 4 ? * 2-6 *)"),
        ("0 */6 * * 0,7", "0 */6 ? * 1,1 *)"),
        ("0 3 * * 5-7", "0 3 ? * 1,6,7 *)"),
        ("0 3 * * */2", "0 3 ? * 1,3,5,7 *)"),
        ("0 3 * jan-mar 1-fri", "0 3 ? JAN-MAR 2,3,4,5,6 *)"),
        ("0 3 1,15 * *", "0 3 1,15 * ? *)"),
        ("0 3 * * MON-FRI", "0 3 ? * MON-FRI *)"),
        ("0 3 * * 1-5/2", "0 3 ? * 2-6/2 *)"),
    ] {
        assert_eq!(form(cron).unwrap(), expected, "{cron}");
    }
    assert_eq!(form("0 3 1 * 1").unwrap_err().exit(), Exit::Usage);
    for bad in ["", "* * * *", "* * * * * *", "0 3 * * $(x)", "17 4 * * \"x\""] {
        assert!(bad.parse::<Cron>().is_err(), "{bad}");
    }
}

#[test]
fn what_no_cron_takes_is_told_by_its_field() {
    let told = |text: &str| format!("{text}: {}", text.parse::<Cron>().unwrap_err());
    let bad = [
        "61 4 * * *",
        "0 25 * * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "0 0 * JANUARY *",
        "0 0 * * MON-XXX",
        "5-1 * * * *",
        "*/0 * * * *",
        "*/x * * * *",
        "+1 * * * *",
        "1, * * * *",
        "0 0 31 2 *",
        "0 0 30,31 FEB *",
        "0 0 31 4,6,9,11 *",
    ];
    insta::assert_snapshot!(bad.map(told).join("\n"));
    for good in ["20/15 0-6/2,23 * * *", "0 0 29 2 *", "0 0 31 2 1", "0 0 31 1,2 *", "0 0 * JAN,mar SUN-sat"] {
        good.parse::<Cron>().unwrap();
    }
}

#[test]
fn a_dollar_stays_for_the_shell_of_the_job() {
    let install = "curl \"https://x/${V}\" && true".to_owned();
    let rendered = schedule(Baking { install, ..baking_for(Target::Eventbridge) });
    let buildkite = rendered.render(Target::Buildkite).unwrap();
    assert!(buildkite.contains("curl \"https://x/$${V}\""), "{buildkite}");
    // Every other one in what is uploaded is doubled as well.
    for line in buildkite.lines().filter(|line| !line.trim_start().starts_with('#')) {
        assert!(!line.replace("$$", "").contains('$'), "{line}");
    }
    assert!(rendered.render(Target::Eventbridge).unwrap().contains(r#""curl \"https://x/${!V}\" && true""#));
    let steps = pipeline(&Pipeline {
        baking: rendered.baking,
        lock_artifact: true,
        max_age: Some("30d".to_owned()),
        promote: true,
    })
    .to_string();
    assert!(!steps.replace("$$", "").contains('$'), "{steps}");
}

#[test]
fn one_step_an_image_and_the_promotion_waits_for_all() {
    let options = Pipeline { baking: baking(), lock_artifact: true, max_age: Some("30d".to_owned()), promote: true };
    insta::assert_json_snapshot!(pipeline(&options));
    let alone = Baking { recipes: vec!["builder".to_owned()], role: None, ..baking() };
    let rendered = pipeline(&Pipeline { baking: alone, lock_artifact: false, max_age: None, promote: false });
    assert_eq!(rendered["steps"].as_array().unwrap().len(), 2);
    assert!(rendered["steps"][0].get("plugins").is_none());
}

#[test]
fn two_recipes_with_other_names_are_promoted_together_too() {
    let named = |names: &[&str]| {
        Baking { recipes: names.iter().map(|name| (*name).to_owned()).collect(), ..baking() }.promoted()
    };
    assert_eq!(named(&["builder", "agent"]), "--pair");
    assert_eq!(named(&["builder"]), "builder");
    assert_eq!(named(&["b", "a"]), "--pair b a");
}
