//! `amibake schema`, `completions` and `version`: what the program knows by itself.

use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::error::{Context as _, Exit, Result};
use crate::release::evidence::{TrustedRoot, known_digests};
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

/// Writes a page for the program and for each of its commands.
pub(crate) fn man(folder: &Path) -> Result<Exit> {
    let cannot = || format!("cannot write manual pages into {}", folder.display());
    std::fs::create_dir_all(folder).or_host(cannot)?;
    clap_mangen::generate_to(Cli::command(), folder).or_host(cannot)?;
    Ok(Exit::Done)
}

pub(crate) fn version(json: bool) -> Exit {
    let version = env!("CARGO_PKG_VERSION");
    // The one in the program is whole, or its tests failed.
    let root = TrustedRoot::embedded().ok().and_then(|root| root.newest());
    let (known, newest) = known_digests();
    if json {
        report::print_json(&serde_json::json!({
            "version": version, "trusted_root": { "newest": root },
            "known_digests": { "count": known, "newest": newest },
        }));
    } else {
        let root = root.map_or_else(|| "none".to_owned(), |at| at.strftime("%Y-%m-%d").to_string());
        let newest = newest.map_or_else(|| "none".to_owned(), |version| version.to_string());
        report::print(&format!(
            "amibake {version}\ntrusted root   Sigstore's public one, its newest key of {root}\n\
             known digests  {known}, the newest of BuildKit {newest}"
        ));
    }
    Exit::Done
}
