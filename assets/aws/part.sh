# Written by amibake: takes a part of a script that is too long for one command.
umask 077
mkdir -p /run/amibake && cat >"/run/amibake/@name@.@part@" <<'PAYLOAD'
@payload@
PAYLOAD
echo "@sha256@  /run/amibake/@name@.@part@" | sha256sum -c --status && exit 0
echo "amibake: part @part@ of the script did not arrive whole" >&2
exit 1
