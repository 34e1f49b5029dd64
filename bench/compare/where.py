#!/usr/bin/env python3
"""Where the time goes: one build under the three loads of ARCHITECTURE.md's table, its stacks counted by kinds of work.

The relay has CPU 0, source and sinks have CPU 1, as in run.py. For each load the CPU time of a message is measured without
perf and then, in another run, `perf record -g` samples the relay; the shares of its kinds of work are told, and what that
is in microseconds: medians of several rounds. With root all of it happens in a network namespace of its own, whose OutSegs tell the TCP segments of
a message, those of both its legs, in both directions.

    bench/compare/where.py
    bench/compare/where.py --messages 50000 --relay haproxy --json target/where.json

Exit: 0 done, 1 a load failed, 69 perf, smtp-source or the relay is absent.
"""

import argparse
import copy
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ground import own
from ground.programs import POSTLANE, cpu_seconds
from ground.relays import Haproxy, Postlane, Relay
from ground.report import save
from ground.sinks import Sinks
from ground.stacks import Record
from run import load

# A load: who sends, how large, how many of all messages, unanswered ones of a client.
LOADS = {
    "smtp-source, 10 KiB, reuse": ("plain", 10_240, 1.0, 1),
    "the same, 100 KiB": ("plain", 102_400, 0.3, 1),
    "BDAT clients, 10 KiB": ("chunking", 10_240, 1.0, 1),
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--messages", type=int, default=30_000, help="messages of a run (30000; of 100 KiB a third)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all loads (3)")
    parser.add_argument("--warm-up", type=int, default=2_000, help="messages before it (2000)")
    parser.add_argument("--sessions", type=int, default=64, help="parallel sessions (64)")
    parser.add_argument("--relay", choices=["postlane", "haproxy"], default="postlane", help="whose time (postlane)")
    parser.add_argument("--links", type=int, default=64, help="Postlane's links_per_shard (64)")
    parser.add_argument("--timeout", type=int, default=120, help="most seconds for one load (120)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--json", help="where the figures go")
    options = parser.parse_args()
    options.load_cpu, options.per_connection_one = 1, False
    return options


def enter_namespace():
    """Begins anew in a network namespace where nobody else's segments are counted; False where that is not allowed."""
    if os.environ.get("WHERE_IN_NAMESPACE"):
        return True
    if os.getuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return False
    command = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
    os.environ["WHERE_IN_NAMESPACE"] = "1"
    os.execvp(command[0], command)


def segments():
    """TCP segments sent in this namespace so far."""
    heads, values = re.findall(r"^Tcp: (.*)$", Path("/proc/self/net/snmp").read_text(), re.MULTILINE)
    return int(dict(zip(heads.split(), values.split()))["OutSegs"])


def one_load(name, kind, options, counts_segments, directory):
    who, size, part, in_flight = LOADS[name]
    mine = copy.copy(options)
    mine.load, mine.size, mine.in_flight = who, size, in_flight
    messages = int(options.messages * part)
    sinks = Sinks(3, 1, directory) if who == "plain" else own.OwnSinks(3, options.postlane, 1, directory)
    relay = None
    try:
        relay = Relay(kind, sinks.ports, 0, directory, LINKS=options.links)
        load(relay.port, options.warm_up, mine)
        pid = relay.process.pid
        cpu, sent = cpu_seconds(pid), segments()
        load(relay.port, messages, mine)
        cpu, sent = cpu_seconds(pid) - cpu, segments() - sent
        record = Record([pid], directory / "perf.data")
        load(relay.port, messages, mine)
        shares = record.finish()
    finally:
        if relay:
            relay.stop()
        sinks.stop()
    us = cpu / messages * 1e6
    return {"cpu_us": us, "segments": sent / messages if counts_segments else None, "shares": shares}


def middle(rounds):
    """Medians of a load's rounds; those of the shares add up to about one."""
    kinds = rounds[0]["shares"]
    return {
        "cpu_us": statistics.median(one["cpu_us"] for one in rounds),
        "segments": rounds[0]["segments"] and statistics.median(one["segments"] for one in rounds),
        "shares": {kind: statistics.median(one["shares"][kind] for one in rounds) for kind in kinds},
    }


def show(results):
    names = list(results)
    print(f"\n{'':28}" + "".join(f"{name:>28}" for name in names))
    print(f"{'CPU of a message, us':28}" + "".join(f"{results[name]['cpu_us']:28.1f}" for name in names))
    if all(one["segments"] for one in results.values()):
        print(f"{'segments of a message':28}" + "".join(f"{results[name]['segments']:28.1f}" for name in names))
    for kind in next(iter(results.values()))["shares"]:
        cells = [f"{one['shares'][kind]:.0%} = {one['shares'][kind] * one['cpu_us']:.1f} us" for one in results.values()]
        print(f"{kind:28}" + "".join(f"{cell:>28}" for cell in cells))


def main():
    options = arguments()
    kind = Haproxy() if options.relay == "haproxy" else Postlane(options.postlane)
    absent = [program for program in ("smtp-source", "smtp-sink", "perf") if not shutil.which(program)]
    if absent or kind.missing():
        print(f"skipped: {kind.missing() or f'{absent[0]} is not installed'}", file=sys.stderr)
        return 69
    counts_segments = enter_namespace()
    rounds = {name: [] for name in LOADS}
    with tempfile.TemporaryDirectory(prefix="where-") as directory:
        for name in list(LOADS) * options.rounds:
            try:
                rounds[name].append(one_load(name, kind, options, counts_segments, Path(directory)))
                print(f"{name}: {rounds[name][-1]['cpu_us']:.1f} us", flush=True)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
    results = {name: middle(of) for name, of in rounds.items()}
    show(results)
    if options.json:
        save(options, version=kind.version(), loads=results, rounds=rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
