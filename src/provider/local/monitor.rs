//! QEMU's monitor (QMP, its docs/interop/qmp-spec): the one place that speaks it. Asks a few questions and listens for
//! what ends a machine without ending its process: a disk that cannot be written.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{Context as _, Error, Result};

/// How long QEMU may take to answer. It answers from its main loop, which a slow host disk can hold up.
const ANSWER: Duration = Duration::from_secs(30);

/// The monitor of one machine.
#[derive(Debug, Clone)]
pub(super) struct Monitor {
    questions: mpsc::Sender<Question>,
    trouble: watch::Receiver<Option<Trouble>>,
}

/// Why a machine that still exists does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The host's disk is full.
    NoSpace,
    /// A disk image cannot be read or written, in QEMU's words.
    Disk(String),
}

#[derive(Debug)]
struct Question {
    command: Value,
    answer: oneshot::Sender<Value>,
}

impl Monitor {
    /// A monitor and the socket that is to be QEMU's standard input and output.
    ///
    /// # Errors
    /// When there can be no socket.
    pub(super) fn new() -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let stream = UnixStream::from_std(ours)?;
        let (questions, asked) = mpsc::channel(8);
        let (tell, trouble) = watch::channel(None);
        // Ends when either side goes: the machine's process, or the last of these monitors.
        tokio::spawn(converse(stream, asked, tell));
        Ok((Self { questions, trouble }, theirs.into()))
    }

    /// Opens the conversation and finds the port of this host that leads to the guest's SSH.
    ///
    /// # Errors
    /// Exit 4 when QEMU does not answer.
    pub(super) async fn forwarded_port(&self) -> Result<u16> {
        self.ask(json!({ "execute": "qmp_capabilities" })).await?;
        let arguments = json!({ "command-line": "info usernet" });
        let answer = self.ask(json!({ "execute": "human-monitor-command", "arguments": arguments })).await?;
        port_in(answer.as_str().unwrap_or_default())
            .ok_or_else(|| Error::host(format!("QEMU did not forward a port to the machine: {answer}")))
    }

    /// Presses the machine's power button.
    ///
    /// # Errors
    /// Exit 4 when QEMU does not answer.
    pub(super) async fn press_power_button(&self) -> Result<()> {
        self.ask(json!({ "execute": "system_powerdown" })).await.map(drop)
    }

    async fn ask(&self, command: Value) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let silent = || "QEMU's monitor does not answer".to_owned();
        self.questions.send(Question { command, answer }).await.or_host(silent)?;
        let mut message = tokio::time::timeout(ANSWER, answered).await.or_host(silent)?.or_host(silent)?;
        match message.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => {
                let reason = message["error"]["desc"].as_str().unwrap_or("it does not say why");
                Err(Error::host(format!("QEMU's monitor refused: {reason}")))
            }
        }
    }

    /// Waits until the machine cannot go on; for ever if that does not happen.
    pub(super) async fn trouble(&self) -> Trouble {
        let mut trouble = self.trouble.clone();
        let found = trouble.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// Writes questions, hands out answers in their order (QMP keeps it), and watches the events between them.
async fn converse(stream: UnixStream, mut asked: mpsc::Receiver<Question>, trouble: watch::Sender<Option<Trouble>>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut waiting = std::collections::VecDeque::new();
    loop {
        tokio::select! {
            question = asked.recv() => {
                let Some(Question { command, answer }) = question else { return };
                waiting.push_back(answer);
                if writer.write_all(format!("{command}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
                if let Some(found) = trouble_in(&message) {
                    trouble.send_replace(Some(found));
                } else if (message.get("return").is_some() || message.get("error").is_some())
                    && let Some(answer) = waiting.pop_front()
                {
                    // Whoever asked may have given up.
                    let _ = answer.send(message);
                }
            }
        }
    }
}

/// `BLOCK_IO_ERROR` tells why and whether the machine was stopped because of it.
fn trouble_in(message: &Value) -> Option<Trouble> {
    let data = (message.get("event")? == "BLOCK_IO_ERROR").then(|| message.get("data")).flatten()?;
    if data.get("action")? != "stop" {
        return None;
    }
    if data.get("nospace").and_then(Value::as_bool).unwrap_or_default() {
        return Some(Trouble::NoSpace);
    }
    Some(Trouble::Disk(data.get("reason").and_then(Value::as_str).unwrap_or("unknown reason").to_owned()))
}

/// The source port of the forward in what `info usernet` prints.
fn port_in(table: &str) -> Option<u16> {
    let line = table.lines().find(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_in_qemus_table() {
        let table = "VLAN -1 (control):\r\n  \
            Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[HOST_FORWARD]  14       127.0.0.1 45157       10.0.2.15    22     0     0\r\n";
        assert_eq!(port_in(table), Some(45157));
        assert_eq!(port_in("  UDP[236 sec]  12 10.0.2.15 45157 1.1.1.1 53 0 0"), None);
    }

    #[tokio::test]
    async fn answers_come_in_order_between_events_and_a_full_disk_is_heard_of() {
        let (monitor, theirs) = Monitor::new().unwrap();
        let socket = Socket::from(theirs);
        socket.set_nonblocking(true).unwrap();
        let mut qemu = BufReader::new(UnixStream::from_std(socket).unwrap());
        let play = async {
            qemu.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
            let mut line = String::new();
            qemu.read_line(&mut line).await.unwrap();
            assert_eq!(line, "{\"execute\":\"qmp_capabilities\"}\n");
            qemu.write_all(b"{\"event\": \"NIC_RX_FILTER_CHANGED\"}\n{\"return\": {}}\n").await.unwrap();
            qemu.read_line(&mut line).await.unwrap();
            qemu.write_all(b"{\"return\": \"  TCP[HOST_FORWARD] 9 127.0.0.1 40001 10.0.2.15 22 0 0\"}\n")
                .await
                .unwrap();
            line.clear();
            qemu.read_line(&mut line).await.unwrap();
            qemu.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n").await.unwrap();
            let report = br#"{"event":"BLOCK_IO_ERROR","data":{"action":"report","reason":"x","nospace":true}}"#;
            qemu.write_all(report).await.unwrap();
            let stop = br#"{"event":"BLOCK_IO_ERROR","data":{"action":"stop","reason":"x","nospace":true}}"#;
            qemu.write_all(&[b"\n", stop.as_slice(), b"\n"].concat()).await.unwrap();
        };
        let ask = async {
            assert_eq!(monitor.forwarded_port().await.unwrap(), 40001);
            assert_eq!(monitor.press_power_button().await.unwrap_err().to_string(), "QEMU's monitor refused: no");
            assert_eq!(monitor.trouble().await, Trouble::NoSpace);
        };
        tokio::join!(play, ask);
        drop(qemu);
        monitor.press_power_button().await.unwrap_err();
    }
}
