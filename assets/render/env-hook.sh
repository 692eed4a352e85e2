# {= generated_by =}
#
# The Elastic CI Stack's environment hook: s3://<secrets bucket>/env sets it for every pipeline, s3://<secrets
# bucket>/<pipeline slug>/env for one, which is how a builder is kept to those that may use it. It is evaluated in each job, as
# the user buildkite-agent, with `set -eu` and `set -a`: everything here is local to a function, and nothing is written
# outside of that user's home.
# shellcheck shell=bash
amibake_env() {
{%- if let Some(address) = literal %}
    BUILDKIT_HOST={= address =}
{%- endif %}
{%- if let Some(name) = parameter %}
    local address
    address=$(aws ssm get-parameter --name {= name =}{% if let Some(region) = region %} --region {= region =}{% endif %} \
        --query Parameter.Value --output text) || {
        echo "amibake: cannot read the builder's address: may the agents' role call ssm:GetParameter on" {= name =}'?' >&2
        return 1
    }
    case $address in
        tcp://?*:[0-9]*) BUILDKIT_HOST=$address ;;
        *)
            echo "amibake: the parameter" {= name =} "holds '$address', expected tcp://HOST:PORT" >&2
            return 1
            ;;
    esac
{%- endif %}
    export BUILDKIT_HOST
{%- if let Some((from, fetch)) = tls %}
    # buildctl has no variable for it: steps say `buildctl --tlsdir "$BUILDKIT_TLS_DIR"`.
    # A folder for each job: jobs run side by side, and a key must go with its certificate. Those of jobs long gone go.
    local file
    BUILDKIT_TLS_DIR=$(
        umask 077
        mkdir -p "$HOME/.amibake" &&
            { find "$HOME/.amibake" -mindepth 1 -maxdepth 1 -name 'buildkit.*' -mmin +4320 -exec rm -rf {} + || true; } &&
            mktemp -d "$HOME/.amibake/buildkit.XXXXXX"
    ) || {
        unset BUILDKIT_HOST BUILDKIT_TLS_DIR
        return 1
    }
    for file in ca cert key; do
        (umask 077 && {= fetch =} >"$BUILDKIT_TLS_DIR/$file.pem") || {
            echo "amibake: cannot fetch the client's certificate: may the agents' role read what is below" {= from =}"/client?" >&2
            rm -rf "$BUILDKIT_TLS_DIR"
            unset BUILDKIT_HOST BUILDKIT_TLS_DIR
            return 1
        }
    done
    export BUILDKIT_TLS_DIR
{%- endif %}
}
# Jobs that build nothing go on: those that do say that BUILDKIT_HOST is not set.
amibake_env || echo "amibake: BUILDKIT_HOST is not set for this job" >&2
unset -f amibake_env
