#!/usr/bin/env bash
# Runs all tests: the workspace's own, the instruction counts (where valgrind is installed), then the release binary
# against real peers.
#
#   scripts/test.sh            everything
#   scripts/test.sh peers      only the peers suite (builds the release binary first)
#   scripts/test.sh peers -k swaks   what follows goes to pytest
#
# The last line is "N passed, N failed[, N skipped]", all parts together; exit 0 only if none failed.
set -u
cd "$(dirname "$0")/.."

only=${1:-all}
[ $# -gt 0 ] && shift
passed=0 failed=0 skipped=0

banner() { printf '\n== %s\n' "$*"; }

# count PASSED FAILED SKIPPED
count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

workspace_tests() {
    banner "cargo test --workspace"
    local log=target/test-cargo.log
    cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    read -r p f i < <(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { print p + 0, f + 0, i + 0 }' "$log")
    count "$p" "$f" "$i"
    # A crate that does not build, or a test binary that dies, fails no test by name.
    [ "$status" -ne 0 ] && [ "$f" -eq 0 ] && count 0 1 0
}

release_build() {
    [ -n "${POSTLANE_BIN:-}" ] && return 0
    banner "cargo build --release"
    cargo build --release --locked
}

peers_tests() {
    banner "peers: the release binary between real programs"
    local python=target/venv/bin/python log=target/test-peers.log
    if [ ! -x "$python" ]; then
        echo "skipped: there is no $python (scripts/setup.sh says why)"
        count 0 0 1
        return
    fi
    rm -rf target/peers # what failing tests of earlier runs have left
    "$python" -m pytest -c tests/peers/pytest.ini tests/peers "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    read -r p f s < <(
        sed -nE 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?$/\1 \2 \4/p' "$log" | tail -1
    )
    count "${p:-0}" "${f:-0}" "${s:-0}"
    [ "$status" -ne 0 ] && [ "${f:-0}" -eq 0 ] && count 0 1 0
}

# Instructions of small operations, which a busy machine does not change.
micro_check() {
    banner "micro: instructions an operation (bench/micro/run.py --check)"
    timeout 600 bench/micro/run.py --check
    case $? in
    0) count 1 0 0 ;;
    69) count 0 0 1 ;;
    *) count 0 1 0 ;;
    esac
}

mkdir -p target
scripts/setup.sh
[ "$only" = peers ] || workspace_tests
if release_build; then
    [ "$only" = peers ] || micro_check
    peers_tests "$@"
else
    count 0 1 0
fi

banner "in all"
line="$passed passed, $failed failed"
[ "$skipped" -gt 0 ] && line="$line, $skipped skipped"
echo "$line"
[ "$failed" -eq 0 ]
