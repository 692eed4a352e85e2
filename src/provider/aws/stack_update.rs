//! An update of a CloudFormation stack that changes nothing but what its parameters resolve to: the Elastic CI Stack reads
//! `ImageIdParameter` only then.

use std::time::Duration;

use aws_sdk_cloudformation::types::{Parameter, Stack};
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::error::AwsError;
use crate::bake::wait::{self, Probe, Schedule};
use crate::error::{Error, Result};

/// How long an update may take: instances are replaced one after the other, with their jobs let end.
const UPDATED: Schedule =
    Schedule { first: Duration::from_secs(2), most: Duration::from_secs(10), deadline: Duration::from_secs(3 * 3600) };
const DESCRIBE: &str = "cloudformation:DescribeStacks";
/// Failed events that are told.
const TOLD: usize = 10;

/// Updates the stack with its own template and parameters, and waits for the end; whether there was anything to do.
///
/// # Errors
/// Exit 4 when CloudFormation refuses; exit 1 when the update fails, with the reasons of its events; interrupted: the update
/// goes on.
pub(super) async fn update(clients: &Clients, name: &str, cancel: &CancellationToken) -> Result<bool> {
    let stack = look(clients, name).await?;
    let parameters = stack.parameters().iter().filter_map(|parameter| parameter.parameter_key());
    let parameters: Vec<_> =
        parameters.map(|key| Parameter::builder().parameter_key(key).use_previous_value(true).build()).collect();
    let call = clients.cloudformation.update_stack().stack_name(name).use_previous_template(true);
    let call = call.set_parameters(Some(parameters)).set_capabilities(stack.capabilities.clone());
    match call.send().await.map_err(AwsError::of("cloudformation:UpdateStack")) {
        Ok(_) => {}
        // The service has no code of its own for this.
        Err(error)
            if error.is(&["ValidationError"]) && error.to_string().contains("No updates are to be performed") =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error.because(format!("cannot update the stack {name}"))),
    }
    let ended = wait::until("the stack's update", UPDATED, cancel, || async {
        let stack = look(clients, name).await?;
        let status = stack.stack_status().map_or("", |status| status.as_str()).to_owned();
        // UPDATE_COMPLETE_CLEANUP_IN_PROGRESS: what is new runs, what was replaced is being removed.
        let under_way = status.ends_with("_IN_PROGRESS") && status != "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
            // What it was before: the update is accepted, and not begun.
            || status.starts_with("CREATE_")
            || status.starts_with("IMPORT_");
        Ok(if under_way { Probe::NotYet(format!("it is {status}")) } else { Probe::Ready(status) })
    });
    let status = ended.await?;
    if status.starts_with("UPDATE_COMPLETE") {
        return Ok(true);
    }
    let error = Error::failed(format!("the update of the stack {name} ended as {status}"));
    Err(error
        .with_detail(reasons(clients, name).await)
        .with_hint("the channel is as it was promoted; the stack is as it was before"))
}

async fn look(clients: &Clients, name: &str) -> Result<Stack> {
    let found = clients.cloudformation.describe_stacks().stack_name(name).send().await;
    let found = found.map_err(AwsError::of(DESCRIBE));
    let stacks = found.map_err(|error| error.because(format!("cannot look at the stack {name}")))?.stacks;
    let stack = stacks.unwrap_or_default().into_iter().next();
    stack.ok_or_else(|| Error::host(format!("there is no stack called {name} in {}", clients.region)))
}

/// Why the latest events failed.
async fn reasons(clients: &Clients, name: &str) -> String {
    let events = clients.cloudformation.describe_stack_events().stack_name(name).send().await;
    let events = events.ok().and_then(|answer| answer.stack_events).unwrap_or_default();
    let failed = events
        .iter()
        .filter(|event| event.resource_status().is_some_and(|status| status.as_str().ends_with("_FAILED")));
    let line = |event: &aws_sdk_cloudformation::types::StackEvent| {
        let resource = event.logical_resource_id().unwrap_or_default();
        let reason = event.resource_status_reason().unwrap_or_default();
        format!("  {resource}: {}\n", crate::report::clean(reason))
    };
    failed.take(TOLD).map(line).collect()
}
