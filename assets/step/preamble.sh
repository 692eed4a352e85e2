#!/bin/bash
# Written by amibake: what every script starts with.
set -Eeuo pipefail
# Says where the script failed, counted without these lines; amibake reads it back (`plan::failed_line`).
# shellcheck disable=SC2317 # it is the trap that calls it
amibake_failed() {
    # Once, from the shell that ends: not from its subshells, and not where the script chose to go on.
    if [[ $BASH_SUBSHELL == 0 && $- == *e* ]]; then
        printf 'amibake: line %d: %s: exit status %d\n' "$(($2 - @lines@))" "${3%%$'\n'*}" "$1" >&2
    fi
}
trap 'amibake_failed "$?" "$LINENO" "$BASH_COMMAND"' ERR
umask 022
cd /
# /var/tmp: /tmp is a small tmpfs on Amazon Linux 2023.
export HOME=/root TMPDIR=/var/tmp LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
