#!/usr/bin/env python3
"""What one might run instead, side by side: HAProxy, nginx (stream), Postfix, Exim (cut-through), Haraka.

The same smtp-source load goes through each into the same smtp-sinks, in interleaved rounds. A peer, however many
processes it is, has one CPU; source and sinks share another. Counted is the CPU time of all of its processes, from after
the warm-up until the last message has *arrived*: a peer that queues is not done when it has said 250. A round counts
only if smtp-source saw no error and every message arrived. How many messages a round has follows the peer's speed in
its warm-up, so that each takes about as long.

They do not do the same work. HAProxy and nginx move bytes and know no mail; Postfix writes each message to disk before
its 250, and Exim writes it as well as passing it on; Haraka and Postlane hold it in memory and say the upstream's 250.

    bench/compare/peers.py                        all that are installed; who is not, is said, and how to install it
    bench/compare/peers.py --peers postlane,haproxy,nginx --rounds 5
    bench/compare/peers.py --smoke                a few hundred messages, HAProxy and nginx only

Exit: 0 done, 1 a round failed (its peer's other figures are kept), 69 smtp-source, smtp-sink or Postlane absent.
"""

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ground import bars, report
from ground.peers import Exim, Haraka, Nginx, Peer, Postfix, Single
from ground.programs import POSTLANE, ROOT
from ground.relays import Haproxy, Postlane
from ground.sinks import Sinks
from ground.source import send

# A load's name: bytes of a message, and whether each has a connection of its own.
LOADS = {
    "1 KiB": (1024, False),
    "10 KiB": (10240, False),
    "10 KiB, a connection each": (10240, True),
    "100 KiB": (102400, False),
}
SMOKE_LOADS = ("10 KiB",)
NEVER = {"kumomta": "KumoMTA is not compared: it comes neither with Debian nor by npm"}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--peers", default="postlane,haproxy,nginx,haraka,exim,postfix", help="which ones")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each peer and load, interleaved (3)")
    parser.add_argument("--seconds", type=float, default=2.5, help="about how long a round is (2.5)")
    parser.add_argument("--messages", type=int, default=20_000, help="most messages of a round (20000)")
    parser.add_argument("--warm-up", type=int, default=400, help="messages before each round, not counted (400)")
    parser.add_argument("--sessions", type=int, default=64, help="parallel sessions of the source (64)")
    parser.add_argument("--sinks", type=int, default=3, help="smtp-sinks behind the peer (3)")
    parser.add_argument("--links", type=int, default=8, help="Postlane's links_per_shard (8, its default)")
    parser.add_argument("--relay-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=60, help="most seconds of one load (60)")
    parser.add_argument("--limit", type=int, default=900, help="no round begins after so many seconds (900)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--directory", type=Path, default=ROOT / "target", help="where queues are, on which disk (target)")
    parser.add_argument("--json", type=Path, default=ROOT / "target/peers.json")
    parser.add_argument("--html", type=Path, default=ROOT / "target/peers.html")
    parser.add_argument("--smoke", action="store_true", help="does it work at all")
    options = parser.parse_args()
    if options.smoke:
        options.peers, options.rounds, options.seconds, options.warm_up = "postlane,haproxy,nginx", 1, 0.5, 100
    return options


def through(peer, sinks, messages, load, options):
    """So many messages of this load, until they have arrived: seconds to the last 250, and to the last arrival."""
    expected, begin = sinks.taken() + messages, time.monotonic()
    size, each = load
    answered = send(peer.port, messages, size, options, each=each)
    arrived = sinks.settled(expected, options.timeout)
    if arrived != expected:
        raise RuntimeError(f"{messages + arrived - expected} messages arrived of {messages} sent")
    return answered, time.monotonic() - begin


def one_round(kind, sinks, load, options):
    with tempfile.TemporaryDirectory(prefix="peer-", dir=options.directory) as name:
        Path(name).chmod(0o755)
        peer = Peer(kind, sinks.ports, options.relay_cpu, Path(name) / kind.name)
        try:
            _, warm = through(peer, sinks, options.warm_up, load, options)
            messages = max(options.warm_up, min(options.messages, int(options.warm_up / warm * options.seconds)))
            cpu = peer.cpu_seconds()
            answered, arrived = through(peer, sinks, messages, load, options)
            cpu = peer.cpu_seconds() - cpu
            processes = len(peer.family())
        finally:
            peer.stop()
    return {
        "messages": messages,
        "arrived": messages,
        "cpu_us_per_message": cpu / messages * 1e6,
        "messages_per_second": messages / arrived,
        "seconds_to_last_250": answered,
        "seconds_to_last_arrival": arrived,
        "processes": processes,
    }


def summary(rounds):
    median = lambda key: statistics.median(one[key] for one in rounds)
    cpu = [one["cpu_us_per_message"] for one in rounds]
    return {
        "rounds": len(rounds),
        "messages": sum(one["messages"] for one in rounds),
        "arrived": sum(one["arrived"] for one in rounds),
        "cpu_us_per_message": median("cpu_us_per_message"),
        "cpu_us_min": min(cpu),
        "cpu_us_max": max(cpu),
        "messages_per_second": median("messages_per_second"),
    }


def present(options):
    """The peers that can run, by name; who cannot is said."""
    kinds = [Single(Postlane(options.postlane), LINKS=options.links), Single(Haproxy()), Nginx(), Haraka(), Exim(), Postfix()]
    absent, there, known = {}, {}, {kind.name: kind for kind in kinds}
    for name in options.peers.split(","):
        why = known[name].missing() if name in known else NEVER.get(name, "unknown")
        if why:
            absent[name] = why
        else:
            there[name] = known[name]
    for name, why in {**absent, **({} if options.smoke else NEVER)}.items():
        print(f"skipped: {name}: {why}")
    return there, {**absent, **NEVER}


def rows(results, peers):
    """The table, its heading first."""
    yield ["load", "peer", "CPU µs/message", "of Postlane's", "messages/s", "sent", "arrived"]
    for load, of in results.items():
        ours = of.get("postlane", {}).get("cpu_us_per_message")
        for peer in peers:
            one = of.get(peer)
            if not one:
                yield [load, peer, "failed", "", "", "", ""]
                continue
            cpu = one["cpu_us_per_message"]
            ratio = f"{cpu / ours:.1f}" if ours else ""
            yield [load, peer, f"{cpu:.0f}", ratio, f"{one['messages_per_second']:.0f}", str(one["messages"]), str(one["arrived"])]


def run(there, loads, sinks, options):
    """All rounds' figures by load and peer, and what failed."""
    rounds = {load: {peer: [] for peer in there} for load in loads}
    failures, begin = [], time.monotonic()
    for number in range(options.rounds):
        for load in loads:
            for peer in there if number % 2 == 0 else reversed(there):
                if time.monotonic() - begin > options.limit:
                    return rounds, [*failures, f"round {number + 1}, {load}, {peer}: not begun after {options.limit} s"]
                try:
                    one = one_round(there[peer], sinks, LOADS[load], options)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failures.append(f"round {number + 1}, {load}, {peer}: {error}")
                    print(f"failed: {failures[-1]}", file=sys.stderr, flush=True)
                    # What it still holds must not arrive in another's round.
                    sinks.quiet()
                    continue
                rounds[load][peer].append(one)
                print(
                    f"round {number + 1}  {load:26} {peer:9} {one['cpu_us_per_message']:8.1f} µs "
                    f"{one['messages_per_second']:8.0f}/s  {one['messages']} messages",
                    flush=True,
                )
    return rounds, failures


def main():
    options = arguments()
    # Peers and their directories go with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    for program in ("smtp-source", "smtp-sink"):
        if not shutil.which(program):
            print(f"skipped: {program} is not installed (scripts/setup.sh)", file=sys.stderr)
            return 69
    options.directory.mkdir(parents=True, exist_ok=True)
    there, absent = present(options)
    if "postlane" in absent:
        return 69
    loads = SMOKE_LOADS if options.smoke else tuple(LOADS)
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        sinks = Sinks(options.sinks, options.load_cpu, Path(name))
        try:
            rounds, failures = run(there, loads, sinks, options)
        finally:
            sinks.stop()
    results = {
        load: {peer: summary(each) for peer, each in of.items() if each} for load, of in rounds.items()
    }
    table = list(rows(results, there))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    print()
    for row in table:
        left, right = row[:2], row[2:]
        print("  ".join([*(c.ljust(w) for c, w in zip(left, widths)), *(c.rjust(w) for c, w in zip(right, widths[2:]))]))
    versions = {name: kind.version() for name, kind in there.items()}
    said = report.save(
        options, versions=versions, absent=absent, failures=failures, summary=results, rounds=rounds
    )
    report.write(options.html, bars.page(said, table))
    print(options.html)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
