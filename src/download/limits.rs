//! How long and how much a download may take.

use std::time::Duration;

/// The bounds of one download. The defaults are what users get; tests use shorter ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For a connection, TLS and proxy included. 30 s: ten times a slow satellite handshake.
    pub connect: Duration,
    /// In every such span [`least`](Self::least) bytes must come, or the connection counts as stalled and is replaced.
    /// Also the longest wait for a response to begin. 60 s.
    pub idle: Duration,
    /// 64 KiB in 60 s is a tenth of a modem: slower is a server that drips.
    pub least: u64,
    /// For the download with all its retries. 2 h: a base image of 2 GB at 300 kB/s.
    pub overall: Duration,
    /// Failed attempts in a row, without [`least`](Self::least) bytes of progress between them, before giving up. A
    /// connection that cannot be made at all is tried half as often: a wrong name or port does not heal.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one, up to [`longest_pause`](Self::longest_pause),
    /// and a random half of it is left out so that many builders do not come back in step.
    pub first_pause: Duration,
    /// The longest pause of our own choice. 30 s.
    pub longest_pause: Duration,
    /// The longest `Retry-After` that is honoured in full; a longer one is cut to this. 2 min.
    pub longest_retry_after: Duration,
    /// The most bytes that are accepted. 64 GiB: larger than any base image, smaller than a filled disk.
    pub size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            least: 64 << 10,
            overall: Duration::from_secs(2 * 60 * 60),
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            longest_retry_after: Duration::from_secs(120),
            size: 64 << 30,
        }
    }
}
