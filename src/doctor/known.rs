//! What BuildKit and its clients say when something is wrong, and what it means. PURE: text in, causes out.
//!
//! The words of connection faults were seen with real `buildctl` and `buildkitd` v0.13.2 and v0.32.2 against each other;
//! other words are those of the programs that print them, named beside each.

/// A fault that is known by its words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Short and stable: for programs.
    pub(super) id: &'static str,
    /// Each of these is in the line, in lower case.
    words: &'static [&'static str],
    /// What it means: a lower-case fragment.
    pub(super) cause: &'static str,
    /// What to do.
    pub(super) fix: &'static str,
}

/// In the order in which they are looked for: of several that fit a line, the first is the most exact.
pub(super) const KNOWN: &[Known] = &[
    Known {
        id: "version-skew-tls",
        words: &["missing selected alpn property"],
        cause: "buildctl is newer than buildkitd, and the two no longer agree on TLS (grpc-go 1.67 and newer ask for ALPN)",
        fix: "bring builder and agent to the same BuildKit version: bake both images from one lock",
    },
    Known {
        id: "daemon-is-plain",
        words: &["first record does not look like a tls handshake"],
        cause: "buildctl speaks TLS, and the daemon does not",
        fix: "take --tlsdir (or --tlscacert, --tlscert, --tlskey) away from buildctl, or turn TLS on at the builder",
    },
    Known {
        id: "client-certificate",
        words: &["tls: certificate required"],
        cause: "the daemon asks for a client certificate, and buildctl sends none, or one of another CA",
        fix: "give buildctl the client certificate of the builder's CA: --tlsdir with ca.pem, cert.pem and key.pem",
    },
    Known {
        id: "client-certificate",
        words: &["remote error: tls: bad certificate"],
        cause: "the daemon refuses the client certificate",
        fix: "give buildctl the client certificate of the builder's CA: --tlsdir with ca.pem, cert.pem and key.pem",
    },
    Known {
        id: "client-certificate",
        words: &["error reading server preface", "broken pipe"],
        cause: "the daemon closed the connection on the client's certificate: there is none, or it is of another CA",
        fix: "give buildctl the client certificate of the builder's CA: --tlsdir with ca.pem, cert.pem and key.pem",
    },
    Known {
        id: "unknown-authority",
        words: &["certificate signed by unknown authority"],
        cause: "the server's certificate is not signed by the CA that the client trusts",
        fix: "use the CA that issued the server's certificate (for the builder: ca.pem in --tlsdir; for a registry: its CA on the builder)",
    },
    Known {
        id: "certificate-name",
        words: &["cannot validate certificate for", "doesn't contain any ip sans"],
        cause: "the daemon's certificate is for a name, and BUILDKIT_HOST is an address",
        fix: "put the certificate's name into BUILDKIT_HOST, or say it with --tlsservername",
    },
    Known {
        id: "certificate-name",
        words: &["x509: certificate is valid for", ", not "],
        cause: "the daemon's certificate is for another name than the one in BUILDKIT_HOST",
        fix: "put one of the certificate's names into BUILDKIT_HOST, say it with --tlsservername, or issue a new certificate",
    },
    Known {
        id: "certificate-expired",
        words: &["x509: certificate has expired or is not yet valid"],
        cause: "a certificate has expired or is not valid yet: or the clock of this machine is wrong",
        fix: "compare the times in the message with `date`; issue a new certificate, or set the clock",
    },
    Known {
        id: "certificate-file",
        words: &["could not read ca certificate"],
        cause: "buildctl does not find the CA's file",
        fix: "check the path after --tlscacert, or that ca.pem is in --tlsdir and readable by the job's user",
    },
    Known {
        id: "certificate-file",
        words: &["could not read certificate/key"],
        cause: "buildctl has a certificate without its key, or finds neither",
        fix: "give both --tlscert and --tlskey, or cert.pem and key.pem in --tlsdir, readable by the job's user",
    },
    Known {
        id: "address-scheme",
        words: &["first path segment in url cannot contain colon"],
        cause: "BUILDKIT_HOST has no scheme",
        fix: "write it as tcp://HOST:PORT",
    },
    Known {
        id: "address-scheme",
        words: &["unknown network http"],
        cause: "BUILDKIT_HOST begins with http:// or https://",
        fix: "write it as tcp://HOST:PORT; TLS is turned on by --tlsdir and its kind",
    },
    Known {
        id: "address-missing",
        words: &["/run/buildkit/buildkitd.sock", "no such file or directory"],
        cause: "BUILDKIT_HOST is not set in this job, so buildctl looked for a daemon on the agent itself",
        fix: "set it by the stack's env hook: `amibake render env-hook`; check that the hook lies where this pipeline reads it",
    },
    Known {
        id: "connection-refused",
        words: &["connect: connection refused"],
        cause: "the builder answers, and nothing listens on the port: buildkitd is down, or listens elsewhere",
        fix: "on the builder: `systemctl status buildkitd`, `journalctl -u buildkitd`; and compare the port with the recipe's",
    },
    Known {
        id: "no-answer",
        words: &["dial tcp", "i/o timeout"],
        cause: "nothing answers at that address: a security group or a route is in between, or the builder is gone",
        fix: "let tcp/1234 of the builder's security group in from the agents' group, and check the address",
    },
    Known {
        id: "no-answer",
        words: &["dial tcp", "context deadline exceeded"],
        cause: "nothing answers at that address: a security group or a route is in between, or the builder is gone",
        fix: "let tcp/1234 of the builder's security group in from the agents' group, and check the address",
    },
    // Of buildctl's own calls: a registry that is slow ends a build in the same words.
    Known {
        id: "no-answer",
        words: &["failed to get status", "context deadline exceeded"],
        cause: "the time that buildctl had ran out: nothing answers at that address, or the daemon is there and hangs",
        fix: "run `amibake doctor` where the job runs: it tells one from the other",
    },
    Known {
        id: "no-answer",
        words: &["failed to list workers", "context deadline exceeded"],
        cause: "the time that buildctl had ran out: nothing answers at that address, or the daemon is there and hangs",
        fix: "run `amibake doctor` where the job runs: it tells one from the other",
    },
    Known {
        id: "no-route",
        words: &["connect: no route to host"],
        cause: "there is no way to that address, or nobody has it: the builder was replaced",
        fix: "use a name that follows the builder instead of its address, and check the subnet's routes",
    },
    Known {
        id: "unknown-host",
        words: &["dial tcp: lookup", "no such host"],
        cause: "the builder's name is not known here",
        fix: "check the name in BUILDKIT_HOST, and that its private hosted zone is joined to the agents' VPC",
    },
    Known {
        id: "no-daemon-or-tls",
        words: &["error reading server preface"],
        cause: "the port is open, and no daemon speaks plain gRPC there: buildkitd is down behind a forwarder, or wants TLS",
        fix: "run `amibake doctor` where the job runs: it asks the port which of the two it is",
    },
    Known {
        id: "hook-address",
        words: &["amibake: buildkit_host is not set for this job"],
        cause: "the env hook could not tell this job where the builder is; the line before says what it was refused",
        fix: "let the agents' role read the parameter, or render the hook with --address: `amibake render env-hook`",
    },
    Known {
        id: "hook-certificate",
        words: &["amibake: cannot fetch the client's certificate"],
        cause: "the agents' role may not read the client's certificate and key, or they are not there",
        fix: "allow it `client/*` of what `amibake certs` keeps (and the KMS key's use); `amibake certs show` says what is there",
    },
    Known {
        id: "hook-certificate",
        words: &["the env hook did not set it: amibake render env-hook"],
        cause: "the step asks for a certificate, and the env hook of this job brings none",
        fix: "render the hook with --tls-from and put it where this pipeline reads it",
    },
    Known {
        id: "hook-permission",
        words: &["cannot create directory", "/etc/buildkit", "permission denied"],
        cause: "an env hook writes to /etc/buildkit, and hooks run as buildkite-agent, not as root",
        fix: "write below the agent's home, or only export BUILDKIT_HOST: `amibake render env-hook`",
    },
    Known {
        id: "exporter",
        words: &["exporter \"registry\" could not be found"],
        cause: "buildctl has no exporter called `registry` (that is docker buildx's word)",
        fix: "write --output type=image,name=IMAGE,push=true",
    },
    Known {
        id: "registry-login",
        words: &["no basic auth credentials"],
        cause: "nobody is logged in to the registry in this job",
        fix: "log in before the build (ECR: the ecr plugin, or `aws ecr get-login-password | docker login --password-stdin`)",
    },
    Known {
        id: "registry-login",
        words: &["unexpected status", "401 unauthorized"],
        cause: "the registry does not accept the login of this job",
        fix: "log in again before the build: an ECR login is good for 12 hours; check that the role may push to the repository",
    },
    Known {
        id: "registry-forbidden",
        words: &["unexpected status", "403 forbidden"],
        cause: "the registry knows the login, and does not let it do this",
        fix: "give the agents' role push access to the repository, and check that the repository exists",
    },
    Known {
        id: "registry-limit",
        words: &["toomanyrequests"],
        cause: "the registry's pull limit is reached: all builds share the builder's address",
        fix: "log in to the registry, or name a mirror under `[buildkitd]` in the builder's recipe",
    },
    Known {
        id: "disk-full",
        words: &["no space left on device"],
        cause: "a disk is full: the builder's cache volume if a build step says it, else the agent's",
        fix: "on the builder: `df -h /var/lib/buildkit`, `buildctl prune`; make the recipe's volume larger, or its `[buildkitd.gc]` tighter",
    },
    Known {
        id: "binfmt",
        words: &["exec format error"],
        cause: "a build for another architecture ran a program that the builder cannot run or emulate",
        fix: "the builder needs buildkit-qemu-* (they are in the release's tarball) and the image the right --platform",
    },
    Known {
        id: "out-of-memory",
        words: &["exit code: 137"],
        cause: "a build step was killed: most likely the builder ran out of memory",
        fix: "on the builder: `journalctl -k | grep -i oom`; use a larger instance, or a lower `max_parallelism`",
    },
    Known {
        id: "git-missing",
        words: &["git source", "failed to find git binary"],
        cause: "buildkitd found no git on its PATH when it started, and cannot build from git",
        fix: "install git on the builder, and restart buildkitd",
    },
    Known {
        id: "daemon-restarted",
        words: &["error reading from server: eof"],
        cause: "the connection broke in the middle of a build: buildkitd was stopped or died, or the builder was replaced",
        fix: "on the builder: `journalctl -u buildkitd`; a planned stop waits for builds only as long as its drain allows",
    },
    Known {
        id: "daemon-restarted",
        words: &["transport is closing"],
        cause: "the connection broke in the middle of a build: buildkitd was stopped or died, or the builder was replaced",
        fix: "on the builder: `journalctl -u buildkitd`; a planned stop waits for builds only as long as its drain allows",
    },
    Known {
        id: "no-worker",
        words: &["no worker found"],
        cause: "the daemon has no worker: its runc or its snapshotter does not work",
        fix: "on the builder: `journalctl -u buildkitd` tells which worker was left out, and why",
    },
    Known {
        id: "buildctl-missing",
        words: &["buildctl: command not found"],
        cause: "this agent has no buildctl: it does not run the image that amibake baked",
        fix: "update the stack's ImageId to the agent image; agents that run already stay on the old one",
    },
];

impl Known {
    /// Where its words begin in a line that has them, in bytes.
    pub(super) fn at(&self, line: &str) -> usize {
        let line = line.to_ascii_lowercase();
        self.words.iter().filter_map(|words| line.find(words)).min().unwrap_or(0)
    }
}

/// The fault that a line tells of.
pub(super) fn in_line(line: &str) -> Option<&'static Known> {
    // All words are ASCII, and so each stays where it is.
    let line = line.to_ascii_lowercase();
    KNOWN.iter().find(|known| known.words.iter().all(|words| line.contains(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As real programs said it.
    const SAID: &[(&str, &str)] = &[
        (
            "connection-refused",
            "error: failed to list workers: Unavailable: connection error: desc = \"transport: Error while dialing: dial tcp \
             10.0.1.7:1234: connect: connection refused\"",
        ),
        (
            "no-daemon-or-tls",
            "error: failed to list workers: Unavailable: connection error: desc = \"error reading server preface: read tcp \
             10.0.2.9:55012->10.0.1.7:1234: read: connection reset by peer\"",
        ),
        (
            "no-daemon-or-tls",
            "error: failed to list workers: Unavailable: connection error: desc = \"error reading server preface: EOF\"",
        ),
        (
            "daemon-is-plain",
            "connection error: desc = \"transport: authentication handshake failed: tls: first record does not look like a TLS \
             handshake\"",
        ),
        (
            "version-skew-tls",
            "authentication handshake failed: credentials: cannot check peer: missing selected ALPN property. If you upgraded \
             from a grpc-go version earlier than 1.67, your TLS connections may have stopped working",
        ),
        (
            "client-certificate",
            "connection error: desc = \"error reading server preface: remote error: tls: certificate required\"",
        ),
        (
            "client-certificate",
            "connection error: desc = \"error reading server preface: write tcp 10.0.2.9:5->10.0.1.7:1234: write: broken pipe\"",
        ),
        ("unknown-authority", "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        ("certificate-name", "x509: cannot validate certificate for 10.0.1.7 because it doesn't contain any IP SANs"),
        (
            "certificate-expired",
            "x509: certificate has expired or is not yet valid: current time 2026-11-25T10:00:00Z is after \
             2026-11-24T10:00:00Z",
        ),
        ("certificate-file", "error: could not read ca certificate: open /x/ca.pem: no such file or directory"),
        ("certificate-file", "error: could not read certificate/key: open : no such file or directory"),
        ("address-scheme", "error: parse \"10.0.1.7:1234\": first path segment in URL cannot contain colon"),
        ("address-scheme", "dial http: unknown network http"),
        ("exporter", "error: failed to solve: exporter \"registry\" could not be found"),
        ("hook-permission", "mkdir: cannot create directory '/etc/buildkit': Permission denied"),
        ("hook-permission", "mkdir: cannot create directory \u{2018}/etc/buildkit\u{2019}: Permission denied"),
        (
            "address-missing",
            "error: failed to list workers: Unavailable: connection error: desc = \"transport: Error while dialing: dial unix \
             /run/buildkit/buildkitd.sock: connect: no such file or directory\"",
        ),
        ("no-answer", "transport: Error while dialing: dial tcp 10.0.1.7:1234: i/o timeout"),
        ("no-answer", "error: failed to get status: context deadline exceeded"),
        ("unknown-host", "Error while dialing: dial tcp: lookup builder.internal on 10.0.0.2:53: no such host"),
    ];

    #[test]
    fn each_message_means_what_it_means() {
        for (id, line) in SAID {
            assert_eq!(in_line(line).map(|known| known.id), Some(*id), "{line}");
        }
        for line in
            ["", "#5 DONE 0.3s", "error: failed to solve: process \"/bin/sh -c make\" did not complete: exit code: 2"]
        {
            assert_eq!(in_line(line), None, "{line}");
        }
    }

    #[test]
    fn none_hides_another() {
        for (index, known) in KNOWN.iter().enumerate() {
            let line = known.words.join(" … ");
            let found = in_line(&line).unwrap();
            assert_eq!(found.id, known.id, "entry {index}");
            assert!(
                known.words.iter().all(|words| words.is_ascii() && *words == words.to_lowercase()),
                "{:?}",
                known.words
            );
            assert!(!known.cause.ends_with('.') && !known.fix.ends_with('.'), "{}", known.id);
        }
    }
}
