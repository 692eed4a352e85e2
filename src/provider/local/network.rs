//! The private network of a group of machines: a star of point-to-point wires (Unix datagram sockets in the run's
//! folder) whose middle is member 0, and the addresses its members have.
//!
//! Datagrams need no order of starting and survive a peer that comes later or restarts. A star, because a mesh of wires
//! would send every broadcast round for ever. Needs QEMU 7.2.

use std::path::{Path, PathBuf};

use super::qemu::Link;
use crate::provider::Network;

/// Members there is room for: a /24 less its network and broadcast addresses.
pub(super) const MOST_MEMBERS: u8 = 254;

/// A member's address: reachable from the other members only.
#[must_use]
pub(super) fn address(member: u8) -> String {
    format!("10.213.77.{}", u16::from(member) + 1)
}

/// A member's card on the private network.
#[must_use]
pub(super) fn mac(member: u8) -> String {
    format!("52:54:00:a1:4d:{member:02x}")
}

/// A member's end of the network; none when it would be alone.
#[must_use]
pub(super) fn link(network: &Network<'_>) -> Option<Link> {
    let others: Vec<u8> = match (network.member, network.members) {
        (_, 0 | 1) => return None,
        (0, members) => (1..members).collect(),
        (_, _) => vec![0],
    };
    let wires = others.iter().map(|&other| (socket(network.member, other), socket(other, network.member))).collect();
    Some(Link { mac: mac(network.member), wires })
}

/// The sockets that a member's QEMU makes: absolute paths.
#[must_use]
pub(super) fn sockets(run_dir: &Path, link: &Link) -> Vec<PathBuf> {
    link.wires.iter().map(|(ours, _)| run_dir.join(ours)).collect()
}

/// The socket on which `of` receives what `from` sends.
fn socket(of: u8, from: u8) -> String {
    format!("wire-{of}-{from}")
}

/// Gives the card its address until the next boot. With networkd the way is networkd's own: an address it does not know
/// of is one that it removes.
pub(super) fn script(member: u8) -> String {
    format!("mac={}\naddress={}/24\n{CONFIGURE}", mac(member), address(member))
}

const CONFIGURE: &str = r#"set -eu
card=
for file in /sys/class/net/*/address; do
    [ "$(cat "$file")" = "$mac" ] && card=${file%/address} && card=${card##*/}
done
[ -n "$card" ] || { echo "no network card has the address $mac"; exit 1; }
if systemctl is-active --quiet systemd-networkd; then
    mkdir -p /run/systemd/network
    printf '%s\n' '[Match]' "MACAddress=$mac" '[Link]' RequiredForOnline=no \
        '[Network]' "Address=$address" DHCP=no LinkLocalAddressing=no IPv6AcceptRA=no >/run/systemd/network/05-amibake.network
    chmod 0644 /run/systemd/network/05-amibake.network
    networkctl reload
    networkctl reconfigure "$card"
else
    if command -v nmcli >/dev/null; then nmcli device set "$card" managed no || true; fi
    ip link set "$card" up
    ip address replace "$address" dev "$card"
fi
# networkd does it in its own time.
for _ in {1..300}; do
    case "$(ip -4 -o address show dev "$card")" in *"inet $address "*) exit 0 ;; esac
    sleep 0.1
done
echo "$card did not get its address $address"
exit 1
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn network(member: u8, members: u8) -> Network<'static> {
        Network { run_dir: Path::new("/run-dir"), member, members }
    }

    #[test]
    fn every_wire_has_two_ends_and_there_is_no_loop() {
        for members in 2..6 {
            let links: Vec<_> = (0..members).map(|member| link(&network(member, members)).unwrap()).collect();
            let wires: Vec<_> = links.iter().flat_map(|link| link.wires.clone()).collect();
            for (ours, theirs) in &wires {
                assert!(wires.contains(&(theirs.clone(), ours.clone())), "{ours} has no other end");
            }
            // A connected graph without a loop has one edge fewer than it has nodes.
            assert_eq!(wires.len() / 2, usize::from(members) - 1);
        }
        assert!(link(&network(0, 1)).is_none());
    }

    #[test]
    fn members_differ_and_sockets_are_in_the_runs_folder() {
        assert_eq!((address(0), address(253)), ("10.213.77.1".into(), "10.213.77.254".into()));
        assert_ne!(mac(0), mac(1));
        let link = link(&network(0, 3)).unwrap();
        assert_eq!(sockets(Path::new("/r"), &link), [Path::new("/r/wire-0-1"), Path::new("/r/wire-0-2")]);
    }

    #[test]
    fn the_script_passes_shellcheck() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        std::fs::write(&path, script(1)).unwrap();
        let output = std::process::Command::new("shellcheck").arg("--shell=bash").arg(&path).output();
        let output = output.expect("this program, which `scripts/setup test` installs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
