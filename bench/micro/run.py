#!/usr/bin/env python3
"""Instructions per operation, room by room: bench/micro/rooms.rs under callgrind.

Each case runs twice, so often and twice so often; the difference is the operation's alone, without start and set-up.
Counts hardly depend on the machine's load, so a change of some per cent is one of the code.

    bench/micro/run.py                         all cases, as a table
    bench/micro/run.py scan pick               only these
    bench/micro/run.py --json target/micro.json
    bench/micro/run.py --against target/micro.json --tolerance 5    exit 1 if one takes 5 % more than it did then
    bench/micro/run.py --check                 against bench/micro/baseline.json, as scripts/test.sh does
    bench/micro/run.py --accept                writes that file, when a change is meant

Counts of another compiler are other counts: --check compares only where rustc and processor are those of the file.

Exit: 0 done, 1 a case takes more than it may, 69 valgrind is not installed, or the file is of another compiler.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "bench/micro/baseline.json"


def build():
    done = subprocess.run(
        ["cargo", "build", "--release", "--example", "rooms", "--message-format=json"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(
        one["executable"] for one in messages if one.get("executable") and one["target"]["name"] == "rooms"
    )


def instructions(binary, case, times):
    with tempfile.NamedTemporaryFile(prefix="callgrind-") as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", binary, case, str(times)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{case}: {done.stderr[-1000:]}")
    return int(found[1])


def toolchain():
    """What counts depend on besides the code."""
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    # Searches for octets take what vectors there are.
    avx2 = " with AVX2" if " avx2 " in Path("/proc/cpuinfo").read_text() else ""
    return {"rustc": rustc.stdout.strip(), "processor": platform.machine() + avx2}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--times", type=int, default=500, help="and twice that (500)")
    parser.add_argument("--binary", help="the example, if it is built")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, help="an earlier --json")
    parser.add_argument("--tolerance", type=float, default=5.0, help="per cent (5)")
    parser.add_argument("--check", action="store_true", help="against the counts kept with the code")
    parser.add_argument("--accept", action="store_true", help="keep these counts with the code")
    options = parser.parse_args()
    options.against = BASELINE if options.check else options.against
    options.json = BASELINE if options.accept else options.json
    if options.accept and options.cases:
        parser.error("--accept keeps all cases, not some")
    return options


def main():
    options = arguments()
    if not shutil.which("valgrind"):
        print("skipped: valgrind is not installed (apt-get install valgrind)", file=sys.stderr)
        return 69
    kept = json.loads(options.against.read_text()) if options.against else {"counts": {}}
    earlier, now = kept["counts"], toolchain()
    if options.check and now != (made_by := {key: kept[key] for key in now}):
        print(f"skipped: the counts kept are of {made_by}, here is {now}", file=sys.stderr)
        return 69
    binary = options.binary or build()
    listed = subprocess.run([binary], capture_output=True, text=True, check=True).stdout
    known = dict(line.split("\t") for line in listed.splitlines())
    if options.check and set(known) != set(earlier):
        print(f"not kept, or no longer there: {set(known) ^ set(earlier)} (--accept)", file=sys.stderr)
        return 1
    counts, slower = {}, []
    print(f"{'case':12} {'instructions':>12} {'before':>8}  what")
    for case in options.cases or known:
        once, twice = (instructions(binary, case, options.times * n) for n in (1, 2))
        counts[case] = (twice - once) / options.times
        before = earlier.get(case)
        # One instruction is nothing, but may be some per cent.
        if before and counts[case] > before * (1 + options.tolerance / 100) + 1:
            slower.append(case)
        print(f"{case:12} {counts[case]:12.0f} {before or 0:8.0f}  {known.get(case, '')}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**now, "counts": counts}, indent=2) + "\n")
    if slower:
        print(f"more than {options.tolerance} % above the figures before: {', '.join(slower)}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
