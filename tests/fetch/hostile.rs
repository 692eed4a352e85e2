//! `release::Fetch` against servers that send wrong, too few, too many or no bytes, and against a damaged cache. Every
//! test ends with the right artifact or a refusal that leaves nothing a later run could take for one.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use amibake::bake::{Event, Reporter};
use amibake::error::render;
use amibake::release::{Artifact, Extract, Fetch, Lock, Mirror, Sha256};
use amibake::{Error, Exit};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::release_server::*;

/// A cache and what to fetch into it.
struct Setup {
    cache: TempDir,
    body: Vec<u8>,
    lock: Lock,
}

impl Setup {
    fn new() -> Self {
        Self::of(release())
    }

    fn of(body: Vec<u8>) -> Self {
        let lock = lock(&body);
        Self { cache: TempDir::new().unwrap(), body, lock }
    }

    async fn fetch_from(&self, mirror: &Mirror, reporter: &Reporter) -> Result<Artifact, Error> {
        let fetch = Fetch { mirror: Some(mirror), limits: limits(), ..Fetch::new(&self.lock, ARCH, self.cache.path()) };
        fetch.run(reporter, &CancellationToken::new()).await
    }

    async fn fetch(&self, server: &Server) -> Result<Artifact, Error> {
        self.fetch_from(&server.mirror(), &Reporter::silent()).await
    }

    /// Fetches, and sees to it that the artifact is the one that is pinned.
    async fn succeeds(&self, server: &Server) {
        let artifact = self.fetch(server).await.unwrap_or_else(|error| panic!("{}", render(&error)));
        assert_eq!(fs::read(artifact.path()).unwrap(), self.body);
        assert_eq!(artifact.members(), ["bin/buildctl", "bin/buildkitd"]);
        let digest = Sha256::of(&self.body);
        assert_eq!(files(self.cache.path()), [format!("{digest}.json"), format!("{digest}.tar.gz")]);
    }

    /// Fetches, and sees to it that it fails so; the message.
    async fn fails(&self, server: &Server, exit: Exit) -> String {
        let error = self.fetch(server).await.expect_err("it must fail");
        assert_eq!(error.exit(), exit, "{}", render(&error));
        let left: Vec<_> = files(self.cache.path()).into_iter().filter(|name| !name.ends_with(".partial")).collect();
        assert_eq!(left, [""; 0], "something usable is left");
        render(&error)
    }
}

#[tokio::test]
async fn a_good_server_is_asked_once_and_the_cache_afterwards() {
    let setup = Setup::new();
    let server = Server::start(vec![], good(&setup.body)).await;
    let (recorder, reporter) = Recorder::new();
    setup.fetch_from(&server.mirror(), &reporter).await.unwrap();
    let all = setup.body.len() as u64;
    let events = recorder.events();
    assert!(matches!(&events[0], Event::PhaseStarted { name } if name == "fetch BuildKit v0.31.2 (amd64)"));
    assert!(events.contains(&Event::Progress { done: all, total: Some(all) }));
    assert!(matches!(events.last(), Some(Event::PhaseEnded { .. })));
    setup.succeeds(&server).await;
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].target, format!("/{FILE}"));
}

#[tokio::test]
async fn wrong_bytes_are_refused_at_once_and_nothing_of_them_is_kept() {
    let setup = Setup::new();
    let mut wrong = setup.body.clone();
    wrong[1000] ^= 1;
    let server = Server::start(vec![], good(&wrong)).await;
    let message = setup.fails(&server, Exit::Refused).await;
    assert!(message.contains(&Sha256::of(&wrong).to_string()) && message.contains("expected"), "{message}");
    assert_eq!(files(setup.cache.path()), [""; 0]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_web_page_instead_of_a_tarball_is_recognised() {
    let setup = Setup::new();
    let page = b"<html>please log in</html>".to_vec();
    let server = Server::start(vec![], move |_| vec![begun(&page, page.len(), &[("content-type", "text/html")])]).await;
    assert!(setup.fails(&server, Exit::Refused).await.contains("web page"));
}

#[tokio::test]
async fn a_reset_midway_resumes_where_it_broke_off() {
    let setup = Setup::new();
    let script = vec![vec![begun(&setup.body, 400_000, &[("etag", "\"1\"")]), Act::Reset]];
    let server = Server::start(script, good(&setup.body)).await;
    setup.succeeds(&server).await;
    let again = &server.seen()[1];
    // A reset may swallow what was on its way, so not all that was sent need have come.
    assert!((1..=400_000).contains(&again.from()), "{again:?}");
    assert_eq!(again.header("if-range"), Some("\"1\""));
}

#[tokio::test]
async fn a_server_that_breaks_off_again_and_again_is_overcome_as_long_as_it_makes_progress() {
    let setup = Setup::new();
    let body = setup.body.clone();
    let server = Server::start(vec![], move |request| {
        let from = request.from();
        let upto = body.len().min(from + 100_000);
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let length = (body.len() - from).to_string();
        let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
        let mut headers = vec![("content-length", length.as_str())];
        if from > 0 {
            headers.push(("content-range", &range));
        }
        vec![Act::Send([head(status, &headers), body[from..upto].to_vec()].concat())]
    })
    .await;
    setup.succeeds(&server).await;
    assert!(server.seen().len() > limits().attempts as usize);
}

#[tokio::test]
async fn a_truncated_body_is_given_up_and_the_next_run_goes_on_from_it() {
    let setup = Setup::new();
    let body = setup.body.clone();
    // Always the same first bytes, whatever is asked for, and then the end.
    let server = Server::start(vec![], move |request| match request.from() {
        0 => vec![begun(&body, 50_000, &[])],
        _ => status("503 Service Unavailable", &[]),
    })
    .await;
    let message = setup.fails(&server, Exit::Host).await;
    assert!(message.contains("4 tries"), "{message}");
    assert_eq!(files(setup.cache.path()), [format!("{}.unread.partial", Sha256::of(&setup.body))]);
    let server = Server::start(vec![], good(&setup.body)).await;
    setup.succeeds(&server).await;
    assert_eq!(server.seen()[0].from(), 50_000);
}

#[tokio::test]
async fn a_stalled_connection_is_replaced() {
    let setup = Setup::new();
    let script = vec![vec![Act::Stall], vec![begun(&setup.body, 10_000, &[]), Act::Stall]];
    let server = Server::start(script, good(&setup.body)).await;
    let limits = crate::release_server::limits();
    let fetch = Fetch {
        mirror: Some(&server.mirror()),
        // The wait for a response includes the time to connect.
        limits: amibake::download::Limits { connect: Duration::from_millis(300), ..limits },
        ..Fetch::new(&setup.lock, ARCH, setup.cache.path())
    };
    fetch.run(&Reporter::silent(), &CancellationToken::new()).await.unwrap();
    let from: Vec<_> = server.seen().iter().map(Seen::from).collect();
    assert_eq!(from, [0, 0, 10_000]);
}

#[tokio::test]
async fn a_slow_drip_counts_as_a_stall() {
    let setup = Setup::new();
    let body = setup.body.clone();
    let drip = move |_: &Seen| vec![begun(&body, 0, &[]), Act::Drip(body.clone(), Duration::from_millis(5))];
    let server = Server::start(vec![], drip).await;
    let started = Instant::now();
    let message = setup.fails(&server, Exit::Host).await;
    assert!(message.contains("stalled"), "{message}");
    assert!(started.elapsed() < limits().overall);
}

#[tokio::test]
async fn the_whole_download_has_a_time_limit() {
    let setup = Setup::new();
    let server = Server::start(vec![], |_| vec![Act::Stall]).await;
    let limits = amibake::download::Limits { overall: Duration::from_millis(200), ..limits() };
    let fetch = Fetch { mirror: Some(&server.mirror()), limits, ..Fetch::new(&setup.lock, ARCH, setup.cache.path()) };
    let error = fetch.run(&Reporter::silent(), &CancellationToken::new()).await.unwrap_err();
    assert!(error.exit() == Exit::Host && error.to_string().contains("200ms"), "{error}");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let setup = Setup::new();
    let script = vec![vec![begun(&setup.body, 400_000, &[("etag", "\"1\"")])]];
    let body = setup.body.clone();
    let server = Server::start(script, move |_| vec![begun(&body, body.len(), &[])]).await;
    setup.succeeds(&server).await;
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_file_that_changes_midway_is_read_from_the_start() {
    let setup = Setup::new();
    let old = noise(900_000);
    let script = vec![vec![begun(&old, 500_000, &[("etag", "\"old\"")])]];
    let body = setup.body.clone();
    let server = Server::start(script, move |request| match request.header("if-range") {
        // RFC 9110: another tag than the file's means all of the file.
        Some("\"old\"") => vec![begun(&body, body.len(), &[("etag", "\"new\"")])],
        _ => status("400 Bad Request", &[]),
    })
    .await;
    setup.succeeds(&server).await;
}

#[tokio::test]
async fn a_wrong_content_range_is_not_appended() {
    for range in ["bytes 0-99/100", "bytes 400001-1000000/1000001", "nonsense", ""] {
        let setup = Setup::new();
        let broken = head("206 Partial Content", &[("content-range", range), ("content-length", "5")]);
        let script =
            vec![vec![begun(&setup.body, 400_000, &[])], vec![Act::Send([broken, b"wrong".to_vec()].concat())]];
        let server = Server::start(script, good(&setup.body)).await;
        setup.succeeds(&server).await;
        let from: Vec<_> = server.seen().iter().map(Seen::from).collect();
        assert_eq!(from, [0, 400_000, 0], "{range}");
    }
}

#[tokio::test]
async fn pieces_that_do_not_fit_together_are_fetched_again_as_one() {
    let setup = Setup::new();
    let other = noise(900_000);
    // No tag and no date: the server cannot tell that the file is another now.
    let script = vec![vec![begun(&other, 400_000, &[])]];
    let server = Server::start(script, good(&setup.body)).await;
    let (recorder, reporter) = Recorder::new();
    setup.fetch_from(&server.mirror(), &reporter).await.unwrap();
    assert!(recorder.told("do not fit together"));
    let from: Vec<_> = server.seen().iter().map(Seen::from).collect();
    assert_eq!(from, [0, 400_000, 0]);
}

#[tokio::test]
async fn a_length_that_promises_too_much_is_found_out() {
    let setup = Setup::new();
    let long = (setup.body.len() + 10).to_string();
    let first = [head("200 OK", &[("content-length", &long)]), setup.body.clone()].concat();
    let server = Server::start(vec![vec![Act::Send(first)]], good(&setup.body)).await;
    setup.succeeds(&server).await;
}

#[tokio::test]
async fn a_length_that_promises_too_little_is_refused() {
    let setup = Setup::new();
    let short = (setup.body.len() - 10).to_string();
    let body = setup.body.clone();
    let server = Server::start(vec![], move |_| {
        vec![Act::Send([head("200 OK", &[("content-length", &short)]), body.clone()].concat())]
    })
    .await;
    setup.fails(&server, Exit::Refused).await;
}

#[tokio::test]
async fn a_body_without_end_stops_at_the_size_limit() {
    let setup = Setup::new();
    let server = Server::start(vec![], |_| vec![Act::Send(head("200 OK", &[])), Act::Send(vec![0; 5 << 20])]).await;
    assert!(setup.fails(&server, Exit::Host).await.contains("more than"));
    let server =
        Server::start(vec![], |_| vec![Act::Send(head("200 OK", &[("content-length", "99999999999")])), Act::Stall])
            .await;
    assert!(setup.fails(&server, Exit::Host).await.contains("99999999999"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_followed_and_a_circle_of_them_is_not() {
    let setup = Setup::new();
    let script = vec![status("302 Found", &[("location", "/elsewhere?signature=geheim")])];
    let server = Server::start(script, good(&setup.body)).await;
    setup.succeeds(&server).await;
    assert_eq!(server.seen()[1].target, "/elsewhere?signature=geheim");

    let setup = Setup::new();
    let server = Server::start(vec![], |_| status("302 Found", &[("location", "/round?signature=geheim")])).await;
    let message = setup.fails(&server, Exit::Host).await;
    assert!(message.contains("redirects more than 10 times") && !message.contains("geheim"), "{message}");
    assert_eq!(server.seen().len(), 11);
}

#[tokio::test]
async fn a_redirect_to_another_protocol_or_to_nowhere_is_an_error() {
    for location in ["file:///etc/passwd", "ftp://h.example/x", "http://["] {
        let setup = Setup::new();
        let server = Server::start(vec![status("302 Found", &[("location", location)])], good(&setup.body)).await;
        assert!(setup.fails(&server, Exit::Host).await.contains("redirects to"), "{location}");
    }
}

#[tokio::test]
async fn a_busy_server_is_left_in_peace_as_long_as_it_asks() {
    let setup = Setup::new();
    let script = vec![
        status("429 Too Many Requests", &[("retry-after", "3600")]),
        status("503 Service Unavailable", &[]),
        status("408 Request Timeout", &[]),
    ];
    let server = Server::start(script, good(&setup.body)).await;
    let started = Instant::now();
    setup.succeeds(&server).await;
    // An hour is cut to the limit, and the limit is kept.
    assert!(started.elapsed() >= limits().longest_retry_after);
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_server_that_stays_broken_is_given_up() {
    let setup = Setup::new();
    let server = Server::start(vec![], |_| status("503 Service Unavailable", &[])).await;
    let message = setup.fails(&server, Exit::Host).await;
    assert!(message.contains("503") && message.contains("4 tries"), "{message}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn what_does_not_exist_is_asked_for_once_and_the_hint_helps() {
    for (line, words) in
        [("404 Not Found", "release mirror"), ("403 Forbidden", "credentials"), ("418 I'm a teapot", "418")]
    {
        let setup = Setup::new();
        let server = Server::start(vec![], move |_| status(line, &[])).await;
        assert!(setup.fails(&server, Exit::Host).await.contains(words));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_password_in_the_mirror_goes_to_the_server_and_nowhere_else() {
    let setup = Setup::new();
    let server = Server::start(vec![], |_| status("404 Not Found", &[])).await;
    let mirror = format!("http://me:geheim@{}/base?token=geheim", server.address).parse().unwrap();
    let (recorder, reporter) = Recorder::new();
    let error = setup.fetch_from(&mirror, &reporter).await.unwrap_err();
    assert!(!render(&error).contains("geheim") && !format!("{error:?}{:?}", recorder.events()).contains("geheim"));
    assert_eq!(server.seen()[0].header("authorization"), Some("Basic bWU6Z2VoZWlt"));
    assert_eq!(server.seen()[0].target, format!("/base/{FILE}?token=geheim"));
}

#[tokio::test]
async fn nobody_there_is_an_error_soon() {
    let setup = Setup::new();
    let server = Server::start(vec![], |_| vec![]).await;
    // Bound and closed again: a port where nothing listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    drop(server);
    let error = setup.fetch_from(&format!("http://{free}").parse().unwrap(), &Reporter::silent()).await.unwrap_err();
    assert!(error.exit() == Exit::Host && render(&error).contains("cannot connect"), "{}", render(&error));
}

#[tokio::test]
async fn two_fetches_at_once_make_one_download() {
    let setup = Setup::new();
    let server = Server::start(vec![], good(&setup.body)).await;
    let (one, two, three) = tokio::join!(setup.fetch(&server), setup.fetch(&server), setup.fetch(&server));
    for artifact in [one.unwrap(), two.unwrap(), three.unwrap()] {
        assert_eq!(fs::read(artifact.path()).unwrap(), setup.body);
    }
    assert_eq!(server.seen().len(), 1);
    setup.succeeds(&server).await;
}

#[tokio::test]
async fn a_damaged_cache_is_noticed_and_replaced() {
    let setup = Setup::new();
    let server = Server::start(vec![], good(&setup.body)).await;
    let path = setup.fetch(&server).await.unwrap().path().to_path_buf();
    for damage in [&setup.body[..1000], b"", &[&setup.body[..], b"x"].concat()] {
        fs::write(&path, damage).unwrap();
        let (recorder, reporter) = Recorder::new();
        setup.fetch_from(&server.mirror(), &reporter).await.unwrap();
        assert!(recorder.told("damaged"));
        setup.succeeds(&server).await;
    }
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_an_error_and_one_that_need_not_be_is_none() {
    let setup = Setup::new();
    let server = Server::start(vec![], good(&setup.body)).await;
    let file = setup.cache.path().join("file");
    fs::write(&file, "").unwrap();
    // /proc takes no folders, not even from root.
    for cache in [file.as_path(), Path::new("/proc/amibake")] {
        let fetch = Fetch { mirror: Some(&server.mirror()), limits: limits(), ..Fetch::new(&setup.lock, ARCH, cache) };
        let error = fetch.run(&Reporter::silent(), &CancellationToken::new()).await.unwrap_err();
        let message = render(&error);
        assert!(error.exit() == Exit::Host && message.contains(cache.to_str().unwrap()), "{message}");
    }
    fs::remove_file(&file).unwrap();
    let path = setup.fetch(&server).await.unwrap().path().to_path_buf();
    let folder = path.parent().unwrap();
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    setup.succeeds(&server).await;
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn cancelling_leaves_a_part_that_is_no_artifact_and_is_resumed() {
    let setup = Setup::new();
    let script = vec![vec![begun(&setup.body, 300_000, &[]), Act::Stall]];
    let server = Server::start(script, good(&setup.body)).await;
    let cancel = CancellationToken::new();
    let to = setup.cache.path().join("out/buildctl");
    let mirror = server.mirror();
    let fetch = Fetch {
        mirror: Some(&mirror),
        limits: amibake::download::Limits { idle: Duration::from_secs(60), ..limits() },
        extract: Some(Extract { member: "bin/buildctl", to: &to }),
        ..Fetch::new(&setup.lock, ARCH, setup.cache.path())
    };
    let partial = setup.cache.path().join(format!("releases/sha256/{}.unread.partial", Sha256::of(&setup.body)));
    let stop = async {
        while fs::metadata(&partial).map_or(0, |about| about.len()) < 300_000 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (reporter, stopped) = (Reporter::silent(), cancel.clone());
    let (ended, ()) = tokio::join!(fetch.run(&reporter, &stopped), stop);
    assert_eq!(ended.unwrap_err().exit(), Exit::Interrupted);
    assert!(!to.exists());
    // The thread that writes gives the lock back when it is done.
    setup.fetch(&server).await.unwrap();
    assert_eq!(server.seen()[1].from(), 300_000);
}

#[tokio::test]
async fn a_member_is_taken_out_in_the_same_pass_and_only_if_all_is_well() {
    let setup = Setup::new();
    let mut wrong = setup.body.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let server = Server::start(vec![], good(&wrong)).await;
    let out = TempDir::new().unwrap();
    let to = out.path().join("deep/buildctl");
    let extract = Some(Extract { member: "bin/buildctl", to: &to });
    let mirror = server.mirror();
    let base = Fetch::new(&setup.lock, ARCH, setup.cache.path());
    let fetch = Fetch { mirror: Some(&mirror), limits: limits(), extract, ..base.clone() };
    let (reporter, cancel) = (Reporter::silent(), CancellationToken::new());
    assert_eq!(fetch.run(&reporter, &cancel).await.unwrap_err().exit(), Exit::Refused);
    assert_eq!(files(out.path()), [""; 0]);

    let server = Server::start(vec![vec![begun(&setup.body, 500_000, &[]), Act::Reset]], good(&setup.body)).await;
    let mirror = server.mirror();
    // Once while it downloads, with a break, and once from the cache.
    for _ in 0..2 {
        let fetch = Fetch { mirror: Some(&mirror), limits: limits(), extract, ..base.clone() };
        fetch.run(&reporter, &cancel).await.unwrap();
        assert_eq!(fs::read(&to).unwrap(), noise(300_000));
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&to).unwrap().permissions()) & 0o7777, 0o755);
        assert_eq!(files(out.path()), ["buildctl"]);
        fs::remove_file(&to).unwrap();
    }
    let missing = Fetch { extract: Some(Extract { member: "bin/nothing", to: &to }), limits: limits(), ..base };
    assert!(missing.run(&reporter, &cancel).await.unwrap_err().to_string().contains("`bin/nothing`"));
    assert_eq!(files(out.path()), [""; 0]);
}

#[tokio::test]
async fn the_right_digest_does_not_save_a_hostile_tarball() {
    for (member, reason) in
        [("../evil", "leaves the tree"), ("/etc/passwd", "absolute"), ("bin/amibake-stand-in", "stand-in")]
    {
        let setup = Setup::of(tarball(&[("bin/buildctl", b"x"), (member, b"x")]));
        let server = Server::start(vec![], good(&setup.body)).await;
        let message = setup.fails(&server, Exit::Refused).await;
        assert!(message.contains(member) && message.contains(reason), "{message}");
        assert_eq!(files(setup.cache.path()), [""; 0]);
    }
    let whole = release();
    let setup = Setup::of(whole[..whole.len() - 9].to_vec());
    let server = Server::start(vec![], good(&setup.body)).await;
    assert!(setup.fails(&server, Exit::Refused).await.contains("truncated"));
}

#[tokio::test]
async fn a_tarball_without_what_the_recipe_needs_is_refused() {
    let setup = Setup::new();
    let server = Server::start(vec![], good(&setup.body)).await;
    let mirror = server.mirror();
    let members = ["bin/buildctl".to_owned(), "bin/buildkit-runc".to_owned()];
    let base = Fetch::new(&setup.lock, ARCH, setup.cache.path());
    let fetch = Fetch { members: &members, mirror: Some(&mirror), limits: limits(), ..base };
    let error = fetch.run(&Reporter::silent(), &CancellationToken::new()).await.unwrap_err();
    assert!(error.exit() == Exit::Refused && error.to_string().contains("`bin/buildkit-runc`"), "{error}");
    assert_eq!(files(setup.cache.path()), [""; 0]);
}

#[tokio::test]
async fn a_lock_without_the_platform_says_what_it_has() {
    let setup = Setup::new();
    let fetch = Fetch::new(&setup.lock, amibake::release::Arch::Arm64, setup.cache.path());
    let error = fetch.run(&Reporter::silent(), &CancellationToken::new()).await.unwrap_err();
    assert!(error.exit() == Exit::Usage && render(&error).contains("linux/amd64"), "{}", render(&error));
}

#[tokio::test]
async fn a_folder_can_be_the_mirror() {
    let setup = Setup::new();
    let folder = TempDir::new().unwrap();
    let mirror = Mirror::Dir(folder.path().to_path_buf());
    let place = folder.path().join(FILE);
    let absent = setup.fetch_from(&mirror, &Reporter::silent()).await.unwrap_err();
    assert!(absent.exit() == Exit::Host && render(&absent).contains(FILE), "{}", render(&absent));
    fs::create_dir_all(&place).unwrap();
    assert_eq!(setup.fetch_from(&mirror, &Reporter::silent()).await.unwrap_err().exit(), Exit::Host);
    fs::remove_dir(&place).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(setup.fetch_from(&mirror, &Reporter::silent()).await.unwrap_err().exit(), Exit::Host);
    fs::remove_file(&place).unwrap();
    fs::write(&place, &setup.body[1..]).unwrap();
    assert_eq!(setup.fetch_from(&mirror, &Reporter::silent()).await.unwrap_err().exit(), Exit::Refused);
    fs::write(&place, &setup.body).unwrap();
    let artifact = setup.fetch_from(&mirror, &Reporter::silent()).await.unwrap();
    assert_eq!(fs::read(artifact.path()).unwrap(), setup.body);
}
