#!/usr/bin/env bash
# Brings in what the peers suite needs besides Rust: Postfix's smtp-source and smtp-sink, swaks,
# HAProxy and nginx (for the side-by-side runs), ip and nft (for networks of the tests' own, and losses in them),
# what makes file systems (for power cuts on them) and a Python virtual environment under target/.
#
# Run it as often as you like. It starts no service, removes no package, and never fails because
# something could not be had: it says what is missing and why, and the tests that need it say
# "skipped: why".
set -u
cd "$(dirname "$0")/.."

export PATH="$PATH:/usr/sbin:/usr/local/sbin"
export DEBIAN_FRONTEND=noninteractive

venv=target/venv
pins=tests/peers/requirements.txt
missing=()

say() { printf 'setup: %s\n' "$*"; }

# command -> Debian package that has it
declare -A package=([smtp-source]=postfix [smtp-sink]=postfix [swaks]=swaks [haproxy]=haproxy [nginx]=nginx [ip]=iproute2 [nft]=nftables
    [mkfs.ext4]=e2fsprogs [mkfs.xfs]=xfsprogs [mkfs.btrfs]=btrfs-progs)

absent_packages() {
    for command in "${!package[@]}"; do
        command -v "$command" >/dev/null 2>&1 || echo "${package[$command]}"
    done
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || echo libnginx-mod-stream
    # `python3 -m venv` exists without ensurepip on Debian, and then makes a venv without pip.
    python3 -c 'import ensurepip' >/dev/null 2>&1 || echo python3-venv
}

# Packages are installed with every start of a service refused, and with removals refused: a machine
# that runs another mail server (Exim, say) keeps it, and the tests that need Postfix are skipped.
install_packages() {
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
    fi
    # Without this answer Postfix's installer would write a configuration for a working mail server.
    command -v debconf-set-selections >/dev/null 2>&1 &&
        echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections

    local apt=(apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 -qq)
    "${apt[@]}" install -y --no-install-recommends --no-remove "$@" >/dev/null 2>&1 || {
        "${apt[@]}" update >/dev/null 2>&1
        "${apt[@]}" install -y --no-install-recommends --no-remove "$@" >target/setup-apt.log 2>&1
    }
    local status=$?
    [ -n "$ours" ] && rm -f "$policy"
    return $status
}

make_venv() {
    local stamp="$venv/.installed"
    cmp -s "$pins" "$stamp" && [ -x "$venv/bin/python" ] && return 0
    python3 -m venv "$venv" >target/setup-venv.log 2>&1 || return 1
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins" >>target/setup-venv.log 2>&1 ||
        return 1
    cp "$pins" "$stamp"
}

mkdir -p target

mapfile -t wanted < <(absent_packages | sort -u)
if [ "${#wanted[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        missing+=("${wanted[*]}: there is no apt-get here; install them by hand")
    elif [ "$(id -u)" -ne 0 ]; then
        missing+=("${wanted[*]}: not root; run: sudo apt-get install --no-install-recommends ${wanted[*]}")
    else
        say "installing ${wanted[*]}"
        install_packages "${wanted[@]}" || missing+=("${wanted[*]}: apt-get failed, see target/setup-apt.log")
    fi
fi

if ! command -v python3 >/dev/null 2>&1; then
    missing+=("python3: the peers suite cannot run at all without it")
elif ! make_venv; then
    missing+=("$venv: could not be made, see target/setup-venv.log")
fi

if [ "${#missing[@]}" -eq 0 ]; then
    say "all there"
else
    for line in "${missing[@]}"; do say "missing: $line"; done
fi
exit 0
