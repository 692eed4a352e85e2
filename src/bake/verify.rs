//! Boots finished images as a group and runs every boot check, with peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::guard::{Guard, catching};
use super::inspect::Peer;
use super::run::{Outcome, clean_up, leave, phase};
use super::script::Script;
use super::undo::Mark;
use super::{Event, JOURNAL, Leftover, Reporter, RunId, Undo, inspect, tls, volume};
use crate::error::{Context as _, Error, Exit, Result, in_a_line};
use crate::plan::{Check, Image, Plan};
use crate::provider::{Launch, Machine, Network, Provider, Reach, Resource, Source};
use crate::report::{FileLog, milliseconds};

/// Ends when everything that starts at boot has started, and does not wait for what never does.
const SETTLED: &str = "timeout 600 systemctl is-system-running --wait >/dev/null 2>&1 || true\n";
const SETTLES: Duration = Duration::from_secs(660);

/// Images to verify together.
pub struct Group {
    /// Each image with the plan it was baked by.
    pub members: Vec<(Plan, Image)>,
    /// Names this execution.
    pub run: RunId,
    /// The run's folder, absolute. Made if missing; its last component is `run`.
    pub run_dir: PathBuf,
    /// Reboot members with data volumes and check that what they hold stays.
    pub restart: bool,
    /// Leave the machines running, unless the user interrupts.
    pub keep: bool,
}

/// How one check of one image ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// Recipe of the image.
    pub recipe: String,
    /// Name of the check.
    pub check: String,
    /// `passed`, `failed` or `skipped`.
    pub result: &'static str,
    /// Why it was skipped, or the last lines of a failed check's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// Every check; those after a restart say so in their names.
    pub checks: Vec<Checked>,
    /// What could not be removed.
    pub leftovers: Vec<Leftover>,
    /// How the machines that were left running are reached, in the order of the members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Reach>,
}

/// Boots every member from a fresh copy on one private network and runs its boot checks; then restarts those with data
/// volumes and runs them again. All checks run; a failed one does not hide the next.
///
/// # Errors
/// When a machine cannot be started or reached; a failed check is in the result, not an error.
pub async fn verify(
    group: &Group,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Verified> {
    let started = Instant::now();
    std::fs::create_dir_all(&group.run_dir).or_host(|| format!("cannot make {}", group.run_dir.display()))?;
    let reporter = reporter.and(std::sync::Arc::new(FileLog::create(&group.run_dir.join("verify.log"))?));
    let undo = Undo::open(&group.run_dir.join(JOURNAL))?.reporting(&reporter);
    let result = carry_out(group, provider, &reporter, cancel, &undo).await;
    let (success, summary) = match &result {
        Ok(verified) => summary(&verified.checks),
        Err(error) => (false, error.to_string()),
    };
    reporter.event(&Event::Finished { success, summary, elapsed: started.elapsed() });
    result
}

fn summary(checks: &[Checked]) -> (bool, String) {
    let count = |result| checks.iter().filter(|check| check.result == result).count();
    let (passed, failed, skipped) = (count("passed"), count("failed"), count("skipped"));
    (failed == 0, format!("{passed} checks passed, {failed} failed, {skipped} skipped"))
}

/// Verifies an image that is there and was never seen to boot.
///
/// # Errors
/// As [`verify`], and when it does not pass its checks: it stays as it is.
pub async fn verify_existing(
    plan: &Plan,
    image: Image,
    runs_dir: &Path,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let run = RunId::generate();
    let members = vec![(plan.clone(), image.clone())];
    let group = Group { members, run_dir: runs_dir.join(&run.0), run, restart: false, keep: false };
    reporter.note("it exists, and was never seen to boot: verifying it");
    let Verified { checks, leftovers, .. } = verify(&group, provider, reporter, cancel).await?;
    for leftover in &leftovers {
        reporter.warn(format!("still there: {} ({})", leftover.resource, leftover.reason));
    }
    let failures: Vec<String> =
        checks.into_iter().filter(|check| check.result == "failed").filter_map(|check| check.reason).collect();
    if failures.is_empty() {
        return Ok(Outcome::Existing { image, leftovers });
    }
    let location = image.location.display();
    Err(Error::failed(format!("the image {location} does not pass its checks when it boots"))
        .with_detail(failures.join("\n"))
        .with_hint("it stays as it is: `--force` bakes another, `amibake prune` removes old ones"))
}

/// The verification and the way out of it.
pub(super) async fn carry_out(
    group: &Group,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
    undo: &Undo,
) -> Result<Verified> {
    let timeout = group.members.iter().map(|(plan, _)| plan.machine.timeout).max().unwrap_or_default();
    let mut members: Vec<_> = group.members.iter().map(|(plan, image)| Member::new(plan, image, reporter)).collect();
    let mut session = Session { group, provider, cancel, undo, guard: Guard::new("the verification", timeout, cancel) };
    let result = catching(session.body(&mut members)).await;
    let interrupted = matches!(&result, Err(error) if error.exit() == Exit::Interrupted);
    let kept = if group.keep && !interrupted { session.leave(&members, reporter) } else { Vec::new() };
    // Before the undo: machines may hold connections and child processes that must be let go of first.
    drop(members);
    let leftovers = clean_up(undo, provider, reporter).await;
    Ok(Verified { checks: result?, leftovers, kept })
}

/// Boots one image that is not published yet and runs its boot checks, peers' left out. Its machine is armed on `undo`.
///
/// # Errors
/// As [`verify`].
pub(super) async fn boots(
    group: &Group,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
    undo: &Undo,
) -> Result<Vec<Checked>> {
    let timeout = group.members.iter().map(|(plan, _)| plan.machine.timeout).max().unwrap_or_default();
    let mut members: Vec<_> = group.members.iter().map(|(plan, image)| Member::new(plan, image, reporter)).collect();
    let mut session = Session { group, provider, cancel, undo, guard: Guard::new("the test boot", timeout, cancel) };
    session.body(&mut members).await
}

/// One image of the group and its machine.
struct Member<'a> {
    plan: &'a Plan,
    image: &'a Image,
    reporter: Reporter,
    machine: Option<Box<dyn Machine>>,
}

impl<'a> Member<'a> {
    fn new(plan: &'a Plan, image: &'a Image, reporter: &Reporter) -> Self {
        let scope = format!("{} ({})", plan.recipe, plan.arch);
        Self { plan, image, reporter: reporter.scoped(&scope), machine: None }
    }

    fn machine(&self) -> Result<&dyn Machine> {
        self.machine.as_deref().ok_or_else(not_launched)
    }

    fn machine_mut(&mut self) -> Result<&mut (dyn Machine + 'static)> {
        self.machine.as_deref_mut().ok_or_else(not_launched)
    }

    fn checked(&self, check: String, elapsed: Duration, failure: Option<inspect::Failure>) -> Checked {
        Checked {
            recipe: self.plan.recipe.clone(),
            check,
            result: if failure.is_none() { "passed" } else { "failed" },
            reason: failure.map(|failure| format!("{}\n{}", failure.message, failure.detail)),
            elapsed_ms: milliseconds(elapsed),
        }
    }
}

fn not_launched() -> Error {
    Error::failed("a machine of the group was not launched")
}

struct Session<'a> {
    group: &'a Group,
    provider: &'a dyn Provider,
    cancel: &'a CancellationToken,
    undo: &'a Undo,
    guard: Guard<'a>,
}

impl Session<'_> {
    async fn body(&mut self, members: &mut [Member<'_>]) -> Result<Vec<Checked>> {
        self.enough_memory(members)?;
        self.launch(members).await?;
        self.ready(members).await?;
        let authority = tls::Authority::new()?;
        self.settle(members, &authority).await?;
        let mut checks = self.check_all(members, "").await?;
        if self.group.restart && members.iter().any(|member| !member.plan.volumes.is_empty()) {
            self.mark_volumes(members, &mut checks).await?;
            self.restart(members).await?;
            self.settle(members, &authority).await?;
            self.check_volumes(members, &mut checks).await?;
            checks.extend(self.check_all(members, " (after a restart)").await?);
        }
        self.vouch(members, &checks).await;
        Ok(checks)
    }

    /// Tells the provider of each image that passed all its checks. One that cannot be marked is none the worse for it.
    async fn vouch(&self, members: &[Member<'_>], checks: &[Checked]) {
        for member in members {
            let failed = checks.iter().any(|check| check.recipe == member.plan.recipe && check.result == "failed");
            if !failed && let Err(error) = self.provider.vouch(member.image).await {
                member.reporter.warn(in_a_line(&error));
            }
        }
    }

    /// All machines run at once; a host that cannot hold them would end one in the middle of its checks.
    fn enough_memory(&self, members: &[Member<'_>]) -> Result<()> {
        let wanted: u64 = members.iter().map(|member| member.plan.machine.memory_bytes).sum();
        match self.provider.memory() {
            Some(available) if wanted > available => {
                let mib = |bytes: u64| bytes >> 20;
                Err(Error::host(format!(
                    "the machines want {} MiB of memory together, {} MiB are available",
                    mib(wanted),
                    mib(available)
                ))
                .with_hint("end other programs, or verify one image at a time"))
            }
            _ => Ok(()),
        }
    }

    /// Launches all members at once. Each is waited for, even when another fails: a launch that is dropped half-way
    /// could leave what nobody knows of.
    async fn launch(&self, members: &mut [Member<'_>]) -> Result<()> {
        let count = u8::try_from(members.len()).or_usage(|| "more images than one network has room for".to_owned())?;
        let launches = members.iter_mut().zip(0..).map(|(member, index)| self.launch_one(member, index, count));
        join_all(launches).await.into_iter().collect()
    }

    async fn launch_one(&self, member: &mut Member<'_>, index: u8, count: u8) -> Result<()> {
        let machine_dir = self.group.run_dir.join(format!("machine-{index}-{}", member.plan.recipe));
        self.undo.arm(Resource::Path { path: machine_dir.clone() })?;
        std::fs::create_dir(&machine_dir).or_host(|| format!("cannot make {}", machine_dir.display()))?;
        let network = Network { run_dir: &self.group.run_dir, member: index, members: count };
        let launch = Launch {
            plan: member.plan,
            run: &self.group.run,
            source: Source::Image(member.image, network),
            machine_dir: &machine_dir,
            outlive: self.group.keep,
            reporter: &member.reporter,
            cancel: self.cancel,
        };
        let launched = self.guard.run_making(self.provider.launch(launch, self.undo));
        member.machine = Some(phase(&member.reporter, "launch the machine", launched).await?);
        Ok(())
    }

    async fn ready(&self, members: &mut [Member<'_>]) -> Result<()> {
        let waits = members.iter_mut().map(|member| async {
            let reporter = member.reporter.clone();
            let machine = member.machine_mut()?;
            phase(&reporter, "wait for the machine", self.guard.run(machine.ready())).await
        });
        try_join_all(waits).await.map(drop)
    }

    /// What every boot must come to before it is looked at: certificates are there, which are in memory, and everything
    /// that starts at boot has started. Whether it did so well is for the checks to judge.
    async fn settle(&self, members: &[Member<'_>], authority: &tls::Authority) -> Result<()> {
        self.certify(members, authority).await?;
        let waits = members.iter().map(|member| async {
            let script = Script { text: SETTLED, preamble_lines: 0, timeout: SETTLES, peer: None };
            let run = self.guard.run(script.run(member.machine()?, &member.reporter));
            phase(&member.reporter, "wait for its services", run).await
        });
        try_join_all(waits).await.map(drop)
    }

    /// Gives certificates to the members whose daemon asks for them, and to those that reach such a daemon.
    async fn certify(&self, members: &[Member<'_>], authority: &tls::Authority) -> Result<()> {
        for member in members {
            let reporter = &member.reporter;
            if member.plan.tls {
                let machine = member.machine()?;
                let address = machine.reach().address;
                self.guard.run(authority.give_daemon(machine, address.as_deref(), reporter)).await?;
            }
            let mut peers =
                member.plan.checks.iter().filter_map(|check| peer_of(member, check, members).ok().flatten());
            if peers.any(|peer| peer.plan.tls) {
                self.guard.run(authority.give_client(member.machine()?, reporter)).await?;
            }
        }
        Ok(())
    }

    /// Runs every boot check: those of one member in order, the members side by side.
    async fn check_all(&self, members: &[Member<'_>], suffix: &str) -> Result<Vec<Checked>> {
        let runs = members.iter().map(|member| self.check_member(member, members, suffix));
        Ok(try_join_all(runs).await?.concat())
    }

    async fn check_member(&self, member: &Member<'_>, members: &[Member<'_>], suffix: &str) -> Result<Vec<Checked>> {
        let checks: Vec<_> = member.plan.checks.iter().filter(|check| check.at_boot).collect();
        let total = checks.iter().filter(|check| peer_of(member, check, members).is_ok()).count();
        let (mut number, mut done) = (0, Vec::new());
        for check in checks {
            let peer = match peer_of(member, check, members) {
                Ok(peer) => peer,
                Err(reason) => {
                    let name = check.name.clone();
                    member.reporter.event(&Event::StepSkipped { name, reason: reason.clone() });
                    let checked = member.checked(format!("{}{suffix}", check.name), Duration::ZERO, None);
                    done.push(Checked { result: "skipped", reason: Some(reason), ..checked });
                    continue;
                }
            };
            number += 1;
            let peer = match peer {
                Some(peer) => Some(Peer {
                    address: peer.machine()?.reach().address.ok_or_else(|| no_address(check, peer))?,
                    port: peer.plan.port,
                    tls: peer.plan.tls.then_some(tls::CLIENT),
                }),
                None => None,
            };
            let run = inspect::run(check, number, total, peer.as_ref(), member.machine()?, &member.reporter);
            let (elapsed, failure) = self.guard.run(run).await?;
            done.push(member.checked(format!("{}{suffix}", check.name), elapsed, failure));
        }
        Ok(done)
    }

    /// Writes a marker on every data volume.
    async fn mark_volumes(&self, members: &[Member<'_>], checks: &mut Vec<Checked>) -> Result<()> {
        for member in members {
            for name in member.plan.volumes.iter() {
                let check = volume::mark(name, &self.group.run);
                let (elapsed, failure) = self.volume(member, &check).await?;
                // That the marker could be written is no news; that it could not is.
                if failure.is_some() {
                    checks.push(member.checked(check.name, elapsed, failure));
                }
            }
        }
        Ok(())
    }

    async fn restart(&self, members: &mut [Member<'_>]) -> Result<()> {
        let restarts = members.iter_mut().filter(|member| !member.plan.volumes.is_empty()).map(|member| async {
            let reporter = member.reporter.clone();
            let machine = member.machine_mut()?;
            phase(&reporter, "restart the machine", self.guard.run(machine.restart())).await
        });
        try_join_all(restarts).await.map(drop)
    }

    /// Looks for the markers on the same file systems.
    async fn check_volumes(&self, members: &[Member<'_>], checks: &mut Vec<Checked>) -> Result<()> {
        for member in members {
            for name in member.plan.volumes.iter() {
                let check = volume::look(name, &self.group.run);
                let (elapsed, failure) = self.volume(member, &check).await?;
                checks.push(member.checked(check.name, elapsed, failure));
            }
        }
        Ok(())
    }

    async fn volume(&self, member: &Member<'_>, check: &Check) -> Result<(Duration, Option<inspect::Failure>)> {
        self.guard.run(inspect::run(check, 1, 1, None, member.machine()?, &member.reporter)).await
    }

    /// Leaves every machine that was launched and says how they are reached.
    fn leave(&self, members: &[Member<'_>], reporter: &Reporter) -> Vec<Reach> {
        let reached: Vec<_> = members.iter().filter_map(|member| Some(member.machine.as_ref()?.reach())).collect();
        if reached.is_empty() {
            return reached;
        }
        leave(self.undo, &self.undo.armed_since(Mark::START), true, reporter);
        for reach in &reached {
            reporter.note(format!("left running: reach it with `{}`, end it with `{}`", reach.command, reach.end));
        }
        reached
    }
}

/// The member that `check` of `member` needs, if it needs one; why the check is skipped.
fn peer_of<'m, 'p>(
    member: &Member<'_>,
    check: &Check,
    members: &'m [Member<'p>],
) -> Result<Option<&'m Member<'p>>, String> {
    if let Some(reason) = &check.skipped {
        return Err(reason.clone());
    }
    let Some(name) = &check.peer else { return Ok(None) };
    let peer = members.iter().find(|other| other.plan.recipe == *name && !std::ptr::eq(other.plan, member.plan));
    peer.map(Some).ok_or_else(|| format!("its peer `{name}` is not among the images"))
}

fn no_address(check: &Check, peer: &Member<'_>) -> Error {
    Error::failed(format!(
        "check `{}` cannot reach `{}`: it has no address on the network",
        check.name, peer.plan.recipe
    ))
}
