#!/bin/bash
# What is known of the builder that this runs on: lines of a name, a tab and a value. Changes nothing and tells no secret;
# what cannot be found out is left out. Run by `amibake doctor`, as root.
set -u
fact() { if [[ -n ${2-} ]]; then printf '%s\t%s\n' "$1" "$2"; fi; }

fact now "$(date +%s)"
if [[ ! -r /etc/amibake/buildkitd.env ]]; then exit 0; fi
# shellcheck source=/dev/null
. /etc/amibake/buildkitd.env

fact version "$(/usr/local/bin/buildkitd --version 2>/dev/null | awk '{print $3}')"

# bytes NAME FOLDER: of the file system that it is on.
bytes() { fact "$1" "$(df --block-size=1 --output=size,avail "$2" 2>/dev/null | awk 'NR == 2 {print $1 " " $2}')"; }
bytes root_disk /
fact cache "$BUILDKITD_ROOT"
bytes cache_disk "$BUILDKITD_ROOT"
if [[ -d $BUILDKITD_ROOT ]]; then
    on=volume
    if [[ $(stat -c %d "$BUILDKITD_ROOT") == "$(stat -c %d /)" ]]; then on=root; fi
    fact cache_on "$on"
    # When the worker's state was made, which is when its cache began; 0 where the file system keeps no such time.
    fact cache_since "$(stat -c %W "$BUILDKITD_ROOT/runc-overlayfs" 2>/dev/null)"
fi

config=/etc/buildkit/buildkitd.toml
if [[ -r $config ]]; then
    if grep -q '^gc = false' "$config"; then fact gc off; fi
    # The largest bound of any policy is what the cache may grow to.
    fact cache_most "$(awk '$1 == "maxUsedSpace" || $1 == "keepBytes" {print $3}' "$config" | sort -n | tail -n 1)"
fi

if command -v systemctl >/dev/null; then
    while IFS='=' read -r name value; do
        case $name in
        ActiveState) fact state "$value" ;;
        Result) fact result "$value" ;;
        NRestarts) fact restarts "$value" ;;
        ActiveEnterTimestamp) if [[ -n $value ]]; then fact active_since "$(date -d "$value" +%s 2>/dev/null)"; fi ;;
        esac
    done < <(systemctl show buildkitd.service --property ActiveState,Result,NRestarts,ActiveEnterTimestamp 2>/dev/null)
    if [[ ${BUILDKITD_TLS-} == true ]]; then
        fact tls "$(systemctl show amibake-tls.service --property ActiveState --value 2>/dev/null)"
    fi
fi
if [[ -r /run/amibake/tls/cert.pem ]]; then
    end=$(openssl x509 -noout -enddate -in /run/amibake/tls/cert.pem 2>/dev/null)
    if [[ -n $end ]]; then fact certificate_until "$(date -d "${end#notAfter=}" +%s 2>/dev/null)"; fi
fi
exit 0
