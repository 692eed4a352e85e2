//! A small file that is read and not kept: for what nobody has a digest of (a template, an index). It proves nothing;
//! whoever reads it believes it as far as it believes its server.

use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::http::{Answer, Fault, Http};
use super::transfer::pause;
use super::{Limits, shown};
use crate::bake::Reporter;
use crate::error::{Error, Result};

/// With all retries: a file of less than a MiB.
const OVERALL: Duration = Duration::from_secs(120);

/// The bytes of `url`, at most `most` of them.
///
/// # Errors
/// Exit 4 when the server cannot be reached, gives up, or has more.
pub(crate) async fn read(url: &Url, most: u64, reporter: &Reporter) -> Result<Vec<u8>> {
    let limits = Limits { size: most, overall: OVERALL, ..Limits::default() };
    let mut http = Http::new(&limits)?;
    let give_up = Instant::now() + limits.overall;
    let mut failures = 0;
    loop {
        let attempt = tokio::time::timeout_at(give_up, attempt(&mut http, url, &limits)).await;
        let (error, after, connected) = match attempt {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(Fault::Final(error))) => return Err(error),
            Ok(Err(Fault::Passing { error, after, connected })) => (error, after, connected),
            Err(_) => return Err(Error::host(format!("{} took longer than {OVERALL:?}", shown(url)))),
        };
        failures += 1;
        if failures >= if connected { limits.attempts } else { limits.attempts.div_ceil(2) } {
            return Err(error);
        }
        let pause = pause(&limits, failures, after);
        reporter.note(format!("{error}: trying again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(http: &mut Http<'_>, url: &Url, limits: &Limits) -> std::result::Result<Vec<u8>, Fault> {
    let broke_off = |error: reqwest::Error| {
        Fault::passing(Error::host(format!("{} broke off", shown(url))).with_source(error.without_url()))
    };
    // Asked for from the first byte on, a server has nothing to answer but a body.
    let Answer::Body(body) = http.get(url, 0, None).await? else {
        return Err(Error::host(format!("{} sent nothing", shown(url))).into());
    };
    let (mut response, mut bytes) = (body.response, Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
        if (bytes.len() + chunk.len()) as u64 > limits.size {
            let message = format!("{} has more than the {} bytes that are accepted", shown(url), limits.size);
            return Err(Error::host(message).into());
        }
        bytes.extend_from_slice(&chunk);
    }
    if body.total.is_some_and(|total| total != bytes.len() as u64) {
        return Err(Fault::passing(Error::host(format!("{} ended after {} bytes", shown(url), bytes.len()))));
    }
    Ok(bytes)
}
