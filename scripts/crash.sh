#!/usr/bin/env bash
# kill -9 of `postlane serve` at random moments under load, 50 times unless told otherwise; everything that was
# answered 250 must arrive. Needs the release binary (or POSTLANE_BIN).
#
#   scripts/crash.sh
#   scripts/crash.sh --kills 500 --seed 7 --json target/crash.json
set -eu
cd "$(dirname "$0")/../tests/peers"
python=../../target/venv/bin/python
[ -x "$python" ] || { echo "there is no target/venv: scripts/setup.sh makes it" >&2; exit 69; }
exec "$python" -m lab.crash "$@"
