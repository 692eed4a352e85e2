#!/usr/bin/env bash
# tls.sh AMIBAKE: the builder's `tls` before a service that refuses, lags, and renews. `aws`, `curl` and `systemctl` are
# stand-ins; certificates and what looks at them are real.
set -euo pipefail
amibake=$1
script=$(cd "$(dirname "$0")/../.." && pwd)/assets/builder/tls
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/etc"
: >"$work/said"
sed -e "s|/run/amibake/tls|$work/run|; s|/etc/amibake|$work/etc|g; s|TRY_SECONDS=15|TRY_SECONDS=0|; s|TELL_SECONDS=60|TELL_SECONDS=0|" \
    -e "s|/usr/local/libexec/amibake/drain|$work/bin/drain|; s|sleep 10|sleep 0.1|" "$script" >"$work/tls"
printf 'BUILDKITD_TLS=true\nBUILDKITD_TLS_FROM=/builder/tls\n' >"$work/etc/buildkitd.env"
issue() { "$amibake" certs issue --dir "$work/$1" --name builder.internal --days 30 >/dev/null 2>&1; }
for set in one two; do
    "$amibake" certs init --dir "$work/$set" --days 60 >/dev/null 2>&1
    issue "$set"
done
# What the service holds: a folder with ca.pem, cert.pem and key.pem; none at first.
cat >"$work/bin/aws" <<'AWS'
#!/bin/bash
echo "$*" >>"$WORK/asked"
for word; do case $word in /builder/tls/server/*) file=${word##*/} ;; s3://secrets/b/server/*) file=${word##*/} ;; esac; done
if [[ ! -e $WORK/holds/$file.pem ]]; then echo "ParameterNotFound: $file" >&2; exit 254; fi
cat "$WORK/holds/$file.pem"
AWS
printf '#!/bin/bash\necho eu-central-1\n' >"$work/bin/curl"
# When the daemon was started, and whether it can be restarted.
cat >"$work/bin/systemctl" <<'SYSTEMCTL'
#!/bin/bash
if [[ $1 == show ]]; then cat "$WORK/since"; exit; fi
echo "$*" >>"$WORK/systemctl"
if [[ -e $WORK/broken ]]; then exit 1; fi
date -d '+1 minute' >"$WORK/since"
SYSTEMCTL
# Builds that run: as many looks as there are lines.
cat >"$work/bin/drain" <<'DRAIN'
#!/bin/bash
head -n 1 "$WORK/builds" 2>/dev/null
sed -i 1d "$WORK/builds" 2>/dev/null
exit 0
DRAIN
date -d '+1 minute' >"$work/since"
chmod +x "$work"/bin/* "$work/tls"
export PATH=$work/bin:$PATH WORK=$work
fail() { echo "$*" >&2; cat "$work/said" >&2; exit 1; }
# says TEXT: waits until it was said.
says() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if grep -qF -- "$1" "$work/said"; then return; fi
        sleep 0.1
    done
    fail "it never said: $1"
}

bash "$work/tls" fetch 2>"$work/said" &
fetch=$!
says 'ParameterNotFound: ca'
mkdir "$work/holds"
cp "$work/one/server/ca.pem" "$work/one/server/cert.pem" "$work/holds"
cp "$work/two/server/key.pem" "$work/holds"
says "key that is not the certificate's"
if ! kill -0 "$fetch" || [[ -e $work/run/cert.pem ]]; then fail "a key that does not fit was taken"; fi
cp "$work/one/server/key.pem" "$work/holds"
wait "$fetch"
for file in ca cert key; do
    cmp "$work/run/$file.pem" "$work/one/server/$file.pem"
    [[ $(stat -c %a "$work/run/$file.pem") == 600 ]] || fail "others may read $file.pem"
done
[[ $(find "$work/run" -type f | wc -l) == 3 && $(find "$work/run" -mindepth 1 -type d | wc -l) == 0 ]] || fail "something is left"
grep -q -- '--region eu-central-1 .*--with-decryption' "$work/asked" || fail "it asked otherwise"
if grep -q 'PRIVATE KEY' "$work/said"; then fail "a key was told"; fi

# There already: nobody is asked.
rm "$work/asked"
bash "$work/tls" fetch 2>"$work/said"
[[ ! -e $work/asked ]] || fail "it asked for what is there"

# The same again changes nothing; another one restarts the daemon, once it has nothing to do.
bash "$work/tls" renew 2>"$work/said"
[[ ! -e $work/systemctl ]] || fail "restarted for nothing"
cp "$work"/two/server/{ca,cert,key}.pem "$work/holds"
printf 'build one\nbuild one\n' >"$work/builds"
bash "$work/tls" renew 2>"$work/said"
[[ $(cat "$work/systemctl") == 'try-restart buildkitd.service' ]] || fail "not restarted"
[[ ! -s $work/builds ]] || fail "restarted while it built"
cmp "$work/run/cert.pem" "$work/two/server/cert.pem"
# A restart that failed is made up for, though the files are the same by then.
rm "$work/systemctl"
issue_again() { "$amibake" certs issue --force --dir "$work/two" --name builder.internal --days 30 >/dev/null 2>&1; }
issue_again
cp "$work"/two/server/{ca,cert,key}.pem "$work/holds"
: >"$work/broken"
if bash "$work/tls" renew 2>"$work/said"; then fail "a restart that failed was called good"; fi
rm "$work/broken" "$work/systemctl"
date -d '-1 hour' >"$work/since"
bash "$work/tls" renew 2>"$work/said"
[[ -e $work/systemctl ]] || fail "the daemon still has the old one"
# What cannot be had changes nothing, and is tried again.
rm "$work/holds/key.pem" "$work/systemctl"
if bash "$work/tls" renew 2>"$work/said"; then fail "nothing was had, and that was called good"; fi
grep -q 'nothing was renewed' "$work/said" || fail "it did not say that nothing was renewed"
cmp "$work/run/key.pem" "$work/two/server/key.pem"
# Who tests an image gives it its own: nothing is asked for.
rm "$work/asked"
: >"$work/run/.given"
bash "$work/tls" renew 2>"$work/said"
rm "$work/run/cert.pem"
timeout 3 bash "$work/tls" fetch 2>"$work/said" && fail "it did not wait for what it is to be given"
grep -q 'has not given it' "$work/said" || fail "it does not say what it waits for"
[[ ! -e $work/asked ]] || fail "a test instance asked for the real certificate"

# The stack's word wins over the image's; from a bucket it is the same.
cp "$work/one/server/"* "$work/holds"
printf 'BUILDKITD_TLS_FROM=s3://secrets/b\n' >"$work/etc/tls.env"
rm -rf "$work/run" "$work/asked"
bash "$work/tls" fetch 2>"$work/said"
grep -q 's3 cp --only-show-errors s3://secrets/b/server/key -' "$work/asked" || fail "not from the bucket"
cmp "$work/run/key.pem" "$work/one/server/key.pem"
