//! Why a machine is not as it should be, in the words of the services that know: asked only once something has failed.

use aws_sdk_ec2::types::{Instance, InstanceStateName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::client::Clients;
use super::command::tail;
use crate::error::Error;
use crate::plan::AwsPlan;

/// How a machine ended that should run; none while it starts or runs.
pub(super) fn ended(instance: &Instance) -> Option<String> {
    let state = instance.state().and_then(|state| state.name())?;
    if matches!(state, InstanceStateName::Pending | InstanceStateName::Running) {
        return None;
    }
    Some(match reason(instance) {
        Some(reason) => format!("it is {state} ({reason})"),
        None => format!("it is {state}"),
    })
}

/// EC2's reason for its state: `Server.SpotInstanceTermination: …`.
pub(super) fn reason(instance: &Instance) -> Option<String> {
    let reason = instance.state_reason()?;
    match (reason.code(), reason.message()) {
        // The message often begins with the code.
        (Some(code), Some(message)) if !message.starts_with(code) => Some(format!("{code}: {message}")),
        (_, Some(text)) | (Some(text), None) => Some(text.to_owned()),
        (None, None) => None,
    }
}

/// Says of a machine that never came online what is known of it: its status checks, its console, what it may lack.
pub(super) async fn silent(clients: &Clients, id: &str, aws: &AwsPlan, error: Error) -> Error {
    let (checks, console) = tokio::join!(checks(clients, id), console(clients, id));
    let profile = match &aws.instance_profile {
        Some(profile) => format!("that the role of the instance profile `{profile}` has AmazonSSMManagedInstanceCore"),
        None => "that the account has Default Host Management on (the recipe names no instance profile)".to_owned(),
    };
    error.with_detail(format!("{checks}{console}")).with_hint(format!(
        "check {profile}, and that its subnet reaches Systems Manager (a public address, NAT, or endpoints for ssm and \
         ssmmessages)"
    ))
}

/// A line about the instance's state and status checks.
async fn checks(clients: &Clients, id: &str) -> String {
    let call = clients.ec2.describe_instance_status().instance_ids(id).include_all_instances(true);
    let statuses = call.send().await.ok().and_then(|answer| answer.instance_statuses).unwrap_or_default();
    let Some(status) = statuses.first() else { return String::new() };
    let word = |word: Option<&str>| word.unwrap_or("unknown").to_owned();
    let state = word(status.instance_state().and_then(|state| state.name()).map(|name| name.as_str()));
    let summary = |summary: Option<&aws_sdk_ec2::types::InstanceStatusSummary>| {
        word(summary.and_then(|summary| summary.status()).map(|status| status.as_str()))
    };
    let (system, instance) = (summary(status.system_status()), summary(status.instance_status()));
    format!("  the instance is {state}; status checks: system {system}, instance {instance}\n")
}

/// The last lines of its console.
async fn console(clients: &Clients, id: &str) -> String {
    let call = |latest| clients.ec2.get_console_output().instance_id(id).set_latest(latest).send();
    // The latest only where the hypervisor is Nitro; elsewhere what was kept from a while ago.
    let output = match call(Some(true)).await {
        Ok(answer) => answer.output,
        Err(_) => call(None).await.ok().and_then(|answer| answer.output),
    };
    let text = output.and_then(|output| STANDARD.decode(output.split_whitespace().collect::<String>()).ok());
    match tail(&String::from_utf8_lossy(&text.unwrap_or_default())) {
        lines if lines.is_empty() => "  its console says nothing\n".to_owned(),
        lines => format!("  the last lines of its console:\n{lines}"),
    }
}
