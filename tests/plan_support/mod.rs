//! A recipe with every step kind and values that hurt, and what a plan of it needs.

use std::collections::BTreeMap;

use amibake::plan::{BaseImage, Facts, ImageFormat, Options, Plan, plan};
use amibake::recipe::{ProviderKind, Recipe};
use amibake::release::{Arch, Lock, LockedArtifact, Platform, Sha256, Version};

/// Every step kind, named and unnamed, with quotes, `$()`, line breaks, `%`, other scripts and control characters.
pub const NASTY: &str = r#####"
name = "sample"
description = "everything at once"

[machine]
cpus = 4
memory = "3GiB"
disk = "12GiB"
timeout = "1h30m"

[[volume]]
name = "cache"
mount = "/var/lib/buildkit"
size = "20GiB"
filesystem = "xfs"

[buildkitd]
port = 5678
extra_flags = ["--trace=100%", "--debug"]

[tags]
team = "build & release"

[[step]]
kind = "packages"
apt = ["git", "docker.io=20.10.24+dfsg1-1+deb12u1", "libstdc++6"]
dnf = ["git-core"]

[[step]]
kind = "packages"
name = "only where there is apt"
apt = ["iptables"]
timeout = "20m"

[[step]]
kind = "buildkit"
members = "all"

[[step]]
kind = "buildkit"
members = ["bin/buildctl"]
prefix = "/opt/it's $(here) 100%"

[[step]]
kind = "file"
path = "/etc/o'dd $(dir)/na\"me `x` é %n"
content = "plain 'single' \"double\" $(reboot) `reboot` ${HOME} \\ %i é😀\nAMIBAKE_CONTENT\nno end"
owner = "nobody:nogroup"
mode = "4750"

[[step]]
kind = "file"
path = "/etc/binary"
asset = "blob.bin"

[[step]]
kind = "file"
path = "/etc/binary"
content = "twice\n"

[[step]]
kind = "file"
name = "templated"
path = "/etc/sample.conf"
asset = "sample.conf"
template = true

[[step]]
kind = "unit"
unit = "sample.service"
asset = "sample.service"
template = true
start = true

[[step]]
kind = "unit"
unit = "sample@.service"
content = "[Service]\nExecStart=/bin/true %i\n"
enable = false

[[step]]
kind = "run"
name = "quotes 'in' \"names\" $(x)"
script = '''
echo "hello $AMIBAKE_ARCH"
if [[ -e /nonexistent ]]; then
    exit 3
fi
'''
timeout = "90s"

[[check]]
name = "everywhere"
script = "true"

[[check]]
name = "only on aws"
script = "true"
providers = ["aws"]
when = "boot"

[[check]]
name = "during the bake"
script = "test -e /etc/binary"
when = "bake"
timeout = "10s"

[[check]]
name = "beside its peer"
script = "ping -c 1 -- \"$AMIBAKE_PEER\""
peer = "builder"
"#####;

pub fn recipe(text: &str) -> Recipe {
    toml::from_str(text).unwrap()
}

pub fn lock() -> Lock {
    let artifact = |digit: &str| {
        let url = "https://releases.example.com/v0.31.2/buildkit.tar.gz".to_owned();
        LockedArtifact::pinned(url, digit.repeat(64).parse().unwrap())
    };
    Lock {
        version: Version::new(0, 31, 2),
        stand_in: false,
        artifacts: BTreeMap::from([(Platform(Arch::Amd64), artifact("a")), (Platform(Arch::Arm64), artifact("b"))]),
    }
}

pub fn facts() -> Facts {
    let template = "flags = {{ buildkitd.extra_flags | toml }}\nport = {{ buildkitd.port }}\n";
    let unit = "[Unit]\nDescription=For BuildKit {{ buildkit.version }}\n\n[Service]\nExecStart=/bin/echo{% for flag in \
                buildkitd.extra_flags %} {{ flag | systemd }}{% endfor %}\n\n[Install]\nWantedBy=multi-user.target\n";
    Facts {
        base: BaseImage {
            name: "debian-12".to_owned(),
            identity: format!("sha256:{}", Sha256::of(b"base")),
            location: "/var/cache/amibake/bases/debian-12.raw".to_owned(),
            arch: Arch::Amd64,
            disk_bytes: 3 << 30,
            ami: None,
        },
        assets: BTreeMap::from([
            ("blob.bin".to_owned(), (0..=255).collect()),
            ("sample.conf".to_owned(), template.as_bytes().to_vec()),
            ("sample.service".to_owned(), unit.as_bytes().to_vec()),
        ]),
    }
}

pub fn options() -> Options {
    Options {
        provider: ProviderKind::Local,
        arch: Arch::Amd64,
        format: ImageFormat::Qcow2,
        standalone: true,
        overrides: vec!["buildkitd.port=5678".to_owned()],
    }
}

pub fn nasty() -> Plan {
    plan(&recipe(NASTY), &lock(), &facts(), &options()).unwrap()
}
