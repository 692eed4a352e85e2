#!/usr/bin/env bash
# units.sh: lets the builder's boot script write its units, as a boot would, into a folder; systemd judges them, and Python
# the CloudWatch agent's configuration.
set -euo pipefail
script=$(cd "$(dirname "$0")/../.." && pwd)/assets/render/builder-user-data.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
{
    echo '#!/bin/bash'
    echo "NAME=bk STACK=bk GROUP=bk-builder LOG_GROUP=/amibake/bk CACHE_MOUNT=/var/lib/buildkit CACHE_GIB=1 CACHE_IOPS=1"
    echo "CACHE_THROUGHPUT=1 KMS_KEY='' ZONE_ID='' RECORD='' TLS_FROM=/builder/tls"
    sed -e "s|=/usr/local/libexec/amibake/host|=$work/libexec/host|; s|=/run/systemd/system|=$work/units|" \
        -e "s|=/var/log/amibake|=$work/log|; s|/etc/amibake|$work/etc|g" \
        -e "s|/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl|$work/bin/ctl|" "$script"
} >"$work/hook"
printf '#!/bin/bash\n' | tee "$work/bin/systemctl" >"$work/bin/ctl"
chmod +x "$work/hook" "$work"/bin/*
export PATH=$work/bin:$PATH
# Twice: a boot hook runs at every boot.
"$work/hook"
"$work/hook"
"$work/libexec/host" metrics
grep -qx BUILDKITD_TLS_FROM=/builder/tls "$work/etc/tls.env"
python3 -m json.tool "$work/etc/cloudwatch.json" >/dev/null
printf '[Service]\nExecStart=/bin/true\n' >"$work/units/buildkitd.service"
systemd-analyze verify --man=no "$work"/units/amibake-*
