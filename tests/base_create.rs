//! Makes a real base with mmdebstrap, looks at what it left, and boots it with a plain QEMU. Takes minutes and needs the
//! distribution's archive, so `make test` runs it and `cargo test` alone does not (the base is made in a cache of its own,
//! or in `AMIBAKE_TEST_CACHE`, where it stays).

#[cfg(test)]
mod real {
    use std::path::{Path, PathBuf};
    use std::process::Stdio;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use amibake::bake::{Event, Reporter, Sink};
    use amibake::provider::local::{Settings, base, host};
    use amibake::release::Arch;
    use tokio::io::AsyncReadExt as _;
    use tokio_util::sync::CancellationToken;

    struct Print;

    impl Sink for Print {
        fn event(&self, _: &str, event: &Event) {
            match event {
                Event::Output { bytes } => print!("{}", String::from_utf8_lossy(bytes)),
                other => println!("{other:?}"),
            }
        }
    }

    /// Interrupts as soon as mmdebstrap has begun to unpack.
    struct Interrupt(CancellationToken);

    impl Sink for Interrupt {
        fn event(&self, _: &str, event: &Event) {
            if let Event::Output { bytes } = event
                && String::from_utf8_lossy(bytes).contains("installing essential packages")
            {
                self.0.cancel();
            }
        }
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    #[ignore = "makes a base disk, which takes minutes: run by `make test`"]
    async fn a_base_is_made_kept_and_boots() {
        let own = tempfile::tempdir().unwrap();
        let cache = std::env::var_os("AMIBAKE_TEST_CACHE").map_or(own.path().to_owned(), PathBuf::from);
        let bases = cache.join("bases");

        let cancel = CancellationToken::new();
        let reporter = Reporter::new("base", vec![Arc::new(Interrupt(cancel.clone()))]);
        let scratch = own.path().join("interrupted");
        let error = base::create(&scratch, Arch::Amd64, true, &reporter, &cancel).await.unwrap_err();
        assert_eq!(error.exit().code(), 130);
        assert_eq!(files(&scratch.join("bases")), [".create.lock"]);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(".create-"), "{mounts}");

        let reporter = Reporter::new("base", vec![Arc::new(Print)]);
        let cancel = CancellationToken::new();
        let started = Instant::now();
        let path = base::create(&cache, Arch::Amd64, false, &reporter, &cancel).await.unwrap();
        println!("create: {:?}", started.elapsed());
        assert!(files(&bases).iter().all(|name| !name.starts_with(".create-")));

        let entries = base::list(&cache).unwrap();
        let entry = entries.iter().find(|entry| entry.path == path).unwrap();
        assert!(entry.packages.iter().any(|package| package.starts_with("systemd-sysv ")), "{entry:?}");
        let recipe = toml::from_str("name = \"test\"").unwrap();
        let settings = Settings {
            cache_dir: cache.clone(),
            dist_dir: cache.join("dist"),
            runs_dir: cache.join("runs"),
            base: None,
            reporter: Reporter::silent(),
        };
        let started = Instant::now();
        let found = base::resolve(&settings, &recipe, Path::new("/"), Arch::Amd64).await.unwrap();
        println!("resolve: {:?}", started.elapsed());
        assert_eq!((found.identity, Path::new(&found.location)), (format!("sha256:{}", entry.sha256), path.as_path()));

        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        base::create(&cache, Arch::Amd64, false, &reporter, &cancel).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
        boots(&path).await;
    }

    /// With nothing but the disk, as the BIOS finds it, to the prompt on the serial line.
    async fn boots(disk: &Path) {
        let started = Instant::now();
        let mut machine = tokio::process::Command::new(host::emulator(Arch::Amd64).unwrap())
            .args(["-m", "512", "-display", "none", "-nodefaults", "-snapshot", "-serial", "stdio", "-drive"])
            .arg(format!("file={}", disk.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut console = machine.stdout.take().unwrap();
        let mut seen = Vec::new();
        let prompt = async {
            while !String::from_utf8_lossy(&seen).contains("login:") {
                assert_ne!(console.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(300), prompt).await.is_ok();
        machine.kill().await.unwrap();
        assert!(in_time, "no prompt; the console: {}", String::from_utf8_lossy(&seen));
        println!("boot to prompt: {:?}", started.elapsed());
    }
}
