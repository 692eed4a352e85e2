#cloud-boothook
#!/bin/sh
# Written by amibake: powers this machine off once its bake is overdue, whatever has become of amibake; EC2 ends a machine
# of a bake that powers itself off. At each boot, and only in memory: none of it gets into an image.
# Nor does it fetch a builder's certificate: what is tested gets one that is made for it (assets/builder/tls).
mkdir -p -m 0755 /run/amibake && mkdir -p -m 0700 /run/amibake/tls && : >/run/amibake/tls/.given
# --no-block: cloud-init runs this before sysinit.target, for which a timer waits.
systemd-run --quiet --no-block --unit=amibake-deadline --timer-property=AccuracySec=1s --on-active=@seconds@ \
    systemctl poweroff || shutdown -P "+$((@seconds@ / 60 + 1))"
