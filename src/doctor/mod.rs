//! `amibake doctor`: what stands between a job and its builder. Looks in the order in which a connection is made, stops
//! guessing at the first cause, and says what to do.
//!
//! `known`, `address`, `network` and `builder` are pure. `wire` finds out what listens at a port and speaks to it; `live` is
//! the list of checks of a connection; `around` asks AWS, and the builder itself by Systems Manager, and has `network` and
//! `builder` judge what they say; `log` reads a failed job's log instead.

mod address;
mod around;
mod builder;
mod known;
mod live;
mod log;
mod network;
mod wire;

use serde::Serialize;

pub(crate) use address::Address;
pub use around::{Around, Told, daemon_here, inside_here, look_around};
pub use live::{Client, Options, examine};
pub use log::{Finding, read_log};

/// A disk that has less than this left is nearly full: a part of it, and bytes.
const LITTLE: (u64, u64) = (20, 1 << 30);

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It works; somebody should know.
    Warning,
    /// This is a cause.
    Wrong,
    /// It was not looked at.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: stable, for programs.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// A short stable word for what is wrong; empty where nothing is.
    pub fault: &'static str,
    /// What was found: a lower-case fragment.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A certificate that has less than this left, in seconds, is told of.
const SOON: i64 = 14 * 24 * 3600;

/// How long a certificate is still good for, at `now`; times in seconds since 1970.
fn lasts(check: &'static str, whose: &str, until: i64, now: i64, hint: &str) -> Check {
    let at = jiff::Timestamp::from_second(until);
    let day = at.map_or_else(|_| "?".to_owned(), |at| at.strftime("%F").to_string());
    if until <= now {
        Check::wrong(check, "certificate-expired", format!("{whose} certificate expired on {day}"), hint)
    } else if until - now < SOON {
        Check::warning(check, "certificate-expires-soon", format!("{whose} certificate expires on {day}"), hint)
    } else {
        Check::fine(check, format!("{whose} has not ended: until {day}"))
    }
}

impl Check {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { check, verdict, fault: "", found: found.into(), hint: None }
    }

    fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fine, found)
    }

    fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Verdict::Skipped, why)
    }

    fn warning(check: &'static str, fault: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { fault, hint: Some(hint.into()), ..Self::new(check, Verdict::Warning, found) }
    }

    fn wrong(check: &'static str, fault: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { fault, hint: Some(hint.into()), ..Self::new(check, Verdict::Wrong, found) }
    }
}
