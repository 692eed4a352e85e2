
refuse() {
    echo "refused: $*" >&2
    exit 1
}

# Every folder on the way to $1, and $1 itself, is a real one: nothing is written through a link.
assert_no_link() {
    [[ $(realpath --canonicalize-missing -- "$1") == "$1" ]] || refuse "$1 is reached through a link"
}

# The machine was given the artifact by its provider; what arrived is hashed before a byte of it is used.
: "${AMIBAKE_ARTIFACT:?the machine has no artifact}" "${AMIBAKE_ARTIFACT_SIZE:?the machine does not know the size of its artifact}"
[[ $AMIBAKE_ARTIFACT_SIZE =~ ^[0-9]+$ ]] || refuse "the artifact's size is not a number: $AMIBAKE_ARTIFACT_SIZE"
# A block device is longer than what is on it.
artifact() { head --bytes="$AMIBAKE_ARTIFACT_SIZE" -- "$AMIBAKE_ARTIFACT"; }
read -r found _ < <(artifact | sha256sum)
[[ $found == "$sha256" ]] || refuse "the artifact's sha256 is $found, the lock pins $sha256"

command -v tar >/dev/null || refuse "this machine has no tar: add a step of kind \"packages\" before this one"
command -v gzip >/dev/null || refuse "this machine has no gzip: add a step of kind \"packages\" before this one"
assert_no_link "$prefix"
mkdir -p -- "$prefix"
# Beside what it becomes, so that moving is renaming: a program is there whole or not at all.
work=$(mktemp -d -- "$prefix/.amibake.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
# From a file name and not from a pipe: tar may stop reading at the archive's end, before `head` has written all.
tar --extract --gzip --file=<(artifact) --directory="$work" --no-same-owner --no-same-permissions --anchored \
    --no-wildcards -- "${members[@]}"
odd=$(cd -- "$work" && find . -mindepth 1 ! -type d \( ! -type f -o -links +1 \) -print -quit)
[[ -z $odd ]] || refuse "$odd of the artifact is not a plain file"
mapfile -d '' -t installed < <(cd -- "$work" && find . -type f -printf '%P\0' | sort --zero-terminated)
[[ ${#installed[@]} != 0 ]] || refuse "the artifact holds no files"

for member in "${installed[@]}"; do
    target=$prefix/$member
    assert_no_link "${target%/*}"
    mkdir -p -- "${target%/*}"
    # chown first: it clears set-id bits, and chmod must have the last word. Not root's group by itself: Debian's
    # /usr/local hands its own group on.
    chown -- root:root "$work/$member"
    chmod -- 0755 "$work/$member"
    mv -fT -- "$work/$member" "$target"
    if command -v restorecon >/dev/null; then restorecon -F "$target"; fi
    found=$(stat --format='%a %u:%g %F' -- "$target")
    [[ $found == "755 0:0 regular file" ]] || refuse "$target became $found"
done

for program in buildctl buildkitd; do
    [[ " ${installed[*]} " == *" bin/$program "* ]] || continue
    found=$("$prefix/bin/$program" --version)
    [[ $found == "$program github.com/moby/buildkit $version "* ]] ||
        refuse "$program should be $version, it says: $found"
    echo "$found"
done
printf 'installed %d files below %s\n' "${#installed[@]}" "$prefix"
