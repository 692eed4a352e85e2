#!/bin/sh
# Runs as mmdebstrap's customize hook: $1 is the new root, $2 a folder with files to lay over it, $3 the size of its
# file system as mke2fs reads it. Makes the root bootable and firm enough to be anyone's base, then writes the first
# sectors of the disk (boot.img, then core.img) to descriptor 8 and the ext4 file system to its place, 2 MiB in, on
# descriptor 9.
#
# All of it is done from inside the root with its own tools, so that the host needs neither GRUB nor the same
# distribution. Descriptors and not paths: in mmdebstrap's unshare mode this is another user, who may write nothing of
# the caller's.
set -eu
root=$1
overlay=$2
size=$3

version=$(chroot "$root" systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
if [ "${version:-0}" -lt 252 ]; then
    echo "amibake: systemd ${version:-?} is too old, 252 is needed" >&2
    exit 1
fi

# What it was made of: read by amibake. The words in braces are dpkg's, not the shell's.
# shellcheck disable=SC2016
chroot "$root" dpkg-query -W -f 'amibake-package ${Package} ${Version}\n'

# Sources, keys and proxy of the machine that makes it; what mmdebstrap wrote for its own use goes.
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* \
    "$root"/etc/apt/apt.conf.d/??mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/??mmdebstrap
cp -R "$overlay/." "$root/"

# Only the drivers a virtual disk can need: the generic initrd is five times the size, and a slow machine notices.
echo 'MODULES=list' >"$root/etc/initramfs-tools/conf.d/amibake"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ata_piix ata_generic ahci nvme ext4 \
    >"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k all

# The root partition is found by label; systemd-repart grows it to the disk, x-systemd.growfs the file system to it.
# The label is not of the kind `bake-<name>`: those belong to data volumes.
echo 'LABEL=amibake-root / ext4 rw,errors=remount-ro,discard,x-systemd.growfs 0 1' >"$root/etc/fstab"
mkdir -p "$root/etc/repart.d"
printf '[Partition]\nType=root\n' >"$root/etc/repart.d/50-root.conf"

# Any network card, by DHCP, without waiting for more than one of them. The client identifier is the card's address:
# sealed copies of one image have no machine id of their own yet when they first ask.
cat >"$root/etc/systemd/network/80-dhcp.network" <<'UNIT'
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
UNIT
mkdir -p "$root/etc/systemd/system/systemd-networkd-wait-online.service.d"
cat >"$root/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=60
UNIT
chroot "$root" systemctl enable systemd-networkd.service systemd-resolved.service
rm -f "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# Timers that take apt's lock at a time of their own would fail a bake now and then; scrubbing needs LVM.
chroot "$root" systemctl disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service

# Debian makes SSH host keys when the package is installed: here they would be in every image. They are made at boot,
# without RSA, whose primes take an emulated CPU eight seconds and which no client of this decade needs.
rm -f "$root"/etc/ssh/ssh_host_*
printf 'HostKey /etc/ssh/ssh_host_%s_key\n' ed25519 ecdsa >"$root/etc/ssh/sshd_config.d/10-host-keys.conf"
cat >"$root/usr/local/sbin/ssh-host-keys" <<'SCRIPT'
#!/bin/sh
# Makes the SSH host keys that are missing.
set -eu
for type in ed25519 ecdsa; do
    key=/etc/ssh/ssh_host_${type}_key
    # A key of no bytes is what a power cut leaves: ssh-keygen would ask before it writes over it.
    [ -s "$key" ] || { rm -f "$key" && ssh-keygen -q -t "$type" -N '' -C '' -f "$key"; }
done
SCRIPT
chmod 0755 "$root/usr/local/sbin/ssh-host-keys"
mkdir -p "$root/etc/systemd/system/ssh.service.d"
cat >"$root/etc/systemd/system/ssh.service.d/host-keys.conf" <<'UNIT'
[Service]
ExecStartPre=
ExecStartPre=/usr/local/sbin/ssh-host-keys
ExecStartPre=/usr/sbin/sshd -t
UNIT

echo localhost >"$root/etc/hostname"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"

# GRUB reads its orders from the core image itself. The kernel's packages keep vmlinuz and initrd.img pointing to the
# newest one, in / (Debian) or in /boot (Ubuntu).
at=/
[ -e "$root/vmlinuz" ] || at=/boot/
cat >"$root/tmp/grub.cfg" <<GRUB
search.fs_label amibake-root root
linux ${at}vmlinuz root=LABEL=amibake-root ro console=tty0 console=ttyS0,115200n8 quiet
initrd ${at}initrd.img
boot
GRUB
chroot "$root" grub-mkimage -O i386-pc -p / -c /tmp/grub.cfg -o /tmp/core.img \
    biosdisk part_gpt ext2 search_label linux boot
cat "$root/usr/lib/grub/i386-pc/boot.img" "$root/tmp/core.img" >&8
rm -f "$root/tmp/grub.cfg" "$root/tmp/core.img"

# mmdebstrap keeps services from starting while it works, and would only undo that after the disk is written.
rm -f "$root/usr/sbin/policy-rc.d"
if [ -e "$root/sbin/start-stop-daemon.REAL" ]; then
    mv -f "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"
fi

# Nothing of the machine that made it stays.
find "$root/var/log" "$root/var/lib/apt/lists" "$root/var/cache/apt" -type f -delete

# The host's own /proc, /sys and /dev are mounted in the root while hooks run. A plain (not recursive) bind mount shows
# it without them, and an empty /mnt hides the file system that is being written there.
cd "$root/mnt"
mkdir view
mount --bind "$root" view
mount -t tmpfs -o mode=0755 none view/mnt
# Tables and journal are written now (they are holes in a sparse file), not by every copy in the background later.
mke2fs -q -t ext4 -F -L amibake-root -m 1 -E lazy_itable_init=0,lazy_journal_init=0 -d view root.ext4 "$size"
umount view/mnt view
dd if=root.ext4 bs=1M seek=2 conv=sparse,notrunc status=none >&9
rm -f root.ext4
rmdir view
