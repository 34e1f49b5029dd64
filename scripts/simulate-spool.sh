#!/bin/sh
# Plays new worlds of the spool on a simulated disk for a while, optimised, and says what they came to; a seed that
# fails is named with the command that plays it again.
#
#   scripts/simulate-spool.sh [--seconds N] [--from SEED]
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
POSTLANE_SECONDS=$seconds POSTLANE_FROM=$from exec cargo test --release --quiet --test spool explore -- --nocapture
