# shellcheck shell=bash
# Removes from a machine what must not be in an image of it: identity, keys, logs, histories, caches, the state of agents
# that know the machine by name. Runs last, over the very session that it takes the keys of; may run twice. Touches the
# root file system only: data volumes are no part of the image.

# Empties a folder, if it is there; does not cross into another file system.
empty() {
    local folder
    for folder in "$@"; do
        if [[ -d $folder && ! -L $folder ]]; then find "$folder" -xdev -mindepth 1 -delete; fi
    done
}

# Agents first: they write while they run.
for agent in amazon-ssm-agent amazon-cloudwatch-agent; do
    if systemctl is-active --quiet "$agent" 2>/dev/null; then systemctl stop "$agent" || true; fi
done
empty /var/lib/amazon/ssm /var/log/amazon /opt/aws/amazon-cloudwatch-agent/logs
rm -f /etc/amazon/ssm/registration

# cloud-init takes the next machine for this one as long as it finds its state.
if command -v cloud-init >/dev/null; then cloud-init clean --logs --seed >/dev/null 2>&1 || cloud-init clean --logs; fi
empty /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem
rm -f /var/lib/cloud/instance

# Keys. sshd makes its host keys anew where the distribution or the base says so; where neither does, this drop-in does.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
for unit in ssh.service sshd.service; do
    if [[ -e /usr/lib/systemd/system/$unit || -e /lib/systemd/system/$unit ]] && [[ ! -L /lib/systemd/system/$unit ]] &&
        ! systemctl cat "$unit" 2>/dev/null | grep -Eq 'ssh-keygen|sshd-keygen|regenerate'; then
        mkdir -p "/etc/systemd/system/$unit.d"
        printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n' \
            >"/etc/systemd/system/$unit.d/50-amibake-host-keys.conf"
    fi
done
while IFS=: read -r _ _ _ _ _ home _; do
    if [[ $home == /root || $home == /home/* ]] && [[ -d $home && ! -L $home ]]; then
        rm -f "$home"/.ssh/authorized_keys "$home"/.ssh/authorized_keys2 "$home"/.ssh/known_hosts*
        rm -f "$home"/.bash_history "$home"/.sh_history "$home"/.zsh_history "$home"/.lesshst "$home"/.viminfo \
            "$home"/.wget-hsts "$home"/.python_history
        rm -rf "$home/.cache" "$home/.gnupg"
    fi
done </etc/passwd

# An empty machine id is made anew at the next boot, and is no first boot to systemd (machine-id(5)), which would set units
# back to their presets.
: >/etc/machine-id
if [[ -e /var/lib/dbus/machine-id && ! -L /var/lib/dbus/machine-id ]]; then
    ln -sf /etc/machine-id /var/lib/dbus/machine-id
fi
# Two machines with one seed would draw the same numbers.
rm -f /var/lib/systemd/random-seed /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed
rm -f /var/lib/systemd/credential.secret

# Leases, names of network cards.
empty /var/lib/dhcp /var/lib/dhclient /var/lib/NetworkManager /run/systemd/netif/leases
rm -f /etc/udev/rules.d/70-persistent-net.rules

# Package caches.
if command -v apt-get >/dev/null; then
    apt-get clean
    empty /var/lib/apt/lists
fi
if command -v dnf >/dev/null; then
    dnf -q clean all || true
    empty /var/cache/dnf
fi

# Logs, last: what was done above wrote some. Files stay, since daemons hold them and packages own them.
if command -v journalctl >/dev/null; then journalctl --rotate >/dev/null 2>&1 || true; fi
empty /var/log/journal
find /var/log -xdev -type f \( -name '*.gz' -o -name '*.[0-9]' -o -name '*-[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]' \) -delete
find /var/log -xdev -type f -exec truncate --size=0 {} +
rm -f /var/lib/systemd/timers/stamp-*

# Scratch space. Files of running services (systemd-private) go too: the machine is about to be switched off.
empty /var/tmp
find /tmp -xdev -mindepth 1 -maxdepth 1 -exec rm -rf {} +

# What was deleted need not be in the image.
if command -v fstrim >/dev/null; then fstrim / >/dev/null 2>&1 || true; fi
sync
