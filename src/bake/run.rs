//! The executor of a bake: rows 7 to 12 of the flow, as a list of verbs, and what happens on the way out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt as _;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::guard::{Guard, catching};
use super::image_lock::ImageLock;
use super::journal::Record;
use super::publish::publish;
use super::script::{Script, broken};
use super::sweep::machine_ended;
use super::undo::Mark;
use super::verify::{self, Group};
use super::{Event, JOURNAL, Leftover, Reporter, RunId, Undo, inspect, tls};
use crate::error::{Context as _, Error, Exit, Result};
use crate::plan::{Image, Plan, Step};
use crate::provider::{Destination, Finding, Launch, Machine, Provider, Resource, Severity, Source};
use crate::release::Artifact;
use crate::report::{BOOTED, CheckRecord, FileLog, MANIFEST, Manifest, StepRecord, Times, milliseconds};

/// Name of a bake's log, in the run's folder and in the image's.
pub const LOG: &str = "bake.log";

/// What is added to the time an image may take before its provider is thought to hang.
const HANGS: Duration = Duration::from_secs(60);

/// One bake, decided.
pub struct Job {
    /// What is done.
    pub plan: Plan,
    /// The verified tarball.
    pub artifact: Artifact,
    /// Names this execution.
    pub run: RunId,
    /// The run's folder, absolute: journal, log, machine's files. Made if missing; its last component is `run`.
    pub run_dir: PathBuf,
    /// Absolute folder finished images are published in. Made if missing.
    pub dist_dir: PathBuf,
    /// Leave the machine for inspection if the bake fails: running if it runs. An image is captured from a machine
    /// that is off, so a bake that succeeds has nothing to leave; an interrupted one cleans up all the same.
    pub keep: bool,
    /// Boot the image before it is published and run its boot checks; an image that fails one is none.
    pub test_boot: bool,
}

/// What came of a bake.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// An image with the plan's fingerprint existed.
    Existing {
        /// It.
        image: Image,
        /// What could not be removed of its test boot, if it had one now.
        leftovers: Vec<Leftover>,
    },
    /// A new image.
    Baked {
        /// It.
        image: Image,
        /// Its manifest.
        manifest: PathBuf,
        /// What could not be removed.
        leftovers: Vec<Leftover>,
    },
}

/// Carries out `job`: rows 7 to 12 of the flow. On every path everything but the image is undone, unless
/// [`Job::keep`] asks for the machine.
///
/// # Errors
/// What failed first; what could not be undone after a failure is reported as a warning with its id, and the journal
/// keeps it. A panic on the way comes back as an error, after the undo.
pub async fn bake(
    job: &Job,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let started = Instant::now();
    std::fs::create_dir_all(&job.run_dir).or_host(|| format!("cannot make {}", job.run_dir.display()))?;
    let log = Arc::new(FileLog::create(&job.run_dir.join(LOG))?);
    let reporter = reporter.and(log.clone());
    let result = prepared(job, provider, &reporter, cancel).await;
    if let Some(reason) = log.failure() {
        reporter.warn(format!("the log is incomplete: {reason}"));
    }
    let summary = match &result {
        Ok(Outcome::Baked { image, .. } | Outcome::Existing { image, .. }) => image.location.display().to_string(),
        Err(error) => error.to_string(),
    };
    reporter.event(&Event::Finished { success: result.is_ok(), summary, elapsed: started.elapsed() });
    result
}

/// With the image's lock and the journal at hand.
async fn prepared(
    job: &Job,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    if cancel.is_cancelled() {
        return Err(Error::interrupted());
    }
    let (artifact, planned) = (&job.artifact, &job.plan.artifact);
    if (artifact.sha256(), artifact.arch()) != (planned.sha256, job.plan.arch) {
        return Err(Error::refused(format!(
            "the tarball at hand is not the plan's: its digest is {}",
            artifact.sha256()
        )));
    }
    std::fs::create_dir_all(&job.dist_dir).or_host(|| format!("cannot make {}", job.dist_dir.display()))?;
    let image = &job.plan.image.name;
    let path = ImageLock::path(&job.dist_dir, image);
    let _lock = ImageLock::acquire(&path, image, &job.run)?;
    let undo = Undo::open(&job.run_dir.join(JOURNAL))?.reporting(reporter);
    undo.record(&Record::Locked { path })?;
    carry_out(job, provider, reporter, cancel, &undo).await
}

/// The bake and the way out of it.
pub(super) async fn carry_out(
    job: &Job,
    provider: &dyn Provider,
    reporter: &Reporter,
    cancel: &CancellationToken,
    undo: &Undo,
) -> Result<Outcome> {
    let mut bake = Bake {
        job,
        provider,
        reporter,
        cancel,
        undo,
        guard: Guard::new("the bake", job.plan.machine.timeout, cancel),
        started: Timestamp::now(),
        machine: None,
        running: false,
        steps: Vec::new(),
        checks: Vec::new(),
    };
    let mut result = catching(bake.body()).await;
    if let Err(error) = &result
        && job.keep
        && error.exit() != Exit::Interrupted
        && let Some(words) = bake.leave()
    {
        result = result.map_err(|error| add_hint(error, &words));
    }
    // Before the undo: a machine may hold a connection or a child process that must be let go of first.
    drop(bake);
    let leftovers = clean_up(undo, provider, reporter).await;
    let (image, manifest) = result?;
    Ok(Outcome::Baked { image, manifest, leftovers })
}

/// A bake under way.
struct Bake<'a> {
    job: &'a Job,
    provider: &'a dyn Provider,
    reporter: &'a Reporter,
    cancel: &'a CancellationToken,
    undo: &'a Undo,
    guard: Guard<'a>,
    started: Timestamp,
    machine: Option<Box<dyn Machine>>,
    /// The machine was started and not yet stopped.
    running: bool,
    steps: Vec<StepRecord>,
    checks: Vec<CheckRecord>,
}

impl Bake<'_> {
    async fn body(&mut self) -> Result<(Image, PathBuf)> {
        self.preflight().await?;
        let mut machine = self.launch().await?;
        // Wherever the verbs below end, the machine is let go of by `carry_out`, after it was asked how it is reached.
        let done = self.on_machine(&mut *machine).await;
        self.machine = Some(machine);
        done
    }

    /// Everything with the machine at hand.
    async fn on_machine(&mut self, machine: &mut dyn Machine) -> Result<(Image, PathBuf)> {
        self.phase("wait for the machine", self.guard.run(machine.ready())).await?;
        if self.job.plan.tls {
            self.guard.run(tls::Authority::new()?.give_daemon(machine, None, self.reporter)).await?;
        }
        self.run_steps(machine).await?;
        self.run_checks(machine).await?;
        self.seal(machine).await?;
        self.phase("stop the machine", self.guard.run(machine.stop())).await?;
        self.running = false;
        self.image(machine).await
    }

    async fn preflight(&self) -> Result<()> {
        let findings = self.guard.run(async { Ok(self.provider.preflight(&self.job.plan).await) }).await?;
        let (refused, warned): (Vec<_>, Vec<_>) =
            findings.iter().partition(|finding| finding.severity == Severity::Refuse);
        for finding in warned {
            let hint = finding.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            self.reporter.warn(format!("{}{hint}", finding.message));
        }
        if refused.is_empty() { Ok(()) } else { Err(refusal(&refused)) }
    }

    async fn launch(&mut self) -> Result<Box<dyn Machine>> {
        let machine_dir = self.job.run_dir.join("machine");
        self.undo.arm(Resource::Path { path: machine_dir.clone() })?;
        std::fs::create_dir(&machine_dir).or_host(|| format!("cannot make {}", machine_dir.display()))?;
        let launch = Launch {
            plan: &self.job.plan,
            run: &self.job.run,
            source: Source::Base(&self.job.artifact),
            machine_dir: &machine_dir,
            outlive: self.job.keep,
            reporter: self.reporter,
            cancel: self.cancel,
        };
        let launched = self.guard.run_making(self.provider.launch(launch, self.undo));
        let machine = self.phase("launch the machine", launched).await?;
        self.running = true;
        Ok(machine)
    }

    async fn run_steps(&mut self, machine: &dyn Machine) -> Result<()> {
        let steps = &self.job.plan.steps;
        for (index, step) in steps.iter().enumerate() {
            let place = format!("step {} of {} `{}`", index + 1, steps.len(), step.name);
            let started =
                Event::StepStarted { number: index + 1, total: steps.len(), name: step.name.clone(), kind: step.kind };
            self.reporter.event(&started);
            let elapsed = self.step(machine, step, &place).await?;
            self.steps.push(StepRecord { name: step.name.clone(), kind: step.kind, elapsed_ms: milliseconds(elapsed) });
        }
        Ok(())
    }

    async fn step(&self, machine: &dyn Machine, step: &Step, place: &str) -> Result<Duration> {
        let script =
            Script { text: &step.script, preamble_lines: step.preamble_lines, timeout: step.timeout, peer: None };
        let run = script.run(machine, self.reporter).map_err(|error| match error.exit() {
            Exit::Interrupted => error,
            _ => broken(format!("{place} did not come to an end"), error),
        });
        let ran = self.guard.run(run).await?;
        self.reporter.event(&Event::StepEnded { success: ran.success(), elapsed: ran.elapsed });
        if ran.success() {
            return Ok(ran.elapsed);
        }
        let error = Error::failed(format!("{place} failed: {}", ran.end)).with_detail(script.explain(&ran));
        Err(self.with_log(error))
    }

    /// Runs every check of the bake; a failed one does not hide the next.
    async fn run_checks(&mut self, machine: &dyn Machine) -> Result<()> {
        let (checks, skipped) = inspect::applicable(&self.job.plan);
        for (check, reason) in skipped {
            self.reporter.event(&Event::StepSkipped { name: check.name.clone(), reason: reason.clone() });
            let name = check.name.clone();
            self.checks.push(CheckRecord { name, result: "skipped", reason: Some(reason), elapsed_ms: 0 });
        }
        let total = checks.len();
        let mut failures = Vec::new();
        for (index, check) in checks.into_iter().enumerate() {
            let number = index + 1;
            let run = inspect::run(check, number, total, None, machine, self.reporter);
            let (elapsed, failure) = self.guard.run(run).await?;
            match failure {
                Some(failure) => failures.push(failure),
                None => self.checks.push(CheckRecord {
                    name: check.name.clone(),
                    result: "passed",
                    reason: None,
                    elapsed_ms: milliseconds(elapsed),
                }),
            }
        }
        match inspect::failed(&failures, total) {
            Some(error) => Err(self.with_log(error)),
            None => Ok(()),
        }
    }

    async fn seal(&mut self, machine: &dyn Machine) -> Result<()> {
        let seal = &self.job.plan.seal;
        let started = Instant::now();
        self.reporter.event(&Event::PhaseStarted { name: "seal".to_owned() });
        let elapsed = self.step(machine, seal, "the seal").await?;
        self.reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
        self.steps.push(StepRecord { name: seal.name.clone(), kind: seal.kind, elapsed_ms: milliseconds(elapsed) });
        Ok(())
    }

    /// Captures the image into a folder that is armed, describes it there, and gives the folder its name.
    async fn image(&mut self, machine: &mut dyn Machine) -> Result<(Image, PathBuf)> {
        let name = &self.job.plan.image.name;
        let staging = self.job.dist_dir.join(format!(".{name}.{}", self.job.run));
        let published = self.job.dist_dir.join(&name.0);
        self.undo.arm(Resource::Path { path: staging.clone() })?;
        std::fs::create_dir(&staging).or_host(|| format!("cannot make {}", staging.display()))?;
        let before = self.undo.mark();
        let destination = Destination { staging: &staging, published: &published };
        // The image has a deadline of its own, kept by the provider; this one is for a provider that hangs.
        let patience = self.job.plan.machine.image_timeout + HANGS;
        let guard = Guard::new("making the image", patience, self.cancel);
        let captured = guard.run_making(machine.capture(destination, self.undo));
        let image = self.phase("make the image", captured).await?;
        let made = self.undo.armed_since(before);
        if self.job.test_boot {
            self.test_boot(&image, &destination).await?;
        }
        // A cloud may have given it another name, beside an image that has this one; its folder is called as it is.
        let published = self.job.dist_dir.join(&image.name.0);
        self.describe(&image, &staging, &published)?;
        self.keep_published(&staging, &published, &made)?;
        Ok((image, published.join(MANIFEST)))
    }

    /// Boots the image where it lies and runs its boot checks; what that takes is gone again afterwards.
    async fn test_boot(&mut self, image: &Image, destination: &Destination<'_>) -> Result<()> {
        let mut lies = image.clone();
        if let Ok(below) = image.location.strip_prefix(destination.published) {
            lies.location = destination.staging.join(below);
        }
        let Job { run, run_dir, plan, .. } = self.job;
        let group = Group {
            members: vec![(plan.clone(), lies)],
            run: run.clone(),
            run_dir: run_dir.clone(),
            restart: false,
            keep: false,
        };
        let before = self.undo.mark();
        let result = verify::boots(&group, self.provider, self.reporter, self.cancel, self.undo).await;
        // What remains is tried again, and told, with everything else at the end.
        self.undo.unwind_since(self.provider, before).await;
        let mut failures = String::new();
        for checked in result? {
            match checked.result {
                "failed" => failures.push_str(&format!("{}\n", checked.reason.unwrap_or_default())),
                result => self.checks.push(CheckRecord {
                    name: format!("{}{BOOTED}", checked.check),
                    result,
                    reason: checked.reason,
                    elapsed_ms: checked.elapsed_ms,
                }),
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(self.with_log(Error::failed("the image does not pass its checks when it boots").with_detail(failures)))
    }

    /// Writes manifest and log beside the image.
    fn describe(&self, image: &Image, staging: &Path, published: &Path) -> Result<()> {
        let times = Times { started: self.started, finished: Timestamp::now() };
        let Job { run, plan, run_dir, .. } = self.job;
        Manifest::new(run, plan, image, published, times, &self.steps, &self.checks).write(staging)?;
        let (log, copy) = (run_dir.join(LOG), staging.join(LOG));
        // A second name for the log is complete to its last line; a copy, on another file system, ends here.
        std::fs::hard_link(&log, &copy)
            .or_else(|_| std::fs::copy(&log, &copy).map(drop))
            .or_host(|| format!("cannot write {}", copy.display()))
    }

    /// Publishes, and keeps what the capture made. Kept first: a run killed in between leaves a whole image without a
    /// manifest, and not a manifest whose image the next sweep removes.
    fn keep_published(&self, staging: &Path, published: &Path, made: &[Resource]) -> Result<()> {
        let kept = made.iter().try_for_each(|resource| self.undo.keep(resource));
        kept.and_then(|()| publish(staging, published, self.undo)).inspect_err(|_| {
            let armed = self.undo.armed_since(Mark::START);
            for resource in made.iter().filter(|resource| !armed.contains(resource)) {
                // On the stack in any case; the first failure is the one to tell.
                let _ = self.undo.arm(resource.clone());
            }
        })
    }

    /// Leaves the machine for inspection and says how to get at it; none if there is no machine.
    fn leave(&self) -> Option<String> {
        let machine = self.machine.as_ref()?;
        let name = &self.job.plan.image.name;
        let staging = self.job.dist_dir.join(format!(".{name}.{}", self.job.run));
        let mut armed = self.undo.armed_since(Mark::START);
        armed.retain(|resource| *resource != Resource::Path { path: staging.clone() });
        let running = leave(self.undo, &armed, self.running, self.reporter);
        let reach = machine.reach();
        Some(if running {
            format!("the machine is left running: reach it with `{}`, end it with `{}`", reach.command, reach.end)
        } else {
            let folder = self.job.run_dir.join("machine");
            format!("the machine is off; its files are in {}: remove them when you are done", folder.display())
        })
    }

    /// Tells where the whole output is.
    fn with_log(&self, error: Error) -> Error {
        let log = self.job.run_dir.join(LOG);
        let keep = if self.job.keep { "" } else { "; `--keep` leaves the machine for inspection" };
        error.with_hint(format!("the whole output is in {}{keep}", log.display()))
    }

    async fn phase<T>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        phase(self.reporter, name, work).await
    }
}

/// Reports `work` as a phase.
pub(super) async fn phase<T>(reporter: &Reporter, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    reporter.event(&Event::PhaseStarted { name: name.to_owned() });
    let done = work.await?;
    reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
    Ok(done)
}

/// Leaves `armed` for inspection; whether the machine among it runs, as far as can be seen and `running` says.
pub(super) fn leave(undo: &Undo, armed: &[Resource], running: bool, reporter: &Reporter) -> bool {
    let running = running && !machine_ended(armed);
    for resource in armed {
        // A machine that is off would be swept at once: what is left of it stays until the user removes it.
        let left = if running { undo.leave(resource) } else { undo.keep(resource) };
        if let Err(error) = left {
            reporter.warn(format!("cannot keep {resource}: {error}"));
        }
    }
    running
}

/// Undoes what is armed, and tells of what remains.
pub(super) async fn clean_up(undo: &Undo, provider: &dyn Provider, reporter: &Reporter) -> Vec<Leftover> {
    if undo.armed_since(Mark::START).is_empty() {
        return undo.unwind(provider).await;
    }
    let started = Instant::now();
    reporter.event(&Event::PhaseStarted { name: "clean up".to_owned() });
    let leftovers = undo.unwind(provider).await;
    reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
    for Leftover { resource, reason } in &leftovers {
        reporter.warn(format!("could not remove {resource}: {reason}"));
    }
    leftovers
}

fn add_hint(error: Error, words: &str) -> Error {
    let hint = match error.hint() {
        Some(hint) => format!("{hint}\n{words}"),
        None => words.to_owned(),
    };
    error.with_hint(hint)
}

/// Everything that stops a bake before it starts, in one error.
fn refusal(findings: &[&Finding]) -> Error {
    if let [only] = findings {
        let error = Error::host(only.message.clone());
        return match &only.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
    }
    let mut detail = String::new();
    for finding in findings {
        detail.push_str(&format!("  - {}\n", finding.message));
        if let Some(hint) = &finding.hint {
            detail.push_str(&format!("    hint: {hint}\n"));
        }
    }
    Error::host(format!("the bake would fail for {} reasons", findings.len())).with_detail(detail)
}
