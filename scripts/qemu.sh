#!/usr/bin/env bash
# Zero-copy kernel bypass on virtio_net with two queues in a QEMU guest: mail end to end, and instructions per message
# beside kernel TCP (bench/compare/qemu.py, whose options it takes). Needs root, for a network namespace with taps;
# no traffic leaves the machine, and nothing is left on it. Takes a minute or two.
#
#   scripts/qemu.sh                what is missing is said, and it is skipped (exit 69)
#   scripts/qemu.sh --install      on Debian: QEMU, busybox and so on by apt, where need be from backports; and a kernel of
#                                  Debian 13 backports, which is only unpacked, to target/qemu
#   scripts/qemu.sh --sizes 1024 --rounds 5
set -u
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/usr/local/sbin" DEBIAN_FRONTEND=noninteractive

home=$PWD/target/qemu
mirror=http://deb.debian.org/debian
keys=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'qemu: %s\n' "$*"; }

# apt of its own: suites that the machine does not follow. `aside NAME SUITE...` makes it, `$apt` are its options.
aside() {
    local dir=$home/apt/$1 suite
    shift
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    for suite in "$@"; do echo "deb [signed-by=$keys] $mirror $suite main"; done >"$dir/sources.list"
    apt=(-qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o Dir::Etc::sourcelist="$dir/sources.list"
        -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$dir/lists" -o Dir::Cache="$dir/cache")
    apt-get "${apt[@]}" update
}

install_programs() {
    local packages=(qemu-system-x86 busybox-static binutils gcc iproute2) name
    qemu-system-x86_64 --version 2>/dev/null | grep -qE "version (9|[1-9][0-9])" && command -v busybox >/dev/null && return 0
    name=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    say "installing ${packages[*]}"
    # QEMU of Debian 12 is too old for the plugin that counts; its backports have a newer one.
    aside programs "$name" "$name-backports" &&
        apt-get "${apt[@]}" install -y --no-install-recommends --no-remove -t "$name-backports" "${packages[@]}"
}

install_kernel() {
    compgen -G "$home/kernel/usr/lib/modules/*/vmlinuz" >/dev/null && return 0
    aside kernel trixie trixie-backports || return
    local release dir=$home/debs
    release=$(apt-cache "${apt[@]}" show -t trixie-backports linux-image-cloud-amd64 |
        sed -nE 's/^Depends:.*linux-image-([^ ]+-cloud-amd64).*/\1/p' | sort -V | tail -1)
    [ -n "$release" ] || return
    say "unpacking a kernel, $release"
    mkdir -p "$dir"
    # Newer ones are cut into a package of the kernel proper and one of its modules.
    (
        cd "$dir" || exit
        apt-get "${apt[@]}" download "linux-binary-$release" "linux-modules-$release" 2>/dev/null ||
            apt-get "${apt[@]}" download "linux-image-$release"
    ) || return
    local deb
    for deb in "$dir"/*.deb; do dpkg-deb -x "$deb" "$home/kernel" || return; done
    local modules=$home/kernel/usr/lib/modules/$release
    [ -e "$modules/vmlinuz" ] || mv "$home/kernel/boot/vmlinuz-$release" "$modules/vmlinuz"
    rm -r "$dir"
}

if [ "${1:-}" = --install ]; then
    shift
    mkdir -p "$home"
    scripts/setup.sh # smtp-source and smtp-sink
    { install_programs && install_kernel; } >"$home/install.log" 2>&1 ||
        say "could not fetch everything: $(tail -1 "$home/install.log") (target/qemu/install.log)"
fi
exec python3 bench/compare/qemu.py "$@"
