//! The kinds of values a recipe has beside plain strings: sizes, durations, paths, names. One table serves the checks,
//! the patterns in the JSON Schema, and the code that reads the values of a valid recipe.

use std::time::Duration;

/// What a string in a recipe must look like. `x-amibake` in a type's schema names one of these.
pub struct Kind {
    /// Its name in `x-amibake`.
    pub name: &'static str,
    /// What is expected, as a person would say it.
    pub expected: &'static str,
    /// Regular expression for editors, where one says it well.
    pub pattern: Option<&'static str>,
    /// Says what is wrong, if anything.
    pub check: fn(&str) -> Result<(), String>,
}

/// Every kind.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "name",
        expected: "lower-case letters, digits and hyphens, at most 32, a letter first",
        pattern: Some("^[a-z][a-z0-9-]{0,31}$"),
        check: |text| plain_name(text, 32),
    },
    Kind {
        name: "volume-name",
        expected: "lower-case letters, digits and hyphens, at most 11, a letter first",
        pattern: Some("^[a-z][a-z0-9-]{0,10}$"),
        check: |text| plain_name(text, 11),
    },
    Kind { name: "title", expected: "one line, at most 100 characters", pattern: None, check: title },
    Kind {
        name: "size",
        expected: "a whole number with KiB, MiB, GiB or TiB, for example `10GiB`",
        pattern: Some("^[0-9]+ ?(B|KiB|MiB|GiB|TiB)$"),
        check: |text| parse_size(text).map(drop),
    },
    Kind {
        name: "duration",
        expected: "whole numbers with s, m or h, at most 24h, for example `90s` or `1h30m`",
        pattern: Some("^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"),
        check: |text| parse_duration(text).map(drop),
    },
    Kind {
        name: "absolute-path",
        expected: "an absolute path without `..`, `//` or a slash at its end",
        pattern: Some("^/"),
        check: absolute_path,
    },
    Kind { name: "relative-path", expected: "a path of a folder", pattern: None, check: |text| printable(text, 4096) },
    Kind {
        name: "asset",
        expected: "the name of a file below the assets folder, without `..`",
        pattern: Some("^[^/]"),
        check: asset,
    },
    Kind { name: "owner", expected: "`user:group`", pattern: Some("^[^:]+:[^:]+$"), check: owner },
    Kind {
        name: "mode",
        expected: "an octal mode such as `0644`",
        pattern: Some("^0[0-7]{3}$"),
        check: |text| when(text.len() == 4 && text.starts_with('0') && text.bytes().all(|b| (b'0'..b'8').contains(&b))),
    },
    Kind {
        name: "unit",
        expected: "a systemd unit's file name, for example `buildkitd.service`",
        pattern: Some("\\.(service|socket|mount|automount|swap|target|path|timer|slice)$"),
        check: unit,
    },
    Kind { name: "script", expected: "a shell script", pattern: None, check: script },
    Kind {
        name: "package",
        expected: "the name of a package",
        pattern: Some("^[A-Za-z0-9][A-Za-z0-9+._:-]*$"),
        check: |text| word(text, "+._:-"),
    },
    Kind {
        name: "members",
        expected: "`\"all\"`, or names as in the tarball: `[\"bin/buildctl\"]`",
        pattern: None,
        check: member,
    },
    Kind {
        name: "digest",
        expected: "`sha256:` with 64 or `sha512:` with 128 hexadecimal digits",
        pattern: Some("^(sha256:[0-9a-fA-F]{64}|sha512:[0-9a-fA-F]{128})$"),
        check: digest,
    },
    Kind { name: "base-image", expected: "a path or an http(s) address", pattern: None, check: base_image },
    Kind {
        name: "ami-id",
        expected: "the id of an AMI, for example `ami-0123456789abcdef0`",
        pattern: Some("^ami-([0-9a-f]{8}|[0-9a-f]{17})$"),
        check: |text| {
            let digits = text.strip_prefix("ami-").unwrap_or_default();
            when(matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        },
    },
    Kind {
        name: "ssm-parameter",
        expected: "the name of an SSM parameter, for example `/aws/service/…`",
        pattern: Some("^/"),
        check: |text| {
            when(text.starts_with('/') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)))
        },
    },
    Kind {
        name: "stack-version",
        expected: "`latest` or a version such as `v6.40.0`",
        pattern: Some("^(latest|v[0-9]+\\.[0-9]+\\.[0-9]+)$"),
        check: |text| {
            let version = text.strip_prefix('v').is_some_and(|number| semver::Version::parse(number).is_ok());
            when(text == "latest" || version)
        },
    },
    Kind {
        name: "volume-type",
        expected: "an EBS volume type: gp2, gp3, io1, io2, st1, sc1 or standard",
        pattern: Some("^(gp2|gp3|io1|io2|st1|sc1|standard)$"),
        check: |text| when(["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"].contains(&text)),
    },
    Kind {
        name: "address",
        expected: "an IP address",
        pattern: None,
        check: |text| when(text.parse::<std::net::IpAddr>().is_ok()),
    },
    Kind {
        name: "registry",
        expected: "a host name, with a port or a path if need be, without a scheme",
        pattern: None,
        check: registry,
    },
    Kind {
        name: "daemon-flag",
        expected: "a flag of buildkitd with its value: `--name=value`",
        pattern: Some("^--"),
        check: daemon_flag,
    },
];

/// The kind called `name`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Bytes of a size such as `10GiB`: a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB` (IEC 80000-13).
///
/// # Errors
/// What is wrong with it: a fragment.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.strip_prefix(' ').unwrap_or(unit) {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "" if digits > 0 => return Err("it has no unit".to_owned()),
        "KB" | "MB" | "GB" | "TB" | "K" | "M" | "G" | "T" | "kB" => {
            return Err(format!("`{}` is not a unit here, `{}iB` is", unit.trim(), unit.trim()[..1].to_uppercase()));
        }
        _ => return Err(String::new()),
    };
    let number: u64 = number.parse().map_err(|_| String::new())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 50);
    match bytes {
        Some(0) => Err("it is nothing".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("it is more than 1024 TiB".to_owned()),
    }
}

/// A duration such as `90s`, `15m` or `1h30m`.
///
/// # Errors
/// What is wrong with it: a fragment.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut seconds: u64 = 0;
    let mut units = "hms";
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| String::new())?;
        let unit = rest[digits..].chars().next().ok_or("it has no unit")?;
        let at = units.find(unit).ok_or_else(String::new)?;
        units = &units[at + 1..];
        let scale = match unit {
            'h' => 3600,
            'm' => 60,
            _ => 1,
        };
        seconds = number.checked_mul(scale).and_then(|part| part.checked_add(seconds)).ok_or("it is too long")?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    match seconds {
        0 => Err("it is no time at all".to_owned()),
        1..=86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err("it is more than 24h".to_owned()),
    }
}

/// `Err("")` says no more than what is expected.
fn when(fine: bool) -> Result<(), String> {
    if fine { Ok(()) } else { Err(String::new()) }
}

fn plain_name(text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("it is {} characters long", text.chars().count()));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    when(text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(allowed))
}

fn printable(text: &str, most: usize) -> Result<(), String> {
    when(!text.trim().is_empty() && text.len() <= most && !text.chars().any(char::is_control))
}

fn title(text: &str) -> Result<(), String> {
    when(text.chars().count() <= 100).and(printable(text, 400))
}

fn word(text: &str, more: &str) -> Result<(), String> {
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    when(first && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b)))
}

fn absolute_path(text: &str) -> Result<(), String> {
    printable(text, 4096)?;
    let parts = text.strip_prefix('/').ok_or("it is not absolute")?;
    let odd = parts.split('/').find(|part| matches!(*part, "" | "." | ".."));
    when(odd.is_none())
}

fn asset(text: &str) -> Result<(), String> {
    printable(text, 255)?;
    let odd = text.split('/').find(|part| matches!(*part, "" | "." | ".."));
    when(odd.is_none())
}

fn owner(text: &str) -> Result<(), String> {
    let (user, group) = text.split_once(':').ok_or_else(String::new)?;
    word(user, "._-").and(word(group, "._-"))
}

fn unit(text: &str) -> Result<(), String> {
    let (stem, suffix) = text.rsplit_once('.').ok_or_else(String::new)?;
    let known = ["service", "socket", "mount", "automount", "swap", "target", "path", "timer", "slice"];
    when(known.contains(&suffix) && text.len() <= 255).and(word(stem, ":-_.\\@"))
}

fn script(text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("it holds a NUL character".to_owned());
    }
    if text.trim().is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
}

fn member(text: &str) -> Result<(), String> {
    match text.strip_prefix("bin/") {
        Some(name) => word(name, "._-"),
        None => when(text == "all"),
    }
}

fn digest(text: &str) -> Result<(), String> {
    let (kind, digits) = text.split_once(':').ok_or_else(String::new)?;
    let length = match kind {
        "sha256" => 64,
        "sha512" => 128,
        _ => return Err(String::new()),
    };
    if digits.len() != length {
        return Err(format!("it has {} digits", digits.len()));
    }
    when(digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn base_image(text: &str) -> Result<(), String> {
    match text.split_once("://") {
        Some(("http" | "https", _)) => url::Url::parse(text).map(drop).map_err(|error| error.to_string()),
        Some((scheme, _)) => Err(format!("`{scheme}` is not http or https")),
        None => printable(text, 4096),
    }
}

fn registry(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return Err("it has a scheme; plain http is said by `http = true`".to_owned());
    }
    word(text, ".-_:/")
}

/// Flags that amibake sets itself, and the key that sets them.
const OWN_FLAGS: &[(&str, &str)] = &[
    ("addr", "`port` and `address`"),
    ("root", "`root`"),
    ("config", "the other keys of [buildkitd]"),
    ("oci-worker-net", "`network`"),
    ("oci-max-parallelism", "`max_parallelism`"),
    ("debugaddr", "nothing: it stays on loopback"),
    ("tlscert", "nothing yet"),
    ("tlskey", "nothing yet"),
    ("tlscacert", "nothing yet"),
];

fn daemon_flag(text: &str) -> Result<(), String> {
    printable(text, 1024)?;
    let flag = text.strip_prefix("--").ok_or_else(String::new)?;
    let name = flag.split('=').next().unwrap_or_default();
    if let Some((_, key)) = OWN_FLAGS.iter().find(|(own, _)| *own == name) {
        return Err(format!("amibake sets --{name} itself, by {key}"));
    }
    word(name, "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("512 MiB"), Ok(512 << 20));
        for bad in ["", "GiB", "10", "10GB", "0MiB", "-1GiB", "1.5GiB", "99999999999999999999GiB", "2000TiB", "10 gib"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0s", "90", "m", "1d", "30m1h", "1m1m", "25h", "1.5h", "-1m", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
