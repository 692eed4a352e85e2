//! From a step of a recipe to the script that does it. Every value is quoted; every script stands on its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::quote::quote;
use crate::release::{Sha256, Version};

/// Before every script: fail at the first fault and say where, whatever the machine's own settings are.
const PREAMBLE: &str = include_str!("../../assets/step/preamble.sh");

/// Removes identity, logs, keys and caches.
pub(super) const SEAL: &str = include_str!("../../assets/seal.sh");

/// What a failing script's last line of output begins with; then the line's number in the whole script, counted from 1.
const FAILED_AT: &str = "amibake: failed at line ";

/// A whole script.
pub(super) struct Script {
    pub(super) text: String,
    /// Lines before the first that the user wrote.
    pub(super) preamble_lines: u32,
}

/// `body` behind the preamble.
pub(super) fn with_preamble(exports: &[(&str, &str)], body: &str) -> Script {
    let mut head = PREAMBLE.to_owned();
    for (name, value) in exports {
        head.push_str(&format!("export {name}={}\n", quote(value)));
    }
    let lines = head.lines().count();
    let mut text = head + body;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Script { text, preamble_lines: u32::try_from(lines).unwrap_or(u32::MAX) }
}

/// The line of the whole script, counted from 1, at which it failed, as its output tells. A script that printed no such line died in
/// some other way (`exit 3`, a syntax error, a signal).
#[must_use]
pub fn failed_line(output: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(output);
    text.lines().rev().take(8).find_map(|line| line.trim().strip_prefix(FAILED_AT)?.split(':').next()?.parse().ok())
}

/// Installs packages with apt or dnf.
pub(super) fn packages(apt: &[String], dnf: &[String]) -> String {
    let words = |names: &[String]| names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" ");
    format!(
        "apt_packages=({})\ndnf_packages=({})\n{}",
        words(apt),
        words(dnf),
        include_str!("../../assets/step/packages.sh")
    )
}

/// Unpacks members of the verified tarball under `prefix`.
pub(super) fn buildkit(sha256: Sha256, version: Version, prefix: &str, members: &[String]) -> String {
    let words = members.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" ");
    format!(
        "sha256={sha256}\nversion={version}\nprefix={}\nmembers=({words})\n{}",
        quote(prefix),
        include_str!("../../assets/step/buildkit.sh")
    )
}

/// Writes `content` to `path`.
pub(super) fn file(path: &str, content: &[u8], owner: &str, mode: &str) -> String {
    format!(
        "path={}\nowner={}\nmode={}\n{}{}",
        quote(path),
        quote(owner),
        quote(mode),
        include_str!("../../assets/step/file.sh"),
        encoded(content)
    )
}

/// Installs a unit.
pub(super) fn unit(unit: &str, content: &[u8], enable: bool, start: bool) -> String {
    format!(
        "unit={}\nenable={}\nstart={}\npath=/etc/systemd/system/$unit\nowner=root:root\nmode=0644\n{}{}{}",
        quote(unit),
        u8::from(enable),
        u8::from(start),
        include_str!("../../assets/step/file.sh"),
        encoded(content),
        include_str!("../../assets/step/unit.sh")
    )
}

/// Any bytes as the here-document that `install_file` reads.
fn encoded(content: &[u8]) -> String {
    let code = STANDARD.encode(content);
    let mut text = "install_file <<'AMIBAKE_FILE'\n".to_owned();
    for line in code.as_bytes().chunks(100) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("AMIBAKE_FILE\n");
    text
}
