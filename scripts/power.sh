#!/usr/bin/env bash
# Cuts the power of a disk with a Postlane's spool on it, after any write, with what was not flushed lost, or torn; then all that
# was acknowledged must come out of the spool. 1,000 cuts, or half an hour of them, unless told otherwise. Needs
# root, for a loop device and mounts that nobody else sees, and the release binary (or POSTLANE_BIN).
#
#   scripts/power.sh               what is missing is said, and it is skipped (exit 69)
#   scripts/power.sh --cuts 5000 --minutes 120 --fs ext4 --seed 7 --json target/power.json
set -eu
cd "$(dirname "$0")/../tests/peers"
python=../../target/venv/bin/python
[ -x "$python" ] || { echo "there is no target/venv: scripts/setup.sh makes it" >&2; exit 69; }
exec "$python" -m lab.power.campaign "$@"
