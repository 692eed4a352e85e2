
# What another try would not change.
permanent='Unable to locate package|has no installation candidate|Version .* was not found|unmet dependencies'
permanent+='|No match for argument|Unable to find a match|nothing provides'

# Another try when a mirror stumbles or another program holds a lock.
retry() {
    local delay log
    log=$(mktemp)
    for delay in 5 15 45 ''; do
        if "$@" 2>&1 | tee -- "$log"; then
            rm -f -- "$log"
            return
        fi
        if [[ -z $delay ]] || grep -qE -- "$permanent" "$log"; then break; fi
        echo "amibake: $1 failed, trying again in $delay s" >&2
        sleep "$delay"
    done
    rm -f -- "$log"
    return 1
}

# Reads the package lists anew: once in a bake, and again when the sources have changed since.
update_apt_lists() {
    local stamp=/run/amibake-apt-lists
    if [[ -e $stamp && -z $(find /etc/apt -newer "$stamp" -print -quit) ]] &&
        compgen -G '/var/lib/apt/lists/*Release' >/dev/null; then
        return
    fi
    # Any: without it, a list that could not be fetched is only a warning.
    retry apt-get update -q "${apt_options[@]}" -o APT::Update::Error-Mode=any
    touch -- "$stamp"
}

# By its own data base and not by the program: Fedora packages apt-get too, where it installs nothing.
if [[ -s /var/lib/dpkg/status ]] && command -v apt-get >/dev/null; then
    if [[ ${#apt[@]} == 0 ]]; then
        echo "this machine installs packages with apt, and the recipe's step has no names for it: add \`apt = […]\`" >&2
        exit 1
    fi
    # The lock's timeout is for what a cloud image starts by itself after its boot. No wait for the disk after each file
    # (unsafe-io): an image that does not get finished is thrown away, and a finished one is synced when it is sealed.
    apt_options=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 -o Dpkg::Use-Pty=0
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io)
    export NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
    update_apt_lists
    retry apt-get install -q -y --no-install-recommends "${apt_options[@]}" -- "${apt[@]}"
elif command -v dnf >/dev/null; then
    if [[ ${#dnf[@]} == 0 ]]; then
        echo "this machine installs packages with dnf, and the recipe's step has no names for it: add \`dnf = […]\`" >&2
        exit 1
    fi
    retry dnf install -y -q --setopt=install_weak_deps=False --setopt=retries=5 --setopt=timeout=60 -- "${dnf[@]}"
else
    echo "this machine has neither apt-get nor dnf: packages cannot be installed" >&2
    exit 1
fi
