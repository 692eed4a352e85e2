//! `buildkitd` and `buildctl` of the stand-in release: one program, told apart by the name it is called by.

mod client;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (tool, ended) = match name.rsplit('/').next() {
        Some("buildkitd") => ("buildkitd", runtime.block_on(daemon::run(&arguments))),
        Some("buildctl") => ("error", runtime.block_on(client::run(&arguments))),
        other => ("error", Err(format!("call me buildkitd or buildctl, not {}", other.unwrap_or_default()))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{tool}: {message}");
            ExitCode::FAILURE
        }
    }
}

/// `<program> github.com/moby/buildkit <version> stand-in`, in the form of the real programs.
fn version_line(program: &str) -> String {
    format!("{program} {} {} {}", amibake_standin::PACKAGE, amibake_standin::version::own(), amibake_standin::REVISION)
}
