# shellcheck shell=bash
# The same bytes that the host verified? They came here over a disk or a network.
: "${AMIBAKE_ARTIFACT:?}" "${AMIBAKE_ARTIFACT_SIZE:?}"
artifact() { head -c "$AMIBAKE_ARTIFACT_SIZE" -- "$AMIBAKE_ARTIFACT"; }
found=$(artifact | sha256sum | cut -d ' ' -f 1)
if [[ $found != "$sha256" ]]; then
    echo "the tarball on this machine is sha256:$found, not sha256:$sha256" >&2
    exit 1
fi
# Unpacked beside, then moved: a program that is there is whole.
mkdir -p -- "$prefix"
beside=$(mktemp -d -- "$prefix/.amibake-XXXXXX")
trap 'rm -rf -- "$beside"' EXIT
artifact | tar --extract --gzip --directory "$beside" --no-same-owner --no-same-permissions -- "${members[@]}"
if odd=$(find "$beside" -mindepth 1 ! -type d ! -type f -print -quit) && [[ -n $odd ]]; then
    echo "$odd is neither a file nor a folder" >&2
    exit 1
fi
if ((${#members[@]} == 0)); then
    mapfile -d '' -t members < <(cd -- "$beside" && find . -type f -printf '%P\0')
fi
for member in "${members[@]}"; do
    install -D --owner=root --group=root --mode=0755 -- "$beside/$member" "$prefix/$member"
done
if command -v restorecon >/dev/null; then restorecon -R -- "$prefix/bin" || true; fi
for program in buildctl buildkitd; do
    [[ -x $prefix/bin/$program && " ${members[*]} " == *" bin/$program "* ]] || continue
    told=$("$prefix/bin/$program" --version)
    echo "$told"
    read -r _ _ told_version _ <<<"$told"
    if [[ $told_version != "$version" ]]; then
        echo "$program is $told_version, the lock says $version" >&2
        exit 1
    fi
done
