use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::error::Exit;
use crate::release::Arch;

const BOTH: [Platform; 2] = [Platform(Arch::Amd64), Platform(Arch::Arm64)];

fn release(tag: &str) -> serde_json::Value {
    let asset = |arch| json!({ "name": format!("buildkit-{tag}.linux-{arch}.tar.gz"), "digest": null });
    json!({
        "tag_name": tag, "draft": false, "prerelease": tag.contains('-'), "published_at": "2026-03-02T10:15:00Z",
        "assets": [asset("amd64"), asset("arm64")], "body": "notes",
    })
}

fn index(releases: &[serde_json::Value]) -> Index {
    Index::new(parse(serde_json::to_string(releases).unwrap().as_bytes(), "here").unwrap())
}

fn newest(index: &Index, channel: Channel) -> Option<String> {
    index.newest(channel, &BOTH).map(|release| release.version.to_string())
}

#[test]
fn the_newest_is_the_highest_stable_version_that_is_complete() {
    let mut list = vec![
        release("dockerfile/1.20.0"),
        release("v0.13.2"),
        release("v0.31.2"),
        release("v0.9.3"),
        release("v0.33.0-rc1"),
        release("v0.31.3-labs"),
        release("buildx-v0.99.0"),
    ];
    assert_eq!(newest(&index(&list), Channel::Stable).unwrap(), "v0.31.2");
    assert_eq!(newest(&index(&list), Channel::Rc).unwrap(), "v0.33.0-rc1");
    // A draft, one that GitHub calls a pre-release, and one whose files are not all there yet.
    let mut draft = release("v0.40.0");
    draft["draft"] = json!(true);
    let mut early = release("v0.41.0");
    early["prerelease"] = json!(true);
    let mut partial = release("v0.42.0");
    partial["assets"].as_array_mut().unwrap().pop();
    list.extend([draft, early, partial]);
    let index = index(&list);
    assert_eq!(newest(&index, Channel::Stable).unwrap(), "v0.31.2");
    assert_eq!(index.newest(Channel::Stable, &BOTH[..1]).unwrap().version.to_string(), "v0.42.0");
    assert_eq!(index.releases(Channel::Stable).count(), 4);
    let over = |from: &str| {
        let over = index.passed_over(Channel::Stable, &BOTH, from.parse().unwrap());
        over.map(|release| (release.version.to_string(), release.lacking(&BOTH))).collect::<Vec<_>>()
    };
    assert_eq!(over("v0.31.2"), [("v0.42.0".to_owned(), vec![BOTH[1]])]);
    assert_eq!(over("v0.42.0"), []);
}

#[test]
fn a_release_without_a_list_of_files_is_listed_and_not_the_newest() {
    let mut bare = release("v0.41.0");
    bare.as_object_mut().unwrap().remove("assets");
    let index = index(&[bare, release("v0.40.0")]);
    assert_eq!(newest(&index, Channel::Stable).unwrap(), "v0.40.0");
    assert_eq!(index.get("v0.41.0".parse().unwrap()).unwrap().platforms(), []);
}

#[test]
fn a_digest_that_github_states_is_read_and_none_is_told_from_unknown() {
    let mut one = release("v0.31.2");
    let digest = Sha256::of(b"tarball");
    one["assets"][0]["digest"] = json!(format!("sha256:{digest}"));
    let index = index(&[one]);
    let listed = index.get("v0.31.2".parse().unwrap()).unwrap();
    assert_eq!(listed.stated("buildkit-v0.31.2.linux-amd64.tar.gz"), Stated::Digest(digest));
    assert_eq!(listed.stated("buildkit-v0.31.2.linux-arm64.tar.gz"), Stated::Nothing);
    assert_eq!(listed.stated("buildkit-v0.31.2.linux-riscv64.tar.gz"), Stated::Unknown);
}

#[test]
fn only_the_link_to_the_next_page_of_the_same_server_is_followed() {
    let here = Url::parse("https://api.example/repositories/1/releases?page=1").unwrap();
    let next =
        |link: &str| next_page(&HeaderMap::from_iter([(header::LINK, link.parse().unwrap())]), &here).map(String::from);
    let there = "https://api.example/repositories/1/releases?page=2";
    assert_eq!(next(&format!("<{there}>; rel=\"next\", <https://api.example/x?page=9>; rel=\"last\"")).unwrap(), there);
    assert_eq!(next("<https://api.example/x?page=1>; rel=\"prev\""), None);
    assert_eq!(next("<https://elsewhere.example/x?page=2>; rel=\"next\""), None);
}

#[test]
fn tokens_are_ghs_and_those_of_another_server_are_not_for_github() {
    let token = |pairs: &'static [(&str, &str)]| {
        let look = |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Token::from_environment(look).map(|token| token.map(|token| token.0))
    };
    assert_eq!(token(&[("GITHUB_TOKEN", "a\n"), ("GH_TOKEN", "b")]).unwrap().unwrap(), "Bearer b");
    assert_eq!(token(&[("GITHUB_TOKEN", " a\n"), ("GH_TOKEN", "")]).unwrap().unwrap(), "Bearer a");
    let enterprise = ("GITHUB_SERVER_URL", "https://git.example");
    assert_eq!(token(&[("GITHUB_TOKEN", "a"), ("GITHUB_SERVER_URL", "https://git.example")]).unwrap(), None);
    assert_eq!(enterprise.0, "GITHUB_SERVER_URL");
    let error = token(&[("GH_TOKEN", "ge\u{7}heim")]).unwrap_err();
    assert!(error.exit() == Exit::Usage && !error.to_string().contains("heim"));
    assert!(!format!("{:?}", token(&[("GH_TOKEN", "geheim")]).unwrap()).contains("geheim"));
}

/// An API that answers requests one after the other by `answer`, given their number and head.
fn serve(answer: impl Fn(usize, &str) -> String + Send + 'static) -> (Url, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/releases", listener.local_addr().unwrap())).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).unwrap() > 2 {}
            log.lock().unwrap().push(head.to_ascii_lowercase());
            stream.write_all(format!("HTTP/1.1 {}", answer(number, &head)).as_bytes()).unwrap();
        }
    });
    (url, asked)
}

fn ok(headers: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!("200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn read(url: &Url, cache: &Path) -> Result<Index> {
    let token = Some(Token(HeaderValue::from_static("Bearer geheim")));
    let place = Place { mirror: None, list: Some(url), cache_dir: cache, token };
    Index::read(&place, &Reporter::silent()).await
}

#[tokio::test]
async fn all_pages_are_read_once_and_an_unchanged_list_costs_one_request() {
    let (url, asked) = serve(|_, head| {
        if head.contains("if-none-match: \"one\"") {
            return "304 Not Modified\r\nConnection: close\r\n\r\n".to_owned();
        }
        if head.contains("page=2") {
            // It was on the first page, too, before a newer one moved it.
            ok("", &json!([release("v0.31.2"), release("v0.13.2")]))
        } else {
            let link = "Link: </releases?per_page=100&page=2>; rel=\"next\"\r\n";
            ok(&format!("ETag: \"one\"\r\n{link}"), &json!([release("v0.32.2"), release("v0.31.2")]))
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let first = read(&url, cache.path()).await.unwrap();
    assert_eq!(first.releases(Channel::Stable).count(), 3);
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert_eq!(read(&url, cache.path()).await.unwrap(), first);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].starts_with("get /releases?per_page=100 ") && asked[0].contains("application/vnd.github+json"));
    // It is for GitHub alone.
    assert!(asked.iter().all(|head| !head.contains("authorization")), "{asked:?}");
}

#[tokio::test]
async fn a_list_that_was_not_read_whole_is_not_kept() {
    let (url, asked) = serve(|number, _| {
        if number % 2 == 0 {
            ok("ETag: \"one\"\r\nLink: </releases?page=2>; rel=\"next\"\r\n", &json!([release("v0.32.2")]))
        } else {
            "404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
        }
    });
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        assert_eq!(read(&url, cache.path()).await.unwrap_err().exit(), Exit::Host);
    }
    assert!(asked.lock().unwrap().iter().all(|head| !head.contains("if-none-match")));
}

#[tokio::test]
async fn a_used_up_quota_is_told_with_its_end_and_what_works_without() {
    let (url, _) = serve(|number, _| {
        let headers = match number {
            0 => "x-ratelimit-limit: 60\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1795622460\r\n",
            1 => "retry-after: 60\r\n",
            _ => "",
        };
        let status = if number == 3 { "401 Unauthorized" } else { "403 Forbidden" };
        format!("{status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let cache = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        let error = read(&url, cache.path()).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Host);
        told.push(format!("{error}. {}", error.hint().unwrap()).replace(url.as_str(), "<url>"));
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test]
async fn what_is_no_list_is_refused() {
    for body in [json!({ "message": "hello" }), json!("<html>"), json!([{ "name": "v0.1.0" }])] {
        let (url, _) = serve(move |_, _| ok("", &body));
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(read(&url, cache.path()).await.unwrap_err().exit(), Exit::Host);
    }
}

#[tokio::test]
async fn a_mirror_has_a_list_or_is_one() {
    let mirror = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let folder = Mirror::Dir(mirror.path().to_path_buf());
    let read = async || {
        let place = Place { mirror: Some(&folder), list: None, cache_dir: cache.path(), token: None };
        Index::read(&place, &Reporter::silent()).await
    };
    std::fs::create_dir_all(mirror.path().join("v0.31.2")).unwrap();
    std::fs::create_dir_all(mirror.path().join("other")).unwrap();
    for arch in ["amd64", "arm64"] {
        std::fs::write(mirror.path().join(format!("v0.31.2/buildkit-v0.31.2.linux-{arch}.tar.gz")), "").unwrap();
    }
    assert_eq!(newest(&read().await.unwrap(), Channel::Stable).unwrap(), "v0.31.2");
    std::fs::write(mirror.path().join("releases.json"), json!([release("v0.32.2")]).to_string()).unwrap();
    assert_eq!(newest(&read().await.unwrap(), Channel::Stable).unwrap(), "v0.32.2");
    std::fs::write(mirror.path().join("releases.json"), "[").unwrap();
    assert_eq!(read().await.unwrap_err().exit(), Exit::Host);
}
