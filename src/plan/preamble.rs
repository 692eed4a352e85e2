//! What every script starts with, and how a failure's line finds its way back.
//!
//! Beside a sane shell (strict mode, a path, C.UTF-8, `TMPDIR=/var/tmp`), scripts find in their environment:
//!
//! | variable | value | in |
//! |---|---|---|
//! | `AMIBAKE_ARCH` | `amd64` or `arm64` | steps, checks |
//! | `AMIBAKE_BUILDKIT_VERSION` | the lock's version: `v0.31.2` | steps, checks |
//! | `AMIBAKE_BUILDKIT_STAND_IN` | `1` for the release that tests make, else `0` | steps, checks |
//! | `AMIBAKE_RECIPE` | name of the recipe | checks: it shapes no content, so it stays out of what is fingerprinted |
//!
//! The provider adds `AMIBAKE_ARTIFACT` and `AMIBAKE_ARTIFACT_SIZE` during a bake and `AMIBAKE_PEER`, with
//! the port of its daemon in `AMIBAKE_PEER_PORT`, where there is one, and in `AMIBAKE_PEER_TLS` the folder for
//! `buildctl --tlsdir` if that daemon asks for a certificate (else it is empty).

use std::fmt::Write as _;

use super::quote;
use crate::release::{Arch, Version};

const PREAMBLE: &str = include_str!("../../assets/step/preamble.sh");

/// What a failed script's last line starts with; see [`failed_line`].
const FAILED: &str = "amibake: line ";

/// What scripts are told of the plan they belong to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) recipe: &'a str,
    pub(super) arch: Arch,
    pub(super) version: Version,
    pub(super) stand_in: bool,
}

/// A whole script and how much of it nobody but amibake wrote.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    pub(super) text: String,
    pub(super) preamble_lines: u32,
}

impl Surroundings<'_> {
    /// The script of a step.
    pub(super) fn step(&self, body: &str) -> Script {
        Self::script(&self.exports(), body)
    }

    /// The script of a check.
    pub(super) fn check(&self, body: &str) -> Script {
        Self::script(&format!("{}export AMIBAKE_RECIPE={}\n", self.exports(), quote::sh(self.recipe)), body)
    }

    fn exports(&self) -> String {
        format!(
            "export AMIBAKE_ARCH={} AMIBAKE_BUILDKIT_VERSION={} AMIBAKE_BUILDKIT_STAND_IN={}\n",
            self.arch,
            self.version,
            u8::from(self.stand_in)
        )
    }

    fn script(exports: &str, body: &str) -> Script {
        let mut text = format!("{PREAMBLE}{exports}");
        let preamble_lines = text.lines().count();
        text = text.replace("@lines@", &preamble_lines.to_string());
        let _ = writeln!(text, "{}", body.strip_suffix('\n').unwrap_or(body));
        // Twenty lines of text.
        let preamble_lines = u32::try_from(preamble_lines).unwrap_or(u32::MAX);
        Script { text, preamble_lines }
    }
}

/// The line that a failed script stopped at, counted from 1 at the first line after its preamble: line
/// [`super::Step::preamble_lines`] plus this of the whole script. None when the script did not say, as when it called
/// `exit` itself.
///
/// A script says it with the last line it prints: `amibake: line N: COMMAND: exit status S`. `output` is what it printed,
/// or the end of that.
#[must_use]
pub fn failed_line(output: &[u8]) -> Option<u32> {
    // Anywhere in a line: what the script printed before may have had no end of line.
    let starts = output.windows(FAILED.len()).enumerate().rev().filter(|(_, window)| *window == FAILED.as_bytes());
    starts.into_iter().find_map(|(at, _)| {
        let line = output[at + FAILED.len()..].split(|byte| *byte == b'\n').next()?;
        let line = String::from_utf8_lossy(line);
        let (number, rest) = line.split_once(": ")?;
        let (_, status) = rest.rsplit_once(": exit status ")?;
        status.trim_end().parse::<u8>().ok()?;
        number.parse().ok().filter(|number| *number > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings<'static> {
        Surroundings { recipe: "builder", arch: Arch::Amd64, version: Version::new(0, 31, 2), stand_in: false }
    }

    fn run(script: &Script) -> (Option<i32>, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &script.text).unwrap();
        let output = std::process::Command::new("bash")
            .args(["-c", "exec bash \"$0\" 2>&1"])
            .arg(file.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap();
        (output.status.code(), output.stdout)
    }

    /// Of a command over several lines bash names the first or the last, by kind.
    #[test]
    fn a_failing_script_says_its_own_line() {
        for (body, line, status) in [
            ("echo one\nfalse\necho never\n", 2, 1),
            ("printf 'no end of line'\nfalse", 2, 1),
            ("f() {\n    (exit 7)\n}\nf\n", 2, 7),
            ("echo a |\n    grep b |\n    cat\n", 3, 1),
            ("true\nx=$(echo hi\nexit 3)\n", 3, 3),
            ("set +e\nfalse\nset -e\nls /nonexistent \\\n    /neither\n", 4, 2),
            ("if false; then :; fi\n(\n  cd /nonexistent\n)\n", 4, 1),
            ("echo 'amibake: line 99: fake: exit status 1'\nprintf '\\377\\376'\nfalse\n", 3, 1),
        ] {
            let (code, output) = run(&surroundings().step(body));
            let output_text = String::from_utf8_lossy(&output);
            assert_eq!(code, Some(status), "{body}: {output_text}");
            assert_eq!(failed_line(&output), Some(line), "{body}: {output_text}");
            assert_eq!(output_text.matches(": exit status").count(), 1 + body.matches("fake").count(), "{output_text}");
        }
    }

    #[test]
    fn a_script_that_succeeds_or_exits_says_nothing() {
        for (body, status) in [("false || true\nif ! false; then echo yes; fi", 0), ("exit 4", 4)] {
            let (code, output) = run(&surroundings().step(body));
            assert_eq!((code, failed_line(&output)), (Some(status), None), "{body}");
        }
    }

    #[test]
    fn the_environment_is_the_documented_one() {
        let body = "echo $AMIBAKE_ARCH $AMIBAKE_BUILDKIT_VERSION $AMIBAKE_BUILDKIT_STAND_IN ${AMIBAKE_RECIPE-none}\n\
                    echo $TMPDIR $LC_ALL $(umask) $PWD\necho $PATH";
        let expected = |recipe| {
            format!(
                "amd64 v0.31.2 0 {recipe}\n/var/tmp C.UTF-8 0022 /\n\
                 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
            )
        };
        let surroundings = surroundings();
        assert_eq!(String::from_utf8_lossy(&run(&surroundings.step(body)).1), expected("none"));
        assert_eq!(String::from_utf8_lossy(&run(&surroundings.check(body)).1), expected("builder"));
    }

    #[test]
    fn output_that_only_looks_like_it() {
        for output in
            [&b""[..], b"amibake: line ", b"amibake: line x: y: exit status 1", b"amibake: line 0: y: exit status 1"]
        {
            assert_eq!(failed_line(output), None);
        }
        assert_eq!(failed_line(b"amibake: line 12: grep ': exit status 3' x: exit status 1\r\nmore"), Some(12));
    }
}
