#!/usr/bin/env bash
# Plays every balancing policy under every trouble in virtual time, beside an oracle and beside HAProxy's way.
#
#   scripts/campaign.sh           seed 1
#   scripts/campaign.sh 42        another seed
#
# Prints a table, and writes it with plots to target/campaign.html. Takes about eight minutes on one core.
set -eu
cd "$(dirname "$0")/.."

mkdir -p target
POSTLANE_CAMPAIGN=1 POSTLANE_SEED="${1:-1}" \
    cargo test --locked --test campaign campaign -- --exact --nocapture | tee target/campaign.txt
