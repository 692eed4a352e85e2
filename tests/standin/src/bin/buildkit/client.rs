//! The stand-in `buildctl`: `debug workers`, `debug info`, `debug histories`, and a `build` that only takes time.

use std::collections::HashMap;

use amibake_standin::api::{self, SERVICE};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const USAGE: &str = "usage: buildctl [--addr URL] [--tlsdir DIR] [--tlsservername NAME] [--tlscacert FILE] [--tlscert FILE] \
                     [--tlskey FILE] [--version] debug workers|info|histories, or build --opt stand-in-seconds=N";

/// Where a daemon is, and how it is spoken to.
#[derive(Default)]
struct Target {
    address: String,
    server_name: Option<String>,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Target {
    /// As the real client: with any of the files it speaks TLS.
    fn tls(&self) -> Result<Option<ClientTlsConfig>, String> {
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(None);
        }
        let mut config = ClientTlsConfig::new();
        if let Some(ca) = &self.ca {
            let ca = std::fs::read(ca).map_err(|error| format!("could not read ca certificate: open {ca}: {error}"))?;
            config = config.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some(cert) = &self.cert {
            let read = |path: &str| {
                std::fs::read(path).map_err(|error| format!("could not read certificate/key: open {path}: {error}"))
            };
            let key = read(self.key.as_deref().unwrap_or_default())?;
            config = config.identity(Identity::from_pem(read(cert)?, key));
        }
        Ok(Some(match &self.server_name {
            Some(name) => config.domain_name(name),
            None => config,
        }))
    }
}

/// Runs one command; the error is what a person reads after `error: `.
pub(crate) async fn run(arguments: &[String]) -> Result<(), String> {
    let address = std::env::var("BUILDKIT_HOST").unwrap_or_else(|_| "unix:///run/buildkit/buildkitd.sock".into());
    let mut target = Target { address, ..Target::default() };
    let mut words = Vec::new();
    let mut seconds = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned()).ok_or(USAGE);
        match flag {
            "--version" | "-v" if words.is_empty() => {
                println!("{}", super::version_line("buildctl"));
                return Ok(());
            }
            "--addr" => target.address = value()?,
            "--tlsservername" => target.server_name = Some(value()?),
            "--tlscacert" => target.ca = Some(value()?),
            "--tlscert" => target.cert = Some(value()?),
            "--tlskey" => target.key = Some(value()?),
            "--tlsdir" => {
                let dir = value()?;
                for (name, file) in [("ca", &mut target.ca), ("cert", &mut target.cert), ("key", &mut target.key)] {
                    *file = Some(format!("{dir}/{name}.pem"));
                }
            }
            "--opt" => {
                let option = value()?;
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
        (["debug", "workers"], None) => workers(&target).await,
        (["debug", "info"], None) => info(&target).await,
        (["debug", "histories"], None) => histories(&target).await,
        (["build"], Some(seconds)) => build(&target, seconds).await,
        _ => Err(USAGE.into()),
    }
}

async fn workers(target: &Target) -> Result<(), String> {
    let request = api::ListWorkersRequest { filter: Vec::new() };
    let reply: api::ListWorkersResponse = call(target, "ListWorkers", request, "failed to list workers").await?;
    println!("ID\t\t\t\tPLATFORMS");
    for worker in reply.record {
        let platforms: Vec<String> =
            worker.platforms.iter().map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        println!("{}\t{}", worker.id, platforms.join(","));
    }
    Ok(())
}

async fn info(target: &Target) -> Result<(), String> {
    let reply: api::InfoResponse = call(target, "Info", api::InfoRequest {}, "failed to call info").await?;
    let version = reply.buildkit_version.unwrap_or_default();
    println!("BuildKit: {} {} {}", version.package, version.version, version.revision);
    Ok(())
}

async fn histories(target: &Target) -> Result<(), String> {
    let request = api::BuildHistoryRequest { early_exit: true, ..Default::default() };
    let mut grpc = connect(target, "failed to list histories").await?;
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

async fn build(target: &Target, seconds: u64) -> Result<(), String> {
    let request = api::SolveRequest {
        build_ref: format!("stand-in-{}", std::process::id()),
        frontend: "stand-in".into(),
        frontend_attrs: HashMap::from([(api::SECONDS_OPTION.into(), seconds.to_string())]),
    };
    let _: api::SolveResponse = call(target, "Solve", request, "failed to solve").await?;
    Ok(())
}

async fn call<Q, A>(target: &Target, method: &str, request: Q, failed: &str) -> Result<A, String>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = connect(target, failed).await?;
    let path = PathAndQuery::try_from(format!("/{SERVICE}/{method}")).map_err(|error| error.to_string())?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    grpc.unary(Request::new(request), path, codec)
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| told(failed, &status))
}

async fn connect(target: &Target, failed: &str) -> Result<Grpc<Channel>, String> {
    let tls = target.tls()?;
    let uri = match (target.address.split_once("://"), &tls) {
        (Some(("unix", _)), _) => target.address.clone(),
        (Some(("tcp", host)), None) => format!("http://{host}"),
        (Some(("tcp", host)), Some(_)) => format!("https://{host}"),
        _ => return Err(format!("only tcp:// and unix:// addresses, not {:?}", target.address)),
    };
    let mut endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(|error| format!("{failed}: {error}: {error:?}"))?;
    }
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
