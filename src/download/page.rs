//! A small file that is read and not kept: for what nobody has a digest of (a template, an index, a signature). It proves
//! nothing; whoever reads it believes it as far as it believes its server, or what it proves by itself.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue};
use sha2::Digest as _;
use tokio::time::Instant;
use url::Url;

use super::http::{Fault, Http, refusal};
use super::transfer::pause;
use super::{Limits, shown};
use crate::bake::Reporter;
use crate::error::{Error, Result};
use crate::release::Sha256;

/// With all retries: a file of a few MiB.
const OVERALL: Duration = Duration::from_secs(120);

/// One question to a server.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) url: &'a Url,
    /// The most bytes that are accepted.
    pub(crate) most: u64,
    pub(crate) headers: HeaderMap,
    /// What `Authorization` says to this server; no other is told.
    pub(crate) secret: Option<HeaderValue>,
    /// Statuses that are answers, beside 200.
    pub(crate) accept: &'static [u16],
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

/// An answer without its body.
type Head = (StatusCode, HeaderMap);

/// The bytes of `url`, at most `most` of them.
///
/// # Errors
/// Exit 4 when the server cannot be reached, gives up, or has more.
pub(crate) async fn read(url: &Url, most: u64, reporter: &Reporter) -> Result<Vec<u8>> {
    Ok(Ask::new(url, most).send(reporter).await?.bytes)
}

impl<'a> Ask<'a> {
    /// Without anything special.
    pub(crate) fn new(url: &'a Url, most: u64) -> Self {
        Self { url, most, headers: HeaderMap::new(), secret: None, accept: &[] }
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// Exit 4 when the server cannot be reached, gives up, answers what is not accepted, or has more.
    pub(crate) async fn send(&self, reporter: &Reporter) -> Result<Page> {
        let limits = Limits { size: self.most, overall: OVERALL, ..Limits::default() };
        self.send_within(&limits, reporter).await
    }

    /// The digest of what comes, of which nothing is kept.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn hash(&self, reporter: &Reporter) -> Result<Sha256> {
        let limits = Limits { size: self.most, ..Limits::default() };
        let take = |hash: &mut sha2::Sha256, chunk: &[u8]| hash.update(chunk);
        let (_, hash) = self.until_answered(&limits, reporter, sha2::Sha256::new, take).await?;
        Ok(Sha256::from_bytes(hash.finalize().into()))
    }

    async fn send_within(&self, limits: &Limits, reporter: &Reporter) -> Result<Page> {
        let collect = |bytes: &mut Vec<u8>, chunk: &[u8]| bytes.extend_from_slice(chunk);
        let ((status, headers), bytes) = self.until_answered(limits, reporter, Vec::new, collect).await?;
        Ok(Page { status, headers, bytes })
    }

    /// What `take` makes of the body, begun anew by `begin` for every attempt.
    async fn until_answered<B>(
        &self,
        limits: &Limits,
        reporter: &Reporter,
        begin: impl Fn() -> B,
        take: impl Fn(&mut B, &[u8]),
    ) -> Result<(Head, B)> {
        let mut http = Http::new(limits)?;
        let give_up = Instant::now() + limits.overall;
        let mut failures = 0;
        loop {
            let mut body = begin();
            let attempt = self.attempt(&mut http, limits, |chunk: &[u8]| take(&mut body, chunk));
            let attempt = tokio::time::timeout_at(give_up, attempt).await;
            let (error, after, connected) = match attempt {
                Ok(Ok(head)) => return Ok((head, body)),
                Ok(Err(Fault::Final(error))) => return Err(error),
                Ok(Err(Fault::Passing { error, after, connected })) => (error, after, connected),
                Err(_) => {
                    return Err(Error::host(format!("{} took longer than {:?}", shown(self.url), limits.overall)));
                }
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

    async fn attempt(
        &self,
        http: &mut Http<'_>,
        limits: &Limits,
        mut take: impl FnMut(&[u8]),
    ) -> std::result::Result<Head, Fault> {
        let url = self.url;
        let broke_off = |error: reqwest::Error| {
            Fault::passing(Error::host(format!("{} broke off", shown(url))).with_source(error.without_url()))
        };
        let too_large = || {
            let message = format!("{} has more than the {} bytes that are accepted", shown(url), limits.size);
            Fault::from(Error::host(message))
        };
        let (mut response, here) = http.ask(url, &self.headers, self.secret.as_ref()).await?;
        let status = response.status();
        if status != StatusCode::OK && !self.accept.contains(&status.as_u16()) {
            return Err(refusal(&response, &here));
        }
        let headers = std::mem::take(response.headers_mut());
        let total = response.content_length().filter(|_| status == StatusCode::OK);
        if total.is_some_and(|total| total > limits.size) {
            return Err(too_large());
        }
        let mut length = 0;
        while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
            length += chunk.len() as u64;
            if length > limits.size {
                return Err(too_large());
            }
            take(&chunk);
        }
        if total.is_some_and(|total| total != length) {
            return Err(Fault::passing(Error::host(format!("{} ended after {length} bytes", shown(url)))));
        }
        Ok((status, headers))
    }
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
        let url = serve(answers);
        Ok(Ask::new(&url, limits.size).send_within(&limits, &Reporter::silent()).await?.bytes)
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
    /// A server that answers once, and what it was asked.
    fn serve_once(answer: String) -> (Url, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).unwrap();
            stream.write_all(format!("HTTP/1.1 {answer}Connection: close\r\n\r\n").as_bytes()).unwrap();
            String::from_utf8_lossy(&bytes[..length]).to_ascii_lowercase()
        });
        (Url::parse(&format!("http://{address}/x")).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_secret_is_told_to_the_server_asked_and_not_to_where_it_redirects() {
        let (elsewhere, asked_there) = serve_once("200 OK\r\nContent-Length: 0\r\n".to_owned());
        let (url, asked) = serve_once(format!("302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n"));
        let secret = Some(HeaderValue::from_static("Bearer geheim"));
        let page = Ask { secret, ..Ask::new(&url, 10) }.send(&Reporter::silent()).await.unwrap();
        assert_eq!(page.status, StatusCode::OK);
        assert!(asked.join().unwrap().contains("authorization: bearer geheim"));
        assert!(!asked_there.join().unwrap().contains("authorization"));
    }

    #[tokio::test]
    async fn what_is_accepted_is_an_answer_and_not_a_fault() {
        let (url, _) = serve_once("304 Not Modified\r\nETag: \"a\"\r\n".to_owned());
        let page = Ask { accept: &[304], ..Ask::new(&url, 10) }.send(&Reporter::silent()).await.unwrap();
        assert_eq!((page.status.as_u16(), page.headers["etag"].as_bytes()), (304, &b"\"a\""[..]));
    }
}
