#!/bin/sh
# Runs as mmdebstrap's customize hook: $1 is the new root, $2 a folder for what leaves it.
# Makes the root bootable and firm enough to be anyone's base, then writes it as an ext4 file system. Everything is done
# from inside the root with its own tools, so that the host needs neither GRUB nor the same distribution.
set -eu
root=$1
out=$2
size=$3

# Only the drivers a virtual disk can need: the generic initrd is five times the size, and a slow machine notices.
echo 'MODULES=list' >"$root/etc/initramfs-tools/conf.d/amibake"
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod ata_piix ata_generic ahci nvme ext4 \
    >"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k all

# The root partition is found by label; systemd-repart grows it to the disk, x-systemd.growfs the file system to it.
echo 'LABEL=bake-root / ext4 rw,errors=remount-ro,discard,x-systemd.growfs 0 1' >"$root/etc/fstab"
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

# Debian makes SSH host keys when the package is installed: here they would be in every image. They are made at boot.
rm -f "$root"/etc/ssh/ssh_host_*
mkdir -p "$root/etc/systemd/system/ssh.service.d"
cat >"$root/etc/systemd/system/ssh.service.d/host-keys.conf" <<'UNIT'
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
UNIT

echo localhost >"$root/etc/hostname"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"

# GRUB reads its orders from the core image itself; /vmlinuz and /initrd.img are kept by Debian's kernel packages.
cat >"$root/tmp/grub.cfg" <<'GRUB'
search.fs_label bake-root root
linux /vmlinuz root=LABEL=bake-root ro console=tty0 console=ttyS0,115200n8 quiet
initrd /initrd.img
boot
GRUB
chroot "$root" grub-mkimage -O i386-pc -p / -c /tmp/grub.cfg -o /tmp/core.img \
    biosdisk part_gpt ext2 search_label linux boot
cat "$root/tmp/core.img" >"$out/core.img"
cat "$root/usr/lib/grub/i386-pc/boot.img" >"$out/boot.img"
rm -rf "$root/tmp/grub.cfg" "$root/tmp/core.img"

# Nothing of the machine that made it stays.
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt "$root"/var/lib/apt/lists/*

# mmdebstrap keeps /proc and /sys mounted while hooks run; a plain (not recursive) bind mount shows the root without.
mkdir "$out/root"
mount --bind "$root" "$out/root"
trap 'umount "$out/root" && rmdir "$out/root"' EXIT
mke2fs -q -t ext4 -F -L bake-root -m 1 -d "$out/root" "$out/root.ext4" "$size"
