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
{%- if let Some(prefix) = tls %}
    # buildctl has no variable for it: steps say `buildctl --tlsdir "$BUILDKIT_TLS_DIR"`.
    BUILDKIT_TLS_DIR=$HOME/.amibake/buildkit
    local file
    (
        umask 077
        mkdir -p "$BUILDKIT_TLS_DIR"
        for file in ca cert key; do
            # Beside and then renamed: jobs run side by side and never read half a key.
            aws ssm get-parameter --name {= prefix =}"/client/$file"{% if let Some(region) = region %} --region {= region =}{% endif %} --with-decryption \
                --query Parameter.Value --output text >"$BUILDKIT_TLS_DIR/.$file.$$" &&
                mv -f "$BUILDKIT_TLS_DIR/.$file.$$" "$BUILDKIT_TLS_DIR/$file.pem" || {
                rm -f "$BUILDKIT_TLS_DIR/.$file.$$"
                exit 1
            }
        done
    ) || {
        echo "amibake: cannot fetch the client's certificate: may the agents' role read the parameters below" {= prefix =}"/client?" >&2
        unset BUILDKIT_HOST BUILDKIT_TLS_DIR
        return 1
    }
    export BUILDKIT_TLS_DIR
{%- endif %}
}
# Jobs that build nothing go on: those that do say that BUILDKIT_HOST is not set.
amibake_env || echo "amibake: BUILDKIT_HOST is not set for this job" >&2
unset -f amibake_env
