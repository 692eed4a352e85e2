//! What lies in a machine's folder, and what its console and QEMU's own words say when something goes wrong.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Lines of the console, and of QEMU's words, that an error shows.
const TAIL_LINES: usize = 15;
/// Bytes looked at for them, and for the words that say a boot has failed.
const TAIL_BYTES: u64 = 16 << 10;

/// Words on a console after which nothing more comes. Each is printed by the program named.
const DEAD_ENDS: [(&str, &str); 4] = [
    ("Kernel panic - not syncing", "its kernel panicked"),
    // SeaBIOS.
    ("No bootable device", "its disk has nothing this machine's firmware can boot"),
    // systemd.
    ("You are in emergency mode", "it booted into emergency mode"),
    ("Cannot open access to console, the root account is locked", "it booted into emergency mode"),
];

/// The files of one machine.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The folder they are in.
    pub(super) dir: PathBuf,
}

impl Files {
    /// The root disk.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root.qcow2")
    }

    /// A data volume.
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.dir.join(format!("volume-{name}.qcow2"))
    }

    /// What the guest writes to its serial console.
    pub(super) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What QEMU itself prints.
    pub(super) fn words(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    /// systemd's credentials, as one SMBIOS string.
    pub(super) fn credentials(&self) -> PathBuf {
        self.dir.join("credentials")
    }

    /// The private key.
    pub(super) fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// The host key, once it is known.
    pub(super) fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// Why the guest will never be ready, if its console says so.
    pub(super) fn dead_end(&self) -> Option<&'static str> {
        let text = tail(&self.console());
        DEAD_ENDS.iter().find(|(words, _)| text.contains(words)).map(|&(_, meaning)| meaning)
    }

    /// The last lines of QEMU's words and of the console, for an error.
    pub(super) fn last_words(&self) -> String {
        let mut text = String::new();
        for (title, path) in [("QEMU says", self.words()), ("the end of its console", self.console())] {
            let lines = readable(&tail(&path));
            if lines.is_empty() {
                continue;
            }
            text.push_str(&format!("  {title}:\n"));
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                text.push_str(&format!("  | {line}\n"));
            }
        }
        text
    }
}

/// The end of a file; nothing if there is none.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Lines without what only a terminal understands: escape sequences, control characters, overwritten starts.
fn readable(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\u{1b}' => skip_escape(&mut rest),
            '\n' | '\t' => plain.push(next),
            next if next.is_control() => {}
            next => plain.push(next),
        }
    }
    plain
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .map(|line| line.chars().take(240).collect())
        .collect()
}

/// After ESC: `[`, parameters, and a final byte from `@` to `~` (ECMA-48); or a single character.
fn skip_escape(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if rest.next() == Some('[') {
        for next in rest.by_ref() {
            if ('@'..='~').contains(&next) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path().to_owned() };
        (dir, files)
    }

    #[test]
    fn a_dead_end_is_seen_and_an_ordinary_boot_is_none() {
        let (_dir, files) = files();
        assert_eq!(files.dead_end(), None);
        std::fs::write(files.console(), "[    1.0] Run /init as init process\r\nwelcome\r\n").unwrap();
        assert_eq!(files.dead_end(), None);
        let panic = "[ 2.1] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        std::fs::write(files.console(), format!("{}{panic}", "noise\n".repeat(10_000))).unwrap();
        assert_eq!(files.dead_end(), Some("its kernel panicked"));
    }

    #[test]
    fn last_words_are_readable_and_bounded() {
        let (_dir, files) = files();
        assert_eq!(files.last_words(), "");
        std::fs::write(files.words(), "qemu-system-x86_64: no\n").unwrap();
        std::fs::write(files.console(), "\u{1b}c\u{1b}[?7l\u{1b}[2JSeaBIOS\r\n\r\n\u{1b}[0;32m OK \u{1b}[0m x\u{7}\n")
            .unwrap();
        assert_eq!(
            files.last_words(),
            "  QEMU says:\n  | qemu-system-x86_64: no\n  the end of its console:\n  | SeaBIOS\n  |  OK  x\n"
        );
        std::fs::write(files.console(), "line\n".repeat(1000)).unwrap();
        assert_eq!(files.last_words().matches("| line").count(), TAIL_LINES);
    }
}
