//! The SSH channel to a guest: the one place that speaks it. Owns the run's key, the connection and its renewal, and
//! how a script gets in, runs, and is given up on. Knows nothing of QEMU.
//!
//! The first host key seen is pinned for the life of the machine. That is safe here: the port is one that QEMU itself
//! holds on loopback (its monitor said so), and behind it is only the guest; nobody stands in between.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::client::{Config, Handle, Handler, Msg};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use tokio::task::JoinHandle;

use crate::error::{Context as _, Error, Result};
use crate::plan::sh;
use crate::provider::ScriptEnd;

/// How long a server may take to say who it is: a quarter of the time the guest has been waited for, within these.
/// QEMU accepts the connection long before the guest does and repeats the guest's part every six seconds only, so a
/// short try finds a quick guest sooner; a guest on a busy host needs seconds to start the server's process.
const BANNER: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(15);
/// How long the key exchange and the login may take: seconds of computing on an emulated processor under load.
const LOGIN: Duration = Duration::from_secs(60);
/// A guest that is silent for eight of these is dead; a stalled one is not.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How long output may still come once a script has ended, when something it left running holds its output open.
const LINGER: Duration = Duration::from_secs(5);
/// How long giving up on a script may take.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What a script finds in its environment, beside what it is given: the same on every base.
const ENVIRONMENT: &str = "HOME=/root USER=root LOGNAME=root SHELL=/bin/bash LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Takes a script on standard input and becomes it. `$1` is its name, `$2` its size in bytes: one that came only in
/// part (a broken connection looks like the end of the input) is not run. It is a file that has lost its name when it
/// runs, so that its own standard input is empty and nothing of it stays. `/run` is memory: none of it gets into an
/// image. For a POSIX shell: Debian's starts in a fifth of bash's time, which is 0.2 s on an emulated processor.
const RECEIVE: &str = r#"umask 077
mkdir -p /run/amibake && cd /run/amibake && echo $$ >"$1.pid" && cat >"$1" || exit 126
exec 3<"$1"
[ "$(stat -c %s "$1")" = "$2" ] && [ ! -e "$1.stop" ]; go=$?
rm -f "$1"
[ "$go" = 0 ] || exit 126
cd / && umask 022 && exec bash /dev/fd/3 </dev/null 2>&1"#;

/// Ends script `$1`: everything in its session, whatever process groups it made, again until none is left. The mark
/// that it is to stop comes first: either this finds the script's number, or the script finds the mark.
const STOP: &str = r#"mkdir -p /run/amibake && cd /run/amibake && : >"$1.stop" || exit 1
session=$(cat "$1.pid" 2>/dev/null) || exit 0
for _ in {1..200}; do
    left=()
    for stat in /proc/[0-9]*/stat; do
        { line=$(<"$stat"); } 2>/dev/null || continue
        read -r state _ _ sid _ <<<"${line##*) }"
        [ "$sid" = "$session" ] && [ "$state" != Z ] && stat=${stat#/proc/} && left+=("${stat%/stat}")
    done
    [ ${#left[@]} = 0 ] && exit 0
    kill -KILL "${left[@]}" 2>/dev/null
done
exit 1"#;

/// The key pair of one machine.
pub(super) struct Key {
    private: Arc<PrivateKey>,
    /// As `authorized_keys` has it.
    public: String,
}

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn generate() -> Result<Self> {
        let context = || "cannot make an SSH key".to_owned();
        let private = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).or_host(context)?;
        let public = private.public_key().to_openssh().or_host(context)?;
        Ok(Self { private: Arc::new(private), public })
    }

    /// A line of `authorized_keys`. The forced command runs what the client asks for: some bases (Amazon Linux among
    /// them) let root in with a forced command only, and with one it is let in everywhere.
    pub(super) fn authorized(&self) -> String {
        let command =
            r#"if [ -n \"$SSH_ORIGINAL_COMMAND\" ]; then eval \"$SSH_ORIGINAL_COMMAND\"; else exec bash -l; fi"#;
        format!("command=\"{command}\" {}\n", self.public)
    }

    /// Writes the private half where a person's `ssh` can use it: readable by its owner alone.
    ///
    /// # Errors
    /// Exit 4.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let context = || format!("cannot write {}", path.display());
        let text = self.private.to_openssh(LineEnding::LF).or_host(context)?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).or_host(context)?;
        file.write_all(text.as_bytes()).or_host(context)
    }
}

/// The way to one guest.
pub(super) struct Ssh {
    port: u16,
    key: Key,
    known_hosts: PathBuf,
    host_key: Arc<OnceLock<PublicKey>>,
    config: Arc<Config>,
    connection: tokio::sync::Mutex<Option<Arc<Handle<Guest>>>>,
    scripts: AtomicU32,
    /// Scripts that are being given up on.
    stopping: Mutex<Vec<JoinHandle<()>>>,
}

impl Ssh {
    /// The way to the guest behind `port` of this host. The host key is written to `known_hosts` when it is seen.
    pub(super) fn new(port: u16, key: Key, known_hosts: PathBuf) -> Self {
        let config = Config {
            // One window holds what a guest prints while this side is busy; the default stalls it every 2 MiB.
            window_size: 16 << 20,
            maximum_packet_size: 65535,
            preferred: preferred(),
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: 8,
            nodelay: true,
            ..Config::default()
        };
        Self {
            port,
            key,
            known_hosts,
            host_key: Arc::default(),
            config: Arc::new(config),
            connection: tokio::sync::Mutex::default(),
            scripts: AtomicU32::default(),
            stopping: Mutex::default(),
        }
    }

    /// The port of this host.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Connects anew; the guest has been waited for this long.
    ///
    /// # Errors
    /// When the guest is not there yet, or refuses.
    pub(super) async fn connect(&self, waited: Duration) -> Result<()> {
        let mut connection = self.connection.lock().await;
        *connection = None;
        let patience = (waited / 4).clamp(BANNER.start, BANNER.end);
        *connection = Some(Arc::new(self.login(patience).await?));
        Ok(())
    }

    /// Lets go of the connection.
    pub(super) async fn disconnect(&self) {
        *self.connection.lock().await = None;
    }

    async fn login(&self, patience: Duration) -> Result<Handle<Guest>> {
        let context = || format!("cannot reach the machine's SSH at 127.0.0.1:{}", self.port);
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.or_host(context)?;
        stream.set_nodelay(true).or_host(context)?;
        // The server speaks first (RFC 4253 4.2): peeked at, not taken.
        let first = tokio::time::timeout(patience, stream.peek(&mut [0])).await;
        let first = first.map_err(|_elapsed| Error::host(context()).with_source("it says nothing yet"))?;
        if first.or_host(context)? == 0 {
            return Err(Error::host(context()).with_source("it closed the connection"));
        }
        let login = async {
            let guest = Guest { pinned: self.host_key.clone() };
            let mut handle =
                russh::client::connect_stream(self.config.clone(), stream, guest).await.or_host(context)?;
            let key = PrivateKeyWithHashAlg::new(self.key.private.clone(), None);
            let answer = handle.authenticate_publickey("root", key).await.or_host(context)?;
            if answer.success() {
                Ok(handle)
            } else {
                Err(Error::host(context()).with_source("root is not let in with the run's key"))
            }
        };
        let handle = tokio::time::timeout(LOGIN, login).await.or_host(context)??;
        self.write_known_host().or_host(|| format!("cannot write {}", self.known_hosts.display()))?;
        Ok(handle)
    }

    fn write_known_host(&self) -> std::io::Result<()> {
        let Some(key) = self.host_key.get() else { return Ok(()) };
        let key = key.to_openssh().map_err(std::io::Error::other)?;
        std::fs::write(&self.known_hosts, format!("[127.0.0.1]:{} {key}\n", self.port))
    }

    /// A channel, over the connection there is or, if that is broken, a new one.
    async fn channel(&self) -> Result<Channel<Msg>> {
        let mut connection = self.connection.lock().await;
        if let Some(handle) = connection.as_ref().filter(|handle| !handle.is_closed())
            && let Ok(channel) = handle.channel_open_session().await
        {
            return Ok(channel);
        }
        *connection = None;
        let handle = connection.insert(Arc::new(self.login(BANNER.end).await?));
        handle.channel_open_session().await.or_host(|| "cannot open a channel to the machine".to_owned())
    }

    /// Runs `script` as root with bash. What it prints goes to `output` in the order it was written. When the future is
    /// dropped, the script is ended; the next one waits for that.
    ///
    /// # Errors
    /// When the channel breaks.
    pub(super) async fn run(
        self: &Arc<Self>,
        script: &str,
        environment: &[(&str, &str)],
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd> {
        self.stopped().await;
        let name = self.scripts.fetch_add(1, Ordering::Relaxed).to_string();
        let mut variables = ENVIRONMENT.to_owned();
        for (key, value) in environment {
            variables.push_str(&format!(" {key}={}", sh(value)));
        }
        let command = format!("exec env -i {variables} sh -c {} amibake {name} {}", sh(RECEIVE), script.len());
        let broken = || "the channel to the machine broke".to_owned();
        let mut channel = self.channel().await?;
        let stop = StopOnDrop { ssh: self.clone(), name: Some(name) };
        channel.exec(true, command).await.or_host(broken)?;
        channel.data_bytes(script.as_bytes().to_vec()).await.or_host(broken)?;
        channel.eof().await.or_host(broken)?;
        let end = follow(&mut channel, output).await;
        if end.is_some() {
            stop.disarm();
        }
        end.ok_or_else(|| Error::host(broken()).with_source("it closed before the script had ended"))
    }

    /// Runs `script` to its end and returns its output.
    ///
    /// # Errors
    /// When the channel breaks or the script fails, with what it printed.
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

    /// Waits until every script that was given up on has ended.
    pub(super) async fn stopped(&self) {
        loop {
            let next = self.stopping.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match next {
                Some(task) => drop(task.await),
                None => return,
            }
        }
    }

    async fn stop(self: Arc<Self>, name: String) {
        let stop = async {
            let mut channel = self.channel().await?;
            let command = format!("exec bash -c {} amibake {name}", sh(STOP));
            channel.exec(true, command).await.or_host(String::new)?;
            follow(&mut channel, &mut |_| {}).await;
            Ok::<_, Error>(())
        };
        // When it cannot be reached any more, the machine's own end is the script's.
        drop(tokio::time::timeout(GIVE_UP, stop).await);
    }
}

/// Hands on what a command prints and returns how it ended; none if the channel closed before.
async fn follow(channel: &mut Channel<Msg>, output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send)) -> Option<ScriptEnd> {
    let (mut end, mut all_out) = (None, false);
    while end.is_none() || !all_out {
        let message = match end {
            None => channel.wait().await,
            // The status may come before the last of the output, so the output's end is waited for too.
            Some(_) => tokio::time::timeout(LINGER, channel.wait()).await.unwrap_or_default(),
        };
        match message {
            Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => output(&data),
            Some(ChannelMsg::ExitStatus { exit_status }) => end = Some(ScriptEnd::Exited(exit_status as i32)),
            Some(ChannelMsg::ExitSignal { .. }) => end = Some(ScriptEnd::Signalled),
            Some(ChannelMsg::Eof) => all_out = true,
            Some(ChannelMsg::Close) | None => break,
            Some(_) => {}
        }
    }
    // Something that was left running may hold the channel open on the other side.
    drop(channel.close().await);
    end
}

/// Ends a script whose future is dropped.
struct StopOnDrop {
    ssh: Arc<Ssh>,
    name: Option<String>,
}

impl StopOnDrop {
    fn disarm(mut self) {
        self.name = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let (Some(name), Ok(runtime)) = (self.name.take(), tokio::runtime::Handle::try_current()) else { return };
        let task = runtime.spawn(self.ssh.clone().stop(name));
        self.ssh.stopping.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

/// The algorithms, quickest for an emulated processor first.
fn preferred() -> russh::Preferred {
    use russh::{cipher, kex};
    russh::Preferred {
        kex: vec![kex::CURVE25519, kex::CURVE25519_PRE_RFC_8731, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT].into(),
        cipher: vec![cipher::CHACHA20_POLY1305, cipher::AES_256_GCM].into(),
        ..russh::Preferred::DEFAULT
    }
}

/// The client's side of a connection.
struct Guest {
    pinned: Arc<OnceLock<PublicKey>>,
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        // No certificate is asked for, so none is expected.
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(self.pinned.get_or_init(|| key.clone()).key_data() == key.key_data())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_private_key_is_its_owners_alone_and_openssh_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = Key::generate().unwrap();
        key.write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let public = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).stdin(Stdio::null()).output();
        let public = public.expect("this program, which `scripts/setup test` installs");
        let shown = String::from_utf8(public.stdout).unwrap();
        assert!(key.public.starts_with(shown.trim()), "{shown}{}", String::from_utf8_lossy(&public.stderr));
        assert_ne!(Key::generate().unwrap().public, key.public);
        key.write(&path).unwrap_err();
    }

    #[test]
    fn the_guests_scripts_pass_shellcheck() {
        let command = Key::generate().unwrap().authorized();
        let forced = command.strip_prefix("command=\"").unwrap().split("\" ssh-").next().unwrap().replace("\\\"", "\"");
        for (shell, script) in [("sh", RECEIVE), ("bash", STOP), ("bash", &forced)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("script");
            std::fs::write(&path, script).unwrap();
            let output = Command::new("shellcheck").arg(format!("--shell={shell}")).arg(&path).output();
            let output = output.expect("this program, which `scripts/setup test` installs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
