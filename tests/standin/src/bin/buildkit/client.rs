//! The stand-in `buildctl`: `debug workers`, `debug info`, `debug histories`, and a `build` that only takes time.

use std::collections::HashMap;

use amibake_standin::api::{self, SERVICE};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const USAGE: &str = "usage: buildctl [--addr tcp://HOST:PORT] [--version] debug workers|info|histories, \
                     or build --opt stand-in-seconds=N";

/// Runs one command; the error is what a person reads after `error: `.
pub(crate) async fn run(arguments: &[String]) -> Result<(), String> {
    let mut address = std::env::var("BUILDKIT_HOST").unwrap_or_else(|_| "unix:///run/buildkit/buildkitd.sock".into());
    let mut words = Vec::new();
    let mut seconds = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        match flag {
            "--version" | "-v" if words.is_empty() => {
                println!("{}", super::version_line("buildctl"));
                return Ok(());
            }
            "--addr" => address = inline.or_else(|| rest.next().cloned()).ok_or(USAGE)?,
            "--opt" => {
                let option = inline.or_else(|| rest.next().cloned()).ok_or(USAGE)?;
                let value = option.strip_prefix(api::SECONDS_OPTION).and_then(|text| text.strip_prefix('='));
                seconds = Some(value.and_then(|text| text.parse::<u64>().ok()).ok_or(USAGE)?);
            }
            _ if flag.starts_with('-') => return Err(format!("flag provided but not defined: {flag}")),
            word => words.push(word.to_owned()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    eprintln!("stand-in buildctl: not BuildKit");
    match (words.as_slice(), seconds) {
        (["debug", "workers"], None) => workers(&address).await,
        (["debug", "info"], None) => info(&address).await,
        (["debug", "histories"], None) => histories(&address).await,
        (["build"], Some(seconds)) => build(&address, seconds).await,
        _ => Err(USAGE.into()),
    }
}

async fn workers(address: &str) -> Result<(), String> {
    let request = api::ListWorkersRequest { filter: Vec::new() };
    let reply: api::ListWorkersResponse = call(address, "ListWorkers", request, "failed to list workers").await?;
    println!("ID\t\t\t\tPLATFORMS");
    for worker in reply.record {
        let platforms: Vec<String> =
            worker.platforms.iter().map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        println!("{}\t{}", worker.id, platforms.join(","));
    }
    Ok(())
}

async fn info(address: &str) -> Result<(), String> {
    let reply: api::InfoResponse = call(address, "Info", api::InfoRequest {}, "failed to call info").await?;
    let version = reply.buildkit_version.unwrap_or_default();
    println!("BuildKit: {} {} {}", version.package, version.version, version.revision);
    Ok(())
}

async fn histories(address: &str) -> Result<(), String> {
    let request = api::BuildHistoryRequest { early_exit: true, ..Default::default() };
    let mut grpc = connect(address, "failed to list histories").await?;
    let path = PathAndQuery::from_static("/moby.buildkit.v1.Control/ListenBuildHistory");
    let codec: ProstCodec<_, api::BuildHistoryEvent> = ProstCodec::default();
    let mut events = grpc
        .server_streaming(Request::new(request), path, codec)
        .await
        .map_err(|status| told("failed to list histories", &status))?
        .into_inner();
    println!("TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION\tPINNED");
    while let Some(event) = events.message().await.map_err(|status| told("failed to list histories", &status))? {
        let record = event.record.unwrap_or_default();
        println!("STARTED\t{}\t{}\t\t1\t", record.build_ref, record.created_at.unwrap_or_default().seconds);
    }
    Ok(())
}

async fn build(address: &str, seconds: u64) -> Result<(), String> {
    let request = api::SolveRequest {
        build_ref: format!("stand-in-{}", std::process::id()),
        frontend: "stand-in".into(),
        frontend_attrs: HashMap::from([(api::SECONDS_OPTION.into(), seconds.to_string())]),
    };
    let _: api::SolveResponse = call(address, "Solve", request, "failed to solve").await?;
    Ok(())
}

async fn call<Q, A>(address: &str, method: &str, request: Q, failed: &str) -> Result<A, String>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = connect(address, failed).await?;
    let path = PathAndQuery::try_from(format!("/{SERVICE}/{method}")).map_err(|error| error.to_string())?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    grpc.unary(Request::new(request), path, codec)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| told(failed, &status))
}

async fn connect(address: &str, failed: &str) -> Result<Grpc<Channel>, String> {
    let host = address.strip_prefix("tcp://").ok_or_else(|| format!("only tcp:// addresses, not {address:?}"))?;
    let endpoint = Endpoint::from_shared(format!("http://{host}")).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        format!("{failed}: Unavailable: connection error: desc = \"transport: {cause}\"")
    })?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| format!("{failed}: Unavailable: {error}"))?;
    Ok(grpc)
}

fn told(failed: &str, status: &Status) -> String {
    let code = match status.code() {
        Code::Unavailable => "Unavailable",
        Code::Unimplemented => "Unimplemented",
        Code::Cancelled => "Canceled",
        _ => "Unknown",
    };
    format!("{failed}: {code}: {}", status.message())
}
