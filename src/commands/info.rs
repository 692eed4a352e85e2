//! `amibake schema`, `completions` and `version`: what the program knows by itself.

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::Exit;
use crate::{recipe, report};

pub(crate) fn schema() -> Exit {
    report::print_json(&recipe::schema());
    Exit::Done
}

pub(crate) fn completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "amibake", &mut script);
    report::print(&String::from_utf8_lossy(&script));
    Exit::Done
}

pub(crate) fn version(json: bool) -> Exit {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        report::print_json(&serde_json::json!({ "version": version }));
    } else {
        report::print(&format!("amibake {version}"));
    }
    Exit::Done
}
