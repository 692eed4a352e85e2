use super::*;

#[test]
fn meminfo_is_read_in_bytes() {
    assert_eq!(meminfo_available("MemTotal: 5 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
    assert_eq!(meminfo_available("MemTotal: 5 kB\n"), None);
}

#[test]
fn a_limit_anywhere_above_counts() {
    let root = tempfile::tempdir().unwrap();
    let inner = root.path().join("outer/inner");
    std::fs::create_dir_all(&inner).unwrap();
    let put = |folder: &Path, name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    put(&inner, "memory.max", "max\n");
    put(&inner, "memory.current", "1000\n");
    assert_eq!(cgroup_room(root.path(), "outer/inner"), None);
    let outer = root.path().join("outer");
    put(&outer, "memory.max", "10000\n");
    put(&outer, "memory.current", "4000\n");
    put(&outer, "memory.stat", "anon 1\ninactive_file 1500\n");
    assert_eq!(cgroup_room(root.path(), "outer/inner"), Some(7500));
    assert_eq!(unified_path("4:memory:/a\n0::/outer/inner\n"), Some("outer/inner"));
}

#[test]
fn too_little_memory_is_refused_with_a_hint() {
    let mut findings = Vec::new();
    check_memory(2 * GIB, 3 * GIB, &mut findings);
    assert!(findings.is_empty());
    check_memory(2 * GIB, 2 * GIB, &mut findings);
    assert_eq!(findings[0].severity, Severity::Refuse);
    assert_eq!(findings[0].message, "the machine wants 2.0 GiB of memory, 2.0 GiB are available");
    assert!(findings[0].hint.is_some());
}

#[test]
fn a_folder_that_cannot_be_written_is_found_and_nothing_is_left_in_one_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut findings = Vec::new();
    assert!(check_folder("output", &folder.path().join("not/yet"), "hint", &mut findings));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(!check_folder("output", &file.join("dist"), "hint", &mut findings));
    assert!(findings[0].message.contains("is a file"), "{findings:?}");
    assert!(!check_folder("output", Path::new("/proc/amibake"), "hint", &mut findings));
    assert_eq!(findings.len(), 2);
}

#[test]
fn programs_are_found_beyond_an_ordinary_users_path() {
    assert!(program("sh").is_some());
    assert!(program("no-such-program-anywhere").is_none());
    // A folder is not a program.
    assert!(program("..").is_none());
}

#[test]
fn sizes_are_shown_for_people() {
    assert_eq!(show(512 << 20), "512 MiB");
    assert_eq!(show(GIB + GIB / 2), "1.5 GiB");
}

#[tokio::test]
async fn an_accelerator_that_does_not_work_is_found_out_by_trying() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let fake = |name: &str, body: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let broken = fake("broken", "echo 'failed to initialize kvm' >&2; exit 1");
    let working = fake("working", "read line; [ \"$line\" = quit ]");
    assert!(!works(&broken, Arch::Amd64, Accelerator::Kvm).await);
    assert!(works(&working, Arch::Amd64, Accelerator::Kvm).await);
    assert!(!works(&folder.path().join("none"), Arch::Amd64, Accelerator::Kvm).await);
}
