//! The one channel to a local machine: SSH as root with a key that lives as long as the machine. Knows how to connect, run
//! a script and stream what it prints; knows nothing of QEMU, of steps or of plans.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use russh::client::{self, Handle};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{ChannelMsg, Preferred};
use tokio::net::TcpStream;

use crate::error::{Context as _, Error, Result};
use crate::provider::ScriptEnd;

/// What the guest may hold back before it must be read: a window large enough that 100 MB do not crawl.
const WINDOW: u32 = 16 << 20;

/// A guest that answers nothing for this long, asked six times, is dead. A loaded guest under emulation can be silent for
/// ten seconds and more.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// An ed25519 key made for one machine.
pub(super) struct Key(Arc<PrivateKey>);

impl Key {
    /// A new one.
    pub(super) fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .or_host(|| "cannot read random bytes".to_owned())?;
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        let key = PrivateKey::new(pair, "amibake").or_host(|| "cannot make an SSH key".to_owned())?;
        Ok(Self(Arc::new(key)))
    }

    /// The public half as it stands in authorized_keys.
    pub(super) fn public_line(&self) -> Result<String> {
        self.0.public_key().to_openssh().or_host(|| "cannot print an SSH key".to_owned())
    }

    /// The private half as a file that `ssh -i` reads.
    pub(super) fn private_pem(&self) -> Result<String> {
        let pem = self.0.to_openssh(LineEnding::LF).or_host(|| "cannot print an SSH key".to_owned())?;
        Ok(pem.to_string())
    }
}

/// Base64 for SMBIOS credentials.
pub(super) fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

/// Accepts the host key that was handed to the guest; on a guest that makes its own, the first one it shows, and from
/// then on only that. The connection goes over loopback into a process of ours.
struct HostKey {
    pinned: Arc<std::sync::Mutex<Option<PublicKey>>>,
}

impl client::Handler for HostKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let russh::keys::PublicKeyOrCertificate::PublicKey { key: shown, .. } = shown else { return Ok(false) };
        let mut pinned = self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = pinned.get_or_insert_with(|| shown.clone());
        Ok(first.key_data() == shown.key_data())
    }
}

/// A way into one guest, and the connection once there is one.
pub(super) struct Ssh {
    port: u16,
    key: Key,
    pinned: Arc<std::sync::Mutex<Option<PublicKey>>>,
    connection: tokio::sync::Mutex<Option<Arc<Handle<HostKey>>>>,
}

impl Ssh {
    /// To the guest behind `127.0.0.1:port`.
    pub(super) fn new(port: u16, key: Key) -> Self {
        Self { port, key, pinned: Arc::default(), connection: tokio::sync::Mutex::default() }
    }

    /// Connects if need be. `Ok(Err(reason))` says that the guest is not there yet.
    pub(super) async fn try_connect(&self) -> Result<Result<(), String>> {
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_some_and(|handle| !handle.is_closed()) {
            return Ok(Ok(()));
        }
        *connection = None;
        match self.connect().await {
            Ok(handle) => {
                *connection = Some(Arc::new(handle));
                Ok(Ok(()))
            }
            Err(Refusal::NotYet(reason)) => Ok(Err(reason)),
            Err(Refusal::Never(error)) => Err(error),
        }
    }

    /// Forgets the connection: the guest is being restarted.
    pub(super) async fn forget(&self) {
        *self.connection.lock().await = None;
    }

    async fn connect(&self) -> std::result::Result<Handle<HostKey>, Refusal> {
        let not_yet = |what: &str| Refusal::NotYet(what.to_owned());
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|error| not_yet(&error.to_string()))?;
        let _ = stream.set_nodelay(true);
        // QEMU takes the connection at once, whether or not the guest listens: only a greeting shows that it does. A
        // connection made before it did may hang for long, so a fresh one is tried soon.
        let mut greeting = [0; 4];
        match tokio::time::timeout(Duration::from_millis(1500), stream.peek(&mut greeting)).await {
            Ok(Ok(length)) if greeting[..length].starts_with(b"S") => {}
            Ok(Ok(_)) | Ok(Err(_)) => return Err(not_yet("sshd does not listen yet")),
            Err(_) => return Err(not_yet("sshd has not answered yet")),
        }
        let mut preferred = Preferred::DEFAULT;
        // Neither side has secrets that outlive the hour; the post-quantum exchange costs an emulated guest seconds.
        preferred.kex = vec![
            russh::kex::CURVE25519,
            russh::kex::CURVE25519_PRE_RFC_8731,
            russh::kex::EXTENSION_SUPPORT_AS_CLIENT,
            russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
        ]
        .into();
        let config = client::Config {
            window_size: WINDOW,
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: 6,
            preferred,
            ..client::Config::default()
        };
        let handler = HostKey { pinned: Arc::clone(&self.pinned) };
        let login = async {
            let mut handle = client::connect_stream(Arc::new(config), stream, handler).await?;
            let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key.0), None);
            let authenticated = handle.authenticate_publickey("root", key).await?;
            Ok::<_, russh::Error>((handle, authenticated.success()))
        };
        match tokio::time::timeout(Duration::from_secs(60), login).await {
            Ok(Ok((handle, true))) => Ok(handle),
            // sshd may be there before the key is.
            Ok(Ok((_, false))) => Err(not_yet("the guest does not take root's key")),
            Ok(Err(russh::Error::UnknownKey)) => {
                Err(Refusal::Never(Error::host("the guest shows another SSH host key than before")))
            }
            Ok(Err(error)) => Err(not_yet(&error.to_string())),
            Err(_) => Err(not_yet("the SSH handshake took longer than 60 s")),
        }
    }

    /// Runs `script` by bash as root, with `environment`; both output streams go to `output` as they come.
    pub(super) async fn run(
        &self,
        script: &str,
        environment: &[(&str, String)],
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd> {
        if let Err(reason) = self.try_connect().await? {
            return Err(Error::failed(format!("lost the machine: {reason}")));
        }
        let handle = self.connection.lock().await.clone().ok_or_else(|| Error::failed("lost the machine"))?;
        let lost = || "the connection to the machine broke".to_owned();
        let mut channel = handle.channel_open_session().await.or_failed(lost)?;
        let tag = format!("{:08x}", rand_tag()?);
        channel.exec(true, remote_command(&tag, script.len(), environment)).await.or_failed(lost)?;
        let mut abandoned = Abandoned { handle: Some(Arc::clone(&handle)), tag };
        channel.data_bytes(Bytes::copy_from_slice(script.as_bytes())).await.or_failed(lost)?;
        channel.eof().await.or_failed(lost)?;
        let mut end = None;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => output(&data),
                ChannelMsg::ExitStatus { exit_status } => {
                    end = Some(ScriptEnd::Exited(i32::try_from(exit_status).unwrap_or(i32::MAX)));
                }
                ChannelMsg::ExitSignal { .. } => end = Some(ScriptEnd::Signalled),
                ChannelMsg::Failure => return Err(Error::failed("the machine refuses to run a script")),
                _ => {}
            }
        }
        abandoned.handle = None;
        end.ok_or_else(|| Error::failed("the connection to the machine broke while a script ran"))
    }
}

/// Why there is no connection.
enum Refusal {
    NotYet(String),
    Never(Error),
}

/// Ends the script's processes in the guest when the future that ran it is dropped.
struct Abandoned {
    handle: Option<Arc<Handle<HostKey>>>,
    tag: String,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (Some(handle), Ok(runtime)) = (self.handle.take(), tokio::runtime::Handle::try_current()) else { return };
        let command = format!("kill -KILL -- -\"$(cat /run/amibake-{}.pid)\"", self.tag);
        runtime.spawn(async move {
            let kill = async {
                let mut channel = handle.channel_open_session().await.ok()?;
                channel.exec(true, command).await.ok()?;
                while channel.wait().await.is_some() {}
                Some(())
            };
            // The machine may be gone already, which serves as well.
            let _ = tokio::time::timeout(Duration::from_secs(10), kill).await;
        });
    }
}

fn rand_tag() -> Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .or_host(|| "cannot read random bytes".to_owned())?;
    Ok(u32::from_ne_bytes(bytes))
}

/// Takes the script from stdin into a file that only root reads, and runs that: a script which reads its own stdin must
/// not eat itself. A session of its own, so that all of it can be ended by its number.
fn remote_command(tag: &str, length: usize, environment: &[(&str, String)]) -> String {
    let exports: String =
        environment.iter().map(|(name, value)| format!("{name}='{}' ", value.replace('\'', r"'\''"))).collect();
    format!(
        "f=/run/amibake-{tag}; umask 077; head -c {length} >$f.sh || exit 125; \
         {exports}setsid --wait sh -c 'echo $$ >'$f'.pid; exec bash '$f'.sh' </dev/null 2>&1; \
         s=$?; rm -f $f.sh $f.pid; exit $s"
    )
}

/// The command with which a person reaches the guest.
pub(super) fn reach_command(port: u16, key_file: &Path) -> String {
    format!(
        "ssh -i {} -p {port} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1",
        key_file.display()
    )
}
