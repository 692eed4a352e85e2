//! One request: proxies, redirects, statuses, ranges. Decides what a response means; the loop around it (pauses, how
//! often) is `transfer`'s.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, redirect};
use url::Url;

use super::{Limits, shown, tls};
use crate::error::{Context, Error, Result};

/// curl allows 50, browsers 20; a release server needs one or two.
const REDIRECTS: usize = 10;

/// Why a request did not give the bytes.
#[derive(Debug)]
pub(super) enum Fault {
    /// Trying again cannot help.
    Final(Error),
    /// It may go better next time.
    Passing {
        error: Error,
        /// What the server asked for in `Retry-After`.
        after: Option<Duration>,
        /// False when no connection came about.
        connected: bool,
    },
}

impl Fault {
    pub(super) fn passing(error: Error) -> Self {
        Fault::Passing { error, after: None, connected: true }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Final(error)
    }
}

/// What the server has for us.
#[derive(Debug)]
pub(super) enum Answer {
    /// The bytes from `begins` to the end.
    Body(Body),
    /// There are no more bytes than those already here.
    Complete,
    /// The server cannot do ranges as it should: ask again for everything.
    NoRanges(String),
}

#[derive(Debug)]
pub(super) struct Body {
    pub(super) response: Response,
    /// Offset of the body's first byte in the file: the one asked for, or 0.
    pub(super) begins: u64,
    /// Size of the whole file, if the server says it.
    pub(super) total: Option<u64>,
    /// What proves, in a later request, that the file is still the same: a strong ETag or a date.
    pub(super) validator: Option<HeaderValue>,
}

impl Body {
    /// The server sent a web page: a login form or a proxy's message, not a file.
    pub(super) fn is_web_page(&self) -> bool {
        let kind = self.response.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
    }
}

/// Speaks to servers for one download.
pub(super) struct Http<'a> {
    limits: &'a Limits,
    plain: Option<Client>,
    secure: Option<Client>,
}

impl<'a> Http<'a> {
    pub(super) fn new(limits: &'a Limits) -> Result<Self> {
        check_proxies(|name| std::env::var(name).ok())?;
        Ok(Self { limits, plain: None, secure: None })
    }

    /// Asks for the bytes of `url` from offset `from` on; `validator` makes the server send everything if the file is no
    /// longer the one those first bytes came from.
    pub(super) async fn get(
        &mut self,
        url: &Url,
        from: u64,
        validator: Option<&HeaderValue>,
    ) -> std::result::Result<Answer, Fault> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            // "bytes=", digits and "-" are a header's characters.
            headers.extend(HeaderValue::try_from(format!("bytes={from}-")).ok().map(|range| (header::RANGE, range)));
            headers.extend(validator.map(|validator| (header::IF_RANGE, validator.clone())));
        }
        let (response, here) = self.ask(url, &headers, None).await?;
        self.judge(response, &here, from)
    }

    /// Sends `headers` to `url` and wherever it redirects to; `secret`, as `Authorization`, to the server of `url` alone.
    /// Gives the response, whatever its status, and where it came from.
    pub(super) async fn ask(
        &mut self,
        url: &Url,
        headers: &HeaderMap,
        secret: Option<&HeaderValue>,
    ) -> std::result::Result<(Response, Url), Fault> {
        let mut here = url.clone();
        for _ in 0..=REDIRECTS {
            let mut request = self.client(&here)?.get(here.clone()).headers(headers.clone());
            // A compressed archive must come as it is, or its digest is another's.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(secret) = secret.filter(|_| here.origin() == url.origin()) {
                request = request.header(header::AUTHORIZATION, secret);
            }
            let wait = self.limits.connect + self.limits.idle;
            let response = match tokio::time::timeout(wait, request.send()).await {
                Ok(sent) => sent.map_err(|error| send_fault(&here, error))?,
                Err(_) => {
                    let message = format!("{} did not answer within {} s", host(&here), wait.as_secs());
                    return Err(Fault::passing(Error::host(message)));
                }
            };
            if !is_redirect(response.status()) {
                return Ok((response, here));
            }
            here = next(&here, &response)?;
        }
        let message = format!("{} redirects more than {REDIRECTS} times", shown(url));
        Err(Error::host(message).with_hint("the server sends clients in a circle: check the release mirror").into())
    }

    fn client(&mut self, url: &Url) -> Result<&Client> {
        // Reading the system's certificates takes time, and a machine without any can still use a plain mirror.
        let secure = url.scheme() == "https" || proxied_by_tls();
        let slot = if secure { &mut self.secure } else { &mut self.plain };
        if slot.is_none() {
            let tls = if secure { tls::trusting()? } else { tls::trusting_nobody()? };
            let client = Client::builder()
                .user_agent(concat!("amibake/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .connect_timeout(self.limits.connect)
                .tls_backend_preconfigured(tls)
                .build()
                .map_err(reqwest::Error::without_url)
                .or_host(|| "cannot set up the http client".into())?;
            *slot = Some(client);
        }
        slot.as_ref().ok_or_else(|| Error::host("cannot set up the http client"))
    }

    fn judge(&self, response: Response, url: &Url, from: u64) -> std::result::Result<Answer, Fault> {
        let status = response.status();
        let (begins, total) = match status {
            StatusCode::OK => (0, response.content_length()),
            StatusCode::PARTIAL_CONTENT if from > 0 => match content_range(response.headers()) {
                Some((first, total)) if first == from && total.is_none_or(|total| total > from) => (from, total),
                Some((first, _)) => {
                    return Ok(Answer::NoRanges(format!(
                        "asked for bytes from {from} on, the server sent from {first}"
                    )));
                }
                None => return Ok(Answer::NoRanges("the server sent a part without saying which".into())),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                return Ok(match unsatisfied_total(response.headers()) {
                    Some(total) if total == from => Answer::Complete,
                    _ => Answer::NoRanges("the file on the server is shorter than what is here".into()),
                });
            }
            _ => return Err(refusal(&response, url)),
        };
        if let Some(total) = total.filter(|&total| total > self.limits.size) {
            let message =
                format!("{} has {total} bytes, more than the {} that are accepted", shown(url), self.limits.size);
            return Err(Error::host(message).into());
        }
        let validator = validator(response.headers());
        Ok(Answer::Body(Body { response, begins, total, validator }))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads.
fn next(here: &Url, response: &Response) -> Result<Url> {
    let target = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
    let Some(target) = target.and_then(|place| here.join(place).ok()) else {
        return Err(Error::host(format!("{} redirects to nowhere ({})", shown(here), response.status())));
    };
    match (here.scheme(), target.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(target),
        ("https", "http") => {
            let message = format!("{} redirects from https to http ({})", shown(here), shown(&target));
            Err(Error::host(message).with_hint("this is never followed: whoever sits between could read or change it"))
        }
        _ => Err(Error::host(format!("{} redirects to a {} address", shown(here), target.scheme()))),
    }
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("the server")
}

/// What a status that is no success means.
pub(super) fn refusal(response: &Response, url: &Url) -> Fault {
    let status = response.status();
    let error = Error::host(format!("{} answered {status} for {}", host(url), shown(url)));
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => {
            let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after = after.and_then(|text| retry_after(text, SystemTime::now()));
            Fault::Passing { error, after, connected: true }
        }
        401 | 403 => Fault::Final(error.with_hint("the server wants credentials, or forbids this file")),
        404 | 410 => Fault::Final(error.with_hint(
            "the version or the platform does not exist there, or the release mirror is wrong: a mirror is the part \
             of the address before `<version>/<file>`",
        )),
        407 => Fault::Final(error.with_hint("the proxy wants a user and password: set them in HTTPS_PROXY")),
        _ => Fault::Final(error),
    }
}

/// A request that got no response.
fn send_fault(url: &Url, error: reqwest::Error) -> Fault {
    let connecting = error.is_connect();
    let error = error.without_url();
    if chain(&error).any(|cause| cause.is::<rustls::Error>()) {
        return Fault::Final(
            Error::host(format!("no trustworthy connection to {}", host(url))).with_source(error).with_hint(
                "if a proxy or mirror has a certificate of its own authority, point SSL_CERT_FILE at a PEM bundle with it",
            ),
        );
    }
    let message =
        if connecting { format!("cannot connect to {}", host(url)) } else { format!("{} broke off", host(url)) };
    Fault::Passing { error: Error::host(message).with_source(error), after: None, connected: !connecting }
}

/// The error and its causes. An io error hides the error it was made from, and passes that one's source on instead.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

/// `Retry-After` in either form (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// First offset and total size of `Content-Range: bytes 5-9/10` (RFC 9110, 14.4). None when it is absent, not in bytes
/// or does not reach the end of the file, which is what was asked for.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    match total {
        "*" => (first <= last).then_some((first, None)),
        total => {
            let total = total.parse::<u64>().ok()?;
            (first <= last && last.checked_add(1) == Some(total)).then_some((first, Some(total)))
        }
    }
}

fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()
}

/// A weak ETag says that two files mean the same, not that they have the same bytes.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    strong.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// A proxy that cannot be understood would be passed over silently, and the request go out directly.
fn check_proxies(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    for name in PROXIES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let full = if value.contains("://") { value } else { format!("http://{value}") };
        let known = |url: &Url| matches!(url.scheme(), "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h");
        // The value itself is not shown: it may hold a password.
        if !Url::parse(&full).is_ok_and(|url| known(&url) && url.has_host()) {
            let hint = "expected the form http://host:port (also https, socks5, socks5h)";
            return Err(Error::host(format!("{name} is not the address of a proxy")).with_hint(hint));
        }
    }
    Ok(())
}

fn proxied_by_tls() -> bool {
    PROXIES.iter().any(|name| std::env::var(name).is_ok_and(|value| value.starts_with("https:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_date() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:27:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn content_ranges_must_reach_the_end() {
        for (text, expected) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes 5-8/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("bytes 0-18446744073709551615/1", None),
        ] {
            assert_eq!(content_range(&headers(header::CONTENT_RANGE, text)), expected, "{text}");
        }
    }

    #[test]
    fn only_a_strong_tag_or_a_date_proves_that_bytes_are_the_same() {
        assert_eq!(validator(&headers(header::ETAG, "\"a\"")).unwrap(), "\"a\"");
        assert_eq!(validator(&headers(header::ETAG, "W/\"a\"")), None);
        assert!(validator(&headers(header::LAST_MODIFIED, "Wed, 21 Oct 2015 07:28:00 GMT")).is_some());
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_said_and_its_password_is_not() {
        for good in ["http://proxy.example:3128", "proxy.example:3128", "socks5h://u:p@proxy.example:1080", ""] {
            assert!(check_proxies(|name| (name == "HTTPS_PROXY").then(|| good.into())).is_ok(), "{good}");
        }
        for bad in ["htps://u:geheim@proxy.example", "http://", "http://u:geheim@:x/"] {
            let error = check_proxies(|name| (name == "ALL_PROXY").then(|| bad.into())).unwrap_err();
            assert!(
                error.to_string().contains("ALL_PROXY") && !crate::error::render(&error).contains("geheim"),
                "{bad}"
            );
        }
    }
}
