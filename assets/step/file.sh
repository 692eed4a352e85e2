# shellcheck shell=bash
# Writes beside, then renames: a reader never sees half a file.
install_file() {
    local beside
    mkdir -p -- "$(dirname -- "$path")"
    beside=$(mktemp -- "$path.XXXXXX")
    base64 --decode >"$beside"
    chown -- "$owner" "$beside"
    chmod -- "$mode" "$beside"
    mv -fT -- "$beside" "$path"
    if command -v restorecon >/dev/null; then restorecon -- "$path" || true; fi
}
