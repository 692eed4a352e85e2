# What a builder does for itself at boot, beside what its image does. As user data it is a boot hook: cloud-init runs it at
# every boot, early, without arguments; it then installs itself as a program with the units below and returns at once.
# (A plain script would run last, and on Debian only once the daemon has given up waiting for its volume.)
#
# The settings above it are all that a template puts in. Nothing here is secret: anything on the host can read user data.
set -euo pipefail

readonly PROGRAM=/usr/local/libexec/amibake/host UNITS=/run/systemd/system LOG=/var/log/amibake/buildkitd.log
# The image's own cache volume has this name; the launch template leaves that one out.
readonly DEVICE=/dev/sdf
# How long to wait for a volume that an instance on its way out still holds. More than the group's hook lets it drain.
readonly WAIT_SECONDS=1500

say() { printf 'host: %s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}

imds() {
    local token at=http://169.254.169.254/latest
    token=$(curl -sS --fail --max-time 5 --retry 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$at/api/token")
    curl -sS --fail --max-time 5 --retry 5 -H "X-aws-ec2-metadata-token: $token" "$at/meta-data/$1"
}

# No call without an end.
aws() {
    timeout 120 aws --cli-connect-timeout 10 --cli-read-timeout 30 --output text "$@"
}

who_am_i() {
    command -v aws >/dev/null || die "the image has no AWS CLI (Amazon Linux brings one): add it to the recipe's packages"
    export AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=5 AWS_PAGER=""
    AWS_DEFAULT_REGION=$(imds placement/region)
    instance=$(imds instance-id)
    zone=$(imds placement/availability-zone)
    export AWS_DEFAULT_REGION
}

# Volumes of this stack in this zone: what to tell of them, and further filters.
volumes() {
    local query=$1
    shift
    aws ec2 describe-volumes --query "$query" \
        --filters "Name=tag:amibake:cache,Values=$NAME" "Name=availability-zone,Values=$zone" "$@"
}

mine() {
    volumes 'Volumes[0].VolumeId' "Name=attachment.instance-id,Values=$instance" \
        Name=attachment.status,Values=attaching,attached | grep -v '^None$' || true
}

# EC2 gives a volume to one instance and refuses all others, and it gives one device name once: of two instances that try
# for a volume one fails, and an instance whose answer was lost does not get a second volume.
take() {
    aws ec2 attach-volume --volume-id "$1" --instance-id "$instance" --device "$DEVICE" >/dev/null || return 1
    say "attached $1"
}

take_a_free_one() {
    local free volume
    # The oldest first: its cache is the one most likely to be of use.
    free=$(volumes 'sort_by(Volumes,&CreateTime)[].VolumeId' Name=status,Values=available) || return 1
    for volume in $free; do
        if take "$volume"; then return; fi
        say "$volume went to another instance, or cannot be attached"
    done
    return 1
}

# A volume is lacking if there are fewer than instances that stay. One that is draining counts for nothing: its volume
# comes free, and is worth the wait.
lacking() {
    local have need staying
    have=$(volumes 'length(Volumes)' Name=status,Values=creating,available,in-use) || return 1
    staying="[?AvailabilityZone=='$zone' && !starts_with(LifecycleState,'Terminat')]"
    need=$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names "$GROUP" \
        --query "length(AutoScalingGroups[].Instances[] | $staying)") || return 1
    [[ $have =~ ^[0-9]+$ && $need =~ ^[0-9]+$ ]] && ((have < need))
}

create() {
    local volume key=()
    if [[ -n $KMS_KEY ]]; then key=(--kms-key-id "$KMS_KEY"); fi
    created=$((created + 1))
    # The token: a call whose answer was lost makes no second volume.
    volume=$(aws ec2 create-volume --availability-zone "$zone" --size "$CACHE_GIB" --volume-type gp3 --iops "$CACHE_IOPS" \
        --throughput "$CACHE_THROUGHPUT" --encrypted "${key[@]}" --client-token "$instance-$created" --query VolumeId \
        --tag-specifications "ResourceType=volume,Tags=[{Key=amibake:cache,Value=$NAME},{Key=Name,Value=$NAME-cache}]") ||
        return 1
    say "created $volume, $CACHE_GIB GiB"
    aws ec2 wait volume-available --volume-ids "$volume" && take "$volume"
}

# Ends with one volume of this stack attached, whatever was there before. The image does the rest: it looks for the file
# system's label, formats a blank volume, mounts it, and starts the daemon only then.
attach() {
    local volume created=0
    who_am_i
    while :; do
        volume=$(mine) || volume=""
        if [[ -n $volume ]]; then break; fi
        if ! take_a_free_one; then
            if ((SECONDS >= WAIT_SECONDS + 300)); then die "no volume after $SECONDS s"; fi
            if lacking || ((SECONDS >= WAIT_SECONDS)); then
                create || say "no new volume"
            else
                say "waiting for a volume: each is held by an instance that stays or drains"
            fi
        fi
        # After an error too: what was asked for may have been done. Not in step with other instances.
        sleep $((5 + RANDOM % 5))
    done
    aws ec2 wait volume-in-use --volume-ids "$volume"
    say "the cache is on $volume"
    # If the daemon gave up on its volume meanwhile; else this changes nothing.
    systemctl --no-block start buildkitd.service
}

# Asked for on this host: nobody else needs to reach the port for it.
answers() {
    # shellcheck source=/dev/null disable=SC2154
    (. /etc/amibake/buildkitd.env && timeout 20 /usr/local/bin/buildctl --addr "$BUILDKITD_ADDR" debug workers) >/dev/null 2>&1
}

# One address among those of the name. Its identifier is the volume: the next instance with this volume replaces what this
# one left behind, however it ended.
record() {
    local address volume
    if [[ -z $ZONE_ID ]]; then return; fi
    address=$(imds local-ipv4)
    volume=$(mine)
    [[ -n $volume ]] || die "no volume is attached"
    aws route53 change-resource-record-sets --hosted-zone-id "$ZONE_ID" --change-batch "$(printf \
        '{"Changes":[{"Action":"%s","ResourceRecordSet":{"Name":"%s","Type":"A","SetIdentifier":"%s","MultiValueAnswer":true,"TTL":15,"ResourceRecords":[{"Value":"%s"}]}}]}' \
        "$1" "$RECORD" "$volume" "$address")" >/dev/null
    say "$1 $RECORD $address"
}

# Only a daemon that answers gets a name, and lets a stack's creation or update go on.
register() {
    local deadline=$((SECONDS + 900))
    who_am_i
    until answers; do
        if ((SECONDS >= deadline)); then die "the daemon does not answer"; fi
        sleep 5
    done
    record UPSERT
    if [[ -n $STACK ]]; then
        # Refused unless the stack waits for it.
        aws cloudformation signal-resource --stack-name "$STACK" --logical-resource-id Group --unique-id "$instance" \
            --status SUCCESS 2>/dev/null || true
    fi
}

deregister() {
    who_am_i
    record DELETE
}

watch() {
    local up=0
    who_am_i
    if [[ $(imds autoscaling/target-lifecycle-state 2>/dev/null || true) == Terminated ]]; then
        systemctl --no-block start amibake-host-drain.service
    fi
    # Emptied rather than rotated: the journal has it all.
    if [[ -e $LOG && $(stat -c %s "$LOG") -gt $((64 << 20)) ]]; then truncate --size 0 "$LOG"; fi
    if answers; then up=1; fi
    # Once in each minute of the clock: the sum over the group is the number of daemons that answer.
    aws cloudwatch put-metric-data --namespace amibake --metric-name DaemonUp --dimensions "Builder=$NAME" --value "$up" \
        --timestamp "$(date -u +%Y-%m-%dT%H:%M:00Z)"
}

# The group wants to terminate this instance and waits for it. First the name goes, then the daemon waits for its builds.
drain() {
    who_am_i
    systemctl stop amibake-host-name.service || say "the name stays until another instance takes the volume"
    systemctl stop buildkitd.service || say "the daemon did not stop in order"
    aws autoscaling complete-lifecycle-action --auto-scaling-group-name "$GROUP" --lifecycle-hook-name drain \
        --instance-id "$instance" --lifecycle-action-result CONTINUE
}

metrics() {
    local control=/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl
    if [[ ! -x $control ]]; then
        if ! command -v dnf >/dev/null || ! dnf -q list amazon-cloudwatch-agent >/dev/null 2>&1; then
            say "no CloudWatch agent, and dnf has none: no metrics of memory and disks, no logs"
            return
        fi
        dnf -y -q --setopt=install_weak_deps=False install amazon-cloudwatch-agent
    fi
    cat >/etc/amibake/cloudwatch.json <<JSON
{
  "agent": {"metrics_collection_interval": 60, "omit_hostname": true},
  "metrics": {
    "namespace": "amibake",
    "append_dimensions": {"InstanceId": "\${aws:InstanceId}"},
    "aggregation_dimensions": [["Builder"], ["Builder", "path"]],
    "metrics_collected": {
      "cpu": {"totalcpu": true, "measurement": ["usage_active"], "append_dimensions": {"Builder": "$NAME"}},
      "mem": {"measurement": ["used_percent"], "append_dimensions": {"Builder": "$NAME"}},
      "disk": {"resources": ["/", "$CACHE_MOUNT"], "drop_device": true, "measurement": ["used_percent"],
        "append_dimensions": {"Builder": "$NAME"}}
    }
  },
  "logs": {"logs_collected": {"files": {"collect_list": [
    {"file_path": "$LOG", "log_group_name": "$LOG_GROUP", "log_stream_name": "{instance_id}"}
  ]}}}
}
JSON
    "$control" -a fetch-config -m ec2 -s -c file:/etc/amibake/cloudwatch.json >/dev/null
}

# unit NAME DESCRIPTION  (further [Unit] lines, then sections, from standard input)
unit() {
    { printf '[Unit]\nDescription=%s\n' "$2" && cat; } >"$UNITS/$1"
}

install_units() {
    local online=$'Wants=network-online.target\nAfter=network-online.target'
    # In /run: gone with the next boot, whose hook writes what holds then.
    mkdir -p "$UNITS" "${PROGRAM%/*}" "${LOG%/*}" /etc/amibake
    chmod 0700 "${LOG%/*}"
    install -m 0755 "${BASH_SOURCE[0]}" "$PROGRAM"
    # Where the image's own unit finds the daemon's certificate; it has a default.
    if [[ -n $TLS_FROM ]]; then
        printf 'BUILDKITD_TLS_FROM=%s\n' "$TLS_FROM" >/etc/amibake/tls.env
    fi
    unit amibake-host-volume.service "Attach a cache volume of this builder" <<UNIT
$online
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$PROGRAM attach
TimeoutStartSec=45min
Restart=on-failure
RestartSec=30s
UNIT
    # Stopped before the daemon is, so that the name is gone when the drain begins.
    unit amibake-host-name.service "Give this builder its name" <<UNIT
$online
After=amibake-host-volume.service buildkitd.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$PROGRAM register
ExecStop=-$PROGRAM deregister
TimeoutStartSec=20min
TimeoutStopSec=1min
Restart=on-failure
RestartSec=30s
UNIT
    unit amibake-host-watch.service "Tell whether the daemon answers, and whether this instance is to go" <<UNIT
$online

[Service]
Type=oneshot
ExecStart=$PROGRAM watch
TimeoutStartSec=5min
UNIT
    unit amibake-host-watch.timer "Each minute: look at the daemon and at the group's wishes" <<UNIT

[Timer]
OnCalendar=minutely
AccuracySec=1s
UNIT
    unit amibake-host-drain.service "End builds in order before this instance is terminated" <<UNIT

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$PROGRAM drain
TimeoutStartSec=20min
UNIT
    # The CloudWatch agent reads files, and the daemon writes to the journal.
    unit amibake-host-log.service "Copy the daemon's journal to a file" <<UNIT

[Service]
ExecStart=journalctl --boot --follow --lines=all --output=short-iso --unit=buildkitd.service --unit=amibake-volume@* --unit=amibake-tls* --unit=amibake-host-*
StandardOutput=append:$LOG
Restart=always
RestartSec=30s
UNIT
    unit amibake-host-metrics.service "Set up the CloudWatch agent" <<UNIT
$online

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$PROGRAM metrics
TimeoutStartSec=10min
Restart=on-failure
RestartSec=2min
UNIT
    systemctl daemon-reload
    # Not waited for: this runs while the boot does, and they wait for what it brings.
    systemctl --no-block start amibake-host-{volume,name,log,metrics}.service amibake-host-watch.timer
}

case ${1-install} in
install) install_units ;;
attach | register | deregister | watch | drain | metrics) "$1" ;;
*) die "usage: ${0##*/} [attach|register|deregister|watch|drain|metrics]" ;;
esac
