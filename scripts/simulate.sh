#!/bin/sh
# Plays new worlds in the simulator for a while and says what they came to; a seed that fails is named with the
# command that plays it again. Half of the time goes to worlds that keep messages on disks that fail, through crashes.
#
#   scripts/simulate.sh [--seconds N] [--from SEED]
set -eu
seconds=60
from=$(date +%s)000
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) seconds=$2; shift 2 ;;
        --from) from=$2; shift 2 ;;
        *) echo "usage: $0 [--seconds N] [--from SEED]" >&2; exit 64 ;;
    esac
done
cd "$(dirname "$0")/.."
half=$((seconds / 2))
POSTLANE_SECONDS=$half POSTLANE_KEPT_SECONDS=$half POSTLANE_FROM=$from \
    exec cargo test --quiet --test worlds explore -- --nocapture --test-threads=1
