
# systemd leaves out what it does not know and goes on; here a word of the unit that has no effect is an error. What is
# wrong with other units is none of this step's business.
status=0
said=$(systemd-analyze verify --man=no --recursive-errors=no "$path" 2>&1) || status=$?
if [[ -n $said ]]; then printf '%s\n' "$said"; fi
ours=$(grep -F -- "$path:" <<<"$said" || true)
if [[ $status != 0 || $ours =~ ignoring|Unknown|Failed\ to\ parse ]]; then
    echo "$unit: systemd-analyze verify refuses it" >&2
    exit 1
fi

systemctl daemon-reload
if [[ $enable == yes ]]; then
    systemctl enable -- "$unit"
    # `enable` is content with a unit that has nothing to enable.
    state=$(systemctl is-enabled -- "$unit" || true)
    case $state in
    enabled | alias | indirect | linked) ;;
    *)
        echo "$unit: it is ${state:-unknown} after \`systemctl enable\`: it needs an [Install] section" >&2
        exit 1
        ;;
    esac
fi
if [[ $start == yes ]]; then
    if ! systemctl start -- "$unit" || systemctl --quiet is-failed -- "$unit"; then
        systemctl status --no-pager --full --lines=0 -- "$unit" || true
        journalctl --no-pager --boot --lines=50 --unit="$unit" || true
        echo "$unit: it does not start" >&2
        exit 1
    fi
fi
