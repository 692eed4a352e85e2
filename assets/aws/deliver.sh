# Written by amibake: fetches the release's tarball and keeps it only if it is the one that the lock pins. The address is a
# secret: it comes on standard input to the program that fetches, and nothing prints it.
set -euo pipefail
umask 077
target=@target@
address() {
    cat <<'ADDRESS'
@address@
ADDRESS
}
mkdir -p -- "${target%/*}"
rm -f -- "$target"
if command -v curl >/dev/null; then
    address | sed 's/.*/url = "&"/' |
        curl --config - --fail --silent --show-error --location --proto '=https,http' --retry 5 --retry-connrefused \
            --connect-timeout 20 --speed-limit 1000 --speed-time 60 --max-filesize @size@ --output "$target"
elif command -v wget >/dev/null; then
    address | wget --quiet --tries=5 --connect-timeout=20 --read-timeout=60 --input-file=- --output-document="$target"
else
    echo "this machine has neither curl nor wget" >&2
    exit 1
fi
read -r found _ < <(sha256sum -- "$target")
if [[ $found != @sha256@ ]]; then
    echo "what the machine was given is not what the lock pins: its sha256 is $found, the lock pins @sha256@" >&2
    rm -f -- "$target"
    exit 3
fi
