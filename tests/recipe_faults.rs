//! What a user reads who got a recipe wrong: one snapshot with every message, and promises that hold for any input.

use amibake::recipe::{self, Recipe};
use proptest::prelude::*;

const FULL: &str = include_str!("fixtures/full.toml");

fn faults(text: impl AsRef<[u8]>, overrides: &[&str]) -> String {
    let overrides: Vec<_> = overrides.iter().map(|&set| set.to_owned()).collect();
    match recipe::parse("r.toml", text, &overrides) {
        Ok(recipe) => format!("VALID: {recipe:?}\n"),
        Err(faults) => faults.to_string(),
    }
}

#[test]
fn explore() {
    let schema = serde_json::to_string_pretty(&recipe::schema()).unwrap();
    std::fs::write("/tmp/w/recipe-schema.json", schema).unwrap();
    println!("{}", faults(FULL, &[]));
    for t in ["name = builder\n", "name = \"a\"\n[machine]\nmode = 0644\ncpus=12x\nprot=1\n[buildkitd]\nprot=1\n", "name=\"a\"\nname=\"b\"\n[machine]\n[machine]\ncpus=0\n", "name = \"a\"\n[machine\ncpus=1\n", "name=\"a\nfoo=1\n", "[[step]]\nkind=\"run\"\nscript=\"\"\"\nfoo\n", "x=[1,\n[machine]\ncpus=2\n", "= 3\na b = 1\nname: builder\n", "a.a.a=1\n[a]\n\n[a.a.a]\n", "name=\"a\"\n[machine]\ncpus = \n", "a=1 b=2", "name='a'\n[machine]\ncpus=1_000__0\nmemory='1GB' 'b'\n"] {
        println!("---- {t:?}\n{}", faults(t, &[]));
    }
    println!("{}", faults(FULL, &["buildkitd.prot=1", "machine.memory=4GB", "foo", "machine.cpus=x", "volume.cach.size=1GiB", "step.99.timeout=1m"]));
}
