# shellcheck shell=bash
# The mirrors that machines are sent to fail now and then: three tries.
try() {
    local attempt
    for attempt in 1 2 3; do
        if "$@"; then return 0; fi
        echo "amibake: attempt $attempt of 3 failed: $*" >&2
        sleep $((attempt * 5))
    done
    return 1
}
if command -v apt-get >/dev/null; then
    if ((${#apt_packages[@]} == 0)); then
        echo "this step names no packages for apt" >&2
        exit 1
    fi
    # cloud-init or a timer may hold the lock on a fresh machine.
    options=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold)
    try apt-get "${options[@]}" -qq update
    try apt-get "${options[@]}" -qq -y --no-install-recommends install -- "${apt_packages[@]}"
elif command -v dnf >/dev/null; then
    if ((${#dnf_packages[@]} == 0)); then
        echo "this step names no packages for dnf" >&2
        exit 1
    fi
    try dnf -q -y --setopt=install_weak_deps=False install -- "${dnf_packages[@]}"
else
    echo "this machine has neither apt-get nor dnf" >&2
    exit 1
fi
