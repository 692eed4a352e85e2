
folder=${path%/*}
mkdir -p -- "${folder:-/}"
if [[ -d $path && ! -L $path ]]; then
    echo "$path is a folder" >&2
    exit 1
fi
# Renamed into place: nobody reads half of it, and a link at its place is replaced, not followed.
temporary=$(mktemp -- "$folder/.amibake.XXXXXX")
trap 'rm -f -- "$temporary"' EXIT
content >"$temporary"
# chown first: it clears set-id bits, and chmod must have the last word.
chown -- "$owner" "$temporary"
chmod -- "$mode" "$temporary"
mv -fT -- "$temporary" "$path"
if command -v restorecon >/dev/null; then restorecon -F "$path"; fi
