//! `amibake init`: a project that can bake in this account, written from what the Elastic CI Stack's CloudFormation stack
//! tells, from flags, and from answers.

use std::io::{BufRead, IsTerminal as _, Write as _};
use std::path::Path;

use clap::Args;
use include_dir::{Dir, DirEntry, include_dir};

use super::prepare::{given as given_recipe, load, until_cancelled};
use super::releases::reporter;
use super::signals::cancel_on_signal;
use crate::bake::Reporter;
use crate::cli::Settings;
use crate::config::{self, Config, Wanted};
use crate::error::{Context as _, Error, Exit, Result, in_a_line};
use crate::provider::Catalog as _;
use crate::provider::aws::Aws;
use crate::provider::aws::stacks::{BakeNetwork, CiStack};
use crate::{recipe, report};

/// What a project starts with: the two recipes, what they put on machines, and a lock.
static RECIPES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");
static ASSETS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/builder");
const LOCK: &str = include_str!("../../amibake.lock");

/// `amibake init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The Elastic CI Stack's CloudFormation stack [default: the only one of the region]
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// AWS region [default: the environment's, else that of amibake.toml, else the profile's]
    #[arg(long, value_name = "REGION", help_heading = "AWS")]
    region: Option<String>,
    /// Profile of the AWS configuration [default: as the AWS CLI finds it]. It is not written down: it is yours
    #[arg(long, value_name = "NAME", help_heading = "AWS")]
    profile: Option<String>,
    /// Security group of the agents [default: the stack's]
    #[arg(long, value_name = "GROUP", help_heading = "AWS")]
    agents: Option<String>,
    /// Bucket with the agents' env hooks [default: the stack's]
    #[arg(long, value_name = "BUCKET", help_heading = "AWS")]
    secrets_bucket: Option<String>,
    /// Subnet of the temporary machines [default: of the stack that `amibake render prerequisites` makes, if there is one]
    #[arg(long, value_name = "SUBNET", help_heading = "AWS")]
    subnet: Option<String>,
    /// Security group of the temporary machines [default: likewise, else one is made for each bake]
    #[arg(long, value_name = "GROUP", help_heading = "AWS")]
    security_group: Option<String>,
    /// Instance profile of the temporary machines [default: likewise]
    #[arg(long, value_name = "NAME", help_heading = "AWS")]
    instance_profile: Option<String>,
    /// Bucket by which the tarball travels, where machines have no way to the internet
    #[arg(long, value_name = "BUCKET", help_heading = "AWS")]
    delivery_bucket: Option<String>,
    /// Bucket for the whole output of long scripts
    #[arg(long, value_name = "BUCKET", help_heading = "AWS")]
    log_bucket: Option<String>,
    /// Ask AWS nothing
    #[arg(long, conflicts_with = "stack", help_heading = "AWS")]
    offline: bool,
    /// Ask nothing, take what is found
    #[arg(long)]
    no_input: bool,
    /// Print amibake.toml instead of writing anything
    #[arg(long)]
    dry_run: bool,
}

/// What was found, and what of it is meant.
#[derive(Debug, Default)]
struct Found {
    region: Option<String>,
    stack: Option<CiStack>,
    network: Option<BakeNetwork>,
}

pub(crate) fn run(settings: &Settings, args: &InitArgs) -> Result<Exit> {
    let reporter = reporter(settings);
    let asks = !args.no_input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let mut asker = Asker { input: std::io::stdin().lock(), asks };
    let found = match args.offline {
        true => {
            let region =
                args.region.clone().or_else(|| std::env::var("AWS_REGION").ok().filter(|region| !region.is_empty()));
            Found { region, ..Found::default() }
        }
        false => super::block_on(find(settings, args, &mut asker, &reporter))?,
    };
    let path = settings.project.join(config::FILE);
    let values = values(args, &found, &settings.config, &mut asker)?;
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).or_usage(|| format!("cannot read {}", path.display())),
    };
    let wanted: Vec<Wanted<'_>> = values.iter().map(|one| (one.table, one.key, one.value.as_str())).collect();
    let mut after = config::with(&before, &path, &wanted)?;
    if before.is_empty() {
        after.insert_str(0, HEAD);
    }
    if args.dry_run {
        report::print(&after);
        return Ok(Exit::Done);
    }
    // Before anything is written that no command could use.
    let given = Settings { config: Config::parse(&after, &path)?, ..settings.clone() };
    judge(&given)?;
    write_project(settings, &reporter)?;
    if after == before {
        reporter.note(format!("{} says all this already", path.display()));
    } else {
        // Where a link leads, and not in the link's place.
        write(&std::fs::canonicalize(&path).unwrap_or(path.clone()), &after)?;
        reporter.note(format!("wrote {}", path.display()));
    }
    for Value { table, key, value, was } in &values {
        let was = was.as_ref().filter(|was| *was != value).map(|was| format!(" (it was {was})")).unwrap_or_default();
        reporter.note(format!("  {table}.{key} = {value}{was}"));
    }
    report::print(&next_steps(&found, &values, &given)?);
    Ok(Exit::Done)
}

const HEAD: &str = "# What this project decides for all of amibake's commands. Flags and the environment come first.\n\
                    # [set] is what recipes are given before --set: \"machine.aws.subnet\" for all of them, \"builder:buildkitd.tls\"\n\
                    # for one.\n\n";

/// Asks AWS; what it cannot tell is said, and is no end.
async fn find(
    settings: &Settings,
    args: &InitArgs,
    asker: &mut Asker<impl BufRead>,
    reporter: &Reporter,
) -> Result<Found> {
    let cancel = cancel_on_signal(&settings.runs)?;
    let look = async {
        let aws =
            Aws::connect(&settings.account(args.region.clone(), args.profile.clone()), None, reporter.clone()).await?;
        let region = aws.region().map(str::to_owned);
        let stacks = aws.stacks().await;
        Ok((region, stacks))
    };
    let (region, stacks) = match until_cancelled(&cancel, look).await {
        Ok(answer) => answer,
        Err(error) if error.exit() == Exit::Interrupted => return Err(error),
        // No region at all.
        Err(error) => (args.region.clone(), Err(error)),
    };
    match stacks {
        Ok((stacks, networks)) => {
            let stack = choose(args.stack.as_deref(), stacks, region.as_deref().unwrap_or("this region"), asker)?;
            Ok(Found { region, stack, network: the_only(networks, reporter) })
        }
        // Who names a stack wants it.
        Err(error) if args.stack.is_some() => Err(error),
        Err(error) => {
            reporter.warn(format!("AWS cannot be asked, so flags and answers are all there is: {}", in_a_line(&error)));
            Ok(Found { region, ..Found::default() })
        }
    }
}

fn choose(
    named: Option<&str>,
    stacks: Vec<CiStack>,
    region: &str,
    asker: &mut Asker<impl BufRead>,
) -> Result<Option<CiStack>> {
    let names: Vec<&str> = stacks.iter().map(|stack| stack.name.as_str()).collect();
    let listed =
        || if names.is_empty() { "there is none".to_owned() } else { format!("there is {}", names.join(", ")) };
    let wanted = match (named, names.as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, []) => return Ok(None),
        (None, [only]) => (*only).to_owned(),
        (None, [first, ..]) if asker.asks => {
            asker.ask(&format!("Elastic CI Stack ({})", names.join(", ")), Some(first), |_| Ok(()))?.unwrap_or_default()
        }
        (None, _) => {
            return Err(Error::usage(format!("there are several Elastic CI Stacks in {region}"))
                .with_hint(format!("name one with --stack: {}", listed())));
        }
    };
    match stacks.iter().find(|stack| stack.name == wanted) {
        Some(stack) => Ok(Some(stack.clone())),
        None => Err(Error::usage(format!("no Elastic CI Stack in {region} is called `{}`", report::clean(&wanted)))
            .with_hint(listed())),
    }
}

fn the_only(mut networks: Vec<BakeNetwork>, reporter: &Reporter) -> Option<BakeNetwork> {
    if networks.len() > 1 {
        let names: Vec<&str> = networks.iter().map(|network| network.name.as_str()).collect();
        reporter.warn(format!("there are several networks for baking, none is taken: {}", names.join(", ")));
        return None;
    }
    networks.pop()
}

/// A value that is written, and what stood there before.
struct Value {
    table: &'static str,
    key: &'static str,
    value: String,
    was: Option<String>,
}

/// What is written: a flag, else what the file says already, else what was found; or an answer.
fn values(args: &InitArgs, found: &Found, config: &Config, asker: &mut Asker<impl BufRead>) -> Result<Vec<Value>> {
    let stack = found.stack.as_ref();
    let output = |key: &str| found.network.as_ref().and_then(|network| network.outputs.get(key).cloned());
    let group = stack.and_then(|stack| stack.security_group.clone());
    let bucket = stack.and_then(|stack| stack.secrets_bucket.clone());
    let all = [
        ("aws", "region", "region", "Region", &args.region, found.region.clone()),
        ("agents", "security_group", "security group of the agents", "SecurityGroupId", &args.agents, group),
        ("agents", "secrets_bucket", "bucket with their env hooks", "Bucket", &args.secrets_bucket, bucket),
        ("set", "machine.aws.subnet", "subnet to bake in", "SubnetId", &args.subnet, output("Subnet")),
        (
            "set",
            "machine.aws.security_group",
            "security group to bake with",
            "SecurityGroupId",
            &args.security_group,
            output("SecurityGroup"),
        ),
        (
            "set",
            "machine.aws.instance_profile",
            "instance profile to bake with",
            "InstanceProfile",
            &args.instance_profile,
            output("InstanceProfile"),
        ),
        (
            "set",
            "delivery.bucket",
            "bucket that the tarball travels by (only without internet)",
            "Bucket",
            &args.delivery_bucket,
            None,
        ),
        ("set", "logs.bucket", "bucket for long output", "Bucket", &args.log_bucket, None),
    ];
    let mut values = Vec::new();
    for (table, key, label, format, flag, found) in all {
        let was = said(config, table, key);
        let value = match flag {
            Some(value) => {
                recipe::judge(format, value).map_err(|fault| Error::usage(format!("{label}: {fault}")))?;
                Some(value.clone())
            }
            None => asker.ask(label, was.as_deref().or(found.as_deref()), |text| recipe::judge(format, text))?,
        };
        values.extend(value.map(|value| Value { table, key, value, was }));
    }
    Ok(values)
}

/// What the file says by now.
fn said(config: &Config, table: &str, key: &str) -> Option<String> {
    match (table, key) {
        ("aws", _) => config.region.clone(),
        ("agents", "security_group") => config.agents.security_group.clone(),
        ("agents", _) => config.agents.secrets_bucket.clone(),
        _ => config.set.iter().rev().find_map(|text| text.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned),
    }
}

/// Whether the recipes take what they are given: the project's, or those that it is to have.
fn judge(given: &Settings) -> Result<()> {
    if recipe::all(&given.project).is_ok_and(|all| !all.is_empty()) {
        return load(given, &recipe::all(&given.project)?, &[]).map(drop);
    }
    let folder = tempfile::tempdir().or_host(|| "cannot make a folder for the time being".to_owned())?;
    copy(&RECIPES, &folder.path().join("recipes"))?;
    copy(&ASSETS, &folder.path().join("assets/builder"))?;
    let there = Settings { project: folder.path().to_owned(), ..given.clone() };
    load(&there, &recipe::all(folder.path())?, &[]).map(drop)
}

/// Asks whoever sits there.
struct Asker<R> {
    input: R,
    asks: bool,
}

impl<R: BufRead> Asker<R> {
    /// The answer; an empty one is the default, `-` is none. One that does not fit is asked for again. Where nobody is asked,
    /// it is the default.
    fn ask(
        &mut self,
        label: &str,
        default: Option<&str>,
        judge: impl Fn(&str) -> std::result::Result<(), String>,
    ) -> Result<Option<String>> {
        if !self.asks {
            return Ok(default.map(str::to_owned));
        }
        loop {
            let answer = self.once(label, default)?;
            match answer.as_deref().map(&judge) {
                Some(Err(fault)) => report::say(&fault),
                _ => return Ok(answer),
            }
        }
    }

    fn once(&mut self, label: &str, default: Option<&str>) -> Result<Option<String>> {
        let default = default.map(str::to_owned);
        let shown = default.as_ref().map_or_else(String::new, |default| format!(" [{default}]"));
        report::prompt(&format!("{label}{shown}: "));
        let mut line = String::new();
        let read = self.input.read_line(&mut line).or_host(|| "cannot read the answer".to_owned())?;
        if read == 0 {
            return Err(Error::interrupted());
        }
        Ok(match line.trim() {
            "" => default,
            "-" => None,
            answer => Some(answer.to_owned()),
        })
    }
}

/// Recipes, their assets and a lock, where the project has no recipes yet. Nothing that is there is touched.
fn write_project(settings: &Settings, reporter: &Reporter) -> Result<()> {
    if recipe::all(&settings.project).is_ok_and(|all| !all.is_empty()) {
        return Ok(());
    }
    copy(&RECIPES, &settings.project.join("recipes"))?;
    copy(&ASSETS, &settings.project.join("assets/builder"))?;
    reporter.note(format!("wrote recipes/ and assets/ into {}", settings.project.display()));
    if !settings.lock.exists() {
        write(&settings.lock, LOCK)?;
        reporter.note(format!("wrote {}: `amibake update` moves it to the newest BuildKit", settings.lock.display()));
    }
    Ok(())
}

fn copy(from: &Dir<'_>, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).or_usage(|| format!("cannot make {}", to.display()))?;
    for entry in from.entries() {
        if let DirEntry::File(file) = entry {
            let target = to.join(file.path());
            if !target.exists() {
                write(&target, file.contents_utf8().unwrap_or_default())?;
            }
        }
    }
    Ok(())
}

/// Beside it, then renamed.
fn write(path: &Path, text: &str) -> Result<()> {
    let put = || -> std::io::Result<()> {
        // As it was, or for everybody to read.
        let permissions = match std::fs::metadata(path) {
            Ok(there) => there.permissions(),
            Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().tempfile_in(folder)?;
        file.as_file().set_permissions(permissions)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    put().or_usage(|| format!("cannot write {}", path.display()))
}

/// The road from here, with what is known filled in.
fn next_steps(found: &Found, values: &[Value], given: &Settings) -> Result<String> {
    let value = |key: &str| values.iter().find(|one| one.key == key).map(|one| one.value.as_str());
    let region = value("region").map(|region| format!(" --region {region}")).unwrap_or_default();
    let has = |name: &str| recipe::all(&given.project).is_ok_and(|all| all.iter().any(|one| one == name));
    let mut steps = Vec::new();
    if value("machine.aws.subnet").is_none() {
        steps.push(format!(
            "# a private network to bake in; then `amibake init` again finds it\n  amibake render prerequisites > \
             prerequisites.yml\n  aws cloudformation deploy{region} --stack-name amibake --template-file prerequisites.yml \
             --capabilities CAPABILITY_IAM"
        ));
    }
    steps.push(
        "# bake all images, boot them once, and give them to the channel `stable`\n  amibake build --all --verify\n  \
                amibake promote --pair"
            .to_owned(),
    );
    let mut tls = String::new();
    if has("builder") {
        let builder = given_recipe(given, "builder")?;
        if let Some(daemon) = builder.recipe.buildkitd.filter(|daemon| daemon.tls) {
            let place = if daemon.tls_from.starts_with("s3://") { "--s3" } else { "--ssm" };
            let from = &daemon.tls_from;
            steps.push(format!(
                "# certificates, before the builder's stack: it waits for them\n  amibake certs init {place} {from}{region}\n  \
                 amibake certs issue {place} {from}{region} --name BUILDER.NAME"
            ));
            tls = format!(" --tls-from {from}");
        }
        let stack = found.stack.as_ref();
        let vpc = stack.and_then(|stack| stack.vpc.as_deref()).unwrap_or("vpc-…");
        let subnet = stack.and_then(|stack| stack.subnets.first()).map_or("subnet-…", String::as_str);
        let agents = value("security_group").unwrap_or("sg-…");
        steps.push(format!(
            "# the builder: a private subnet of the agents' VPC{}\n  amibake render cloudformation > builder.yml\n  aws \
             cloudformation deploy{region} --stack-name builder --template-file builder.yml --capabilities CAPABILITY_IAM \\\n    \
             --parameter-overrides Vpc={vpc} Subnets={subnet} AgentSecurityGroup={agents}",
            if stack.is_some_and(|stack| !stack.subnets.is_empty()) {
                " (the stack's own subnets are public ones, unless it was given others)"
            } else {
                ""
            }
        ));
    }
    let bucket = value("secrets_bucket").map(|bucket| format!(" --upload {bucket}")).unwrap_or_default();
    steps.push(format!(
        "# tell the jobs where it is\n  amibake render env-hook --address tcp://BUILDER.NAME:1234{tls}{bucket}"
    ));
    steps.push("# find out why it does not work\n  amibake doctor --aws".to_owned());
    Ok(format!("next:\n{}", steps.iter().map(|step| format!("  {step}")).collect::<Vec<_>>().join("\n")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn asker(answers: &str) -> Asker<&[u8]> {
        Asker { input: answers.as_bytes(), asks: true }
    }

    fn any(text: &str) -> std::result::Result<(), String> {
        if text.starts_with("subnet-") { Ok(()) } else { Err("no subnet".to_owned()) }
    }

    #[test]
    fn an_answer_a_default_and_none() {
        // One that does not fit is asked for again.
        let mut asker = asker("nonsense\nsubnet-2\n\n-\n");
        assert_eq!(asker.ask("subnet", Some("subnet-1"), any).unwrap().as_deref(), Some("subnet-2"));
        assert_eq!(asker.ask("subnet", Some("subnet-1"), any).unwrap().as_deref(), Some("subnet-1"));
        assert_eq!(asker.ask("subnet", Some("subnet-1"), any).unwrap(), None);
        // Ctrl-D.
        assert_eq!(asker.ask("subnet", None, any).unwrap_err().exit(), Exit::Interrupted);
        let mut nobody = Asker { input: &b""[..], asks: false };
        assert_eq!(nobody.ask("subnet", Some("subnet-1"), any).unwrap().as_deref(), Some("subnet-1"));
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: InitArgs,
    }

    #[test]
    fn what_is_asked_for_has_a_format() {
        let settings = Config::default();
        let found = Found {
            region: Some("eu-central-1".to_owned()),
            stack: Some(CiStack {
                security_group: Some("sg-0123abcd".to_owned()),
                secrets_bucket: Some("ci-secrets".to_owned()),
                ..CiStack::default()
            }),
            network: None,
        };
        let args = |flags: &[&str]| Only::parse_from([&["init"], flags].concat()).args;
        let mut nobody = Asker { input: &b""[..], asks: false };
        let written = values(&args(&["--subnet", "subnet-0123abcd"]), &found, &settings, &mut nobody).unwrap();
        let written: Vec<_> = written.iter().map(|one| (one.key, one.value.as_str())).collect();
        let wanted = [
            ("region", "eu-central-1"),
            ("security_group", "sg-0123abcd"),
            ("secrets_bucket", "ci-secrets"),
            ("machine.aws.subnet", "subnet-0123abcd"),
        ];
        assert_eq!(written, wanted);
        let Err(refused) = values(&args(&["--subnet", "subnet-\"; rm"]), &found, &settings, &mut nobody) else {
            panic!("taken")
        };
        assert!(refused.exit() == Exit::Usage && refused.to_string().contains("8 or 17"), "{refused}");
        // Every answer is judged: an unknown format would refuse them all.
        let mut asked = asker("mars\n-\nsg-1\n-\ns3://x\n-\nx\n-\nx\n-\na b\n-\nX\n-\nX\n-\n");
        assert!(values(&args(&[]), &found, &settings, &mut asked).unwrap().is_empty());
    }

    #[test]
    fn of_several_stacks_one_is_chosen() {
        let stack = |name: &str| CiStack { name: name.to_owned(), ..CiStack::default() };
        let both = || vec![stack("one"), stack("two")];
        let mut nobody = Asker { input: &b""[..], asks: false };
        assert_eq!(choose(Some("two"), both(), "here", &mut nobody).unwrap().unwrap().name, "two");
        assert_eq!(choose(None, both(), "here", &mut nobody).unwrap_err().exit(), Exit::Usage);
        assert_eq!(choose(Some("x"), both(), "here", &mut nobody).unwrap_err().hint(), Some("there is one, two"));
        assert_eq!(choose(None, both(), "here", &mut asker("two\n")).unwrap().unwrap().name, "two");
        assert_eq!(choose(None, Vec::new(), "here", &mut nobody).unwrap(), None);
    }

    #[test]
    fn what_a_project_starts_with_is_all_that_its_recipes_need() {
        let folder = tempfile::tempdir().unwrap();
        copy(&RECIPES, &folder.path().join("recipes")).unwrap();
        copy(&ASSETS, &folder.path().join("assets/builder")).unwrap();
        for name in recipe::all(folder.path()).unwrap() {
            recipe::load(folder.path(), &name, &[]).unwrap();
        }
    }
}
