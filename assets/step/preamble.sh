#!/bin/bash
# The head of every script that amibake runs: fail at the first fault, and say at which line.
set -Eeuo pipefail
amibake_failed() {
    local status=$1 line=$2 command=${3%%$'\n'*}
    echo "amibake: failed at line $line: exit status $status: $command" >&2
    exit "$status"
}
trap 'amibake_failed "$?" "$LINENO" "$BASH_COMMAND"' ERR
umask 022
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive TMPDIR=/var/tmp
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
