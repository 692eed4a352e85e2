//! A running machine: waiting for it, running scripts on it, restarting and stopping it. Every wait also watches for
//! what would make it a wait for ever: QEMU's end, a full disk of the host, a console that says the boot has failed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::launch::ARTIFACT_DEVICE;
use super::monitor::{Monitor, Trouble};
use super::network;
use super::process::Process;
use super::ssh::Ssh;
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Reporter, Undo};
use crate::error::{Error, Result, in_a_line};
use crate::plan::{BaseImage, Image, ImagePlan, sh};
use crate::provider::{Destination, Launch, Machine, Reach, ScriptEnd, Source};

/// How long a power-off may take: systemd gives a unit that hangs 90 s.
const STOP: Duration = Duration::from_secs(180);
/// After this the power button is pressed too: the order may not have arrived.
const INSIST: Duration = Duration::from_secs(60);

/// cloud-init is waited for, where there is one: it holds the package manager's lock.
const SETTLE_BASE: &str =
    "if command -v cloud-init >/dev/null; then timeout 600 cloud-init status --wait || true; fi\n";

/// Frees blocks of deleted files, so that they are not part of the image, and orders the power-off.
const POWER_OFF: &str = "sync; fstrim / 2>/dev/null; systemctl poweroff --no-block\n";

/// A QEMU process and the way to its guest.
pub(super) struct LocalMachine {
    pub(super) image: ImagePlan,
    pub(super) base: BaseImage,
    pub(super) reporter: Reporter,
    pub(super) files: Files,
    cancel: CancellationToken,
    start: Duration,
    process: Process,
    monitor: Monitor,
    ssh: Arc<Ssh>,
    artifact_size: Option<u64>,
    /// Its number on the private network, if it is on one.
    member: Option<u8>,
}

impl LocalMachine {
    pub(super) fn new(order: &Launch<'_>, files: Files, process: Process, monitor: Monitor, ssh: Arc<Ssh>) -> Self {
        let (artifact_size, member) = match order.source {
            Source::Base(artifact) => (Some(artifact.size()), None),
            Source::Image(_, network) => (None, network::link(&network).map(|_| network.member)),
        };
        Self {
            image: order.plan.image.clone(),
            base: order.plan.base.clone(),
            reporter: order.reporter.clone(),
            files,
            cancel: order.cancel.clone(),
            start: order.plan.machine.start_timeout,
            process,
            monitor,
            ssh,
            artifact_size,
            member,
        }
    }

    /// Whether it is off.
    pub(super) fn is_off(&self) -> bool {
        self.process.has_ended()
    }

    /// Waits for `work`, unless the machine cannot go on.
    async fn while_alive<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let error = tokio::select! {
            biased;
            error = self.trouble() => error,
            result = work => match result {
                Ok(value) => return Ok(value),
                // The channel often breaks a moment before the reason is known.
                Err(error) => match tokio::time::timeout(Duration::from_secs(1), self.trouble()).await {
                    Ok(trouble) => trouble,
                    Err(_elapsed) => match self.files.dead_end().filter(|_| error.detail().is_none()) {
                        Some(reason) => self.explain(Error::failed(format!("the machine stopped: {reason}"))),
                        None => error,
                    },
                },
            },
        };
        Err(error)
    }

    /// Waits until the machine cannot go on, and says why.
    async fn trouble(&self) -> Error {
        tokio::select! {
            ended = self.process.ended() => {
                let how = ended.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
                self.explain(Error::failed(format!("the machine ended by itself (QEMU: {how})")))
            }
            trouble = self.monitor.trouble() => match trouble {
                Trouble::NoSpace => {
                    Error::host(format!("no space left for the machine's disks in {}", self.files.dir.display()))
                        .with_hint("free some space there, and build again")
                }
                Trouble::Disk(reason) => {
                    let dir = self.files.dir.display();
                    Error::host(format!("the machine's disks in {dir} cannot be read or written")).with_source(reason)
                }
            },
        }
    }

    fn explain(&self, error: Error) -> Error {
        error.with_detail(self.files.last_words())
    }

    /// Waits until the guest answers, in a boot other than `before`.
    async fn answers(&self, what: &str, before: Option<&str>) -> Result<()> {
        let schedule =
            Schedule { first: Duration::from_millis(100), most: Duration::from_millis(500), deadline: self.start };
        let started = tokio::time::Instant::now();
        let probe = async || {
            if let Some(reason) = self.files.dead_end() {
                return Err(self.explain(Error::failed(format!("the machine does not start: {reason}"))));
            }
            match self.boot_id(before, started.elapsed()).await {
                Ok(None) => Ok(Probe::Ready(())),
                Ok(Some(reason)) => Ok(Probe::NotYet(reason)),
                Err(error) => Ok(Probe::NotYet(in_a_line(&error))),
            }
        };
        let waited = self.while_alive(wait::until(what, schedule, &self.cancel, probe)).await;
        waited.map_err(|error| if error.detail().is_none() { self.explain(error) } else { error })
    }

    /// Connects; why that is not enough.
    async fn boot_id(&self, before: Option<&str>, waited: Duration) -> Result<Option<String>> {
        self.ssh.connect(waited).await?;
        let Some(before) = before else { return Ok(None) };
        if self.ssh.output(BOOT_ID).await? != before {
            return Ok(None);
        }
        self.ssh.disconnect().await;
        Ok(Some("it has not gone down yet".to_owned()))
    }

    /// What must be done after every boot before scripts may run.
    async fn settle(&self) -> Result<()> {
        let mut script = String::new();
        if let Some(member) = self.member {
            script.push_str(&format!("(\n{}) || exit 1\n", network::script(member)));
        }
        if self.artifact_size.is_some() {
            script.push_str(SETTLE_BASE);
        }
        self.while_alive(self.ssh.output(&script)).await.map(drop)
    }
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id\n";

/// An option of OpenSSH's client with a path as its value: quoted as its configuration file has it (ssh_config(5)),
/// where `%` begins a token.
fn ssh_option(name: &str, path: &std::path::Path) -> String {
    let path = path.display().to_string();
    format!("{name}=\"{}\"", path.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%"))
}

#[async_trait]
impl Machine for LocalMachine {
    async fn ready(&mut self) -> Result<()> {
        self.answers("the machine's start", None).await?;
        self.settle().await
    }

    async fn run(
        &self,
        script: &str,
        peer: Option<&str>,
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd> {
        let size = self.artifact_size.map(|size| size.to_string());
        let mut environment = Vec::new();
        if let Some(size) = &size {
            environment.push(("AMIBAKE_ARTIFACT", ARTIFACT_DEVICE));
            environment.push(("AMIBAKE_ARTIFACT_SIZE", size.as_str()));
        }
        if let Some(peer) = peer {
            environment.push(("AMIBAKE_PEER", peer));
        }
        self.while_alive(self.ssh.run(script, &environment, output)).await
    }

    async fn stop(&mut self) -> Result<()> {
        if !self.is_off() {
            self.ssh.stopped().await;
            // The machine may be gone before it can say that it obeys.
            let order = self.ssh.output(POWER_OFF);
            let ended = async {
                tokio::select! {
                    biased;
                    () = self.off() => return,
                    _ = tokio::time::timeout(INSIST, order) => {}
                }
                if tokio::time::timeout(INSIST, self.off()).await.is_err() {
                    drop(self.monitor.press_power_button().await);
                    self.off().await;
                }
            };
            tokio::select! {
                () = ended => {}
                trouble = self.monitor.trouble() => return Err(self.stuck(&format!("{trouble:?}"))),
                () = tokio::time::sleep(STOP) => {
                    return Err(self.stuck(&format!("it is still on after {} s", STOP.as_secs())));
                }
            }
        }
        self.ssh.disconnect().await;
        match self.process.ended().await {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(self.explain(Error::failed(format!("the machine did not end cleanly (QEMU: {status})"))))
            }
            None => Err(self.explain(Error::failed("the machine did not end cleanly"))),
        }
    }

    async fn restart(&mut self) -> Result<()> {
        let before = self.while_alive(self.ssh.output(BOOT_ID)).await?;
        // The connection may break before it is said that the order was obeyed; whether it was is seen below.
        drop(self.while_alive(self.ssh.output("systemctl reboot --no-block\n")).await);
        self.ssh.disconnect().await;
        self.answers("the machine's restart", Some(&before)).await?;
        self.settle().await
    }

    async fn capture(&mut self, destination: Destination<'_>, _undo: &Undo) -> Result<Image> {
        super::capture::capture(self, destination).await
    }

    fn reach(&self) -> Reach {
        Reach {
            command: format!(
                "ssh -F none -o IdentitiesOnly=yes -o {} -o {} -p {} root@127.0.0.1",
                sh(&ssh_option("IdentityFile", &self.files.key())),
                sh(&ssh_option("UserKnownHostsFile", &self.files.known_hosts())),
                self.ssh.port()
            ),
            address: self.member.map(network::address),
            end: format!("kill {}; rm -rf {}", self.process.pid, sh(&self.files.dir.display().to_string())),
        }
    }
}

impl LocalMachine {
    async fn off(&self) {
        self.process.ended().await;
    }

    fn stuck(&self, reason: &str) -> Error {
        self.explain(Error::failed(format!("the machine does not power off: {reason}")))
    }
}
