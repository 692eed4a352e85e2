//! The apt sources of this machine, reduced to its own release: what the base is made from and what it has inside.
//!
//! Reads one-line `.list` and deb822 `.sources` files (sources.list(5)) and keeps what an entry says of trust
//! (`Signed-By`, `Trusted`, …) as it stands. Runs nothing and writes nothing; names no mirror.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Context as _, Error, Result};

/// The distribution release this machine runs (os-release(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// `debian` or `ubuntu`.
    pub(super) id: String,
    /// `12`, `24.04`.
    pub(super) version: String,
    /// `bookworm`, `noble`.
    pub(super) codename: String,
}

impl Release {
    /// Reads the release of the machine whose root is `root`.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(root.join(path)).ok())
            .ok_or_else(|| unsuitable("this machine does not say which distribution it runs"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.trim().split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        let (id, version, codename) = (value("ID"), value("VERSION_ID"), value("VERSION_CODENAME"));
        if !matches!(id.as_str(), "debian" | "ubuntu") {
            return Err(unsuitable(&format!(
                "this machine runs `{id}`, and a base is made from Debian or Ubuntu only"
            )));
        }
        // They become part of a file name and of a command line.
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if !plain(&version) || !plain(&codename) {
            return Err(unsuitable("this machine's release has no number or no code name: it is not a stable one"));
        }
        Ok(Self { id, version, codename })
    }

    /// `debian-12`.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.id, self.version)
    }

    /// The kernel package that has the drivers of virtual machines and little else.
    pub(super) fn kernel(&self) -> &'static str {
        if self.id == "ubuntu" { "linux-image-virtual" } else { "linux-image-cloud-amd64" }
    }

    fn owns(&self, suite: &str) -> bool {
        let rest = suite.strip_prefix(self.codename.as_str());
        matches!(rest, Some("" | "-updates" | "-security"))
    }
}

fn unsuitable(message: &str) -> Error {
    Error::host(message).with_hint("name a cloud image instead: `--base PATH|URL`, or `[base.local]` in the recipe")
}

/// One source: an archive, its suites and components, and what is said of trust.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    /// deb822 fields beside those, `Signed-By` for one; a value may have continuation lines.
    fields: Vec<(String, String)>,
}

/// The sources of this machine for its own release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sources {
    entries: Vec<Entry>,
    /// What was left out or changed on the way, for the user.
    pub(super) notes: Vec<String>,
}

impl Sources {
    /// Reads `etc/apt/sources.list` and `etc/apt/sources.list.d` below `root`.
    pub(super) fn of(root: &Path, release: &Release) -> Result<Self> {
        let folder = root.join("etc/apt/sources.list.d");
        let mut files = vec![root.join("etc/apt/sources.list")];
        if let Ok(found) = std::fs::read_dir(&folder) {
            files.extend(found.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
        files.sort();
        let mut entries = Vec::new();
        for path in files {
            let parse = match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => parse_list,
                Some("sources") => parse_deb822,
                _ => continue,
            };
            match std::fs::read_to_string(&path) {
                Ok(text) => entries.extend(parse(&text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).or_host(|| format!("cannot read {}", path.display())),
            }
        }
        Self::select(entries, release)
    }

    fn select(entries: Vec<Entry>, release: &Release) -> Result<Self> {
        let mut sources = Self { entries: Vec::new(), notes: Vec::new() };
        for mut entry in entries {
            // Only the distribution's own archive has a `main` under its code name; a third party's would make this
            // machine's habits part of every image.
            entry.suites.retain(|suite| release.owns(suite));
            if entry.suites.is_empty() || !entry.components.iter().any(|component| component == "main") {
                continue;
            }
            entry.uris.retain(|uri| {
                let remote = ["http://", "https://", "mirror+http://", "mirror+https://"];
                let usable = remote.iter().any(|scheme| uri.starts_with(scheme)) || mirror_list(uri).is_some();
                if !usable {
                    sources.notes.push(format!("left out the apt source {uri}: a virtual machine cannot reach it"));
                }
                usable
            });
            if !entry.uris.is_empty() && !sources.entries.contains(&entry) {
                sources.entries.push(entry);
            }
        }
        if !sources.entries.iter().any(|entry| entry.suites.contains(&release.codename)) {
            return Err(Error::host(format!("no apt source of this machine serves {}", release.codename)).with_hint(
                "add one for `main` to /etc/apt/sources.list, run `apt-get update`, and try again; or use `--base`",
            ));
        }
        Ok(sources)
    }

    /// As a deb822 file for bootstrapping on this machine.
    pub(super) fn render(&self) -> String {
        self.entries.iter().map(Entry::render).collect::<Vec<_>>().join("\n")
    }

    /// As they are inside the base: without passwords (they would be in every image), and with key files where apt
    /// expects them. Notes say what was changed.
    pub(super) fn for_guest(&self) -> Guest {
        let mut guest = Guest { text: String::new(), files: Vec::new(), notes: Vec::new() };
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            for uri in &mut entry.uris {
                if let Some(path) = mirror_list(uri) {
                    guest.files.push((path.clone(), path));
                } else if let Some(clean) = without_password(uri) {
                    guest.notes.push(format!("the password of the apt source {clean} is not put into the base"));
                    *uri = clean;
                }
            }
            for (name, value) in &mut entry.fields {
                if name.eq_ignore_ascii_case("Signed-By") && !value.contains("BEGIN PGP") {
                    *value = guest.rehome_keys(value);
                }
            }
        }
        guest.text = entries.iter().map(Entry::render).collect::<Vec<_>>().join("\n");
        guest.files.sort();
        guest.files.dedup();
        guest
    }
}

/// What goes into the base.
#[derive(Debug)]
pub(super) struct Guest {
    /// deb822 text.
    pub(super) text: String,
    /// Files the text refers to: where they are here, and where they go.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Guest {
    fn rehome_keys(&mut self, value: &str) -> String {
        let words = value.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty());
        let moved = words.map(|word| {
            // Not every word is a path: key fingerprints are allowed too.
            let Some(name) = Path::new(word).file_name().filter(|_| word.starts_with('/')) else {
                return word.to_owned();
            };
            let kept = word.starts_with("/usr/share/keyrings/") || word.starts_with("/etc/apt/");
            let to = if kept { PathBuf::from(word) } else { Path::new("/etc/apt/keyrings").join(name) };
            self.files.push((PathBuf::from(word), to.clone()));
            to.to_string_lossy().into_owned()
        });
        moved.collect::<Vec<_>>().join(" ")
    }
}

impl Entry {
    fn render(&self) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
            self.uris.join(" "),
            self.suites.join(" "),
            self.components.join(" ")
        );
        for (name, value) in &self.fields {
            let _ = writeln!(text, "{name}: {value}");
        }
        text
    }
}

/// The local list of mirrors that a `mirror+file:` source names.
fn mirror_list(uri: &str) -> Option<PathBuf> {
    let path = uri.strip_prefix("mirror+file:").or_else(|| uri.strip_prefix("mirror:"))?;
    let path = format!("/{}", path.trim_start_matches('/'));
    Path::new(&path).starts_with("/etc/apt").then(|| PathBuf::from(path))
}

/// The address without user and password, if it had any.
pub(super) fn without_password(uri: &str) -> Option<String> {
    let mut url = Url::parse(uri).ok()?;
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some(url.to_string())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `deb [option=value …] uri suite component …` lines.
fn parse_list(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t']))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut fields = Vec::new();
    for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
        // The option names of sources.list(5) that are not merely capitalised in deb822.
        let name = match name.to_ascii_lowercase().as_str() {
            "arch" => continue,
            "lang" => "Languages".to_owned(),
            "target" => "Targets".to_owned(),
            other => other.to_owned(),
        };
        fields.push((name, value.replace(',', " ")));
    }
    let mut parts = rest.split_whitespace().map(str::to_owned);
    Some(Entry { uris: vec![parts.next()?], suites: vec![parts.next()?], components: parts.collect(), fields })
}

/// Stanzas of `Field: value`, continuation lines indented.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza(std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim_end());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza(fields: Vec<(String, String)>) -> Option<Entry> {
    let take = |wanted: &str| {
        fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.clone())
    };
    let enabled = take("Enabled").is_none_or(|value| !matches!(value.to_ascii_lowercase().as_str(), "no" | "false"));
    if !enabled || !words(&take("Types")?).iter().any(|kind| kind == "deb") {
        return None;
    }
    let (uris, suites) = (words(&take("URIs")?), words(&take("Suites")?));
    let components = words(&take("Components").unwrap_or_default());
    let own = ["types", "uris", "suites", "components", "enabled", "architectures", "x-repolib-name"];
    let fields = fields.into_iter().filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str())).collect();
    Some(Entry { uris, suites, components, fields })
}

/// The proxies of this machine's apt: `apt-config dump`'s lines → (option, address).
pub(super) fn proxies(dump: &str) -> Vec<(String, String)> {
    let wanted = |line: &str| {
        let (name, value) = line.trim().strip_suffix("\";")?.split_once(" \"")?;
        let lower = name.to_ascii_lowercase();
        let proxy = lower.starts_with("acquire::http::proxy") || lower.starts_with("acquire::https::proxy");
        (proxy && !lower.contains("auto") && !value.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    dump.lines().filter_map(wanted).collect()
}

/// Whether a virtual machine reaches the proxy at this address: not if it is this machine's own loopback.
pub(super) fn reachable_from_guest(proxy: &str) -> bool {
    match Url::parse(proxy).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name != "localhost",
        Some(url::Host::Ipv4(address)) => !address.is_loopback(),
        Some(url::Host::Ipv6(address)) => !address.is_loopback(),
        // `DIRECT`, apt's word for none.
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bookworm() -> Release {
        Release { id: "debian".to_owned(), version: "12".to_owned(), codename: "bookworm".to_owned() }
    }

    fn select(entries: Vec<Entry>) -> Result<Sources> {
        Sources::select(entries, &bookworm())
    }

    #[test]
    fn os_release_is_read_and_strangers_are_turned_away() {
        let text = "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(Release::parse(text).unwrap(), bookworm());
        for bad in ["ID=fedora\nVERSION_ID=40\n", "ID=debian\n", "ID=debian\nVERSION_ID=../x\nVERSION_CODENAME=a\n"] {
            let error = Release::parse(bad).unwrap_err();
            assert!(error.hint().unwrap().contains("--base"), "{bad}");
        }
    }

    #[test]
    fn one_line_sources_keep_their_trust_and_lose_other_suites() {
        let text = "# comment\n\
            deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg trusted=yes] http://a.test/debian bookworm main contrib # x\n\
            deb-src http://a.test/debian bookworm main\n\
            deb http://a.test/debian trixie main\n\
            deb http://third.test/apt bookworm stable\n\
            deb http://a.test/sec bookworm-security main\n";
        let sources = select(parse_list(text)).unwrap();
        assert_eq!(
            sources.render(),
            "Types: deb\nURIs: http://a.test/debian\nSuites: bookworm\nComponents: main contrib\n\
             signed-by: /usr/share/keyrings/d.gpg\ntrusted: yes\n\n\
             Types: deb\nURIs: http://a.test/sec\nSuites: bookworm-security\nComponents: main\n"
        );
    }

    #[test]
    fn deb822_sources_keep_embedded_keys_and_skip_disabled_stanzas() {
        let text = "Types: deb deb-src\nURIs: https://a.test/debian\nSuites: bookworm bookworm-updates bookworm-backports\n\
            Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEX\n -----END PGP PUBLIC KEY BLOCK-----\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.test/\nSuites: bookworm\nComponents: main\n\n\n\
            Types: deb-src\nURIs: http://src.test/\nSuites: bookworm\nComponents: main\n";
        let sources = select(parse_deb822(text)).unwrap();
        let rendered = sources.render();
        assert!(rendered.contains("Suites: bookworm bookworm-updates\n"), "{rendered}");
        assert!(rendered.contains("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEX\n"), "{rendered}");
        assert!(!rendered.contains("off.test") && !rendered.contains("src.test"), "{rendered}");
        assert_eq!(parse_deb822(&rendered), sources.entries);
    }

    #[test]
    fn the_guest_gets_no_password_and_its_keys_at_home() {
        let text = "deb [signed-by=/home/me/k.gpg,ABCDEF01] http://user:secret@a.test/debian bookworm main\n\
            deb mirror+file:/etc/apt/mirrors/d.list bookworm-updates main\n";
        let sources = select(parse_list(text)).unwrap();
        assert!(sources.render().contains("user:secret@"));
        let guest = sources.for_guest();
        assert!(!guest.text.contains("secret") && guest.text.contains("http://a.test/debian"), "{}", guest.text);
        assert!(guest.text.contains("signed-by: /etc/apt/keyrings/k.gpg ABCDEF01"), "{}", guest.text);
        let list = PathBuf::from("/etc/apt/mirrors/d.list");
        let key = (PathBuf::from("/home/me/k.gpg"), PathBuf::from("/etc/apt/keyrings/k.gpg"));
        assert_eq!(guest.files, [(list.clone(), list), key]);
        assert!(guest.notes.len() == 1 && !guest.notes[0].contains("secret"));
    }

    #[test]
    fn a_machine_without_a_usable_source_is_told_so() {
        let sources = "deb cdrom:[Debian]/ bookworm main\ndeb file:/mnt/debian bookworm main\n";
        let error = select(parse_list(sources)).unwrap_err();
        assert_eq!(error.to_string(), "no apt source of this machine serves bookworm");
    }

    #[test]
    fn proxies_are_found_in_the_dump() {
        let dump = "APT \"\";\nAcquire::http::Proxy \"http://p.test:3142\";\nAcquire::http::ProxyAutoDetect \"x\";\n\
            Acquire::https::Proxy::a.test \"DIRECT\";\nAcquire::Retries \"3\";\nAcquire::ftp::Proxy \"\";\n";
        let found = proxies(dump);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            found,
            [pair("Acquire::http::Proxy", "http://p.test:3142"), pair("Acquire::https::Proxy::a.test", "DIRECT")]
        );
        assert!(reachable_from_guest("http://p.test:3142") && reachable_from_guest("DIRECT"));
        assert!(!reachable_from_guest("http://127.0.0.1:3142") && !reachable_from_guest("http://[::1]:1"));
    }
}
