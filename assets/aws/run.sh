# Written by amibake: runs one script with bash and prints how it ended, then the end of its output (gzip, base64).
# For a POSIX shell. It never exits as the script did: to the agent, 194 means "reboot and run this again".
set -u
umask 077
cd /
dir=/run/amibake/@name@
work=/var/tmp/amibake
broken() {
    echo "amibake: $*" >&2
    exit 1
}
mkdir -p /run/amibake "$work" || broken "cannot make its folders"
for folder in /run/amibake "$work"; do
    if [ -L "$folder" ] || [ "$(stat -c %u "$folder")" != 0 ]; then broken "$folder is not its own"; fi
done

# The order may come twice, when the answer to the first was lost on its way: the second says what the first one says.
if ! mkdir "$dir" 2>/dev/null; then
    until [ -e "$dir/answer" ]; do sleep 1; done
    cat "$dir/answer"
    exit 0
fi
trap '[ -e "$dir/answer" ] || echo broken >"$dir/answer"' EXIT

cat @parts@ - <<'PAYLOAD' | base64 -d | gzip -dc >"$dir/script"
@payload@
PAYLOAD
echo "@sha256@  $dir/script" | sha256sum -c --status || broken "the script did not arrive whole"
for program in bash mkfifo setsid; do
    command -v "$program" >/dev/null || broken "this machine has no $program"
done

# cloud-init holds the package manager's lock, and goes on for a while after the agent is there. A finished image is not
# waited for here: its last part comes after everything that starts at boot, which may wait for this very script.
settles=@settles@
if [ "$settles" = 1 ] && [ ! -e /run/amibake/settled ]; then
    if command -v cloud-init >/dev/null; then timeout 600 cloud-init status --wait </dev/null >/dev/null 2>&1; fi
    : >/run/amibake/settled
fi

log=$work/@name@.log
: >"$log" || broken "cannot write its log"
# By descriptor: the script that seals the machine takes the name away.
exec 8<"$log"
read_log="/proc/$$/fd/8"

# When this shell is killed (a cancelled command), everything in the script's session goes with it.
mkfifo "$dir/alive" || broken "cannot make a pipe"
# shellcheck disable=SC2016 # for the other shell
setsid bash -c '
    read -r word <"$0/alive"
    if [ "$word" = done ] || ! session=$(cat "$0/session"); then exit; fi
    for _ in {1..200}; do
        left=()
        for stat in /proc/[0-9]*/stat; do
            { line=$(<"$stat"); } 2>/dev/null || continue
            read -r state _ _ sid _ <<<"${line##*) }"
            [ "$sid" = "$session" ] && [ "$state" != Z ] && stat=${stat#/proc/} && left+=("${stat%/stat}")
        done
        [ ${#left[@]} = 0 ] && exit
        kill -KILL "${left[@]}" 2>/dev/null
    done' "$dir" </dev/null >/dev/null 2>&1 8<&- &
exec 9>"$dir/alive"

# What bash says of a child is in `why`: it is empty unless a signal ended the script. A status above 128 alone may be the
# script's own.
# shellcheck disable=SC2016 # for the other shell
setsid bash -c '
    echo $$ >"$0/session"
    umask 022
    env -i @environment@ bash "$0/script" </dev/null >"$1" 2>&1
    echo $? >"$0/status"' "$dir" "$log" 2>"$dir/why" 8<&- 9>&-
status=$(cat "$dir/status" 2>/dev/null) || status=none
if [ "$status" = none ] || [ -s "$dir/why" ]; then status=signal; fi

# What fits into one answer, or else the last of it; what came before is kept for a moment, in memory.
size=$(stat -L -c %s "$read_log")
last=$size
rest=0
long=1
if [ "$size" -le 262144 ]; then
    head -c "$size" "$read_log" | gzip -c >"$dir/last"
    if [ "$(stat -c %s "$dir/last")" -le 16500 ]; then long=0; fi
fi
if [ "$long" = 1 ]; then
    last=16000
    if [ "$status" = 0 ]; then most=@most_success@; else most=@most_failure@; fi
    rest=$((size - last))
    if [ "$rest" -gt "$most" ]; then rest=$most; fi
    tail -c "+$((size - last - rest + 1))" "$read_log" | head -c "$rest" | gzip -c >"$dir/rest"
    tail -c "+$((size - last + 1))" "$read_log" | head -c "$last" | gzip -c >"$dir/last"
fi
packed=0
if [ -e "$dir/rest" ]; then packed=$(stat -c %s "$dir/rest"); fi
{
    echo "amibake 1 $status $size $last $rest $packed"
    base64 -w 0 "$dir/last"
    echo
} >"$dir/partly"
mv "$dir/partly" "$dir/answer"
cat "$dir/answer"
# With a bucket for logs the whole travels there; what is read back from here is cut off before it.
if [ "@bucket@$long" = 11 ]; then
    head -c "$size" "$read_log" | gzip -c | base64 -w 0
    echo
fi
echo done >&9
rm -f "$log" "$dir/script" "$dir/why" "$dir/status" "$dir/session" "$dir/alive" "$dir/last"
exit 0
