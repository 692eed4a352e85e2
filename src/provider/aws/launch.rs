//! Starting the instance: attempt after attempt until EC2 has room for one, and on the undo stack at the moment it exists.

use std::time::Duration;

use aws_sdk_ec2::operation::run_instances::{RunInstancesError, RunInstancesOutput};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::AwsError;
use super::group::Wanted;
use super::machine::AwsMachine;
use super::network::{self, Subnet};
use super::shape::{self, Attempt, Market, Order, Refusal};
use super::{Aws, deliver, tags};
use crate::bake::Undo;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::{Error, Result};
use crate::plan::AwsPlan;
use crate::provider::{Launch, Machine, Resource, Source};

/// How long a group that was just made may be unknown to RunInstances.
const KNOWN: Schedule =
    Schedule { first: Duration::from_millis(500), most: Duration::from_secs(5), deadline: Duration::from_secs(60) };

/// Starts the machine, and brings the tarball on its way if it travels through a bucket.
///
/// # Errors
/// Exit 4: no subnet, no capacity anywhere (with all that was tried), or a refusal.
pub(super) async fn launch(aws: &Aws, launch: Launch<'_>, undo: &Undo) -> Result<Box<dyn Machine>> {
    let planned = launch.plan.aws.as_ref();
    let planned = planned.ok_or_else(|| Error::usage("this plan is for another provider than aws"))?;
    let subnets = network::subnets(&aws.clients, planned).await?;
    let Some(Subnet { vpc, .. }) = subnets.first() else {
        return Err(Error::host("there is no subnet for the machine"));
    };
    // A security group is in one VPC, so the machine is too.
    let subnets: Vec<_> = subnets.iter().filter(|subnet| subnet.vpc == *vpc).cloned().collect();
    let (member, members, image) = match launch.source {
        Source::Base(_) => (0, 1, launch.plan.base.location.clone()),
        Source::Image(image, network) => (network.member, network.members, image.location.display().to_string()),
    };
    let tagged = Resource::Tagged { region: aws.clients.region.clone(), run: launch.run.clone() };
    undo.arm(tagged.clone())?;
    let now = Timestamp::now();
    let group = match &planned.security_group {
        Some(group) => group.clone(),
        None => {
            let expires = shape::expires(now, &launch.plan.machine, launch.outlive);
            let tags = tags::of_run(launch.plan, launch.run, expires);
            let wanted = Wanted { run: launch.run, vpc, tags: &tags, joined: members > 1 };
            aws.groups.of_run(&aws.clients, &wanted, undo).await?
        }
    };
    let order = Order {
        plan: launch.plan,
        aws: planned,
        run: launch.run,
        member,
        image: &image,
        base: matches!(launch.source, Source::Base(_)),
        group: &group,
        outlive: launch.outlive,
        now,
    };
    let mut started = Search { aws, order, launch: &launch, undo }.start(planned, &subnets).await?;
    // One that other machines share goes when all of them have gone.
    started.group = (planned.security_group.is_none() && members == 1).then(|| (group.clone(), vpc.clone()));
    // Its id is armed. Of several machines of one run, another may be on its way under the same tag.
    if members == 1 {
        undo.keep(&tagged)?;
    }
    let artifact = deliver::prepare(aws, &launch, undo).await?;
    Ok(Box::new(AwsMachine::new(aws, &launch, planned, started, artifact)))
}

/// An instance that exists.
pub(super) struct Started {
    pub(super) id: String,
    pub(super) address: Option<String>,
    pub(super) market: Market,
    pub(super) at: Instant,
    /// The temporary group that is its own, and the VPC that is in.
    pub(super) group: Option<(String, String)>,
}

struct Search<'a> {
    aws: &'a Aws,
    order: Order<'a>,
    launch: &'a Launch<'a>,
    undo: &'a Undo,
}

impl Search<'_> {
    async fn start(&self, planned: &AwsPlan, subnets: &[Subnet]) -> Result<Started> {
        let mut refused: Vec<(Attempt<'_>, AwsError)> = Vec::new();
        let mut skip: Option<(Market, &str)> = None;
        for (number, attempt) in shape::attempts(planned, subnets).into_iter().enumerate() {
            if skip == Some((attempt.market, attempt.instance_type)) {
                continue;
            }
            if self.launch.cancel.is_cancelled() {
                return Err(Error::interrupted());
            }
            let error = match self.ask(&attempt, number).await? {
                Ok(output) => return self.started(output, attempt.market),
                Err(error) => error,
            };
            match shape::refusal(&error) {
                Some(Refusal::Zone) => {}
                Some(Refusal::Type) => skip = Some((attempt.market, attempt.instance_type)),
                None => return Err(error.because(format!("cannot start the machine: {attempt}"))),
            }
            refused.push((attempt, error));
        }
        Err(nowhere(refused))
    }

    /// One attempt. The outer error ends the launch, the inner one is EC2's answer.
    async fn ask(&self, attempt: &Attempt<'_>, number: usize) -> Result<Result<RunInstancesOutput, AwsError>> {
        let config = self.aws.clients.ec2.config().to_builder().retry_classifier(NoCapacity).build();
        let client = aws_sdk_ec2::Client::from_conf(config);
        // Not cancelled: a request that is dropped on its way may still make a machine, after everything was removed. The
        // executor gives it a moment to say which.
        wait::until("the start of the machine", KNOWN, &CancellationToken::new(), || async {
            let answer = self.order.request(attempt, number)?.send_with(&client).await;
            match answer.map_err(AwsError::of("ec2:RunInstances")) {
                Err(error) if error.is(&["InvalidGroup.NotFound"]) && self.order.aws.security_group.is_none() => {
                    Ok(Probe::NotYet(error.to_string()))
                }
                answer => Ok(Probe::Ready(answer)),
            }
        })
        .await
    }

    fn started(&self, output: RunInstancesOutput, market: Market) -> Result<Started> {
        let instance = output.instances.unwrap_or_default().into_iter().next();
        let instance = instance.and_then(|instance| Some((instance.instance_id?, instance.private_ip_address)));
        let (id, address) = instance.ok_or_else(|| Error::host("ec2:RunInstances: the answer has no instance"))?;
        self.undo.arm(Resource::Instance { region: self.aws.clients.region.clone(), id: id.clone() })?;
        Ok(Started { id, address, market, at: Instant::now(), group: None })
    }
}

/// The error when nobody has room, with everything that was tried.
fn nowhere(refused: Vec<(Attempt<'_>, AwsError)>) -> Error {
    let tried: String = refused.iter().map(|(attempt, error)| format!("  {attempt}: {error}\n")).collect();
    let error = Error::host(format!("no machine could be started: {} attempts were refused", refused.len()));
    error.with_detail(tried).with_hint("name more instance types or subnets in `[machine.aws]`, or try again later")
}

/// Keeps the SDK from asking ten times for capacity that is not there: EC2 answers that with status 500.
#[derive(Debug)]
struct NoCapacity;

impl ClassifyRetry for NoCapacity {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(Result::err).and_then(|error| error.as_operation_error());
        let code = error.and_then(|error| error.downcast_ref::<RunInstancesError>()).and_then(|error| error.code());
        if code.is_some_and(shape::is_capacity) { RetryAction::RetryForbidden } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "no capacity"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}
