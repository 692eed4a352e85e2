//! Certificates for the machines of one bake or one verification whose daemon lets in only who shows one: an authority
//! that is made for the run, is trusted by nobody else and is forgotten with it. They reach a machine's memory by the way
//! that scripts do; no plan and no log of ours holds them. On AWS that way leaves traces (the history of commands, for 30
//! days, and the agent's own files, which the seal removes): of keys that are worth nothing once the run is over.

use std::time::Duration;

use jiff::Timestamp;

use super::Reporter;
use super::script::{Script, broken};
use crate::certs::{self, Pair};
use crate::error::{Error, Exit, Result};
use crate::plan::quote::sh;
use crate::provider::Machine;

/// Where the daemon's files are, as `assets/builder/tls` looks for them; a client's on the same machine are below it.
const DAEMON: &str = "/run/amibake/tls";
const DAEMONS_CLIENT: &str = "/run/amibake/tls/client";
/// Where those of a machine that reaches the daemon over the network are: the checks' `$AMIBAKE_PEER_TLS`.
pub(super) const CLIENT: &str = "/run/amibake/tls-client";
/// Days that all of it holds: the longest bake takes hours.
const DAYS: u32 = 2;
/// To write six small files.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The authority of one run.
pub(super) struct Authority {
    authority: Pair,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// Exit 4 when the system has no randomness.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { authority: certs::authority("an amibake run", DAYS, Timestamp::now())? })
    }

    /// Gives a machine its daemon's certificate, for itself and for `address`, and one for a client on it.
    ///
    /// # Errors
    /// When the channel breaks, or the files cannot be written.
    pub(super) async fn give_daemon(
        &self,
        machine: &dyn Machine,
        address: Option<&str>,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.extend(address.map(str::to_owned));
        let server = certs::server(&self.authority, &names, DAYS, Timestamp::now())?;
        let mut text = "was=$(systemctl is-active buildkitd.service 2>/dev/null) || true\n".to_owned();
        text += &format!("mkdir -p {DAEMON}\n: >{DAEMON}/.given\n");
        text += &self.write(DAEMONS_CLIENT, &self.client()?);
        text += &self.write(DAEMON, &server);
        // One that found others before these were there does not read them again.
        text += "if [ \"$was\" = active ]; then systemctl --no-block restart buildkitd.service; fi\n";
        run(&text, machine, reporter).await
    }

    /// Gives a machine a client's certificate, at [`CLIENT`].
    ///
    /// # Errors
    /// As [`Authority::give_daemon`].
    pub(super) async fn give_client(&self, machine: &dyn Machine, reporter: &Reporter) -> Result<()> {
        run(&self.write(CLIENT, &self.client()?), machine, reporter).await
    }

    fn client(&self) -> Result<Pair> {
        certs::client(&self.authority, "a check", DAYS, Timestamp::now())
    }

    /// The lines that write a folder. The certificate comes last and by renaming: who waits for it finds the others.
    fn write(&self, folder: &str, pair: &Pair) -> String {
        let (ca, key, cert) = (sh(&self.authority.certificate), sh(pair.key()), sh(&pair.certificate));
        format!(
            "mkdir -p {folder}\nprintf %s {ca} >{folder}/ca.pem\nprintf %s {key} >{folder}/key.pem\n\
             printf %s {cert} >{folder}/.cert\nmv -f {folder}/.cert {folder}/cert.pem\n"
        )
    }
}

async fn run(text: &str, machine: &dyn Machine, reporter: &Reporter) -> Result<()> {
    let text = format!("set -eu\numask 077\n{text}");
    // All its lines are preamble: what it holds is shown to nobody, should it fail.
    let script = Script { text: &text, preamble_lines: u32::MAX, timeout: TIMEOUT, peer: None };
    let ran = script.run(machine, reporter).await.map_err(|error| match error.exit() {
        Exit::Interrupted => error,
        _ => broken("the certificates of this run did not reach the machine".to_owned(), error),
    })?;
    if ran.success() {
        return Ok(());
    }
    Err(Error::failed(format!("the certificates of this run cannot be written: {}", ran.end))
        .with_detail(script.explain(&ran)))
}
