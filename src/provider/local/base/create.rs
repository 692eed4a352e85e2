//! Making amibake's own base: mmdebstrap from this machine's apt sources, assembled to a disk, into the cache.
//!
//! As root everything runs in mount and process namespaces of its own, so that whatever way it ends, no mount and no
//! process is left, and the folder it worked in can be removed without ever reaching the host's own /proc or /dev.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::bootstrap;
use super::disk::{self, DISK_BYTES, ROOT_BYTES};
use super::sources::{self, Guest, Release, Sources};
use super::{BaseEntry, file_name, folder, identity, list, make_folder, write_whole};
use crate::bake::wait::{self, Probe, Schedule};
use crate::bake::{Event, Reporter};
use crate::error::{Context as _, Error, Result};
use crate::provider::local::host;
use crate::release::Arch;

const CUSTOMIZE: &str = include_str!("../../../../assets/base/customize.sh");
/// Packages beside `minbase` and the kernel.
const PACKAGES: &str = "systemd-sysv,udev,dbus,openssh-server,initramfs-tools,iproute2,ca-certificates,\
    systemd-resolved,e2fsprogs,grub-common,grub-pc-bin";
/// The unpacked root, its file system and the finished disk lie side by side for a moment.
const SPACE_BYTES: u64 = 2_500_000_000;
/// How the folders of a creation begin; one that was killed leaves its own, the next one removes it.
const WORK_PREFIX: &str = ".create-";

/// Makes amibake's own base disk in the cache, unless it is there and `force` is not set; returns its path.
///
/// # Errors
/// Exit 4: no mmdebstrap, no permission, no space, no network. Exit 130 when cancelled; nothing is left then.
pub async fn create(
    cache_dir: &Path,
    arch: Arch,
    force: bool,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<PathBuf> {
    check_arch(arch)?;
    let release = Release::of(Path::new("/"))?;
    let target = folder(cache_dir).join(file_name(&release.name(), arch));
    let exists = || Ok::<_, Error>(list(cache_dir)?.iter().any(|entry| entry.path == target));
    if !force && exists()? {
        return Ok(target);
    }
    let tools = Tools::find()?;
    let privilege = Privilege::find(cache_dir)?;
    let sources = Sources::of(Path::new("/"), &release)?;
    make_folder(&folder(cache_dir))?;
    let free = host::free_bytes(cache_dir)?;
    if free < SPACE_BYTES {
        return Err(Error::host(format!("a base needs {SPACE_BYTES} bytes of disk, {free} are free")).with_hint(
            format!("make room on the disk of {}, or name another place with XDG_CACHE_HOME", cache_dir.display()),
        ));
    }
    let before = Instant::now();
    let _lock = lock(&folder(cache_dir), cancel, reporter).await?;
    // Another process may have made it while this one waited: even with `force` that one is as new as can be.
    if exists()? && (!force || made_since(cache_dir, &target, before)?) {
        return Ok(target);
    }
    sweep(&folder(cache_dir), reporter);
    let work = Work::new(&folder(cache_dir), privilege)?;
    let job = Job { cache_dir, arch, release, tools, privilege, sources, reporter, target: &target };
    let made = job.run(&work, cancel).await;
    let removed = work.remove();
    made.and(removed).map(|()| target.clone())
}

fn check_arch(arch: Arch) -> Result<()> {
    let cause = match (arch, Arch::host()) {
        (Arch::Amd64, Some(Arch::Amd64)) => return Ok(()),
        (Arch::Arm64, Some(Arch::Arm64)) => "amibake makes bases for amd64 only",
        _ => "a base is made on a machine of its own architecture only",
    };
    Err(Error::host(format!("cannot make a base for {arch} here: {cause}"))
        .with_hint(format!("name an {arch} cloud image with `--base PATH|URL`, or `[base.local]` in the recipe")))
}

/// Whether the base at `target` was made after `since`.
fn made_since(cache_dir: &Path, target: &Path, since: Instant) -> Result<bool> {
    let waited = jiff::SignedDuration::try_from(since.elapsed()).unwrap_or_default();
    let entries = list(cache_dir)?;
    Ok(entries.iter().any(|entry| entry.path == target && entry.made >= jiff::Timestamp::now() - waited))
}

/// The programs that make a base.
struct Tools {
    mmdebstrap: PathBuf,
    qemu_img: PathBuf,
    sfdisk: PathBuf,
}

impl Tools {
    fn find() -> Result<Self> {
        let wanted = [
            ("mmdebstrap", "mmdebstrap"),
            ("qemu-img", "qemu-utils"),
            ("sfdisk", "fdisk"),
            ("mke2fs", "e2fsprogs"),
            ("unshare", "util-linux"),
            ("setpriv", "util-linux"),
        ];
        let missing: Vec<_> = wanted.iter().filter(|(program, _)| host::program(program).is_none()).collect();
        if !missing.is_empty() {
            let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
            let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
            packages.dedup();
            return Err(Error::host(format!("programs that make a base are missing: {}", programs.join(", ")))
                .with_hint(format!("install them: `apt-get install {}`", packages.join(" "))));
        }
        let find = |program| host::program(program).unwrap_or_else(|| PathBuf::from(program));
        Ok(Self { mmdebstrap: find("mmdebstrap"), qemu_img: find("qemu-img"), sfdisk: find("sfdisk") })
    }
}

/// How mmdebstrap gets to own files of other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// This process is root.
    Root,
    /// By user namespaces and the ids that /etc/subuid lends.
    Unshare,
}

impl Privilege {
    fn find(cache_dir: &Path) -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            return Ok(Privilege::Root);
        }
        let lent = |file: &str| std::fs::read_to_string(file).is_ok_and(|text| lends_ids(&text));
        if host::program("newuidmap").is_some() && lent("/etc/subuid") && lent("/etc/subgid") {
            return Ok(Privilege::Unshare);
        }
        let home = cache_dir.parent().unwrap_or(cache_dir).display();
        Err(Error::host("making a base needs root, or user namespaces with ids lent to this user").with_hint(format!(
            "run `sudo env XDG_CACHE_HOME={home} amibake base create`; or `apt-get install uidmap` and give this user \
             65536 ids in /etc/subuid and /etc/subgid (`usermod --add-subuids 100000-165535 --add-subgids \
             100000-165535 USER`)"
        )))
    }
}

/// Whether a subuid(5) file lends ids to the user of this process.
fn lends_ids(text: &str) -> bool {
    let id = rustix::process::getuid().as_raw().to_string();
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    text.lines().filter_map(|line| line.split(':').next()).any(|user| user == id || (!user.is_empty() && user == name))
}

/// Held while a base is made; gone with the process that holds it.
async fn lock(folder: &Path, cancel: &CancellationToken, reporter: &Reporter) -> Result<File> {
    const PATIENCE: Schedule = Schedule {
        first: Duration::from_millis(100),
        most: Duration::from_secs(1),
        deadline: Duration::from_secs(30 * 60),
    };
    let path = folder.join(".create.lock");
    let failed = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).or_host(failed)?;
    let mut told = false;
    wait::until("another `amibake base create`", PATIENCE, cancel, || {
        let tried = match file.try_lock() {
            Ok(()) => Ok(Probe::Ready(())),
            Err(std::fs::TryLockError::WouldBlock) => Ok(Probe::NotYet("it is still at work".to_owned())),
            Err(std::fs::TryLockError::Error(error)) => Err(error).or_host(failed),
        };
        if matches!(tried, Ok(Probe::NotYet(_))) && !std::mem::replace(&mut told, true) {
            reporter.note("another `amibake base create` is at work: waiting for it");
        }
        std::future::ready(tried)
    })
    .await?;
    Ok(file)
}

fn is_work(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(WORK_PREFIX.as_bytes()))
}

/// Removes what killed creations left. Called under the lock: none of them is running.
fn sweep(folder: &Path, reporter: &Reporter) {
    let Ok(found) = std::fs::read_dir(folder) else { return };
    for path in found.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if is_work(&path)
            && let Err(error) = remove_tree(&path)
        {
            reporter.warn(format!("{error}: left by an earlier `amibake base create`"));
        }
    }
}

/// Removes a folder, but never through a mount: below one is somebody else's.
fn remove_tree(path: &Path) -> Result<()> {
    if !is_work(path) {
        return Err(Error::host(format!("{} is not a folder of `amibake base create`", path.display())));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").or_host(|| "cannot read the mounts".to_owned())?;
    if let Some(mount) = mount_below(&mounts, path) {
        return Err(Error::host(format!("{} is not removed: {mount} is mounted in it", path.display()))
            .with_hint("unmount it, and remove the folder"));
    }
    std::fs::remove_dir_all(path).or_host(|| format!("cannot remove {}", path.display()))
}

/// The first mount at or below `path`, of the lines of proc(5)'s mountinfo.
fn mount_below<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.into_iter().find(|point| Path::new(&point.replace("\\040", " ")).starts_with(path))
}

/// The folders of one creation.
struct Work {
    dir: TempDir,
    /// In unshare mode: the user's cache may be closed to the lent ids, so what mmdebstrap reads and unpacks is elsewhere.
    open: Option<TempDir>,
}

impl Work {
    fn new(folder: &Path, privilege: Privilege) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let make = |folder: &Path| {
            // apt's download user and the lent ids must be able to pass.
            let passable = std::fs::Permissions::from_mode(0o755);
            let dir = tempfile::Builder::new().prefix(WORK_PREFIX).permissions(passable).tempdir_in(folder);
            dir.or_host(|| format!("cannot make a folder in {}", folder.display()))
        };
        let dir = make(folder)?;
        let open = (privilege == Privilege::Unshare).then(|| make(&std::env::temp_dir())).transpose()?;
        Ok(Self { dir, open })
    }

    /// A file for this process alone.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where mmdebstrap unpacks, and what it and its hook read.
    fn open(&self) -> &Path {
        self.open.as_ref().unwrap_or(&self.dir).path()
    }

    fn remove(self) -> Result<()> {
        let open = self.open.map_or(Ok(()), |open| remove_tree(&open.keep()));
        remove_tree(&self.dir.keep()).and(open)
    }
}

struct Job<'a> {
    cache_dir: &'a Path,
    arch: Arch,
    release: Release,
    tools: Tools,
    privilege: Privilege,
    sources: Sources,
    reporter: &'a Reporter,
    target: &'a Path,
}

impl Job<'_> {
    async fn run(&self, work: &Work, cancel: &CancellationToken) -> Result<()> {
        let packages = self.phase("bootstrap", self.bootstrap(work, cancel)).await?;
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::interrupted()),
            done = async {
                self.phase("assemble", self.assemble(work)).await?;
                self.publish(work, packages).await
            } => done,
        }
    }

    async fn publish(&self, work: &Work, packages: Vec<String>) -> Result<()> {
        let description = self.target.with_extension("json");
        // A description never stands beside another disk than its own, so the old one goes first.
        match std::fs::remove_file(&description) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).or_host(|| format!("cannot remove {}", description.display()));
            }
            _ => {}
        }
        std::fs::rename(work.path("disk.qcow2"), self.target)
            .or_host(|| format!("cannot write {}", self.target.display()))?;
        let digests = identity::digests(&folder(self.cache_dir), self.target, None, self.reporter).await?;
        let file = std::fs::metadata(self.target).or_host(|| format!("cannot read {}", self.target.display()))?;
        let entry = BaseEntry {
            name: self.release.name(),
            arch: self.arch,
            path: self.target.to_owned(),
            sha256: digests.sha256,
            disk_bytes: DISK_BYTES,
            file_bytes: file.len(),
            // Cut, not rounded: it must never lie ahead.
            made: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default(),
            suite: self.release.codename.clone(),
            packages,
        };
        let text = serde_json::to_vec_pretty(&entry).or_host(|| "cannot describe the base".to_owned())?;
        write_whole(&description, &text).or_host(|| format!("cannot write {}", description.display()))
    }

    async fn phase<T>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        self.reporter.event(&Event::PhaseStarted { name: name.to_owned() });
        let done = work.await?;
        self.reporter.event(&Event::PhaseEnded { elapsed: started.elapsed() });
        Ok(done)
    }

    /// Runs mmdebstrap; the root file system and the boot code are in `disk.raw` and `boot` afterwards. Returns the
    /// packages it has.
    async fn bootstrap(&self, work: &Work, cancel: &CancellationToken) -> Result<Vec<String>> {
        let proxies = self.proxies().await;
        let guest = self.sources.for_guest();
        for note in self.sources.notes.iter().chain(&guest.notes) {
            self.reporter.note(note);
        }
        self.lay_overlay(&work.open().join("overlay"), &guest, &proxies)
            .or_host(|| format!("cannot write in {}", work.dir.path().display()))?;
        let own = format!("{}.sources", self.release.id);
        let prepare = || {
            std::fs::write(work.open().join(&own), self.sources.render())?;
            std::fs::write(work.open().join("customize.sh"), CUSTOMIZE)?;
            File::create(work.path("disk.raw"))?.set_len(DISK_BYTES)?;
            File::create(work.path("boot")).map(drop)
        };
        prepare().or_host(|| format!("cannot write in {}", work.dir.path().display()))?;
        let mut command = self.command(work, &proxies);
        command.arg(&self.release.codename).arg("-").arg(work.open().join(&own));
        // In namespaces of its own nothing outlives a kill; elsewhere mmdebstrap has a folder to remove first.
        let patience = (self.privilege == Privilege::Unshare).then_some(Duration::from_secs(20));
        let ended = bootstrap::run(command, patience, self.reporter, cancel).await?;
        if !ended.status.success() {
            return Err(Error::host(format!("mmdebstrap could not make the base ({})", ended.status))
                .with_detail(ended.tail)
                .with_hint("`apt-get update` must work on this machine: the same sources are used"));
        }
        Ok(ended.packages)
    }

    /// mmdebstrap up to its options, with the two descriptors that customize.sh writes to. A shell opens them: a
    /// child's descriptors beyond the third cannot be set without unsafe code.
    fn command(&self, work: &Work, proxies: &[(String, String)]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 8>\"$1\" 9<>\"$2\"; shift 2; exec \"$@\"", "sh"]);
        command.arg(work.path("boot")).arg(work.path("disk.raw"));
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        if self.privilege == Privilege::Root {
            command.args(["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc"]);
            command.args(["--fork", "--kill-child"]);
        }
        command.arg(&self.tools.mmdebstrap);
        command.arg(if self.privilege == Privilege::Root { "--mode=root" } else { "--mode=unshare" });
        command.args(["--variant=minbase", "--format=null", "--skip=cleanup"]);
        command.arg(format!("--include={PACKAGES},{}", self.release.kernel()));
        // A package of its own from Debian 13 on, part of systemd before: a pattern may match nothing.
        command.arg("--include=?exact-name(systemd-repart)");
        // The disk is thrown away if the host fails meanwhile: no need to wait for it after every package.
        command.arg("--dpkgopt=force-unsafe-io");
        for (option, address) in proxies {
            command.arg(format!("--aptopt={option} \"{address}\""));
        }
        command.arg(format!(
            "--customize-hook=sh \"$AMIBAKE_CUSTOMIZE\" \"$1\" \"$AMIBAKE_OVERLAY\" {}k",
            ROOT_BYTES >> 10
        ));
        command
            .env("AMIBAKE_CUSTOMIZE", work.open().join("customize.sh"))
            .env("AMIBAKE_OVERLAY", work.open().join("overlay"));
        command.env("TMPDIR", work.open()).env("LC_ALL", "C.UTF-8").env("PATH", host::search_path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is for amibake, which ends this itself.
        command.process_group(0).kill_on_drop(true);
        command
    }

    async fn proxies(&self) -> Vec<(String, String)> {
        let dumped = Command::new("apt-config").arg("dump").stdin(Stdio::null()).output().await;
        dumped.map(|dumped| sources::proxies(&String::from_utf8_lossy(&dumped.stdout))).unwrap_or_default()
    }

    /// The files that go over the new root.
    fn lay_overlay(&self, overlay: &Path, guest: &Guest, proxies: &[(String, String)]) -> std::io::Result<()> {
        let put = |name: &Path, bytes: &[u8]| {
            let path = overlay.join(name.strip_prefix("/").unwrap_or(name));
            std::fs::create_dir_all(path.parent().unwrap_or(overlay))?;
            std::fs::write(path, bytes)
        };
        let own = format!("etc/apt/sources.list.d/{}.sources", self.release.id);
        put(Path::new(&own), guest.text.as_bytes())?;
        for (from, to) in &guest.files {
            put(to, &std::fs::read(from)?)?;
        }
        let mut lines = String::new();
        for (option, address) in proxies.iter().filter(|(_, address)| sources::reachable_from_guest(address)) {
            let clean = sources::without_password(address);
            if let Some(clean) = &clean {
                self.reporter.note(format!("the password of apt's proxy {clean} is not put into the base"));
            }
            lines.push_str(&format!("{option} \"{}\";\n", clean.as_ref().unwrap_or(address)));
        }
        if lines.is_empty() { Ok(()) } else { put(Path::new("etc/apt/apt.conf.d/50amibake-proxy"), lines.as_bytes()) }
    }

    async fn assemble(&self, work: &Work) -> Result<()> {
        let boot = std::fs::read(work.path("boot")).or_host(|| "cannot read the boot code".to_owned())?;
        let (raw, qcow2) = (work.path("disk.raw"), work.path("disk.qcow2"));
        disk::make_bootable(&self.tools.sfdisk, &raw, &boot).await?;
        let ended = Command::new(&self.tools.qemu_img)
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args([&raw, &qcow2])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .or_host(|| "cannot start qemu-img".to_owned())?;
        if ended.status.success() {
            return Ok(());
        }
        Err(Error::host("qemu-img could not write the base")
            .with_detail(String::from_utf8_lossy(&ended.stderr).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_architecture_is_refused_with_a_way_out() {
        let error = check_arch(Arch::Arm64).unwrap_err();
        assert_eq!(error.exit().code(), 4);
        assert!(error.hint().unwrap().contains("--base"));
    }

    #[test]
    fn a_folder_with_a_mount_in_it_is_not_removed() {
        let mountinfo =
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n40 27 0:5 / /c/.create-a\\040b/tmp/proc rw - proc proc rw\n";
        assert!(mount_below(mountinfo, Path::new("/c/.create-a b")).is_some());
        assert_eq!(mount_below(mountinfo, Path::new("/c/.create-a")), None);
        assert_eq!(mount_below(mountinfo, Path::new("/c/.create-a b/tmp/sys")), None);
    }

    #[test]
    fn only_a_creation_s_own_folder_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        let (ours, other) = (cache.path().join(".create-x"), cache.path().join("other"));
        for folder in [&ours, &other] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), b"x").unwrap();
        }
        sweep(cache.path(), &Reporter::silent());
        assert!(!ours.exists() && other.join("file").exists());
        assert!(remove_tree(&other).unwrap_err().to_string().contains("not a folder of"));
        assert!(other.join("file").exists());
    }

    #[test]
    fn lent_ids_are_found_by_name_or_number() {
        let id = rustix::process::getuid().as_raw();
        assert!(lends_ids(&format!("other:1:2\n{id}:100000:65536\n")));
        assert!(!lends_ids("somebody-else:100000:65536\n:1:2\n"));
    }

    #[tokio::test]
    async fn two_creations_wait_for_each_other_and_cancelling_ends_the_wait() {
        let folder = tempfile::tempdir().unwrap();
        let (cancel, silent) = (CancellationToken::new(), Reporter::silent());
        let held = lock(folder.path(), &cancel, &silent).await.unwrap();
        let mut second = std::pin::pin!(lock(folder.path(), &cancel, &silent));
        assert!(futures_util::FutureExt::now_or_never(second.as_mut()).is_none());
        drop(held);
        let held = second.await.unwrap();
        cancel.cancel();
        let error = lock(folder.path(), &cancel, &silent).await.unwrap_err();
        assert_eq!(error.exit().code(), 130);
        drop(held);
    }
}
