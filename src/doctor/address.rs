//! BUILDKIT_HOST, as buildctl reads it. PURE.

use std::net::IpAddr;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `tcp://HOST:PORT`
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:///PATH`
    Unix {
        /// Absolute path.
        path: String,
    },
}

/// Why a text is no address: what is wrong, and what to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadAddress {
    pub(crate) fault: String,
    pub(crate) fix: String,
}

impl Address {
    /// Reads `text`.
    ///
    /// # Errors
    /// What buildctl would make of it, in plain words.
    pub(crate) fn parse(text: &str) -> Result<Self, BadAddress> {
        let bad = |fault: &str, fix: String| Err(BadAddress { fault: fault.to_owned(), fix });
        if text.trim().is_empty() {
            return bad("it is empty", "write tcp://HOST:PORT, for example tcp://10.0.1.7:1234".to_owned());
        }
        let is_path = text.starts_with("unix://");
        if text != text.trim() || text.chars().any(|char| char.is_control() || (!is_path && char.is_whitespace())) {
            let rest = plain(text);
            let rest = rest.strip_prefix("tcp://").unwrap_or(&rest);
            return bad("there is white space around it or in it", format!("write tcp://{rest}"));
        }
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Address::Unix { path: path.to_owned() }),
                false => bad("its path is not absolute", "write unix:///run/buildkit/buildkitd.sock".to_owned()),
            };
        }
        if without_user(text) != text {
            let rest = plain(text);
            let rest = rest.split_once("://").map_or(rest.as_str(), |(_, rest)| rest);
            return bad("buildctl knows no user in an address", format!("write tcp://{rest}"));
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            return match text.split_once("://") {
                Some(("http" | "https", rest)) => bad(
                    "it begins with http: buildctl knows no such network",
                    format!("write tcp://{}; TLS is turned on by --tlsdir and its kind", plain(rest)),
                ),
                Some((scheme, _)) => {
                    bad(&format!("{scheme}:// is not looked at here"), "write tcp://HOST:PORT".to_owned())
                }
                None => bad("it has no scheme", format!("write tcp://{}", plain(text))),
            };
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => return bad("it has no port", format!("write tcp://{}:1234", plain(rest))),
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').unwrap_or_default(),
            None if host.contains(':') => {
                return bad("an IPv6 address needs brackets", format!("write tcp://[{host}]:{port}"));
            }
            None => host,
        };
        match port.trim_end_matches('/').parse::<u16>() {
            Ok(port) if port > 0 && !host.is_empty() && !host.contains('/') => {
                Ok(Address::Tcp { host: host.to_owned(), port })
            }
            _ => bad(
                "it is not HOST:PORT after tcp://",
                "write tcp://HOST:PORT, for example tcp://10.0.1.7:1234".to_owned(),
            ),
        }
    }
}

/// The address without a user and a password, which nobody is shown: `tcp://…@HOST:PORT`.
pub(super) fn without_user(text: &str) -> String {
    let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
    match rest.rsplit_once('@') {
        Some((_, rest)) if !scheme.starts_with("unix") => format!("{scheme}…@{rest}"),
        _ => text.to_owned(),
    }
}

/// What is left of a text when everything that is no part of a host and its port is taken away.
fn plain(text: &str) -> String {
    let text = without_user(text.trim().trim_end_matches('/')).replace("…@", "");
    text.chars().filter(|char| char.is_ascii_graphic()).collect()
}

/// Whether an address can be reached from the internet, as far as one can tell by looking at it.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        // A VPC's own IPv6 addresses are global ones: nothing can be told from them but for these.
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port| Ok(Address::Tcp { host: host.to_owned(), port });
        assert_eq!(Address::parse("tcp://10.0.1.7:1234"), tcp("10.0.1.7", 1234));
        assert_eq!(Address::parse("tcp://builder.internal:1234/"), tcp("builder.internal", 1234));
        assert_eq!(Address::parse("tcp://[fd00::1]:1"), tcp("fd00::1", 1));
        let unix = Address::Unix { path: "/run/buildkit/buildkitd.sock".to_owned() };
        assert_eq!(Address::parse("unix:///run/buildkit/buildkitd.sock"), Ok(unix));
    }

    #[test]
    fn what_is_none_says_how_to_write_it() {
        for (text, fix) in [
            ("10.0.1.7:1234", "write tcp://10.0.1.7:1234"),
            ("http://b:1234", "write tcp://b:1234; TLS is turned on by --tlsdir and its kind"),
            ("tcp://b", "write tcp://b:1234"),
            (" tcp://b:1\n", "write tcp://b:1"),
            ("tcp://fd00::1:1234", "write tcp://[fd00::1]:1234"),
            ("tcp://b:x", "write tcp://HOST:PORT, for example tcp://10.0.1.7:1234"),
            ("tcp://:1", "write tcp://HOST:PORT, for example tcp://10.0.1.7:1234"),
            ("unix://x", "write unix:///run/buildkit/buildkitd.sock"),
            ("ssh://x", "write tcp://HOST:PORT"),
            ("", "write tcp://HOST:PORT, for example tcp://10.0.1.7:1234"),
            ("tcp://bad host:1", "write tcp://badhost:1"),
            ("tcp://user:s3cret@b:1", "write tcp://b:1"),
            ("http://user:s3cret@b:1", "write tcp://b:1"),
            (" user:s3cret@b:1", "write tcp://b:1"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err().fix, fix, "{text}");
        }
    }

    #[test]
    fn a_password_is_shown_to_nobody() {
        assert_eq!(without_user("tcp://user:s3cr@t@b:1"), "tcp://…@b:1");
        assert_eq!(without_user("user:s3cret@b"), "…@b");
        assert_eq!(without_user("tcp://b:1"), "tcp://b:1");
        assert_eq!(without_user("unix:///a@b"), "unix:///a@b");
    }

    #[test]
    fn public_addresses() {
        for (text, public) in [
            ("10.0.0.1", false),
            ("172.31.0.1", false),
            ("100.64.0.1", false),
            ("52.1.2.3", true),
            ("127.0.0.1", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }
}
