# shellcheck shell=bash
# A template is verified by an instance of it.
instance=${unit/@./@amibake.}
systemctl daemon-reload
systemd-analyze verify --man=no "$instance"
if ((enable)); then systemctl enable -- "$unit"; fi
if ((start)) && ! systemctl start -- "$unit"; then
    systemctl status --no-pager --full --lines=30 -- "$unit" || true
    exit 1
fi
