
# Removes what must not be in an image: identity, keys, logs, caches, traces of the bake. Runs last, by way of the very
# connection that runs it, and again without harm. What it stops comes back with the next boot.

# Data volumes belong to the machine, not to the image: nothing below their mount points is touched.
on_data_volume() {
    local mount
    for mount in "${data_mounts[@]}"; do
        if [[ $1 == "$mount" || $1 == "$mount"/* ]]; then return 0; fi
    done
    return 1
}

# What is mounted where; findmnt escapes spaces.
mapfile -t mounts < <(findmnt --noheadings --raw --output TARGET | while IFS= read -r target; do printf '%b\n' "$target"; done)

# Whether something is mounted at $1 (at) or below it (below).
mounted() {
    local target
    for target in "${mounts[@]}"; do
        if [[ $2 == at && $target == "$1" || $2 == below && $target == "$1"/* ]]; then return 0; fi
    done
    return 1
}

# Removes files and folders that may not be there. What is mounted is not part of the root disk: it stays, with the folders
# on the way to it.
remove() {
    local path
    for path in "$@"; do
        if [[ ! -e $path && ! -L $path ]] || on_data_volume "$path" || mounted "$path" at; then continue; fi
        if mounted "$path" below; then
            rm -rf --one-file-system -- "$path" 2>/dev/null || true
        else
            rm -rf -- "$path"
        fi
    done
}

# Empties a folder and keeps it, with its owner and mode.
empty() {
    local folder=$1
    if [[ -d $folder && ! -L $folder ]] && ! on_data_volume "$folder"; then
        shopt -s nullglob dotglob
        remove "$folder"/*
        shopt -u nullglob dotglob
    fi
}

stop() {
    local unit
    for unit in "$@"; do
        # `kill` besides: auditd refuses to be stopped.
        if systemctl --quiet is-active -- "$unit" 2>/dev/null; then
            systemctl stop -- "$unit" 2>/dev/null || systemctl kill -- "$unit" || true
        fi
    done
}

# Makes host keys at boot where nothing else would: plain Debian makes them when the package is installed, and never again.
# Amazon Linux and Fedora make them before sshd starts, and so does amibake's own base; where cloud-init runs it comes first.
keep_sshd_startable() {
    local unit=/etc/systemd/system/amibake-ssh-host-keys.service
    command -v sshd >/dev/null && command -v ssh-keygen >/dev/null || return 0
    # Fails when one of the two names is unknown, as is usual.
    if [[ $(systemctl cat -- ssh.service sshd.service 2>/dev/null || true) =~ keygen|host-keys ]]; then return 0; fi
    cat >"$unit" <<'UNIT'
[Unit]
Description=Make the SSH host keys that this image was sealed without
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
After=cloud-init.service cloud-init-network.service
Before=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
UNIT
    chmod 0644 "$unit"
    systemctl daemon-reload
    systemctl enable --quiet amibake-ssh-host-keys.service
}

# Every home folder once; never a folder of the system that an account without a home has in its place.
homes() {
    {
        getent passwd | cut --delimiter=: --fields=6
        printf '%s\n' /root /home/*
    } | sort --unique | while IFS= read -r home; do
        case $home in
        /root | /home/* | /var/lib/* | /opt/* | /srv/* | /usr/local/*)
            if [[ -d $home && ! -L $home ]] && ! on_data_volume "$home"; then printf '%s\n' "$home"; fi
            ;;
        esac
    done
}

seal_home() {
    local home=$1 docker=$1/.docker/config.json
    remove "$home"/.ssh/{authorized_keys,authorized_keys2,known_hosts,known_hosts.old} "$home"/.ssh/id_* \
        "$home"/.*_history "$home"/.{lesshst,viminfo,wget-hsts,netrc,git-credentials,sudo_as_admin_successful} \
        "$home"/.aws/{credentials,cli/cache,sso/cache} "$home"/.config/gh/hosts.yml "$home"/.Xauthority
    # Only with a password in it: without, it is how the machine is set up.
    if [[ -f $docker ]] && grep -q '"auth"' "$docker"; then remove "$docker"; fi
    # `.cache` belongs to people; below /var/lib it may be a service's own.
    case $home in
    /root | /home/*) remove "$home/.cache" ;;
    esac
}

seal_packages() {
    if [[ -s /var/lib/dpkg/status ]] && command -v apt-get >/dev/null; then
        apt-get clean
        remove /var/cache/apt/{pkgcache,srcpkgcache}.bin /var/lib/dpkg/{status,available}-old /var/cache/debconf/*-old
        empty /var/lib/apt/lists
    fi
    empty /var/cache/dnf
    empty /var/cache/yum
    empty /var/cache/libdnf5
}

seal_cloud_init() {
    local kept=/var/lib/.amibake-cloud-scripts
    [[ -d /var/lib/cloud ]] || return 0
    # Scripts that are part of the image: `clean` takes them for state.
    if [[ -d /var/lib/cloud/scripts ]]; then
        remove "$kept"
        mv -T /var/lib/cloud/scripts "$kept"
    fi
    # What it may leave behind when it fails is removed after it.
    if command -v cloud-init >/dev/null; then cloud-init clean --logs || true; fi
    remove /var/lib/cloud/{data,instance,instances,sem} /run/cloud-init
    if [[ -d $kept ]]; then
        mkdir -p /var/lib/cloud
        remove /var/lib/cloud/scripts
        mv -T "$kept" /var/lib/cloud/scripts
        # The bake machine's own, not the image's.
        empty /var/lib/cloud/scripts/vendor
    fi
}

# The agent may be what runs this script, and needs its state to say how it ended: then it goes on the way down, after the
# agent has stopped (what starts before it stops after it).
seal_ssm() {
    local agent
    [[ -d /var/lib/amazon/ssm ]] || return 0
    for agent in amazon-ssm-agent.service snap.amazon-ssm-agent.amazon-ssm-agent.service; do
        systemctl --quiet is-active -- "$agent" || continue
        if ! systemctl --quiet is-active amibake-forget-ssm.service; then
            systemd-run --quiet --unit=amibake-forget-ssm.service --property=Type=oneshot \
                --property=RemainAfterExit=yes --property=Before="$agent" \
                --property=ExecStop='/bin/sh -c "rm -rf /var/lib/amazon/ssm/* /var/log/amazon/ssm/*"' true
        fi
        return 0
    done
    empty /var/lib/amazon/ssm
}

# What was swapped out stays in the swap space: it is made anew, with the identity that fstab knows it by.
seal_swap() {
    local device kind uuid label size
    while read -r device kind _; do
        if [[ $device != /* || $device == /dev/zram* ]] || on_data_volume "$device"; then continue; fi
        uuid=$(blkid -p -o value -s UUID -- "$device" || true)
        label=$(blkid -p -o value -s LABEL -- "$device" || true)
        swapoff -- "$device"
        if [[ $kind == file ]]; then size=$(stat --format=%s -- "$device"); else size=$(blockdev --getsize64 "$device"); fi
        head --bytes="$size" /dev/zero | dd of="$device" bs=1M iflag=fullblock conv=notrunc,fsync status=none
        mkswap ${uuid:+--uuid "$uuid"} ${label:+--label "$label"} -- "$device" >/dev/null
    done < <(tail --lines=+2 /proc/swaps)
}

seal_identity() {
    # Empty, not absent: absent means "first boot" to systemd, which then sets every unit to its preset.
    if mountpoint --quiet /etc/machine-id; then umount --lazy /etc/machine-id; fi
    : >/etc/machine-id
    chmod 0444 /etc/machine-id
    if [[ -d /var/lib/dbus ]]; then ln -sfnT /etc/machine-id /var/lib/dbus/machine-id; fi
    remove /etc/ssh/ssh_host_* /etc/ssh/authorized_keys /etc/udev/rules.d/7?-persistent-*.rules \
        /var/lib/NetworkManager/secret_key /var/lib/systemd/credential.secret /etc/resolv.conf.dhclient* /etc/resolv.conf.dhcp*
    empty /var/lib/dhcp
    empty /var/lib/dhclient
    empty /var/lib/dhcpcd
    remove /var/lib/NetworkManager/{*.lease,timestamps,seen-bssids}
    # The name servers of the bake's network. A file that a person wrote stays.
    if [[ -f /etc/resolv.conf && ! -L /etc/resolv.conf ]] && grep -qiE '^[#;].*generated by' /etc/resolv.conf; then
        : >/etc/resolv.conf
    fi
    # Stopped first: it saves a new seed when it stops, which every copy of the image would share.
    stop systemd-random-seed.service
    remove /var/lib/systemd/random-seed /var/lib/urandom/random-seed {/boot,/boot/efi,/efi}/loader/random-seed
}

seal_logs() {
    # What would write the bake's end to them. The journal goes to memory from here on.
    stop syslog.socket rsyslog.service syslog-ng.service auditd.service systemd-update-utmp.service
    journalctl --relinquish-var || true
    empty /var/log/journal
    empty /var/crash
    empty /var/lib/systemd/coredump
    empty /var/lib/sudo
    empty /var/db/sudo
    if [[ -d /var/log && ! -L /var/log ]] && ! on_data_volume /var/log; then
        # Rotated ones go; the others stay, empty, with owner and mode: services that are not root cannot make them.
        find /var/log -xdev -type f -regextype posix-extended \
            -regex '.*(\.(gz|xz|zst|bz2|old|[0-9]+)|-[0-9]{8}(-[0-9]+)?)$' -delete
        find /var/log -xdev -type f -size +0 -exec truncate --size=0 -- {} +
    fi
}

# Gives free blocks back, so that the image is stored without what was removed. Not every device can.
trim() {
    local target
    sync
    while IFS= read -r target; do
        if ! on_data_volume "$target"; then fstrim -- "$target" 2>/dev/null || true; fi
    done < <(findmnt --real --noheadings --raw --output TARGET --types ext4,xfs,btrfs,vfat)
    sync
}

keep_sshd_startable
while IFS= read -r home; do seal_home "$home"; done < <(homes)
seal_packages
seal_cloud_init
seal_ssm
seal_swap
empty /tmp
empty /var/tmp
seal_logs
seal_identity
trim
echo "sealed: no identity, keys, logs or caches are left"
