//! Packs a stand-in release: `<out>/<version>/buildkit-<version>.linux-<arch>.tar.gz` and a lock `<out>/standin.lock`.
//!
//! Usage: `standin-release VERSION ARCH PROGRAMS OUT [PADDING]`: PROGRAMS is the folder with `standin-buildkit` and
//! `standin-tool`; PADDING adds a member of that many bytes, for measuring.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use amibake_standin::{MARKER, version};
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

/// Members of a real release from v0.13 on that are not buildkitd and buildctl.
const TOOLS: [&str; 13] = [
    "buildkit-cni-bridge",
    "buildkit-cni-firewall",
    "buildkit-cni-host-local",
    "buildkit-cni-loopback",
    "buildkit-qemu-aarch64",
    "buildkit-qemu-arm",
    "buildkit-qemu-i386",
    "buildkit-qemu-loongarch64",
    "buildkit-qemu-mips64",
    "buildkit-qemu-mips64el",
    "buildkit-qemu-ppc64le",
    "buildkit-qemu-riscv64",
    "buildkit-qemu-s390x",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.as_slice() {
        [version, arch, programs, out] => release(version, arch, Path::new(programs), Path::new(out), 0),
        [version, arch, programs, out, padding] => match padding.parse() {
            Ok(padding) => release(version, arch, Path::new(programs), Path::new(out), padding),
            Err(_) => Err(format!("`{padding}` is not a number of bytes").into()),
        },
        _ => Err("usage: standin-release VERSION ARCH PROGRAMS OUT [PADDING]".into()),
    };
    match ended {
        Ok(tarball) => {
            println!("{}", tarball.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn release(
    version: &str,
    arch: &str,
    programs: &Path,
    out: &Path,
    padding: usize,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let read = |name: &str| {
        let path = programs.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let buildkit = version::stamp(read("standin-buildkit")?, version);
    let tool = version::stamp(read("standin-tool")?, version);

    // What is measured is compressed as a release is; what is only tested, quickly.
    let level = if padding > 0 { Compression::default() } else { Compression::fast() };
    // No time, no owner, a fixed order: the same programs give the same bytes, and so the same image fingerprint.
    let mut tar = tar::Builder::new(GzBuilder::new().write(Vec::new(), level));
    let mut folder = tar::Header::new_ustar();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_mode(0o755);
    folder.set_size(0);
    tar.append_data(&mut folder, "bin/", std::io::empty())?;
    let mut append = |name: &str, mode: u32, bytes: &[u8]| -> std::io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes)
    };
    append(MARKER, 0o644, b"This is amibake's stand-in release for tests: not BuildKit.\n")?;
    append("bin/buildctl", 0o755, &buildkit)?;
    append("bin/buildkitd", 0o755, &buildkit)?;
    append("bin/buildkit-runc", 0o755, &tool)?;
    for name in TOOLS {
        append(&format!("bin/{name}"), 0o755, &tool)?;
    }
    if padding > 0 {
        append("bin/buildkit-padding", 0o755, &filler(padding))?;
    }
    let bytes = tar.into_inner()?.finish()?;

    let name = format!("buildkit-{version}.linux-{arch}.tar.gz");
    let tarball = out.join(version).join(&name);
    write(&tarball, &bytes)?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let lock = format!(
        "# A stand-in release for tests: not BuildKit.\nschema = 1\nstand_in = true\nversion = \"{version}\"\n\n\
         [artifact.\"linux/{arch}\"]\n\
         url = \"https://github.com/moby/buildkit/releases/download/{version}/{name}\"\nsha256 = \"{digest}\"\n"
    );
    write(&out.join("standin.lock"), lock.as_bytes())?;
    Ok(tarball)
}

/// Writes beside, then renames, so that a reader never sees half a file.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension(format!("part-{}", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// `length` bytes that compress 1.75 : 1, less than programs do, always the same: words of a random dictionary
/// in random order, by xorshift64* (Vigna 2016).
fn filler(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let words: Vec<Vec<u8>> = (0..4096).map(|_| (0..3 + next() % 9).map(|_| (next() >> 56) as u8).collect()).collect();
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&words[(next() >> 52) as usize]);
    }
    bytes.truncate(length);
    bytes
}
