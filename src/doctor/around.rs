//! Asks AWS about the builder, its agents and what is between them, and the builder itself by Systems Manager. What cannot
//! be asked is said, and is no cause.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::builder::{Facts, SCRIPT};
use super::{Check, network};
use crate::error::{Context as _, Error, Exit, Result, in_a_line};
use crate::provider::aws::Aws;
use crate::provider::aws::surroundings::{BUILDER, Host, Surroundings, Which, Whose};

/// What amibake's builder image tells of its daemon.
const BUILDERS: &str = "/etc/amibake/buildkitd.env";
/// Port of a builder whose address nobody has said: the recipe's default.
const PORT: u16 = 1234;

/// What AWS is asked.
#[derive(Debug, Clone)]
pub struct Around {
    /// `--builder`: an instance or the name of its stack.
    pub builder: Option<String>,
    /// `--agents`: their security group.
    pub agents: Option<String>,
    /// What BUILDKIT_HOST says.
    pub host: Option<String>,
    /// The version that the lock pins, if there is a lock.
    pub locked: Option<String>,
}

/// What AWS told, and why it told no more.
#[derive(Debug, Default)]
pub struct Told {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What could not be asked, without which nothing can be called healthy: exit 2 when it is not clear which builder or
    /// group is meant, exit 4 when AWS refuses.
    pub unasked: Option<Error>,
}

/// Looks. Stops at the first thing without which nothing else can be found out.
///
/// # Errors
/// Exit 130 when interrupted.
pub async fn look_around(aws: &Aws, around: &Around, region: &str, cancel: &CancellationToken) -> Result<Told> {
    let (addresses, port) = addresses(around.host.as_deref()).await;
    let which = match &around.builder {
        Some(id) if id.starts_with("i-") => Which::Id(id.clone()),
        Some(stack) => Which::Stack(stack.clone()),
        None if addresses.is_empty() => Which::Any,
        None => Which::At(addresses),
    };
    let builder = match aws.builders(&which).await.map(|found| the_one(found, &which, region)) {
        Ok(Ok(builder)) => builder,
        Ok(Err(error)) if error.exit() == Exit::Usage => return Ok(Told { unasked: Some(error), ..Told::default() }),
        Ok(Err(error)) => {
            let hint = error.hint().unwrap_or_default().to_owned();
            let check = Check::wrong("builder", "builder-unknown", error.to_string(), hint);
            return Ok(Told { checks: vec![check], unasked: None });
        }
        Err(error) => {
            let checks = vec![not_asked("builder", &error)?];
            return Ok(Told { checks, unasked: Some(error) });
        }
    };
    let whose = match &around.agents {
        Some(group) => Whose::Group(group.clone()),
        None => Whose::At(here(&builder)),
    };
    let runs = builder.state == "running";
    let id = builder.id.clone();
    let inside = async { if runs { inside_of(aws, &id, cancel).await } else { Ok((Vec::new(), None)) } };
    let (surroundings, inside) = tokio::join!(aws.surroundings(builder, &whose), inside);
    let (inside, version) = inside?;
    let (mut checks, unasked) = match surroundings {
        Ok(around_it) => (judged(&around_it, port, around.locked.as_deref(), version.as_deref()), None),
        Err(error) => (vec![not_asked("rules", &error)?], Some(error)),
    };
    checks.extend(inside);
    Ok(Told { checks, unasked })
}

/// The one builder that was meant.
///
/// # Errors
/// Exit 2 when there are several and none was named; exit 4 when there is none.
fn the_one(found: Vec<Host>, which: &Which, region: &str) -> Result<Host> {
    let shown = |host: &Host| match &host.builder {
        Some(stack) => format!("{} ({stack}, {})", host.id, host.state),
        None => format!("{} ({})", host.id, host.state),
    };
    let mut running = found.iter().filter(|host| host.state == "running");
    match (running.next(), running.next(), found.as_slice()) {
        (Some(only), None, _) => Ok(only.clone()),
        (None, _, [stopped, ..]) => Ok(stopped.clone()),
        (_, _, []) => Err(Error::host(match which {
            Which::Id(id) => format!("there is no instance {id} in {region}"),
            Which::Stack(name) => format!("no instance in {region} bears the tag {BUILDER} = {name}"),
            Which::Any => format!("no instance in {region} bears the tag {BUILDER}"),
            Which::At(addresses) => {
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("no instance in {region} has the address {}", texts.join(" or "))
            }
        })
        .with_hint("name it: --builder i-… or the name of its stack; --region and --profile say where to look")),
        _ => {
            let all: Vec<String> = found.iter().map(shown).collect();
            Err(Error::usage(format!("there are several builders: {}", all.join(", ")))
                .with_hint("name one: --builder i-… or the name of its stack"))
        }
    }
}

fn judged(around: &Surroundings, port: u16, locked: Option<&str>, runs: Option<&str>) -> Vec<Check> {
    let mut checks = network::judge(around, port);
    if around.builder.state == "running" {
        checks.push(network::images(around, locked));
    }
    if let (Some(runs), Some(baked)) = (runs, around.builder.buildkit.as_deref())
        && runs != baked
    {
        checks.push(Check::wrong(
            "images",
            "version-mismatch",
            format!("buildkitd {runs} is on the builder, its image was baked with {baked}"),
            "somebody replaced it by hand: bake the version you want, and replace the instance",
        ));
    }
    checks
}

/// What AWS refuses to tell is no cause, but an interruption is.
fn not_asked(check: &'static str, error: &Error) -> Result<Check> {
    match error.exit() {
        Exit::Interrupted => Err(Error::new(Exit::Interrupted, error.to_string())),
        _ => Ok(Check::skipped(check, format!("AWS cannot be asked: {}", in_a_line(error)))),
    }
}

/// The builder from within, by Systems Manager; also the version of BuildKit that is there.
async fn inside_of(aws: &Aws, id: &str, cancel: &CancellationToken) -> Result<(Vec<Check>, Option<String>)> {
    let before = Timestamp::now();
    match aws.output_on(id, SCRIPT, cancel).await {
        Ok(printed) => {
            let facts = Facts::read(&printed, (before, Timestamp::now()));
            Ok((facts.judge(), facts.version().map(str::to_owned)))
        }
        Err(error) => Ok((vec![not_asked("builder-inside", &error)?], None)),
    }
}

/// This machine from within, if it is a builder that amibake baked; none if it is not.
///
/// # Errors
/// Exit 4 when bash cannot be run.
pub async fn inside_here() -> Result<Option<Vec<Check>>> {
    if !Path::new(BUILDERS).exists() {
        return Ok(None);
    }
    let before = Timestamp::now();
    let output = tokio::process::Command::new("bash").arg("-c").arg(SCRIPT).kill_on_drop(true).output().await;
    let printed = output.or_host(|| "cannot run bash".to_owned())?.stdout;
    let facts = Facts::read(&String::from_utf8_lossy(&printed), (before, Timestamp::now()));
    Ok(Some(facts.judge()))
}

/// Where the daemon of this machine is, if it is a builder that amibake baked.
#[must_use]
pub fn daemon_here() -> Option<String> {
    let text = std::fs::read_to_string(BUILDERS).ok()?;
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    match value("BUILDKITD_TLS").as_deref() {
        Some("true") => value("BUILDKITD_ADDR"),
        _ => value("BUILDKITD_TCP"),
    }
}

/// Addresses of the builder as BUILDKIT_HOST tells them, and its port.
async fn addresses(host: Option<&str>) -> (Vec<IpAddr>, u16) {
    match host.map(Address::parse) {
        Some(Ok(Address::Tcp { host, port })) => {
            let looked = tokio::net::lookup_host((host.as_str(), port)).await;
            let found: Vec<IpAddr> = looked.map(|found| found.map(|one| one.ip()).collect()).unwrap_or_default();
            (found.into_iter().filter(|address| !address.is_loopback()).collect(), port)
        }
        _ => (Vec::new(), PORT),
    }
}

/// The addresses from which this machine would connect to the builder. Nothing is sent: to connect a datagram socket only
/// chooses the route.
fn here(builder: &Host) -> Vec<IpAddr> {
    let from = |to: &IpAddr| -> std::io::Result<IpAddr> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(SocketAddr::new(*to, PORT))?;
        Ok(socket.local_addr()?.ip())
    };
    let mut found: Vec<IpAddr> = builder.addresses.iter().filter_map(|to| from(to).ok()).collect();
    found.dedup();
    found
}
