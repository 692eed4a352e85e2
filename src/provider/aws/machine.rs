//! A running instance: waiting for it, running scripts on it, restarting and stopping it. Every longer wait also looks now
//! and then whether the instance is still there, so that one that dies says why.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ec2::types::InstanceStateName;
use aws_sdk_ssm::types::PingStatus;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::command::{Channel, Output};
use super::deliver::{Delivery, TARGET};
use super::error::AwsError;
use super::group::{Groups, Occupied};
use super::launch::Started;
use super::poll::{Poll, SETTLES};
use super::shape::Market;
use super::{Aws, diagnose};
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Reporter, RunId, Undo};
use crate::error::{Error, Exit, Result};
use crate::plan::{AwsPlan, Image, Plan};
use crate::provider::{Destination, Launch, Machine, Reach, ScriptEnd, Source};

/// How long a stop may take: systemd gives a unit that hangs 90 s, EC2 a system that does not obey four minutes.
const STOP: Duration = Duration::from_secs(600);
/// How often a machine that something else is waited for is looked at.
const GLANCE: Duration = Duration::from_secs(15);
/// How long the first script after a restart may take before it is sent again: the agent may have taken it down with it.
const ANSWER: Duration = Duration::from_secs(30);

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id\n";
/// In two seconds, so that the agent can say that it was ordered.
const REBOOT: &str = "systemd-run --quiet --on-active=2 systemctl reboot ||
    setsid sh -c 'sleep 2; systemctl reboot || reboot' </dev/null >/dev/null 2>&1 &\n";

/// An EC2 instance and the way to it.
pub(super) struct AwsMachine {
    pub(super) clients: Clients,
    pub(super) poll: Arc<Poll>,
    pub(super) plan: Plan,
    pub(super) run: RunId,
    pub(super) reporter: Reporter,
    pub(super) cancel: CancellationToken,
    /// `i-…`
    pub(super) id: String,
    /// A spot instance cannot be stopped.
    pub(super) market: Market,
    aws: AwsPlan,
    groups: Arc<Groups>,
    /// The temporary group that is its own, and the VPC that is in.
    group: Option<(String, String)>,
    address: Option<String>,
    started: Instant,
    channel: Arc<Channel>,
    artifact: Option<Delivery>,
}

impl AwsMachine {
    pub(super) fn new(
        aws: &Aws,
        launch: &Launch<'_>,
        planned: &AwsPlan,
        started: Started,
        artifact: Option<Delivery>,
    ) -> Self {
        let Started { id, address, market, at, group } = started;
        let bucket = planned.log_bucket.clone();
        let timeout = launch.plan.machine.timeout;
        let settles = matches!(launch.source, Source::Base(_));
        let channel = Channel::new(&aws.clients, launch.run, &id, bucket, timeout, settles, launch.cancel);
        Self {
            clients: aws.clients.clone(),
            poll: aws.poll.clone(),
            plan: launch.plan.clone(),
            run: launch.run.clone(),
            reporter: launch.reporter.clone(),
            cancel: launch.cancel.clone(),
            id,
            market,
            aws: planned.clone(),
            groups: aws.groups.clone(),
            group,
            address,
            started: at,
            channel: Arc::new(channel),
            artifact,
        }
    }

    /// Deletes its temporary group, once it is stopped for good.
    pub(super) async fn free_group(&self, undo: &Undo) {
        if let (Some((group, vpc)), Market::OnDemand) = (&self.group, self.market) {
            let occupied = Occupied { run: &self.run, group, vpc, instance: &self.id };
            self.groups.free(&self.clients, &occupied, undo).await;
        }
    }

    /// Waits for `work`, unless the machine ends: then that is the error, whichever comes first.
    async fn while_alive<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let watch = async {
            loop {
                if let Some(error) = self.end_by(Instant::now() + GLANCE).await {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            error = watch => Err(error),
            result = work => match result {
                Err(error) if error.exit() != Exit::Interrupted => {
                    Err(self.end_by(Instant::now()).await.unwrap_or(error))
                }
                result => result,
            },
        }
    }

    /// How it ended, as of `due`; none if it has not, or nobody can say.
    async fn end_by(&self, due: Instant) -> Option<Error> {
        let reason = match self.poll.instances.look(&self.id, due).await {
            Ok(Some(instance)) => diagnose::ended(&instance)?,
            Ok(None) if self.started.elapsed() > SETTLES => "it is gone".to_owned(),
            Ok(None) => return None,
            // What fails here fails elsewhere too, and is told there.
            Err(_) => {
                tokio::time::sleep_until(due).await;
                return None;
            }
        };
        Some(Error::failed(format!("the machine {} ended by itself: {reason}", self.id)))
    }

    /// Waits until its agent is online.
    async fn online(&self) -> Result<()> {
        let started = Instant::now();
        let kind = self.poll.kind(&format!("start of {}", self.plan.recipe));
        let judge = |status| match status {
            Some(PingStatus::Online) => Ok(Probe::Ready(())),
            Some(status) => Ok(Probe::NotYet(format!("its agent is {}", status.as_str()))),
            None => Ok(Probe::NotYet("its agent has not reported to Systems Manager".to_owned())),
        };
        let wait = self.poll.agents.until(
            "the machine's start",
            &self.id,
            self.plan.machine.start_timeout,
            &kind,
            &self.cancel,
            judge,
        );
        match self.while_alive(wait).await {
            Err(error) if error.exit() == Exit::Failed && started.elapsed() >= self.plan.machine.start_timeout => {
                Err(diagnose::silent(&self.clients, &self.id, &self.aws, error).await)
            }
            result => result,
        }
    }

    /// Waits until it has booted again, since the boot called `before`.
    async fn booted_since(&self, before: &str) -> Result<()> {
        let schedule = Schedule {
            first: Duration::from_secs(1),
            most: Duration::from_secs(5),
            deadline: self.plan.machine.start_timeout,
        };
        wait::until("the machine's restart", schedule, &self.cancel, || async {
            Ok(match tokio::time::timeout(ANSWER, self.channel.output(BOOT_ID)).await {
                Ok(Ok(boot)) if boot != before => Probe::Ready(()),
                Ok(Ok(_)) => Probe::NotYet("it has not gone down yet".to_owned()),
                Ok(Err(error)) => Probe::NotYet(error.to_string()),
                Err(_elapsed) => Probe::NotYet("it does not answer yet".to_owned()),
            })
        })
        .await
    }
}

#[async_trait]
impl Machine for AwsMachine {
    async fn ready(&mut self) -> Result<()> {
        self.online().await?;
        if let Some(artifact) = &self.artifact {
            self.while_alive(artifact.fetch(&self.clients, &self.channel)).await?;
        }
        Ok(())
    }

    async fn run(&self, script: &str, peer: Option<&str>, output: Output<'_>) -> Result<ScriptEnd> {
        let size = self.artifact.as_ref().map(|artifact| artifact.size.to_string());
        let mut environment = Vec::new();
        if let Some(size) = &size {
            environment.push(("AMIBAKE_ARTIFACT", TARGET));
            environment.push(("AMIBAKE_ARTIFACT_SIZE", size.as_str()));
        }
        if let Some(peer) = peer {
            environment.push(("AMIBAKE_PEER", peer));
        }
        self.while_alive(self.channel.run(script, &environment, output)).await
    }

    async fn stop(&mut self) -> Result<()> {
        if self.market == Market::Spot {
            // EC2 stops no instance of a one-time spot request. It shuts this one down itself, for the moment in which the
            // image is made: see `image`.
            return Ok(());
        }
        let call = self.clients.ec2.stop_instances().instance_ids(&self.id);
        let stopped = call.send().await.map_err(AwsError::of("ec2:StopInstances"));
        if let Err(error) = stopped {
            let error = error.because(format!("cannot stop the machine {}", self.id));
            return Err(self.end_by(Instant::now()).await.unwrap_or(error));
        }
        let judge = |instance: Option<aws_sdk_ec2::types::Instance>| {
            let state = instance.as_ref().and_then(|instance| instance.state()?.name().cloned());
            match (&instance, state) {
                (_, Some(InstanceStateName::Stopped)) => Ok(Probe::Ready(())),
                (Some(instance), Some(InstanceStateName::ShuttingDown | InstanceStateName::Terminated)) => {
                    let reason = diagnose::ended(instance).unwrap_or_default();
                    Err(Error::failed(format!("the machine {} ended by itself: {reason}", self.id)))
                }
                (_, Some(state)) => Ok(Probe::NotYet(format!("it is {state}"))),
                (_, None) => Ok(Probe::NotYet("EC2 does not find it".to_owned())),
            }
        };
        let kind = self.poll.kind("stop");
        self.poll.instances.until("the machine's stop", &self.id, STOP, &kind, &self.cancel, judge).await
    }

    async fn restart(&mut self) -> Result<()> {
        let before = self.while_alive(self.channel.output(BOOT_ID)).await?;
        self.while_alive(self.channel.output(REBOOT)).await?;
        self.while_alive(self.booted_since(&before)).await
    }

    async fn capture(&mut self, _destination: Destination<'_>, undo: &Undo) -> Result<Image> {
        super::image::capture(self, undo).await
    }

    fn reach(&self) -> Reach {
        let Self { id, clients: Clients { region, .. }, .. } = self;
        Reach {
            command: format!("aws ssm start-session --target {id} --region {region}"),
            address: self.address.clone(),
            end: format!("amibake gc --run {} --region {region} --yes", self.run),
        }
    }
}
