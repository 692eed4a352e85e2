//! What a user reads who got a recipe wrong: one snapshot with every message, and promises that hold for any input.

use std::fmt::Write as _;

use amibake::recipe::{self, Recipe};
use proptest::prelude::*;

/// Every key of the format once.
const FULL: &str = include_str!("fixtures/full.toml");

/// Files with a fault each, or several where their being told together is the point. Between lines of `## title`.
const CASES: &str = include_str!("fixtures/faults.txt");

/// `--set` that are wrong, on [`FULL`].
const WRONG_SETS: &[&[&str]] = &[
    &["buildkitd.prot=1"],
    &["machin.cpus=1"],
    &["machine.memory=4GB"],
    &["machine.cpus=many"],
    &["machine.cpus.x=1"],
    &["machine"],
    &["=1"],
    &["machine.=1"],
    &["volume.cach.size=1GiB"],
    &["volume.7.size=1GiB"],
    &["volume.cache.siez=1GiB"],
    &["step.tidy.asset=x"],
    &["step.tidy.timeout=soon"],
    &["buildkitd.port=99999"],
    &["buildkitd.gc.enabled=yes"],
    &["buildkitd.gc.min_free_percent=31"],
    &["buildkitd.extra_flags=[\"--addr=tcp://0.0.0.0:1\"]"],
    &["buildkitd.registry.\"http://x\".http=true"],
    &["tags.\"aws:x\"=1"],
    &["base.aws.ami=ami-01234567"],
    &["base.local.image.riscv=x"],
    &["name=Builder 2", "machine.cpus=0", "prot=1"],
    &["volume.cache.name=漢字"],
    &["step=[]", "step.tidy.timeout=1m"],
];

fn outcome(text: impl AsRef<[u8]>, overrides: &[&str]) -> Result<Recipe, String> {
    let overrides: Vec<_> = overrides.iter().map(|&set| set.to_owned()).collect();
    recipe::parse("r.toml", text, &overrides).map_err(|faults| faults.to_string())
}

fn faults(text: impl AsRef<[u8]>, overrides: &[&str]) -> String {
    match outcome(text, overrides) {
        Ok(recipe) => panic!("valid: {recipe:?}"),
        Err(faults) => faults,
    }
}

fn cases() -> Vec<(&'static str, &'static str)> {
    let parts = CASES.split("## ").skip(1);
    parts
        .map(|part| part.split_once('\n').expect("a title's line"))
        .map(|(title, text)| (title, text.trim_end_matches('\n')))
        .collect()
}

#[test]
fn every_message() {
    let cases = cases();
    assert!(cases.len() >= 90, "{}", cases.len());
    let mut told = String::new();
    for (title, text) in cases {
        // Most cases are about a line; the name that every recipe needs is not their point.
        let top = text.split('[').next().unwrap_or_default();
        let text = match top.contains("name") || title.starts_with('=') {
            true => text.to_owned(),
            false => format!("name = \"r\"\n{text}"),
        };
        writeln!(told, "## {title}\n\n{}", faults(&text, &[])).unwrap();
    }
    insta::assert_snapshot!("messages", told);
}

#[test]
fn every_message_of_set() {
    let mut told = String::new();
    for sets in WRONG_SETS {
        writeln!(told, "## {}\n\n{}", sets.join(" "), faults(FULL, sets)).unwrap();
    }
    insta::assert_snapshot!("set_messages", told);
}

#[test]
fn files_that_are_no_text() {
    let mut told = String::new();
    let huge = vec![b'#'; (1 << 20) + 1];
    for (title, bytes) in [
        ("empty", b"".as_slice()),
        ("only a comment", b"# nothing\n"),
        ("NUL", b"name = \"r\"\n\0\n"),
        ("invalid UTF-8", b"name = \"r\"\ndescription = \"\xe4rger\"\n"),
        ("UTF-16", b"\xff\xfen\0a\0"),
        ("larger than the bound", &huge),
        ("byte order mark", b"\xef\xbb\xbfname = \"R\""),
        ("CRLF", b"name = \"r\"\r\n\r\n[machine]\r\ncpus = 0\r\n"),
        ("lone carriage return", b"name = \"r\"\rdescription = \"\"\n"),
        ("tabs and wide characters", "name = \"r\"\n[machine]\n\tmemory\t= \"漢字GiB\" # é\n".as_bytes()),
    ] {
        writeln!(told, "## {title}\n\n{}", faults(bytes, &[])).unwrap();
    }
    insta::assert_snapshot!("no_text", told);
}

#[test]
fn a_full_recipe_is_valid_and_survives_a_round_trip() {
    let recipe = outcome(FULL, &[]).unwrap();
    let written = toml::to_string(&recipe).unwrap();
    assert_eq!(outcome(&written, &[]), Ok(recipe), "{written}");
}

#[test]
fn the_least_recipe_is_valid_and_has_the_documented_defaults() {
    let recipe = outcome("name = \"r\"\n[buildkitd]\n", &[]).unwrap();
    assert_eq!((recipe.machine.cpus, recipe.machine.memory.as_str()), (2, "2GiB"));
    let buildkitd = recipe.buildkitd.unwrap();
    assert_eq!((buildkitd.port, buildkitd.root.as_str()), (1234, "/var/lib/buildkit"));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let windows = format!("\u{feff}{}", FULL.replace('\n', "\r\n"));
    assert_eq!(outcome(windows, &[]), outcome(FULL, &[]));
}

#[test]
fn set_changes_what_it_names() {
    let recipe = outcome(
        FULL,
        &[
            "name=builder2",
            "machine.memory=8GiB",
            "machine.cpus = 3",
            "volume.cache.size=20GiB",
            "step.0.timeout=1m",
            "step.tidy.script=echo a=b.c",
            "step.2.members=all",
            "step.3.mode=0600",
            "buildkitd.port=2346",
            "buildkitd.gc.enabled=false",
            "buildkitd.extra_flags=[\"--trace\"]",
            "buildkitd.registry.\"ghcr.io\".mirrors=[\"m.example.com\"]",
            "base.aws.ssm_parameter.arm64=/other",
            "base.local.image=\"quoted.qcow2\"",
            "tags.team=42",
            "tags.\"cost centre\"=7",
            "check.versions match.when=boot",
            "machine.cpus=5",
        ],
    )
    .unwrap();
    let json = serde_json::to_value(&recipe).unwrap();
    for (pointer, value) in [
        ("/name", serde_json::json!("builder2")),
        ("/machine/memory", "8GiB".into()),
        ("/machine/cpus", 5.into()),
        ("/volume/0/size", "20GiB".into()),
        ("/step/0/timeout", "1m".into()),
        ("/step/5/script", "echo a=b.c".into()),
        ("/step/2/members", "all".into()),
        ("/step/3/mode", "0600".into()),
        ("/buildkitd/port", 2346.into()),
        ("/buildkitd/gc/enabled", false.into()),
        ("/buildkitd/gc/max_used_percent", 70.into()),
        ("/buildkitd/extra_flags", serde_json::json!(["--trace"])),
        ("/buildkitd/registry/ghcr.io/mirrors/0", "m.example.com".into()),
        ("/base/aws/ssm_parameter/amd64", "/aws/service/base-x86_64".into()),
        ("/base/aws/ssm_parameter/arm64", "/other".into()),
        ("/base/local/image", "quoted.qcow2".into()),
        ("/tags/team", "42".into()),
        ("/tags/cost centre", "7".into()),
        ("/check/0/when", "boot".into()),
    ] {
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
    }
}

#[test]
fn set_makes_the_table_it_needs() {
    let recipe = outcome("name = \"r\"\n", &["buildkitd.gc.min_free_percent=15", "base.local.image=a.qcow2"]).unwrap();
    assert_eq!(recipe.buildkitd.unwrap().gc.min_free_percent, 15);
    assert_eq!(recipe.base.local.unwrap().image, recipe::PerArch::Same("a.qcow2".to_owned()));
}

#[test]
fn set_for_one_architecture_keeps_the_other() {
    let text = "name = \"r\"\n[base.local]\nimage = \"old\"\n";
    let image = outcome(text, &["base.local.image.arm64=new"]).unwrap().base.local.unwrap().image;
    let each = recipe::PerArch::Each { amd64: Some("old".to_owned()), arm64: Some("new".to_owned()) };
    assert_eq!(image, each);
}

#[test]
fn set_can_mend_a_fault_of_the_file() {
    let text = "name = \"r\"\n[machine]\ncpus = 0\n";
    assert!(outcome(text, &[]).is_err());
    assert!(outcome(text, &["machine.cpus=1"]).is_ok());
}

#[test]
fn the_committed_schema_is_the_one_printed() {
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/schema.json")).unwrap();
    let printed = format!("{}\n", serde_json::to_string_pretty(&recipe::schema()).unwrap());
    assert!(committed == printed, "recipes/schema.json is out of date: run `amibake schema > recipes/schema.json`");
}

/// Bytes of a file with some of its pieces dropped, doubled, or replaced by what TOML stumbles over.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 18] = [
        "\"", "\"\"\"", "'''", "[", "]]", "{", "}", "=", ".", "\n", "\r", "\0", "0", "é", "\\u", "#", "1e99999",
        "\u{feff}",
    ];
    let edit = (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(&PIECES[..]));
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, drop, piece) in edits {
            let at = at.index(bytes.len());
            let end = (at + drop).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(faults) = recipe::parse("r.toml", &bytes, &[]) {
            prop_assert!(faults.count() > 0);
            prop_assert!(faults.to_string().starts_with("r.toml:"));
        }
    }

    #[test]
    fn a_damaged_recipe_is_judged_without_panic(bytes in mutated(), set in "(machine|step|buildkitd|volume)(\\.[a-z0-9]{1,7}){0,3}=.{0,9}") {
        let _ = recipe::parse("r.toml", &bytes, &[]).map_err(|faults| faults.to_string());
        let _ = recipe::parse("r.toml", &bytes, &[set]).map_err(|faults| faults.to_string());
    }

    #[test]
    fn any_override_is_judged_without_panic(set in "(?s).{0,40}") {
        let _ = recipe::parse("r.toml", FULL, &[set]).map_err(|faults| faults.to_string());
    }
}

#[test]
fn files_made_to_hurt_are_judged_in_time() {
    let deep = format!("a = {}", "[".repeat(200_000));
    let dotted = format!("{}b = 1", "a.".repeat(200_000));
    let header = format!("[{}b]", "a.".repeat(200_000));
    let doubles: String = (0..60_000).map(|n| format!("k{} = 1\n", n % 30_000)).collect();
    let broken = "= \n".repeat(200_000);
    let steps = "[[step]]\nkind = \"run\"\nname = \"x\"\n".repeat(20_000);
    let line = format!("x = \"{}\" y", "漢".repeat(200_000));
    for (name, text) in [
        ("deep", deep),
        ("dotted", dotted),
        ("header", header),
        ("doubles", doubles),
        ("broken", broken),
        ("steps", steps),
        ("line", line),
    ] {
        let start = std::time::Instant::now();
        let told = faults(&text, &[]);
        assert!(told.len() < 200_000, "{name}: {} bytes told", told.len());
        // Seconds even unoptimised and on a busy machine; a quadratic walk would take minutes.
        assert!(start.elapsed().as_secs() < 20, "{name} took {:?}", start.elapsed());
    }
}
