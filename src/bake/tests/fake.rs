//! A world without machines: it knows what lives in it, and can fail, interrupt, panic or freeze at any node, that is
//! at any point where the executor waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bake::Undo;
use crate::bake::owner::Owner;
use crate::error::{Error, Result};
use crate::plan::{BaseImage, Image, ImageFormat, ImageName, Plan};
use crate::provider::{Destination, Finding, Launch, Machine, Provider, Reach, Resource, ScriptEnd, Severity, Source};
use crate::recipe::Recipe;
use crate::release::{Arch, Sha256};

/// What happens at the node that was chosen.
#[derive(Clone, Debug)]
pub(crate) enum Trap {
    Fail,
    Panic,
    /// The user interrupts, and the call never returns.
    Cancel(CancellationToken),
    /// The user interrupts while a request is on its way; its answer comes a little later.
    CancelInFlight(CancellationToken),
    /// The call never returns: the test kills the run there.
    Freeze,
}

/// How a script behaves.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Exit(i32, &'static str),
    Hang,
    Signal,
    Break,
}

#[derive(Default)]
pub(crate) struct World {
    state: Mutex<State>,
    pub(crate) frozen: Notify,
}

#[derive(Default)]
struct State {
    nodes: Vec<String>,
    trap: Option<(usize, Trap)>,
    live: BTreeSet<u32>,
    next: u32,
    acts: BTreeMap<String, Act>,
    findings: Vec<Finding>,
    /// How many removals fail before one succeeds.
    failing_removals: usize,
    removals_panic: bool,
    removals_hang: bool,
    ran: Vec<(String, Option<String>)>,
    without_address: bool,
    /// The machine is a process that really runs: this one.
    machine_runs: bool,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn trapped(node: usize, trap: Trap) -> Arc<Self> {
        let world = Self::new();
        world.state.lock().unwrap().trap = Some((node, trap));
        world
    }

    pub(crate) fn provider(self: &Arc<Self>) -> Fake {
        Fake { world: self.clone() }
    }

    pub(crate) fn act(&self, script: &str, act: Act) {
        self.state.lock().unwrap().acts.insert(script.to_owned(), act);
    }

    pub(crate) fn find(&self, severity: Severity, message: &str) {
        let finding = Finding { severity, message: message.to_owned(), hint: Some(format!("do about {message}")) };
        self.state.lock().unwrap().findings.push(finding);
    }

    pub(crate) fn fail_removals(&self, count: usize) {
        self.state.lock().unwrap().failing_removals = count;
    }

    pub(crate) fn panic_in_removals(&self) {
        self.state.lock().unwrap().removals_panic = true;
    }

    pub(crate) fn hang_in_removals(&self) {
        self.state.lock().unwrap().removals_hang = true;
    }

    pub(crate) fn without_address(&self) {
        self.state.lock().unwrap().without_address = true;
    }

    pub(crate) fn machine_runs(&self) {
        self.state.lock().unwrap().machine_runs = true;
    }

    /// The nodes that were passed, in order.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.state.lock().unwrap().nodes.clone()
    }

    /// What lives: machines and snapshots.
    pub(crate) fn live(&self) -> BTreeSet<u32> {
        self.state.lock().unwrap().live.clone()
    }

    /// Scripts that ran, with their peers.
    pub(crate) fn ran(&self) -> Vec<(String, Option<String>)> {
        self.state.lock().unwrap().ran.clone()
    }

    fn make(&self) -> u32 {
        let mut state = self.state.lock().unwrap();
        // Numbers no process of this machine has, so that none that lives is taken for one of these.
        state.next += 1;
        let made = 0x7000_0000 + state.next;
        state.live.insert(made);
        made
    }

    fn make_machine(&self) -> (u32, u64) {
        let me = Owner::current();
        if self.state.lock().unwrap().machine_runs {
            self.state.lock().unwrap().live.insert(me.pid);
            return (me.pid, me.started.unwrap());
        }
        (self.make(), 1)
    }

    fn end(&self, made: u32) {
        self.state.lock().unwrap().live.remove(&made);
    }

    async fn node(&self, name: &str) -> Result<()> {
        let trap = {
            let mut state = self.state.lock().unwrap();
            let number = state.nodes.len();
            state.nodes.push(name.to_owned());
            state.trap.clone().filter(|(node, _)| *node == number).map(|(_, trap)| trap)
        };
        // Every node is a point where the executor can be polled again.
        tokio::task::yield_now().await;
        match trap {
            None => Ok(()),
            Some(Trap::Fail) => Err(Error::host(format!("{name} failed on purpose"))),
            Some(Trap::Panic) => panic!("{name} panicked on purpose"),
            Some(Trap::Cancel(token)) => {
                token.cancel();
                std::future::pending().await
            }
            Some(Trap::CancelInFlight(token)) => {
                token.cancel();
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                Ok(())
            }
            Some(Trap::Freeze) => {
                self.frozen.notify_one();
                std::future::pending().await
            }
        }
    }
}

pub(crate) struct Fake {
    world: Arc<World>,
}

#[async_trait]
impl Provider for Fake {
    async fn base(&self, _: &Recipe, _: &Path, _: Arch) -> Result<BaseImage> {
        Err(Error::host("the executor asks for no base"))
    }

    async fn find(&self, _: &Plan) -> Result<Option<Image>> {
        Err(Error::host("the executor looks for no image"))
    }

    fn memory(&self) -> Option<u64> {
        None
    }

    async fn preflight(&self, _: &Plan) -> Vec<Finding> {
        let mut findings = self.world.state.lock().unwrap().findings.clone();
        if let Err(error) = self.world.node("preflight").await {
            findings.push(Finding { severity: Severity::Refuse, message: error.to_string(), hint: None });
        }
        findings
    }

    async fn launch(&self, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>> {
        self.world.node("launch").await?;
        std::fs::write(launch.machine_dir.join("disk"), "overlay").unwrap();
        let (pid, started) = self.world.make_machine();
        undo.arm(Resource::Process { pid, started })?;
        self.world.node("launched").await?;
        let address = match launch.source {
            Source::Base(_) => None,
            Source::Image(_, network) => Some(format!("10.0.0.{}", network.member)),
        };
        let address = address.filter(|_| !self.world.state.lock().unwrap().without_address);
        let name = launch.plan.image.name.clone();
        Ok(Box::new(FakeMachine { world: self.world.clone(), pid, name, address }))
    }

    async fn remove(&self, resource: &Resource) -> Result<()> {
        // What an unwind waits for is as real a place to be interrupted as any.
        tokio::task::yield_now().await;
        {
            let mut state = self.world.state.lock().unwrap();
            if state.failing_removals > 0 {
                state.failing_removals = state.failing_removals.saturating_sub(1);
                return Err(Error::host(format!("{resource} is busy")));
            }
        }
        let (panics, hangs) = {
            let state = self.world.state.lock().unwrap();
            (state.removals_panic, state.removals_hang)
        };
        assert!(!panics, "removal panicked on purpose");
        if hangs {
            std::future::pending::<()>().await;
        }
        match resource {
            Resource::Process { pid, .. } => self.world.end(*pid),
            Resource::Path { path } => remove_path(path)?,
            other => return Err(Error::host(format!("there is no {other} in this world"))),
        }
        Ok(())
    }
}

/// Removes a file or folder of a test's own and refuses any other: what the executor asks for is what is being tested,
/// so a fault in it must not be able to reach the machine that the tests run on.
fn remove_path(path: &Path) -> Result<()> {
    let temp = std::fs::canonicalize(std::env::temp_dir()).unwrap();
    let Some(parent) = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok()) else {
        // Its folder is gone, and so is it; the root, which has none, is nobody's to remove.
        return if path.parent().is_some() { Ok(()) } else { Err(Error::host("a test asked to remove the root")) };
    };
    // Strictly inside a test's folder: never that folder itself, nor anything beside it.
    let mut inside = parent.strip_prefix(&temp).unwrap_or(Path::new("")).components();
    let of_a_test = inside.next().is_some_and(|first| first.as_os_str().to_string_lossy().starts_with(PLACE));
    if !of_a_test {
        return Err(Error::host(format!("a test asked to remove {}", path.display())));
    }
    // By its real folder and its last name: `..` names nothing here.
    let Some(name) = path.file_name() else { return Err(Error::host("a test asked to remove `..`")) };
    let path = parent.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path).unwrap(),
        Ok(_) => std::fs::remove_file(&path).unwrap(),
        Err(_) => {}
    }
    Ok(())
}

/// How the folder of a test is called; the fake removes nothing that is not in one.
pub(crate) const PLACE: &str = "amibake-test-place-";

/// How many things outside its folder an image is: an AMI and its snapshot, say.
pub(crate) const SNAPSHOTS: usize = 2;

struct FakeMachine {
    world: Arc<World>,
    pid: u32,
    name: ImageName,
    address: Option<String>,
}

#[async_trait]
impl Machine for FakeMachine {
    async fn ready(&mut self) -> Result<()> {
        self.world.node("ready").await
    }

    async fn run(
        &self,
        script: &str,
        peer: Option<&str>,
        output: &mut (dyn for<'b> FnMut(&'b [u8]) + Send),
    ) -> Result<ScriptEnd> {
        output(b"begins\n");
        self.world.node(&format!("run {script}")).await?;
        let act = {
            let mut state = self.world.state.lock().unwrap();
            state.ran.push((script.to_owned(), peer.map(str::to_owned)));
            state.acts.get(script).cloned()
        };
        match act {
            None => Ok(ScriptEnd::Exited(0)),
            Some(Act::Exit(status, text)) => {
                output(text.as_bytes());
                Ok(ScriptEnd::Exited(status))
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::Signal) => Ok(ScriptEnd::Signalled),
            Some(Act::Break) => Err(Error::host("connection lost").with_hint("look at the console")),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        self.world.node("stop").await?;
        self.world.end(self.pid);
        self.world.node("stopped").await
    }

    async fn restart(&mut self) -> Result<()> {
        self.world.node("restart").await
    }

    async fn capture(&mut self, destination: Destination<'_>, undo: &Undo) -> Result<Image> {
        self.world.node("capture").await?;
        // As in a cloud: things outside the folder that are the image.
        for _ in 0..SNAPSHOTS {
            let snapshot = self.world.make();
            undo.arm(Resource::Process { pid: snapshot, started: 1 })?;
        }
        let file = destination.staging.join("disk.qcow2");
        std::fs::write(&file, "half").unwrap();
        self.world.node("captured").await?;
        std::fs::write(&file, "whole image").unwrap();
        Ok(Image {
            name: self.name.clone(),
            location: destination.published.join("disk.qcow2"),
            format: ImageFormat::Qcow2,
            size_bytes: 11,
            sha256: Some(Sha256::of(b"whole image")),
            region: None,
            verified: false,
            created: None,
        })
    }

    fn reach(&self) -> Reach {
        Reach { command: "ssh fake".to_owned(), address: self.address.clone(), end: "kill fake".to_owned() }
    }
}

/// Everything below `dir`, by its path in it.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(dir.join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path.clone());
            }
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}
