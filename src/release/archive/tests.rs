//! Hostile archives: each way to be one by itself, then generated ones, then damaged good ones.

use std::io::{Seek as _, Write as _};

use flate2::{Compression, write::GzEncoder};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A tar archive, block by block.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        self.entry_with(kind, name, link, data, |_| {})
    }

    fn entry_with(self, kind: u8, name: &str, link: &str, data: &[u8], change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        old.linkflag = [kind];
        header.set_mode(if kind == b'2' { 0o777 } else { 0o755 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.raw(header.as_bytes(), data)
    }

    fn raw(mut self, header: &[u8], data: &[u8]) -> Self {
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.entry(b'0', name, "", b"data")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        gzip(&self.0)
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn read_all(packed: &[u8]) -> Result<Vec<String>, String> {
    inspect(packed, Bounds::default(), None).map(|contents| contents.members).map_err(|refusal| match refusal {
        Refusal::Content { member: Some(member), reason } => format!("`{member}`: {reason}"),
        Refusal::Content { member: None, reason } => reason,
        Refusal::Io(error) => panic!("{error}"),
    })
}

#[track_caller]
fn refused(tar: Tar, words: &str) {
    let message = read_all(&tar.end()).unwrap_err();
    assert!(message.contains(words), "{message}");
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len();
        while length.to_string().len() + rest.len() != length {
            length = length.to_string().len() + rest.len();
        }
        data.extend(format!("{length}{rest}").bytes());
    }
    data
}

#[test]
fn what_a_release_holds_is_accepted() {
    let tar = Tar::default().entry(b'5', "bin/", "", b"").file("bin/buildctl").entry(0, "./bin//buildkitd", "", b"");
    assert_eq!(read_all(&tar.end()).unwrap(), ["bin/buildctl", "bin/buildkitd"]);
}

#[test]
fn what_gnu_tar_writes_is_accepted() {
    let long = "bin/".to_owned() + &"n".repeat(200);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    for name in ["bin/buildctl", &long] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink("buildctl", folder.path().join("bin/link")).unwrap();
    for format in ["gnu", "posix", "ustar"] {
        if format == "ustar" {
            std::fs::remove_file(folder.path().join(&long)).unwrap();
        }
        let mut command = std::process::Command::new("tar");
        command.args(["--sort=name", "--mode=go-w", &format!("--format={format}"), "-cz", "."]);
        let packed = command.current_dir(folder.path()).output().unwrap();
        assert!(packed.status.success());
        let members = read_all(&packed.stdout).unwrap();
        assert_eq!(members.len(), if format == "ustar" { 1 } else { 2 }, "{format}");
    }
}

#[test]
fn names_that_leave_the_tree_or_are_not_plain_are_refused() {
    for (name, words) in [
        ("/etc/passwd", "absolute"),
        ("../x", "leaves the tree"),
        ("bin/../../x", "leaves the tree"),
        ("bin/..", "leaves the tree"),
        ("..", "leaves the tree"),
        ("bin/\u{1b}[2J", "control"),
        ("bin/a\nb", "control"),
        ("", "no name"),
        (".", "name of a folder"),
        ("bin/x/", "name of a folder"),
        ("bin/x/.", "name of a folder"),
    ] {
        refused(Tar::default().file(name), words);
    }
    let not_text = Tar::default().entry_with(b'0', "bin/x", "", b"", |header| header.as_old_mut().name[4] = 0xff);
    refused(not_text, "not UTF-8");
    let deep = "d/".repeat(40) + "x";
    refused(Tar::default().entry(b'L', "././@LongLink", "", format!("{deep}\0").as_bytes()).file("x"), "too long");
}

#[test]
fn a_bad_name_is_printed_harmlessly() {
    let message = read_all(&Tar::default().file("bin/\u{1b}]0;owned\u{7}").end()).unwrap_err();
    assert!(message.contains("\\u{1b}") && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn a_member_listed_twice_is_refused_however_it_is_spelt() {
    for again in ["bin/x", "./bin/x", "bin//x", "bin/./x"] {
        refused(Tar::default().file("bin/x").file(again), "listed twice");
    }
    refused(Tar::default().entry(b'5', "bin", "", b"").entry(b'5', "bin/", "", b""), "listed twice");
    refused(Tar::default().file("bin").file("bin/x"), "beneath `bin`");
    refused(Tar::default().file("bin/x").file("bin"), "lies beneath it");
    refused(Tar::default().entry(b'2', "bin", "sbin", b"").file("bin/x"), "beneath `bin`");
    refused(Tar::default().file("bin/x").entry(b'2', "bin", "sbin", b""), "lies beneath it");
}

#[test]
fn links_that_leave_the_tree_are_refused_and_others_are_no_files() {
    for target in ["/etc/passwd", "..", "../..", "../../x", "x/../../../y", "a/..", "", "a\u{7}"] {
        let link = if target == ".." { "x" } else { "bin/x" };
        refused(Tar::default().entry(b'2', link, target, b"").file("bin/y"), "`");
    }
    for target in ["../bin/y", "/bin/y", "bin/nothing", "bin", "bin/link", ""] {
        let tar = Tar::default().file("bin/y").entry(b'2', "bin/link", "y", b"");
        refused(tar.entry(b'1', "bin/x", target, b""), "hard link");
    }
    let tar = Tar::default().file("bin/y").entry(b'2', "bin/l", "../bin/y", b"").entry(b'1', "bin/h", "./bin/y", b"");
    assert_eq!(read_all(&tar.end()).unwrap(), ["bin/y"]);
}

#[test]
fn a_link_through_a_link_cannot_leave_the_tree() {
    // `up` leads to the root; `up/..` is above it, though the text says a/b.
    let tar = Tar::default().file("a/b/c/x").entry(b'2', "a/b/c/up", "../../..", b"");
    refused(tar.entry(b'2', "out", "a/b/c/up/../etc", b""), "out of the tree");
}

#[test]
fn kinds_that_no_release_holds_are_refused() {
    for (kind, words) in [(b'3', "character device"), (b'4', "block device"), (b'6', "pipe"), (b'S', "sparse")] {
        refused(Tar::default().entry(kind, "bin/x", "", b""), words);
    }
    for kind in [b'7', b'D', b'M', b'V', b'X', b'A', 0xff] {
        refused(Tar::default().entry(kind, "bin/x", "", b""), "unknown kind");
    }
    refused(Tar::default().entry(b'5', "bin", "", b"data"), "has data");
    refused(Tar::default().entry(b'2', "bin/l", "x", b"data"), "has data");
}

#[test]
fn permissions_that_hand_out_rights_are_refused() {
    for mode in [0o4755, 0o2755, 0o1755, 0o757, 0o777, 0o7777] {
        let tar = Tar::default().entry_with(b'0', "bin/x", "", b"", |header| header.set_mode(mode));
        refused(tar, &format!("mode {mode:04o}"));
    }
}

#[test]
fn damaged_headers_are_refused() {
    let mut sum = Tar::default().file("bin/x");
    sum.0[0] = b'c';
    refused(sum, "checksum");
    let v7 = Tar::default().entry_with(b'0', "bin/x", "", b"", |header| header.as_mut_bytes()[257..265].fill(0));
    refused(v7, "neither ustar nor GNU");
    for size in [
        &b"0000000009\0\0"[..],
        b"\x80\0\0\0\0\0\0\0\0\0\0\x04",
        b"            ",
        b"-0000000004\0",
        b"4\x004        \0",
    ] {
        let tar = Tar::default().entry_with(b'0', "bin/x", "", b"data", |header| {
            header.as_old_mut().size.copy_from_slice(size);
        });
        refused(tar, "size is not an octal number");
    }
}

#[test]
fn extended_headers_are_read_and_bounded() {
    let named = |records: &[(&str, &str)]| Tar::default().entry(b'x', "PaxHeader", "", &pax(records)).file("short");
    assert_eq!(read_all(&named(&[("path", "bin/long"), ("mtime", "1.5")]).end()).unwrap(), ["bin/long"]);
    refused(named(&[("path", "../x")]), "leaves the tree");
    refused(named(&[("path", "a\0b")]), "control");
    refused(named(&[("path", "a"), ("path", "b")]), "twice");
    refused(named(&[("size", "400")]), "two sizes");
    refused(named(&[("size", "+4")]), "not a number");
    refused(named(&[("SCHILY.xattr.security.capability", "x")]), "security.capability");
    refused(named(&[("GNU.sparse.major", "1")]), "GNU.sparse");
    for bad in ["x", "99 path=x\n", "3 p", "9 path=xy\n", "0 =\n", "9999999999999999999999 a=b\n"] {
        refused(Tar::default().entry(b'x', "p", "", bad.as_bytes()).file("y"), "malformed");
    }
    let global = |key| Tar::default().entry(b'g', "g", "", &pax(&[(key, "x")])).file("bin/x");
    assert!(read_all(&global("comment").end()).is_ok());
    refused(global("path"), "global header sets `path`");

    let long = |data: &[u8]| Tar::default().entry(b'L', "././@LongLink", "", data);
    refused(long(b"no-end").file("x"), "one NUL");
    refused(long(b"a\0b\0").file("x"), "one NUL");
    refused(long(&[b'a'; 5000]).file("x"), "5000 bytes");
    refused(long(b"a\0").entry(b'L', "l", "", b"b\0").file("x"), "two extended headers");
    refused(long(b"a\0").entry(b'x', "p", "", &pax(&[("path", "b")])).file("x"), "PAX and GNU");
    refused(Tar::default().file("bin/x").entry(b'L', "l", "", b"a\0"), "no member after");
    let huge = Tar::default().entry_with(b'x', "p", "", b"", |header| header.set_size(1 << 32));
    refused(huge, "extended header of 4294967296 bytes");
}

#[test]
fn what_is_not_one_whole_archive_is_refused() {
    let good = Tar::default().file("bin/x").end();
    for length in 0..good.len() {
        let message = read_all(&good[..length]).unwrap_err();
        assert!(message.contains("truncated") || message.contains("gzip"), "{length}: {message}");
    }
    let no_end = gzip(&Tar::default().file("bin/x").0);
    assert!(read_all(&no_end).unwrap_err().contains("no end marker"));
    let half = gzip(&Tar::default().file("bin/x").0[..BLOCK + 3]);
    assert!(read_all(&half).unwrap_err().contains("truncated"));
    assert!(read_all(&[&good[..], b"x"].concat()).unwrap_err().contains("follows the end"));
    assert!(read_all(&[&good[..], &good[..]].concat()).unwrap_err().contains("second gzip member"));
    assert!(read_all(&[&good[..], &[0; 512]].concat()).unwrap_err().contains("follows the end"));
    refused(Tar::default(), "holds no files");
    refused(Tar::default().entry(b'5', "bin", "", b""), "holds no files");
    let hidden = Tar([Tar::default().file("bin/x").0, vec![0; 2 * BLOCK], Tar::default().file("y").0].concat());
    refused(hidden, "follows its end marker");
    let lone = Tar([Tar::default().file("bin/x").0, vec![0; BLOCK], Tar::default().file("y").0].concat());
    refused(lone, "single block of zeros");
    refused(Tar([Tar::default().file("bin/x").0, vec![0; 2 << 20]].concat()), "zeros follow");
}

#[test]
fn a_bomb_is_given_up_at_its_bound() {
    let bounds = Bounds { members: 10, unpacked: 1 << 20, ratio: 100 };
    let stops = |packed: &[u8], bounds| match inspect(packed, bounds, None) {
        Err(Refusal::Content { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let zeros = |length: usize| Tar::default().entry(b'0', "bin/x", "", &vec![0; length]).end();
    assert!(stops(&zeros(2 << 20), bounds).contains("more than 1048576 bytes"));
    assert!(stops(&zeros(64 << 20), Bounds { unpacked: u64::MAX, ..bounds }).contains("100 times"));
    let many = (0..11).fold(Tar::default(), |tar, number| tar.file(&format!("bin/{number}")));
    assert!(stops(&many.end(), bounds).contains("more than 10 members"));
    let headers = (0..40).fold(Tar::default(), |tar, _| tar.entry(b'g', "g", "", &pax(&[("comment", "x")])));
    assert!(stops(&headers.end(), bounds).contains("more than 10 members"));
}

#[test]
fn a_source_that_fails_is_no_refusal() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("disk on fire"))
        }
    }
    let good = Tar::default().file("bin/x").end();
    for length in 0..=good.len() {
        match inspect(good[..length].chain(Broken), Bounds::default(), None) {
            Err(Refusal::Io(error)) => assert_eq!(error.to_string(), "disk on fire"),
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn the_wanted_member_is_written_out() {
    let mut file = tempfile::tempfile().unwrap();
    let packed = Tar::default().file("bin/a").entry(b'0', "./bin/b", "", &[7; 1000]).end();
    let wanted = Wanted { member: "bin/b", file: &file };
    let contents = inspect(&packed[..], Bounds::default(), Some(&wanted)).unwrap();
    assert_eq!(contents.wanted_mode, Some(0o755));
    let mut written = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written, [7; 1000]);
}

/// Pieces of names, good and bad.
fn any_name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["bin", "buildctl", "x", "a", "é"]),
        2 => prop::sample::select(vec!["..", ".", "", "\u{7}", "\u{202e}"]),
    ];
    vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn any_kind() -> impl Strategy<Value = u8> {
    prop_oneof![6 => prop::sample::select(b"0".to_vec()), 6 => prop::sample::select(b"125xgLK\0".to_vec()), 1 => any::<u8>()]
}

/// What a plain name is, said in another way than the code does.
fn assert_safe(members: &[String]) {
    let mut sorted = members.to_vec();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), members.len(), "twice: {members:?}");
    for member in members {
        let path = std::path::Path::new(member);
        let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        assert!(plain && !member.is_empty() && !member.chars().any(char::is_control), "{member:?}");
        assert_eq!(path.components().collect::<std::path::PathBuf>().to_str(), Some(member.as_str()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn generated_archives_never_get_a_bad_name_through(
        entries in vec((any_kind(), any_name(), any_name(), vec(any::<u8>(), 0..40), 0_u32..0o10000, any::<bool>()), 0..6),
    ) {
        let mut tar = Tar::default();
        for (kind, name, link, data, mode, odd) in entries {
            // Data where it belongs, mostly; and names by way of extended headers.
            let data = match kind {
                b'x' | b'g' => pax(&[("path", &name), ("linkpath", &link)]),
                b'L' | b'K' => format!("{name}\0").into_bytes(),
                b'0' | 0 => data,
                _ if odd => data,
                _ => Vec::new(),
            };
            tar = tar.entry_with(kind, &name, &link, &data, |header| if odd { header.set_mode(mode) });
        }
        if let Ok(members) = read_all(&tar.end()) {
            assert_safe(&members);
        }
    }

    #[test]
    fn mutated_blocks_never_panic_nor_get_a_bad_name_through(
        changes in vec((0..3000_usize, any::<u8>()), 1..12),
        resum in any::<bool>(),
    ) {
        let tar = Tar::default().entry(b'5', "bin/", "", b"").file("bin/a").entry(b'L', "l", "", b"bin/long\0").file("b");
        let mut blocks = tar.0;
        for (at, byte) in changes {
            if let Some(place) = blocks.get_mut(at) {
                *place = byte;
            }
        }
        if resum {
            // Right sums, so that what lies behind them is reached.
            for start in (0..blocks.len()).step_by(BLOCK) {
                let block = &mut blocks[start..start + BLOCK];
                if block[257..262] == *b"ustar" {
                    let mut header = tar::Header::new_gnu();
                    header.as_mut_bytes().copy_from_slice(block);
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        if let Ok(members) = read_all(&Tar(blocks).end()) {
            assert_safe(&members);
        }
    }

    #[test]
    fn mutated_gzip_is_read_as_before_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = Tar::default().file("bin/a").file("bin/b").end();
        let mut bad = good.clone();
        *at.get_mut(&mut bad) = byte;
        if let Ok(members) = read_all(&bad) {
            // Only the gzip header's idle fields (time, system) may differ.
            prop_assert_eq!(members, ["bin/a", "bin/b"]);
        }
    }
}
