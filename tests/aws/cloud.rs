//! The test cloud as a test sees it: started for one test and ended with it, asked and told things by its control paths.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What `scripts/test` sets up; a test that cannot run says so by failing.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// A cloud with one project that bakes in it.
pub struct Cloud {
    server: Child,
    mirror: Child,
    pub endpoint: String,
    pub mirror_url: String,
    pub folder: tempfile::TempDir,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.mirror] {
            // Closing its stdin ends the cloud with everything that runs in it.
            drop(child.stdin.take());
            let due = Instant::now() + Duration::from_secs(5);
            while child.try_wait().unwrap().is_none() && Instant::now() < due {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The recipe most tests bake: every kind of step that needs no systemd.
pub const RECIPE: &str = r#"
name = "tiny"
[base.aws]
ssm_parameter = { amd64 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", arm64 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64" }
[machine.aws]
instance_profile = "amibake"
[[volume]]
name = "cache"
mount = "/var/lib/cache"
size = "20GiB"
[[step]]
kind = "buildkit"
members = ["bin/buildctl"]
[[step]]
kind = "run"
name = "say who I am"
script = "id -u >/etc/baked-by\necho \"$AMIBAKE_BUILDKIT_VERSION\" >>/etc/baked-by"
[[check]]
name = "buildctl is there"
script = "test -x /usr/local/bin/buildctl"
"#;

impl Cloud {
    /// A cloud whose delays are `scale` times the real ones, and a project with [`RECIPE`].
    pub fn start(scale: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("recipes")).unwrap();
        std::fs::write(folder.path().join("recipes/tiny.toml"), RECIPE).unwrap();
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let mut server = Command::new(setting("AMIBAKE_TEST_CLOUD_PYTHON"))
            .args(["-m", "cloud", "--rootfs", &setting("AMIBAKE_TEST_ROOTFS"), "--scale", &scale.to_string(), "--root"])
            .arg(folder.path().join("cloud"))
            .env("PYTHONPATH", &tests)
            .current_dir(&tests)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("the cloud said {line:?}"));
        let (mirror, mirror_url) = serve(&setting("AMIBAKE_TEST_MIRROR"));
        Self { server, mirror, endpoint: said["endpoint"].as_str().unwrap().to_owned(), mirror_url, folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn recipe(&self, name: &str, text: &str) {
        std::fs::write(self.path().join("recipes").join(format!("{name}.toml")), text).unwrap();
    }

    /// `amibake` in the project, with the cloud's credentials and the stand-in release.
    pub fn amibake(&self, arguments: &[&str]) -> Command {
        let mut command = self.amibake_without_lock(arguments);
        command.args(["--lock", &setting("AMIBAKE_TEST_LOCK")]);
        command
    }

    /// The same with the project's own lock, or one that is yet to be named.
    pub fn amibake_without_lock(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_amibake"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("AMIBAKE_RELEASE_MIRROR", &self.mirror_url)
            .env("AMIBAKE_STACK_TEMPLATES", format!("{}/buildkite-aws-stack", self.endpoint))
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("CI", "1")
            .env_remove("AWS_PROFILE")
            .stdin(Stdio::null());
        command
    }

    /// Runs it; its exit status, its JSON on stdout if any, and its stderr.
    pub fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        let output = self.amibake(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), said)
    }

    /// Runs it; it must end well.
    pub fn done(&self, arguments: &[&str]) -> Value {
        let (code, json, said) = self.run(arguments);
        assert_eq!(code, 0, "{said}");
        json
    }

    /// One of the cloud's control paths.
    fn control(&self, path: &str, body: Option<&Value>) -> Value {
        let mut stream = TcpStream::connect(self.endpoint.strip_prefix("http://").unwrap()).unwrap();
        let body = body.map(ToString::to_string).unwrap_or_default();
        let method = if body.is_empty() { "GET" } else { "POST" };
        let length = body.len();
        write!(stream, "{method} /_cloud/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    /// Everything that exists.
    pub fn state(&self) -> Value {
        self.control("state", None)
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Value> {
        self.control("calls", None).as_array().unwrap().clone()
    }

    /// Operations of the calls so far, in order.
    pub fn operations(&self) -> Vec<String> {
        self.calls().iter().map(|call| call["operation"].as_str().unwrap().to_owned()).collect()
    }

    /// Replaces the faults.
    pub fn faults(&self, rules: &Value) {
        self.control("faults", Some(rules));
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str) {
        self.control("buckets", Some(&Value::from(name)));
    }

    /// Makes images as bakes leave them; their ids.
    pub fn seed(&self, wanted: &Value) -> Vec<String> {
        let made = self.control("seed", Some(wanted));
        made.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Settings of the account: `keys` of EBS by region, regions that are `unblocked` for public images.
    pub fn account(&self, settings: &Value) {
        self.control("account", Some(settings));
    }

    /// No page of an answer has more entries.
    pub fn pages(&self, most: u32) {
        self.control("pages", Some(&Value::from(most)));
    }

    /// What a line of Python says with boto3: `client` is the service's in the region.
    pub fn boto(&self, service: &str, region: &str, line: &str) -> Value {
        let script = format!(
            "import boto3,json\nclient=boto3.client({service:?},region_name={region:?},endpoint_url={:?})\n\
             print(json.dumps({line},default=str))",
            self.endpoint
        );
        let mut python = Command::new(setting("AMIBAKE_TEST_CLOUD_PYTHON"));
        let python = python.args(["-c", &script]).env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        let output = python.env_remove("AWS_PROFILE").stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Keys of the objects in a bucket.
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        let keys = self.state()["objects"][bucket].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    /// Whether a call hangs by a rule.
    pub fn hanging(&self) -> bool {
        self.state()["hanging"].as_u64() > Some(0)
    }

    /// What is left of a run beside finished images: nothing, says a test.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        let list = |name: &str| state[name].as_array().cloned().unwrap_or_default();
        for instance in list("instances") {
            if !["shutting-down", "terminated"].contains(&instance["state"].as_str().unwrap()) {
                left.push(format!("instance {instance}"));
            }
        }
        left.extend(list("groups").iter().filter(|group| group["name"] != "default").map(|it| format!("group {it}")));
        // Of each image that is there, one.
        if list("snapshots").len() > list("images").len() {
            left.extend(list("snapshots").iter().map(|it| format!("snapshot {it}")));
        }
        left
    }

    pub fn images(&self) -> Vec<Value> {
        self.state()["images"].as_array().unwrap().clone()
    }

    pub fn runs(&self) -> PathBuf {
        self.path().join(".amibake/runs")
    }
}

/// An http server for a folder, ended with what is returned.
pub fn served(folder: &str) -> (Server, String) {
    let (server, address) = serve(folder);
    (Server(server), address)
}

/// A child process that ends with its owner.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An http server for a folder; the machines of the cloud fetch the release from it.
fn serve(folder: &str) -> (Child, String) {
    let mut server = Command::new(setting("AMIBAKE_TEST_CLOUD_PYTHON"))
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.split_whitespace().skip_while(|word| *word != "port").nth(1).unwrap();
    (server, format!("http://127.0.0.1:{port}"))
}
