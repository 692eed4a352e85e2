# shellcheck shell=bash
# A template is verified by an instance of it.
instance=${unit/@./@amibake.}
systemctl daemon-reload
# It reports a misspelt directive and still exits 0; what it says of other units is not this unit's fault.
if ! said=$(systemd-analyze verify --man=no "$instance" 2>&1) || grep -F -- "$unit" <<<"$said"; then
    echo "$said"
    exit 1
fi
if ((enable)); then systemctl enable -- "$unit"; fi
if ((start)) && ! systemctl start -- "$unit"; then
    systemctl status --no-pager --full --lines=30 -- "$unit" || true
    exit 1
fi
