//! `amibake fetch`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::{FetchArgs, Settings};
use crate::error::{Error, Exit, Result};
use crate::release::{Extract, Fetch, Lock};
use crate::report;

pub(crate) fn run(settings: &Settings, args: &FetchArgs) -> Result<Exit> {
    super::block_on(async {
        let cancel = cancel_on_signal(&settings.runs)?;
        let lock = Lock::load(&settings.lock)?;
        let sink = settings.talk.sink();
        let mirror = args.release_mirror.as_ref();
        let archs = match (args.arch.as_slice(), &args.extract) {
            ([], None) => lock.artifacts.keys().map(|platform| platform.0).collect(),
            ([], Some(_)) => crate::release::Arch::host().into_iter().collect(),
            (given, _) => given.to_vec(),
        };
        if args.extract.is_some() && archs.len() > 1 {
            return Err(
                Error::usage("one file cannot be extracted for several architectures").with_hint("give one --arch")
            );
        }
        let mut fetched = Vec::new();
        for arch in archs {
            let reporter = Reporter::new(&format!("BuildKit {} ({arch})", lock.version), vec![Arc::clone(&sink)]);
            if lock.stand_in {
                reporter.warn("a stand-in release: not BuildKit");
            }
            let to = target(args);
            let extract = args.extract.as_deref().zip(to.as_deref()).map(|(member, to)| Extract { member, to });
            let fetch = Fetch { mirror, extract, ..Fetch::new(&lock, arch, &settings.cache) };
            fetched.push(fetch.run(&reporter, &cancel).await?);
            if let Some(to) = &to {
                reporter.note(format!("extracted {}", to.display()));
            }
        }
        if args.json {
            let artifacts: Vec<_> = fetched
                .iter()
                .map(|artifact| {
                    json!({
                        "version": artifact.version(), "arch": artifact.arch(), "path": artifact.path(),
                        "sha256": artifact.sha256(), "size_bytes": artifact.size(), "members": artifact.members(),
                        "stand_in": artifact.stand_in(),
                        "evidence": lock.artifact(artifact.arch()).and_then(|locked| locked.evidence.as_ref()),
                    })
                })
                .collect();
            report::print_json(&json!({ "artifacts": artifacts }));
        } else {
            for artifact in &fetched {
                report::print(&format!("{}  {}", artifact.path().display(), artifact.sha256()));
            }
        }
        Ok(Exit::Done)
    })
}

/// The file that `--extract` becomes: its last name, below `--to`.
fn target(args: &FetchArgs) -> Option<PathBuf> {
    Some(args.to.as_ref()?.join(args.extract.as_deref()?.rsplit('/').next()?))
}
