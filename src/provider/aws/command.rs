//! Scripts on an instance through Systems Manager: the one place that speaks Run Command. Owns how a script gets there
//! whole whatever its length, how it ended, and how all of its output comes back.
//!
//! A short step is one SendCommand and one or two GetCommandInvocation. What goes over the wire is `assets/aws/run.sh`
//! with the script packed into it; it may arrive twice (SendCommand has no token for its retries) and runs once.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use aws_sdk_ssm::types::CommandInvocationStatus as Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::error::AwsError;
use crate::bake::RunId;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::{Context as _, Error, Result};
use crate::plan::sh;
use crate::provider::ScriptEnd;
use crate::release::Sha256;
use crate::report::clean;

const RUN: &str = include_str!("../../../assets/aws/run.sh");
const PART: &str = include_str!("../../../assets/aws/part.sh");
const SEND: &str = "ssm:SendCommand";
const GET: &str = "ssm:GetCommandInvocation";

/// Bytes of a packed script that travel in one command. A document and its parameters may hold 64 KB ("SendCommand",
/// Systems Manager API reference); the wrapper takes 5 and JSON its share.
const PART_BYTES: usize = 40 << 10;
/// Bytes that one command reads back: in base64 below the 24,000 characters at which the agent cuts an output.
const PIECE_BYTES: usize = 17_900;
/// Commands under way at once when an output is read back: the agent runs five ("CommandWorkersLimit").
const PIECES_AT_ONCE: usize = 4;
/// How much of a long output is read back, beside its end. A failed step's is most likely wanted whole.
const MOST_FAILURE: usize = 4 << 20;
const MOST_SUCCESS: usize = 256 << 10;
/// How long the agent may take to begin. The least the API takes is 30 s.
const DELIVERY: Duration = Duration::from_secs(600);
/// How often the end is looked for.
const LOOKS: Schedule =
    Schedule { first: Duration::from_millis(400), most: Duration::from_secs(5), deadline: Duration::MAX };
/// How long a command may be unknown after it was sent, and an agent that is online refused.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How long an object may take to show up after the command that wrote it.
const STORED: Schedule =
    Schedule { first: Duration::from_millis(200), most: Duration::from_secs(2), deadline: Duration::from_secs(20) };

/// What a script finds in its environment beside what it is given: the same on every base.
const ENVIRONMENT: &str = "HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The way to one instance.
pub(super) struct Channel {
    clients: Clients,
    run: RunId,
    instance: String,
    log_bucket: Option<String>,
    /// The whole bake's deadline: no command is longer.
    timeout: Duration,
    cancel: CancellationToken,
    /// Whether the first script waits for cloud-init: on a base, where it holds the package manager's lock.
    settles: bool,
    scripts: AtomicU32,
    /// Commands that are being cancelled.
    cancelling: Mutex<Vec<JoinHandle<()>>>,
}

/// Where output goes.
pub(super) type Output<'o> = &'o mut (dyn for<'b> FnMut(&'b [u8]) + Send);

impl Channel {
    pub(super) fn new(
        clients: &Clients,
        run: &RunId,
        instance: &str,
        log_bucket: Option<String>,
        timeout: Duration,
        settles: bool,
        cancel: &CancellationToken,
    ) -> Self {
        Self {
            clients: clients.clone(),
            run: run.clone(),
            instance: instance.to_owned(),
            log_bucket,
            timeout,
            cancel: cancel.clone(),
            settles,
            scripts: AtomicU32::default(),
            cancelling: Mutex::default(),
        }
    }

    /// Runs `script` as root with bash, in a session of its own, and hands on what it printed once it has ended. When the
    /// future is dropped, the command is cancelled; the next script waits for that.
    ///
    /// # Errors
    /// When it could not be run to its end, with the service's reason.
    pub(super) async fn run(
        self: &Arc<Self>,
        script: &str,
        environment: &[(&str, &str)],
        output: Output<'_>,
    ) -> Result<ScriptEnd> {
        self.cancelled().await;
        let name = self.scripts.fetch_add(1, Ordering::Relaxed).to_string();
        let packed = pack(script.as_bytes()).or_failed(|| "cannot pack a script".to_owned())?;
        let parts: Vec<&str> = split(&packed, PART_BYTES);
        let (last, before) = parts.split_last().ok_or_else(|| Error::failed("a script is empty"))?;
        for (number, part) in before.iter().enumerate() {
            self.answer(self.part(&name, number, part), None).await?;
        }
        let bucket = self.log_bucket.as_deref();
        let wrapped = wrap(&name, script, last, before.len(), environment, (bucket.is_some(), self.settles));
        let answered = self.answer(wrapped, bucket).await?;
        let answer = Answer::read(answered.standard_output_content.as_deref().unwrap_or_default())
            .ok_or_else(|| senseless(&answered))?;
        self.hand_on(&name, &answered, &answer, output).await?;
        Ok(answer.end)
    }

    /// Runs `script` to its end and returns its output.
    ///
    /// # Errors
    /// When it could not be run, or fails.
    pub(super) async fn output(self: &Arc<Self>, script: &str) -> Result<String> {
        let mut printed = Vec::new();
        let end = self.run(script, &[], &mut |bytes| printed.extend_from_slice(bytes)).await?;
        let printed = String::from_utf8_lossy(&printed).trim().to_owned();
        match end {
            ScriptEnd::Exited(0) => Ok(printed),
            end => {
                Err(Error::failed(format!("a script of amibake failed on the machine ({end:?})")).with_detail(printed))
            }
        }
    }

    /// Runs a script of some kilobytes with bash on a machine that is not ours: nothing of it stays there, and it runs anew
    /// each time.
    /// What it printed, of which the service keeps 24,000 characters.
    ///
    /// # Errors
    /// When it could not be run, or fails.
    pub(super) async fn look(self: &Arc<Self>, script: &str) -> Result<String> {
        let answered = self.answer(format!("bash -s <<'AMIBAKE'\n{script}\nAMIBAKE\n"), None).await?;
        Ok(answered.standard_output_content.unwrap_or_default())
    }

    fn part(&self, name: &str, number: usize, payload: &str) -> String {
        PART.replace("@name@", name)
            .replace("@part@", &number.to_string())
            // Of the line with its end, as it stands in the file.
            .replace("@sha256@", &Sha256::of(format!("{payload}\n").as_bytes()).to_string())
            .replace("@payload@", payload)
    }

    /// Hands on the output: what came with the answer, and before it what did not fit.
    async fn hand_on(
        self: &Arc<Self>,
        name: &str,
        answered: &GetCommandInvocationOutput,
        answer: &Answer,
        output: Output<'_>,
    ) -> Result<()> {
        if answer.size > answer.last_size {
            let stored = match &self.log_bucket {
                Some(bucket) => self.stored(bucket, answered).await,
                None => None,
            };
            if let Some(whole) = stored {
                output(&whole);
                return Ok(());
            }
            let left_out = answer.size.saturating_sub(answer.last_size + answer.rest_size);
            // What could not be had is said in its place, and is no reason to lose the rest.
            match self.rest(name, answer.packed_size).await {
                Ok(rest) => {
                    if left_out > 0 {
                        output(format!("[amibake: the first {left_out} bytes are left out]\n").as_bytes());
                    }
                    output(&rest);
                }
                Err(error) => {
                    let lost = left_out + answer.rest_size;
                    output(format!("[amibake: the first {lost} bytes could not be read back: {error}]\n").as_bytes());
                }
            }
        }
        output(&answer.last);
        Ok(())
    }

    /// The output as the machine keeps it, before its end.
    async fn rest(self: &Arc<Self>, name: &str, packed: usize) -> Result<Vec<u8>> {
        let pieces = (0..packed.div_ceil(PIECE_BYTES)).map(|number| {
            let from = number * PIECE_BYTES + 1;
            let script = format!("tail -c +{from} /run/amibake/{name}/rest | head -c {PIECE_BYTES} | base64 -w 0");
            async move {
                let answered = self.answer(script, None).await?;
                let text = answered.standard_output_content.as_deref().unwrap_or_default();
                STANDARD.decode(text.trim()).or_failed(|| "a piece of the output came back damaged".to_owned())
            }
        });
        let pieces: Vec<Vec<u8>> = stream::iter(pieces).buffered(PIECES_AT_ONCE).try_collect().await?;
        unpack(&pieces.concat()).or_failed(|| "the output came back damaged".to_owned())
    }

    /// The whole output from the bucket for logs; none if it is not there, or not whole.
    async fn stored(&self, bucket: &str, answered: &GetCommandInvocationOutput) -> Option<Vec<u8>> {
        let command = answered.command_id.as_deref()?;
        let folder = format!("{}/{command}/{}/", self.log_prefix(), self.instance);
        // Its last parts are the names of the plugin and of its one step.
        let url = answered.standard_output_url.as_deref().unwrap_or_default();
        let file = url.split_once(&folder).map_or("awsrunShellScript/0.awsrunShellScript/stdout", |(_, file)| file);
        let key = format!("{folder}{file}");
        let got = wait::until("the log's object", STORED, &self.cancel, || async {
            match self.clients.s3.get_object().bucket(bucket).key(&key).send().await {
                Ok(got) => Ok(Probe::Ready(got)),
                Err(error) => match AwsError::of("s3:GetObject")(error) {
                    error if error.is(&["NoSuchKey"]) => Ok(Probe::NotYet(error.to_string())),
                    error => Err(error.because("cannot read the log's object")),
                },
            }
        });
        let text = got.await.ok()?.body.collect().await.ok()?.into_bytes();
        let whole = std::str::from_utf8(&text).ok()?.lines().nth(2)?;
        unpack(&STANDARD.decode(whole.trim()).ok()?).ok()
    }

    fn log_prefix(&self) -> String {
        format!("amibake/{}", self.run)
    }

    /// Sends a command and waits until it has ended well.
    async fn answer(self: &Arc<Self>, script: String, bucket: Option<&str>) -> Result<GetCommandInvocationOutput> {
        let id = self.send(&script, bucket).await?;
        let cancel = CancelOnDrop { channel: self.clone(), command: Some(id.clone()) };
        let ended = self.ended(&id).await?;
        cancel.disarm();
        match ended.status {
            Some(Status::Success) => Ok(ended),
            _ => Err(failure(&ended)),
        }
    }

    async fn send(&self, script: &str, bucket: Option<&str>) -> Result<String> {
        let seconds = |duration: Duration, most: u64| duration.as_secs().clamp(30, most);
        // 48 hours: "executionTimeout" of the document AWS-RunShellScript.
        let timeout = seconds(self.timeout, 172_800).to_string();
        let schedule = Schedule { deadline: UNKNOWN, ..LOOKS };
        let sent = wait::until("the agent", schedule, &self.cancel, || async {
            let call = self.clients.ssm.send_command().document_name("AWS-RunShellScript").instance_ids(&self.instance);
            let call = call
                .parameters("commands", vec![script.to_owned()])
                .parameters("executionTimeout", vec![timeout.clone()])
                .timeout_seconds(seconds(DELIVERY, 2_592_000) as i32)
                .comment(format!("amibake {}", self.run))
                .set_output_s3_bucket_name(bucket.map(str::to_owned))
                .set_output_s3_key_prefix(bucket.map(|_| self.log_prefix()));
            match call.send().await.map_err(AwsError::of(SEND)) {
                Ok(sent) => Ok(Probe::Ready(sent)),
                // An agent that has just come online is not known everywhere.
                Err(error) if error.is(&["InvalidInstanceId"]) => Ok(Probe::NotYet(error.to_string())),
                Err(error) => Err(error.because("cannot send a script to the machine")),
            }
        });
        let id = sent.await?.command.and_then(|command| command.command_id);
        id.ok_or_else(|| Error::host(format!("{SEND}: the answer has no id")))
    }

    /// Waits until the command has ended, however.
    async fn ended(&self, id: &str) -> Result<GetCommandInvocationOutput> {
        let started = tokio::time::Instant::now();
        let schedule = Schedule { deadline: self.timeout + DELIVERY + UNKNOWN, ..LOOKS };
        wait::until("a command on the machine", schedule, &self.cancel, || async {
            let call = self.clients.ssm.get_command_invocation().command_id(id).instance_id(&self.instance);
            let state = match call.send().await.map_err(AwsError::of(GET)) {
                Ok(state) => state,
                Err(error) if error.is(&["InvocationDoesNotExist"]) && started.elapsed() < UNKNOWN => {
                    return Ok(Probe::NotYet(error.to_string()));
                }
                Err(error) => return Err(error.because("cannot ask how a script ended")),
            };
            Ok(match &state.status {
                Some(Status::Pending | Status::InProgress | Status::Delayed | Status::Cancelling) | None => {
                    Probe::NotYet(format!("it is {}", state.status_details().unwrap_or("pending")))
                }
                Some(_) => Probe::Ready(state),
            })
        })
        .await
    }

    /// Waits until every command that was given up on is cancelled.
    async fn cancelled(&self) {
        loop {
            let next = self.cancelling.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match next {
                Some(task) => drop(task.await),
                None => return,
            }
        }
    }
}

/// Cancels a command whose future is dropped.
struct CancelOnDrop {
    channel: Arc<Channel>,
    command: Option<String>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.command = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let (Some(command), Ok(runtime)) = (self.command.take(), tokio::runtime::Handle::try_current()) else { return };
        let (ssm, instance) = (self.channel.clients.ssm.clone(), self.channel.instance.clone());
        // When this process ends before it is heard, the machine ends too, and the command with it.
        let task = runtime.spawn(async move {
            drop(ssm.cancel_command().command_id(command).instance_ids(instance).send().await);
        });
        self.channel.cancelling.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

/// What the wrapper says on its first two lines.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    end: ScriptEnd,
    /// Bytes of the whole output.
    size: usize,
    /// Its end.
    last: Vec<u8>,
    last_size: usize,
    /// Bytes of what comes before the end and can be read back.
    rest_size: usize,
    /// The same, packed.
    packed_size: usize,
}

impl Answer {
    /// None for what is no answer.
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut words = lines.next()?.split_whitespace();
        if (words.next()?, words.next()?) != ("amibake", "1") {
            return None;
        }
        let end = match words.next()? {
            "signal" => ScriptEnd::Signalled,
            status => ScriptEnd::Exited(status.parse().ok()?),
        };
        let mut number = || words.next()?.parse::<usize>().ok();
        let (size, last_size, rest_size, packed_size) = (number()?, number()?, number()?, number()?);
        let last = unpack(&STANDARD.decode(lines.next()?.trim()).ok()?).ok()?;
        (last.len() == last_size).then_some(Self { end, size, last, last_size, rest_size, packed_size })
    }
}

/// The wrapper with everything in it.
fn wrap(
    name: &str,
    script: &str,
    payload: &str,
    parts: usize,
    environment: &[(&str, &str)],
    (bucket, settles): (bool, bool),
) -> String {
    let parts: Vec<_> = (0..parts).map(|part| format!("/run/amibake/{name}.{part}")).collect();
    let mut variables = ENVIRONMENT.to_owned();
    for (key, value) in environment {
        // Inside of one more pair of quotes.
        variables.push_str(&format!(" {key}={}", sh(value).replace('\'', r"'\''")));
    }
    // The payload last: nothing of it is taken for a place to fill in.
    RUN.replace("@name@", name)
        .replace("@parts@", &parts.join(" "))
        .replace("@sha256@", &Sha256::of(script.as_bytes()).to_string())
        .replace("@environment@", &variables)
        .replace("@most_success@", &MOST_SUCCESS.to_string())
        .replace("@most_failure@", &MOST_FAILURE.to_string())
        .replace("@bucket@", if bucket { "1" } else { "0" })
        .replace("@settles@", if settles { "1" } else { "0" })
        .replace("@payload@", payload)
}

fn pack(bytes: &[u8]) -> std::io::Result<String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(STANDARD.encode(encoder.finish()?))
}

fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// Parts of at most `most` bytes of a text that is ASCII; at least one.
fn split(text: &str, most: usize) -> Vec<&str> {
    let count = text.len().div_ceil(most).max(1);
    (0..count).map(|part| text.get(part * most..text.len().min((part + 1) * most)).unwrap_or_default()).collect()
}

/// The error for a command that did not end well.
fn failure(ended: &GetCommandInvocationOutput) -> Error {
    let details = ended.status_details.as_deref().unwrap_or_default();
    let words = match (&ended.status, details) {
        (_, "DeliveryTimedOut") => "the agent on the machine did not take it in time".to_owned(),
        (_, "Undeliverable") => "the machine could not be reached".to_owned(),
        (_, "Terminated") => "the service gave it up".to_owned(),
        (_, "AccessDenied") => "the machine's role may not run it".to_owned(),
        (Some(Status::TimedOut), _) => "it took too long".to_owned(),
        (Some(Status::Cancelled), _) => "it was cancelled from elsewhere".to_owned(),
        (_, "") => "the service does not say why".to_owned(),
        (_, details) => details.to_owned(),
    };
    let error = Error::failed(format!("a command on the machine did not come to its end: {words}"));
    match tail(ended.standard_error_content.as_deref().unwrap_or_default()) {
        said if said.is_empty() => error,
        said => error.with_detail(said),
    }
}

fn senseless(answered: &GetCommandInvocationOutput) -> Error {
    let said = tail(answered.standard_output_content.as_deref().unwrap_or_default());
    Error::failed("the machine's answer to a command makes no sense").with_detail(said)
}

/// The last lines that a machine said, fit for a terminal.
pub(super) fn tail(text: &str) -> String {
    let mut lines: Vec<_> = text.lines().rev().map(clean).filter(|line| !line.is_empty()).take(20).collect();
    lines.reverse();
    lines.into_iter().map(|line| format!("  | {line}\n")).collect()
}
