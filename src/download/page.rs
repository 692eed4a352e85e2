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
    read_within(url, &limits, reporter).await
}

async fn read_within(url: &Url, limits: &Limits, reporter: &Reporter) -> Result<Vec<u8>> {
    let mut http = Http::new(limits)?;
    let give_up = Instant::now() + limits.overall;
    let mut failures = 0;
    loop {
        let attempt = tokio::time::timeout_at(give_up, attempt(&mut http, url, limits)).await;
        let (error, after, connected) = match attempt {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(Fault::Final(error))) => return Err(error),
            Ok(Err(Fault::Passing { error, after, connected })) => (error, after, connected),
            Err(_) => return Err(Error::host(format!("{} took longer than {:?}", shown(url), limits.overall))),
        };
        failures += 1;
        if failures >= if connected { limits.attempts } else { limits.attempts.div_ceil(2) } {
            return Err(error);
        }
        let pause = pause(limits, failures, after);
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A server that gives one connection after the other these answers.
    fn serve(answers: Vec<&'static str>) -> Url {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            }
        });
        Url::parse(&format!("http://{address}/latest/aws-stack.yml")).unwrap()
    }

    async fn read_quickly(answers: Vec<&'static str>) -> Result<Vec<u8>> {
        let first_pause = Duration::from_millis(1);
        let limits = Limits { size: 10, first_pause, overall: Duration::from_secs(20), ..Limits::default() };
        read_within(&serve(answers), &limits, &Reporter::silent()).await
    }

    #[tokio::test]
    async fn what_passes_is_tried_again() {
        let got = read_quickly(vec![
            "503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhe",
            "200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        ]);
        assert_eq!(got.await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn what_is_not_there_or_too_large_is_refused_at_once() {
        let missing = read_quickly(vec!["404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]);
        assert!(missing.await.unwrap_err().to_string().contains("404"));
        let told = read_quickly(vec!["200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhello hello"]);
        assert!(told.await.unwrap_err().to_string().contains("more than the 10"));
        let untold = read_quickly(vec!["200 OK\r\nConnection: close\r\n\r\nhello hello"]);
        assert!(untold.await.unwrap_err().to_string().contains("more than the 10"));
    }
}
