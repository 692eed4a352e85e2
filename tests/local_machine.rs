//! The local provider with a real virtual machine, from a base disk to a booted pair of captured images.
//!
//! `AMIBAKE_TEST_BASE` names the base disk (`amibake base create` prints its path; `make test` sets it).

// In a test, an unwrap that fails is the test that fails; how long things took is worth a line.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use amibake::bake::{Reporter, RunId, Undo};
use amibake::plan::{
    ArtifactPlan, BaseImage, Fingerprint, Image, ImageFormat, ImageName, ImagePlan, MachinePlan, Plan, Step, VolumePlan,
};
use amibake::provider::local::{Local, Settings};
use amibake::provider::{Destination, Launch, Machine, Network, Provider, ScriptEnd, Source};
use amibake::recipe::{Filesystem, ProviderKind};
use amibake::release::{Arch, Artifact, Lock, LockedArtifact, Mirror, Platform, Sha256, Version, fetch};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

const VERSION: Version = Version::new(0, 31, 2);
const MIB: u64 = 1 << 20;

/// What a run has around it.
struct World {
    root: tempfile::TempDir,
    run_dir: PathBuf,
    provider: Local,
    undo: Undo,
    reporter: Reporter,
    cancel: CancellationToken,
}

impl World {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("a, \"machine\" ").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let run_dir = root.path().join("runs").join(RunId::generate().0);
        std::fs::create_dir_all(&run_dir).unwrap();
        let reporter = Reporter::silent();
        let settings = Settings {
            cache_dir: root.path().join("cache"),
            dist_dir: root.path().join("dist"),
            runs_dir: root.path().join("runs"),
            base: None,
            reporter: reporter.clone(),
        };
        let undo = Undo::open(&run_dir.join("journal.jsonl")).unwrap();
        Self { root, run_dir, provider: Local::new(settings), undo, reporter, cancel: CancellationToken::new() }
    }

    /// A verified tarball, of a size that is no multiple of a disk's block.
    async fn artifact(&self) -> Artifact {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let noise: Vec<u8> = (0..300_001_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (name, content) in [("bin/buildctl", noise.as_slice()), ("bin/amibake-stand-in", b"")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, name, content).unwrap();
        }
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let file = format!("buildkit-{VERSION}.linux-amd64.tar.gz");
        let folder = self.root.path().join("mirror").join(VERSION.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::File::create(folder.join(&file)).unwrap().write_all(&bytes).unwrap();
        let url = format!("https://example.invalid/download/{VERSION}/{file}");
        let locked = LockedArtifact::pinned(url, Sha256::of(&bytes));
        let lock = Lock {
            version: VERSION,
            stand_in: true,
            artifacts: [(Platform(Arch::Amd64), locked)].into_iter().collect(),
        };
        let mirror = Mirror::Dir(self.root.path().join("mirror"));
        let cache = self.root.path().join("cache");
        fetch(&lock, Arch::Amd64, &[], Some(&mirror), &cache, &self.reporter, &self.cancel).await.unwrap()
    }

    fn machine_dir(&self, name: &str) -> PathBuf {
        let path = self.run_dir.join(name);
        self.undo.arm(amibake::provider::Resource::Path { path: path.clone() }).unwrap();
        std::fs::create_dir(&path).unwrap();
        path
    }

    async fn launch(&self, plan: &Plan, source: Source<'_>, machine_dir: &Path) -> Box<dyn Machine> {
        let (reporter, cancel) = (&self.reporter, &self.cancel);
        let run = amibake::bake::RunId::generate();
        let launch = Launch { plan, run: &run, source, machine_dir, outlive: false, reporter, cancel };
        let mut machine = self.provider.launch(launch, &self.undo).await.unwrap();
        machine.ready().await.unwrap();
        machine
    }
}

fn plan(base: &Path, artifact: &Artifact) -> Plan {
    let fingerprint = Fingerprint(Sha256::of(b"test"));
    Plan {
        schema: 1,
        recipe: "machine-test".into(),
        provider: ProviderKind::Local,
        arch: Arch::Amd64,
        fingerprint,
        image: ImagePlan {
            name: ImageName("machine-test".into()),
            format: ImageFormat::Qcow2,
            standalone: true,
            tags: Default::default(),
        },
        base: BaseImage {
            name: "test".into(),
            identity: "test".into(),
            location: base.to_str().unwrap().into(),
            arch: Arch::Amd64,
            disk_bytes: 0,
            ami: None,
        },
        artifact: ArtifactPlan {
            version: VERSION,
            url: String::new(),
            sha256: artifact.sha256(),
            stand_in: true,
            evidence: None,
            members: Vec::new(),
        },
        machine: MachinePlan {
            cpus: 2,
            memory_bytes: 1024 * MIB,
            disk_bytes: 6 << 30,
            timeout: Duration::from_secs(3600),
            start_timeout: Duration::from_secs(600),
            image_timeout: Duration::from_secs(600),
        },
        aws: None,
        port: None,
        tls: false,
        volumes: vec![VolumePlan {
            name: "cache-12345".into(),
            mount: "/var/lib/buildkit".into(),
            size_bytes: 100 << 30,
            volume_type: "gp3".into(),
            filesystem: Filesystem::Ext4,
        }],
        steps: Vec::new(),
        checks: Vec::new(),
        seal: Step {
            name: "seal".into(),
            kind: "seal",
            script: String::new(),
            preamble_lines: 0,
            timeout: Duration::from_secs(60),
        },
        overrides: Vec::new(),
    }
}

/// A script's end and output.
async fn run(machine: &dyn Machine, script: &str) -> (ScriptEnd, String) {
    run_with(machine, script, None).await
}

async fn run_with(machine: &dyn Machine, script: &str, peer: Option<&str>) -> (ScriptEnd, String) {
    let mut output = Vec::new();
    let end = machine.run(script, peer, &mut |bytes| output.extend_from_slice(bytes)).await.unwrap();
    (end, String::from_utf8_lossy(&output).into_owned())
}

async fn ok(machine: &dyn Machine, script: &str) -> String {
    let (end, output) = run(machine, script).await;
    assert_eq!(end, ScriptEnd::Exited(0), "{script}\n{output}");
    output.trim_end().to_owned()
}

/// The number of a machine's process.
fn pid(machine: &dyn Machine) -> u32 {
    machine.reach().end.split([' ', ';']).nth(1).unwrap().parse().unwrap()
}

fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("qemu"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a base disk: run by `make test`"]
async fn a_machine_from_base_to_booted_images() {
    let base = std::env::var_os("AMIBAKE_TEST_BASE").map(PathBuf::from).expect("run this by `make test`");
    let world = World::new();
    let artifact = world.artifact().await;
    let mut plan = plan(&std::path::absolute(base).unwrap(), &artifact);
    let started = Instant::now();
    let machine_dir = world.machine_dir("machine");
    let mut machine = world.launch(&plan, Source::Base(&artifact), &machine_dir).await;
    eprintln!("ready after {:?}", started.elapsed());
    let number = pid(&*machine);
    assert!(lives(number));
    ends_and_environment(&*machine, &artifact).await;
    streams(&*machine).await;
    given_up(&*machine).await;
    person(&*machine).await;
    restarts(&mut *machine).await;
    // What a seal does to the way in.
    ok(&*machine, "rm -rf /root/.ssh /etc/ssh/ssh_host_*; : >/etc/machine-id; echo sealed >/etc/sealed").await;
    let started = Instant::now();
    machine.stop().await.unwrap();
    eprintln!("off after {:?}", started.elapsed());
    assert!(!lives(number));
    let image = captured(&world, &mut *machine, "standalone").await;
    drop(machine);
    plan.machine.disk_bytes += 1 << 30;
    pair(&world, &plan, &image).await;
    assert_eq!(world.undo.unwind(&world.provider).await, []);
    let left: Vec<_> = std::fs::read_dir(&world.run_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["journal.jsonl"]);
    assert!(image.location.exists());
}

async fn ends_and_environment(machine: &dyn Machine, artifact: &Artifact) {
    assert_eq!(run(machine, "echo out; echo err >&2; exit 7").await, (ScriptEnd::Exited(7), "out\nerr\n".into()));
    assert_eq!(run(machine, "kill -KILL $$").await.0, ScriptEnd::Signalled);
    assert_eq!(run(machine, "exit 143").await.0, ScriptEnd::Exited(143));
    // Nothing is taken from the script as input, and what it leaves running does not hold it.
    assert_eq!(run(machine, "cat; sleep 1000 & echo done").await, (ScriptEnd::Exited(0), "done\n".into()));
    assert_eq!(
        ok(machine, "id -u; umask; pwd; echo $HOME $LANG; ls /run/amibake/*.sh 2>/dev/null; ls / >/dev/null").await,
        "0\n0022\n/\n/root C.UTF-8"
    );
    assert_eq!(run_with(machine, "echo \"$AMIBAKE_PEER\"", Some("it's $x")).await.1, "it's $x\n");
    let long = format!("echo {}\n", "x".repeat(100_000)).repeat(30);
    assert_eq!(ok(machine, &long).await.len(), 30 * 100_001 - 1);
    let digest = ok(machine, "head -c \"$AMIBAKE_ARTIFACT_SIZE\" \"$AMIBAKE_ARTIFACT\" | sha256sum").await;
    assert_eq!(digest, format!("{}  -", artifact.sha256()));
    let (end, _) = run(machine, "echo x >\"$AMIBAKE_ARTIFACT\"").await;
    assert_ne!(end, ScriptEnd::Exited(0), "the artifact is read-only");
    let sizes = ok(machine, "blockdev --getsize64 /dev/disk/by-id/virtio-amibake-cache-12345 /dev/vda").await;
    assert_eq!(sizes.split_whitespace().collect::<Vec<_>>(), [(100_u64 << 30).to_string(), (6_u64 << 30).to_string()]);
    let interfaces = ok(machine, "ls /sys/class/net").await;
    assert_eq!(interfaces.split_whitespace().count(), 2, "{interfaces}");
}

/// 100 MB of every byte there is arrive whole and in order.
async fn streams(machine: &dyn Machine) {
    let script = "head -c 1048576 /dev/urandom >/run/block
all() { for number in {1..100}; do printf '%08d' \"$number\"; cat /run/block; done; }
all\nall | sha256sum | head -c 64 >/run/digest";
    let (mut hasher, mut size, started) = (sha2::Sha256::new(), 0, Instant::now());
    let all = 100 * ((1 << 20) + 8);
    let mut output = |bytes: &[u8]| {
        hasher.update(bytes);
        size += bytes.len();
        if size == all {
            eprintln!("100 MiB in {:?}", started.elapsed());
        }
    };
    assert_eq!(machine.run(script, None, &mut output).await.unwrap(), ScriptEnd::Exited(0));
    assert_eq!(size, all);
    assert_eq!(ok(machine, "cat /run/digest").await, Sha256::from_bytes(hasher.finalize().into()).to_string());
}

/// A script whose future is dropped ends with everything it started.
async fn given_up(machine: &dyn Machine) {
    let script = "timeout 1000 sleep 1001 & setsid -w true; (sleep 1002; true) & echo started; sleep 1003";
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut output = |_: &[u8]| tell.send(()).unwrap();
    tokio::select! {
        end = machine.run(script, None, &mut output) => panic!("it came to an end: {end:?}"),
        seen = told.recv() => seen.unwrap(),
    }
    let left = ok(
        machine,
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done | grep -c 'sleep 100[1-3]' || true",
    )
    .await;
    assert_eq!(left, "0");
}

/// The command for a person works.
async fn person(machine: &dyn Machine) {
    let command = format!("{} -o BatchMode=yes 'echo it is $(hostname) && exit 3'", machine.reach().command);
    let output = tokio::process::Command::new("sh").args(["-c", &command]).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{command}\n{errors}");
    assert!(output.stdout.starts_with(b"it is "));
}

async fn restarts(machine: &mut dyn Machine) {
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = ok(machine, boot).await;
    ok(machine, "mkfs.ext4 -q /dev/disk/by-id/virtio-amibake-cache-12345; echo kept >/etc/kept").await;
    let started = Instant::now();
    machine.restart().await.unwrap();
    eprintln!("restarted after {:?}", started.elapsed());
    assert_ne!(ok(machine, boot).await, before);
    assert_eq!(
        ok(machine, "cat /etc/kept; blkid -o value -s TYPE /dev/disk/by-id/virtio-amibake-cache-12345").await,
        "kept\next4"
    );
}

async fn captured(world: &World, machine: &mut dyn Machine, name: &str) -> Image {
    let staging = world.root.path().join(name);
    let published = world.root.path().join(format!("{name}-published"));
    std::fs::create_dir(&staging).unwrap();
    let started = Instant::now();
    let image = machine.capture(Destination { staging: &staging, published: &published }, &world.undo).await.unwrap();
    eprintln!("captured {} MiB in {:?}", image.size_bytes / MIB, started.elapsed());
    std::fs::rename(&staging, &published).unwrap();
    let bytes = std::fs::read(&image.location).unwrap();
    assert_eq!((bytes.len() as u64, Some(Sha256::of(&bytes))), (image.size_bytes, image.sha256));
    let info =
        std::process::Command::new("qemu-img").args(["info", "-f", "qcow2"]).arg(&image.location).output().unwrap();
    let info = String::from_utf8(info.stdout).unwrap();
    assert!(info.contains("virtual size: 6 GiB") && !info.contains("backing file"), "{info}");
    image
}

/// Two machines from one image reach each other, and nothing else.
async fn pair(world: &World, plan: &Plan, image: &Image) {
    let members: Vec<_> = (0..2).map(|member| (member, world.machine_dir(&format!("member-{member}")))).collect();
    let before = Sha256::of(&std::fs::read(&image.location).unwrap());
    let launches = members.iter().map(|(member, machine_dir)| {
        let network = Network { run_dir: &world.run_dir, member: *member, members: 2 };
        world.launch(plan, Source::Image(image, network), machine_dir)
    });
    let started = Instant::now();
    let mut machines = futures_util::future::join_all(launches).await;
    eprintln!("the pair is ready after {:?}", started.elapsed());
    for machine in &machines {
        assert_eq!(ok(&**machine, "cat /etc/sealed; echo \"${AMIBAKE_ARTIFACT-none}\"").await, "sealed\nnone");
        // The root grew with the disk.
        let root: u64 = ok(&**machine, "df -B1 --output=size / | tail -1").await.trim().parse().unwrap();
        assert!(root > 6 << 30, "{root}");
    }
    let addresses: Vec<_> = machines.iter().map(|machine| machine.reach().address.unwrap()).collect();
    assert_eq!(addresses, ["10.213.77.1", "10.213.77.2"]);
    reach_each_other(&machines, &addresses).await;
    let isolated = "exec 3<>/dev/tcp/10.0.2.2/22";
    assert_ne!(run(&*machines[0], isolated).await.0, ScriptEnd::Exited(0), "the host is out of reach");
    machines[1].restart().await.unwrap();
    reach_each_other(&machines, &addresses).await;
    assert_eq!(Sha256::of(&std::fs::read(&image.location).unwrap()), before, "the image itself is not changed");
    // The undo ends them.
    let pids: Vec<_> = machines.iter().map(|machine| pid(&**machine)).collect();
    assert!(pids.iter().all(|&pid| lives(pid)));
    drop(machines);
    assert_eq!(world.undo.unwind(&world.provider).await, []);
    assert!(!pids.iter().any(|&pid| lives(pid)));
}

async fn reach_each_other(machines: &[Box<dyn Machine>], addresses: &[String]) {
    for (machine, peer) in machines.iter().zip(addresses.iter().rev()) {
        let script = "timeout 20 bash -c 'exec 3<>/dev/tcp/$AMIBAKE_PEER/22; head -c 4 <&3'";
        assert_eq!(run_with(&**machine, script, Some(peer)).await, (ScriptEnd::Exited(0), "SSH-".into()));
    }
}
