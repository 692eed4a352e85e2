# shellcheck shell=sh disable=SC2154
# The card with this hardware address gets this address, until the guest's next start. Where networkd runs it would take
# away an address that it did not give.
if systemctl is-active --quiet systemd-networkd; then
    mkdir -p /run/systemd/network
    printf '[Match]\nMACAddress=%s\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nAddress=%s\nLinkLocalAddressing=no\n' \
        "$mac" "$address" >/run/systemd/network/05-amibake-peers.network
    networkctl reload
fi
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    for card in /sys/class/net/*; do
        [ "$(cat "$card/address" 2>/dev/null)" = "$mac" ] || continue
        name=${card##*/}
        if ip -4 addr show dev "$name" | grep -q "inet $address"; then exit 0; fi
        if ! systemctl is-active --quiet systemd-networkd; then
            ip link set "$name" up
            ip addr add "$address" dev "$name"
        fi
    done
    sleep 0.5
done
echo "no card $mac took the address $address" >&2
ip addr >&2
exit 1
