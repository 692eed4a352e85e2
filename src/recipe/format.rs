//! The words a recipe's strings may be: one marker type for each, which the types name with `schemars(with = …)`.
//!
//! A marker gives the JSON Schema its definition (a pattern and a description, for editors), and the shape check looks
//! the definition's name up here again to judge a value, so the two cannot part. Knows single strings only; what two
//! values must agree on is `rules`' business.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use regex_lite::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::quantity::{Invalid, parse_duration, parse_size, shown};

/// One kind of string.
pub(super) struct Format {
    /// Its name among the schema's definitions.
    pub(super) name: &'static str,
    /// What an editor and a fault say was expected.
    pub(super) expected: &'static str,
    /// ECMA 262 regular expression in the subset that `regex-lite` has too.
    pattern: &'static str,
    /// What a pattern cannot say, and hints for usual slips. Runs first; its word is final when it says no.
    further: fn(&str) -> Result<(), Invalid>,
    /// `pattern`, once it was needed.
    compiled: OnceLock<Option<Regex>>,
}

impl Format {
    /// The format of a schema definition.
    pub(super) fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// Whether `text` is one.
    pub(super) fn check(&self, text: &str) -> Result<(), Invalid> {
        (self.further)(text)?;
        match self.compiled.get_or_init(|| Regex::new(self.pattern).ok()) {
            Some(pattern) if pattern.is_match(text) => Ok(()),
            _ if text.is_empty() => Err(Invalid::new("an empty string")),
            _ => Err(Invalid::new(format!("`{}` is not {}", shown(text), self.noun()))),
        }
    }

    /// What was expected, short: up to the first example or condition.
    fn noun(&self) -> &'static str {
        let ends = [",", ":", " of ", " such as", " with", " `"].iter().filter_map(|end| self.expected.find(end));
        match ends.min() {
            Some(end) if end > 0 => &self.expected[..end],
            _ => self.expected,
        }
    }
}

macro_rules! formats {
    ($($name:ident: $expected:literal, $pattern:literal, $further:expr;)*) => {
        $(
            /// Marker for the schema; see the table it stands in.
            pub(super) struct $name;

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "description": $expected, "pattern": $pattern })
                }
            }
        )*

        static FORMATS: [Format; [$(stringify!($name)),*].len()] = [$(
            Format { name: stringify!($name), expected: $expected, pattern: $pattern, further: $further, compiled: OnceLock::new() },
        )*];
    };
}

formats! {
    RecipeName: "a name of lower-case letters, digits and inner hyphens, at most 32 characters",
        "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", lower_case;
    VolumeName: "a name of lower-case letters, digits and inner hyphens, at most 11 characters",
        "^[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?$", lower_case;
    Title: "one line of text, at most 100 characters",
        "^[^\\x00-\\x20\\x7f]([^\\x00-\\x1f\\x7f]{0,98}[^\\x00-\\x20\\x7f])?$", any;
    Size: "a size such as `2GiB` (KiB, MiB, GiB, TiB)",
        "^[0-9]+(KiB|MiB|GiB|TiB)?$", |text| parse_size(text).map(drop);
    Timeout: "a duration such as `90m` or `1h30m`, at most 24h",
        "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", |text| within(text, 24, "24h");
    Age: "a duration such as `48h`, at most 8760h (a year)",
        "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", |text| within(text, 8760, "8760h (a year)");
    AbsolutePath: "an absolute path such as `/etc/app.toml`, without `.`, `..`, `//` or a `/` at its end",
        "^(/[^/\\x00-\\x1f\\x7f]+)+$", absolute_path;
    FilePath: "an absolute path such as `/etc/app.toml`, without `.`, `..`, `//` or a `/` at its end",
        "^(/[^/\\x00-\\x1f\\x7f]+)+$", file_path;
    StatePath: "an absolute path such as `/var/lib/buildkit` of letters, digits and `._-`, not a folder of the system",
        "^(/[A-Za-z0-9._-]+)+$", state_path;
    Mode: "an octal mode of four digits such as `0644`",
        "^[0-7]{4}$", mode;
    Owner: "an owner `user:group` such as `root:root`",
        "^([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10}):([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})$", owner;
    UnitName: "a systemd unit's file name such as `buildkitd.service`",
        "^[A-Za-z0-9:_.@-]{1,200}\\.(service|socket|target|mount|automount|timer|path|slice|swap)$", unit_name;
    AssetName: "a path inside the assets folder such as `buildkitd.service`, without `..`",
        "^[^/\\\\\\x00-\\x1f\\x7f]+(/[^/\\\\\\x00-\\x1f\\x7f]+)*$", asset_name;
    AssetsFolder: "a folder's path, relative to the recipe file",
        "^[^\\x00-\\x1f\\x7f]+$", any;
    PackageName: "a package name such as `docker.io`",
        "^[A-Za-z0-9]([A-Za-z0-9+.:~_=-]*[A-Za-z0-9+.~_])?$", package_name;
    MemberName: "a member of the BuildKit tarball such as `bin/buildctl`",
        "^bin/[A-Za-z0-9][A-Za-z0-9._+-]*$", member_name;
    Script: "a script that does something",
        "[^ \\t\\r\\n]", script;
    Digest: "a digest `sha256:` with 64 or `sha512:` with 128 hexadecimal digits",
        "^(sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128})$", digest;
    ImageLocation: "a path or an http(s) URL of a disk image",
        "^[^\\x00-\\x1f\\x7f]+$", image_location;
    AmiId: "an AMI id: `ami-` and 8 or 17 lower-case hexadecimal digits",
        "^ami-([0-9a-f]{8}|[0-9a-f]{17})$", any;
    InstanceType: "an EC2 instance type such as `m7i.large`",
        "^[a-z0-9-]+\\.[a-z0-9-]+$", any;
    SubnetId: "a subnet's id: `subnet-` and 8 or 17 lower-case hexadecimal digits",
        "^subnet-([0-9a-f]{8}|[0-9a-f]{17})$", any;
    SecurityGroupId: "a security group's id: `sg-` and 8 or 17 lower-case hexadecimal digits",
        "^sg-([0-9a-f]{8}|[0-9a-f]{17})$", any;
    InstanceProfile: "the name of an instance profile (not its ARN), at most 128 characters",
        "^[A-Za-z0-9+=,.@_-]{1,128}$", any;
    KmsKey: "a KMS key: its id, its ARN or `alias/` and a name",
        "^[A-Za-z0-9:/_-]{1,2048}$", any;
    Bucket: "the name of an S3 bucket: 3 to 63 lower-case letters, digits, dots and hyphens",
        "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", any;
    Region: "a region such as `eu-central-1`",
        "^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$", any;
    AccountId: "an account's id of 12 digits",
        "^[0-9]{12}$", any;
    OrganizationArn: "an organization's ARN: `arn:aws:organizations::…:organization/o-…`",
        "^arn:aws[a-z-]*:organizations::[0-9]{12}:organization/o-[a-z0-9]{10,32}$", any;
    UnitArn: "an organizational unit's ARN: `arn:aws:organizations::…:ou/o-…/ou-…`",
        "^arn:aws[a-z-]*:organizations::[0-9]{12}:ou/o-[a-z0-9]{10,32}/ou-[a-z0-9-]{8,68}$", any;
    ParameterName: "an SSM parameter's name such as `/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64`",
        "^/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", any;
    TlsPlace: "a prefix of SSM parameters such as `/builder/tls`, or `s3://bucket/prefix`",
        "^(/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)+)$", any;
    AmiOwner: "an account id of 12 digits, `amazon`, `aws-marketplace` or `self`",
        "^([0-9]{12}|amazon|aws-marketplace|self)$", any;
    NamePattern: "an AMI name, with `*` and `?`, at most 128 characters",
        "^[A-Za-z0-9()\\[\\] ./'@_*?-]{1,128}$", |text| match text.trim_matches('*') {
            "" if !text.is_empty() => Err(Invalid::new("a pattern that every name matches")),
            _ => Ok(()),
        };
    StackVersion: "`latest` or a version of the stack such as `v6.40.0`",
        "^(latest|v[0-9]+\\.[0-9]+\\.[0-9]+(-[0-9A-Za-z.-]+)?)$", stack_version;
    Address: "an IP address such as `0.0.0.0` or `127.0.0.1`",
        "^[0-9A-Fa-f.:]+$", address;
    RegistryHost: "a registry's host name, with a port if need be: `docker.io`, `registry.example.com:5000`",
        "^(\\[[0-9a-fA-F:]+\\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?$", registry_host;
    Mirror: "a mirror's host name, with a port or path if need be: `mirror.example.com/hub`",
        "^(\\[[0-9a-fA-F:]+\\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?(/[A-Za-z0-9._-]+)*$", registry_host;
    Flag: "a buildkitd flag such as `--debug` or `--trace=true`, without spaces, quotes, `%`, `$` or `\\`",
        "^--[a-z][a-z0-9.-]*(=[^\\x00-\\x20\\x7f\"'%$\\\\]*)?$", flag;
    TagKey: "a tag's name: letters, digits, spaces and `_.:/=+-@`, at most 128 characters",
        "^[A-Za-z0-9 _.:/=+@-]{1,128}$", tag_key;
    TagValue: "a tag's value: one line of at most 256 characters",
        "^[^\\x00-\\x1f\\x7f]{0,256}$", any;
}

fn any(_: &str) -> Result<(), Invalid> {
    Ok(())
}

fn lower_case(text: &str) -> Result<(), Invalid> {
    let wanted = text.to_lowercase().replace(['_', ' ', '.'], "-");
    if wanted != text && !wanted.starts_with('-') && !wanted.ends_with('-') {
        return Err(Invalid::new(format!("`{}` is not a name", shown(text)))
            .help_with(format!("lower-case letters, digits and hyphens: `{}`", shown(&wanted))));
    }
    Ok(())
}

fn within(text: &str, hours: u64, most: &str) -> Result<(), Invalid> {
    if parse_duration(text)? > Duration::from_secs(hours * 3600) {
        return Err(Invalid::new(format!("`{}` is too long, at most {most}", shown(text))));
    }
    Ok(())
}

fn absolute_path(text: &str) -> Result<(), Invalid> {
    if text.chars().any(char::is_control) {
        return Err(Invalid::new("a path with a line break or control character"));
    }
    if text == "/" {
        return Err(Invalid::new("`/` is the whole machine"));
    }
    if !text.starts_with('/') {
        return match text {
            "" => Err(Invalid::new("an empty path")),
            _ => Err(Invalid::new(format!("`{}` is not an absolute path", shown(text)))),
        };
    }
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Invalid::new(format!("`{}` goes up with `..`", shown(text))));
    }
    let plain = format!("/{}", parts.join("/"));
    if plain != text {
        return Err(Invalid::new(format!("`{}` is not in its plainest form", shown(text)))
            .help_with(format!("write `{}`", shown(&plain))));
    }
    Ok(())
}

fn file_path(text: &str) -> Result<(), Invalid> {
    absolute_path(text)?;
    let top = text.split('/').nth(1).unwrap_or_default();
    if matches!(top, "proc" | "sys" | "dev" | "run") {
        return Err(Invalid::new(format!("`/{top}` lives in memory: a file there is not part of the image")));
    }
    Ok(())
}

fn state_path(text: &str) -> Result<(), Invalid> {
    const SYSTEM: [&str; 19] = [
        "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
        "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
    ];
    absolute_path(text)?;
    let in_memory = ["/proc/", "/sys/", "/dev/", "/run/"].iter().any(|top| text.starts_with(top));
    if SYSTEM.contains(&text) || in_memory {
        return Err(Invalid::new(format!("`{}` is a folder of the system itself", shown(text))));
    }
    Ok(())
}

fn mode(text: &str) -> Result<(), Invalid> {
    let digits = text.trim_start_matches("0o");
    if text != digits || (digits.len() == 3 && digits.bytes().all(|digit| (b'0'..b'8').contains(&digit))) {
        return Err(Invalid::new(format!("`{}` is not a mode", shown(text)))
            .help_with(format!("four octal digits: `{:0>4}`", shown(digits))));
    }
    Ok(())
}

fn owner(text: &str) -> Result<(), Invalid> {
    if !text.is_empty() && !text.contains(':') {
        return Err(Invalid::new(format!("`{}` names no group", shown(text)))
            .help_with(format!("user and group: `{0}:{0}`", shown(text))));
    }
    Ok(())
}

fn unit_name(text: &str) -> Result<(), Invalid> {
    if text.contains('/') {
        return Err(Invalid::new(format!("`{}` is a path", shown(text)))
            .help_with("a unit is named by its file name alone; for a drop-in use a step of kind = \"file\""));
    }
    if !text.is_empty() && !text.contains('.') {
        return Err(Invalid::new(format!("`{}` has no suffix", shown(text)))
            .help_with(format!("say which kind of unit: `{}.service`", shown(text))));
    }
    Ok(())
}

fn asset_name(text: &str) -> Result<(), Invalid> {
    if text.starts_with('/') {
        return Err(Invalid::new(format!("`{}` is an absolute path", shown(text)))
            .help_with("assets are named from the assets folder on"));
    }
    if text.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(Invalid::new(format!(
            "`{}` leaves the assets folder or does not name a file plainly",
            shown(text)
        )));
    }
    Ok(())
}

fn package_name(text: &str) -> Result<(), Invalid> {
    if text.starts_with('-') {
        return Err(Invalid::new(format!("`{}` would be an option, not a package", shown(text))));
    }
    if text.contains(char::is_whitespace) {
        return Err(Invalid::new(format!("`{}` is more than one word", shown(text)))
            .help_with("one string for each package: `[\"git\", \"iptables\"]`"));
    }
    Ok(())
}

fn member_name(text: &str) -> Result<(), Invalid> {
    let bare = text.trim_start_matches("./").trim_start_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !bare.is_empty() && bare != text || (!text.is_empty() && text.chars().all(plain)) {
        let name = if bare.contains('/') { bare.to_owned() } else { format!("bin/{bare}") };
        return Err(Invalid::new(format!("`{}` is not a member of the BuildKit tarball", shown(text)))
            .help_with(format!("named as in the tarball: `{}`", shown(&name))));
    }
    Ok(())
}

fn script(text: &str) -> Result<(), Invalid> {
    if text.contains('\0') {
        return Err(Invalid::new("a script with a NUL byte"));
    }
    if text.contains('\r') {
        return Err(Invalid::new("a script with a carriage return, which bash takes for a part of the word before it"));
    }
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(Invalid::new("a script without a command"));
    }
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("#!") && !first.ends_with("sh") {
        return Err(Invalid::new(format!("`{}` has no effect: scripts run under bash", shown(first)))
            .help_with("write the program with a step of kind = \"file\" and call it from the script"));
    }
    Ok(())
}

fn digest(text: &str) -> Result<(), Invalid> {
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.len() {
        64 if hex => Err(Invalid::new("a digest without its algorithm").help_with("put `sha256:` in front")),
        128 if hex => Err(Invalid::new("a digest without its algorithm").help_with("put `sha512:` in front")),
        _ => Ok(()),
    }
}

fn image_location(text: &str) -> Result<(), Invalid> {
    let Some((scheme, _)) = text.split_once("://") else { return Ok(()) };
    if !matches!(scheme, "http" | "https") {
        return Err(Invalid::new(format!("`{}://` is not supported", shown(scheme)))
            .help_with("a path, or a URL of http or https"));
    }
    let url = url::Url::parse(text).map_err(|error| Invalid::new(format!("a URL that does not parse: {error}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid::new("a URL with a user or password in it")
            .help_with("recipes are committed and printed: fetch the image yourself and give its path"));
    }
    Ok(())
}

fn stack_version(text: &str) -> Result<(), Invalid> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Invalid::new(format!("`{}` is not a version of the stack", shown(text)))
            .help_with(format!("write `v{}`", shown(text))));
    }
    Ok(())
}

fn address(text: &str) -> Result<(), Invalid> {
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) if text.contains("://") || text.rsplit_once(':').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok()) => {
            Err(Invalid::new(format!("`{}` is more than an IP address", shown(text)))
                .help_with("the address alone; the port is the key `port`"))
        }
        Err(_) => Err(Invalid::new(format!("`{}` is not an IP address", shown(text)))),
    }
}

fn registry_host(text: &str) -> Result<(), Invalid> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let help = match scheme {
            "http" => format!("write `{}`, and `http = true` for plain http", shown(rest)),
            _ => format!("write `{}`", shown(rest)),
        };
        return Err(Invalid::new(format!("`{}` is a URL", shown(text))).help_with(help));
    }
    let port = text.split('/').next().and_then(|host| host.rsplit_once(':')).map(|(_, port)| port);
    if port.is_some_and(|port| port.bytes().all(|c| c.is_ascii_digit()) && !port.parse::<u16>().is_ok_and(|n| n > 0)) {
        return Err(Invalid::new(format!("`{}` has a port outside 1 to 65535", shown(text))));
    }
    Ok(())
}

/// Flags of buildkitd that amibake gives itself or that a recipe has a key for, with what to do instead.
const OWN_FLAGS: &[(&str, &str)] = &[
    ("addr", "set `buildkitd.address` and `buildkitd.port`"),
    ("root", "set `buildkitd.root`"),
    ("config", "amibake writes /etc/buildkit/buildkitd.toml; set the keys of `[buildkitd]`"),
    ("tlscacert", "set `buildkitd.tls`; the daemon's files are in /run/amibake/tls"),
    ("tlscert", "set `buildkitd.tls`; the daemon's files are in /run/amibake/tls"),
    ("tlskey", "set `buildkitd.tls`; the daemon's files are in /run/amibake/tls"),
    ("oci-worker-net", "set `buildkitd.network`"),
    ("oci-cni-config-path", "set `buildkitd.network`"),
    ("oci-cni-binary-dir", "set `buildkitd.network`"),
    ("oci-max-parallelism", "set `buildkitd.max_parallelism`"),
    ("oci-worker-gc", "set `buildkitd.gc.enabled`"),
    ("oci-worker-gc-keepstorage", "set the percentages of `[buildkitd.gc]`"),
    ("oci-worker", "the images need the OCI worker"),
    ("oci-worker-snapshotter", "the images load overlayfs beforehand, and buildkitd finds it"),
    ("debugaddr", "amibake keeps metrics and pprof on loopback"),
    ("group", "the daemon listens on tcp only"),
    ("rootless", "the daemon runs as root, as the documented unit does"),
    ("help", "the daemon would print its help and end"),
    ("version", "the daemon would print its version and end"),
];

fn flag(text: &str) -> Result<(), Invalid> {
    let Some(rest) = text.strip_prefix("--") else {
        return Err(Invalid::new(format!("`{}` does not start with `--`", shown(text))));
    };
    if rest.contains(char::is_whitespace) {
        return Err(Invalid::new(format!("`{}` is more than one word", shown(text)))
            .help_with("one string for each flag, its value after `=`: `\"--log-level=debug\"`"));
    }
    let name = rest.split('=').next().unwrap_or_default();
    match OWN_FLAGS.iter().find(|(own, _)| *own == name) {
        Some((own, instead)) => {
            Err(Invalid::new(format!("`--{own}` is set by amibake")).help_with((*instead).to_owned()))
        }
        None => Ok(()),
    }
}

fn tag_key(text: &str) -> Result<(), Invalid> {
    let lower = text.to_ascii_lowercase();
    match ["aws:", "amibake:"].into_iter().find(|prefix| lower.starts_with(prefix)) {
        Some("aws:") => Err(Invalid::new("tags that start with `aws:` are AWS's own")),
        Some(_) => {
            Err(Invalid::new("tags that start with `amibake:` are amibake's own: `list` and `gc` work from them"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_pattern_compiles() {
        for format in &FORMATS {
            assert!(Regex::new(format.pattern).is_ok(), "{}", format.name);
        }
    }

    /// Rows of format, texts that are one, texts that are not.
    const SAMPLES: &[(&str, &[&str], &[&str])] = &[
        (
            "RecipeName",
            &["builder", "a", "al2023-arm"],
            &["", "-a", "a-", "A", "a_b", "a b", "ü", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ),
        ("VolumeName", &["cache", "elevenchars"], &["twelve-chars", "-", "Cache"]),
        ("Title", &["x", "docker, from the distribution"], &["", " x", "x ", "a\nb", "a\u{1b}[31m"]),
        ("AbsolutePath", &["/a", "/etc/a b", "/ü"], &["", "/", "a", "/a/", "//a", "/a/../b", "/a/./b", "/a\nb"]),
        ("FilePath", &["/etc/x"], &["/proc/x", "/run/x", "/"]),
        ("StatePath", &["/var/lib/buildkit"], &["/", "/var/lib", "/etc", "/a b", "/dev/x", "/a%b"]),
        ("Mode", &["0644", "4755", "0000"], &["644", "0o644", "0899", "", "u+x", "00644"]),
        ("Owner", &["root:root", "2000:2000", "buildkite-agent:docker"], &["root", ":", "root:", "a b:c", "Root:root"]),
        ("UnitName", &["a.service", "a@b.timer"], &["a", "a.conf", "/etc/a.service", "a/b.service", ".service", ""]),
        ("AssetName", &["a", "a/b.sh", "..a"], &["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b"]),
        (
            "PackageName",
            &["git", "docker.io", "g++", "libc6:amd64", "git=1:2.39.5-0"],
            &["-y", "git curl", "git;id", "$(id)", "", "git-", "a/b"],
        ),
        (
            "MemberName",
            &["bin/buildctl", "bin/buildkit-qemu-aarch64"],
            &["buildctl", "bin/", "bin/../x", "/bin/x", "./bin/x", "", "lib/x"],
        ),
        (
            "Script",
            &["true", "#!/bin/bash\ntrue", "# why\ntrue"],
            &["", "  \n", "# only talk", "a\0b", "a\r\nb", "#!/usr/bin/python3\nx"],
        ),
        (
            "ImageLocation",
            &["a.qcow2", "/x/a b", "https://example.com/a.qcow2"],
            &["", "s3://a/b", "https://u:p@example.com/x", "https://", "a\nb"],
        ),
        (
            "AmiId",
            &["ami-0123456789abcdef0", "ami-01234567"],
            &["ami-", "ami-0123456789ABCDEF0", "i-01234567", "ami-012345678"],
        ),
        ("ParameterName", &["/aws/service/x-y_z.1"], &["", "aws", "/a//b", "/a/", "/a b"]),
        (
            "TlsPlace",
            &["/builder/tls", "s3://secrets/builder/tls"],
            &["", "builder", "/a/", "s3://secrets", "s3://A/b"],
        ),
        ("AmiOwner", &["123456789012", "self", "amazon"], &["", "12345", "me"]),
        ("NamePattern", &["al2023-ami-*"], &["*", "**", "", "a$b"]),
        (
            "SubnetId",
            &["subnet-0123abcd", "subnet-0123456789abcdef0"],
            &["subnet-1", "subnet-0123ABCD", "sg-0123abcd", ""],
        ),
        ("SecurityGroupId", &["sg-0123abcd", "sg-0123456789abcdef0"], &["sg-1", "default", "subnet-0123abcd", ""]),
        ("InstanceProfile", &["bakes", "my.team@bakes"], &["arn:aws:iam::123456789012:instance-profile/x", "a b", ""]),
        (
            "KmsKey",
            &[
                "alias/images",
                "1234abcd-12ab-34cd-56ef-1234567890ab",
                "arn:aws:kms:us-east-1:123456789012:key/1234abcd",
            ],
            &["my key", ""],
        ),
        ("InstanceType", &["m7i.large", "u-6tb1.112xlarge"], &["m7i", "M7i.large", "m7i large", ""]),
        ("Region", &["eu-central-1", "us-gov-west-1"], &["eu-central", "Eu-central-1", "eu-central-1a", ""]),
        ("AccountId", &["123456789012"], &["12345678901", "1234-5678-9012", "amazon", ""]),
        (
            "OrganizationArn",
            &["arn:aws:organizations::123456789012:organization/o-a1b2c3d4e5"],
            &["o-a1b2c3d4e5", "arn:aws:organizations::123456789012:ou/o-a1b2c3d4e5/ou-ab12-11111111", ""],
        ),
        (
            "UnitArn",
            &["arn:aws:organizations::123456789012:ou/o-a1b2c3d4e5/ou-ab12-11111111"],
            &["ou-ab12-11111111", "arn:aws:organizations::123456789012:organization/o-a1b2c3d4e5", ""],
        ),
        ("Bucket", &["tarballs", "my.team-tarballs"], &["Tarballs", "ab", "-tarballs", "s3://tarballs", ""]),
        ("StackVersion", &["latest", "v6.40.0", "v7.0.0-beta.1"], &["6.40.0", "v6", "newest", ""]),
        ("Address", &["0.0.0.0", "::1"], &["", "localhost", "0.0.0.0:1", "tcp://0.0.0.0", "1.2.3"]),
        (
            "RegistryHost",
            &["docker.io", "localhost:5000", "[::1]:5000"],
            &["https://docker.io", "a/b", "a:0", "a:99999", "", "-a"],
        ),
        ("Mirror", &["mirror.example.com/hub", "m:5000"], &["http://m", "m/", "m/../x y", ""]),
        (
            "Flag",
            &["--debug", "--log-format=json"],
            &["debug", "-d", "--addr=x", "--root", "--a b", "--x=$HOME", "--x=%h", "--", "--x='a'"],
        ),
        ("TagKey", &["team", "cost centre"], &["aws:x", "AWS:x", "amibake:run", "", "a\nb"]),
        ("TagValue", &["", "a", "ü"], &["a\nb"]),
        ("Digest", &[], &["", "sha256:", "sha256:zz", "md5:d41d8cd98f00b204e9800998ecf8427e"]),
        ("Size", &["1GiB"], &["1GB"]),
        ("Timeout", &["24h"], &["24h1s", "0s", ""]),
        ("Age", &["8760h"], &["8761h"]),
        ("AssetsFolder", &["../assets", "."], &["", "a\0"]),
    ];

    #[test]
    fn samples_are_judged_right() {
        for (name, good, bad) in SAMPLES {
            let format = Format::named(name).unwrap();
            for text in *good {
                assert_eq!(format.check(text), Ok(()), "{name} {text:?}");
            }
            for text in *bad {
                assert!(format.check(text).is_err(), "{name} {text:?}");
            }
        }
        assert_eq!(SAMPLES.len(), FORMATS.len(), "every format has samples");
    }

    #[test]
    fn digests() {
        let format = Format::named("Digest").unwrap();
        assert!(format.check(&format!("sha256:{}", "a".repeat(64))).is_ok());
        assert!(format.check(&format!("sha512:{}", "A".repeat(128))).is_ok());
        assert!(format.check(&format!("sha512:{}", "a".repeat(64))).is_err());
        assert_eq!(format.check(&"a".repeat(64)).unwrap_err().help(), Some("put `sha256:` in front"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic_and_told_in_one_line(text in "(?s).{0,80}") {
            for format in &FORMATS {
                if let Err(invalid) = format.check(&text) {
                    prop_assert!(!invalid.to_string().contains(char::is_control), "{}: {invalid}", format.name);
                }
            }
        }
    }
}
