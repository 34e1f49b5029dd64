#!/usr/bin/env python3
"""CPU microseconds per message, side by side: Postlane (one shard) and HAProxy (TCP mode, one thread).

The same smtp-source load goes through either into the same smtp-sinks, in interleaved rounds. The relay is
pinned to one CPU; source and sinks share another. What is counted is the process CPU time of the relay alone
(user and system, all its threads, ended ones too), from after the warm-up to the last message; the kernel
charges loopback's receive work to whoever sends, the same way for both. A round counts only if smtp-source
saw no error and the sinks' own counters show that every message arrived.

Beside it: TCP segments per message, of all on the way, from the kernel's own counter; so only where nothing else
on the machine (or in the network namespace it runs in) speaks TCP. A long one on loopback counts once.

They do not do the same work: HAProxy moves bytes and knows no mail; Postlane speaks SMTP on both sides.

    bench/compare/run.py                          10 KiB, 64 sessions, connections reused
    bench/compare/run.py --size 1024 --per-connection-one
    bench/compare/run.py --load pipelining          clients that pipeline: postlane bench and postlane sink
    bench/compare/run.py --load chunking --in-flight 4
    bench/compare/run.py --rounds 20 --json target/compare.json

Exit: 0 done (HAProxy absent is said, and its column left out), 1 a round failed, 69 smtp-source or smtp-sink absent.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ground import own
from ground.programs import POSTLANE, ROOT, cpu_seconds
from ground.relays import Haproxy, Postlane, Relay
from ground.report import save
from ground.sinks import Sinks
from ground.source import send

RELAYS = ("postlane", "haproxy")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", type=int, default=10240, help="bytes of a message's body (10240)")
    parser.add_argument("--sessions", type=int, default=64, help="parallel sessions of the source (64)")
    parser.add_argument("--messages", type=int, default=20_000, help="messages in a round (20000)")
    parser.add_argument("--warm-up", type=int, default=1_000, help="messages before each round, not counted (1000)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each relay, interleaved (7)")
    parser.add_argument("--load", default="plain", choices=["plain", *own.LOADS], help="who sends, and how (smtp-source)")
    parser.add_argument("--in-flight", type=int, default=1, help="with chunking: unanswered messages of a client (1)")
    parser.add_argument("--per-connection-one", action="store_true", help="a new connection for each message")
    parser.add_argument("--sinks", type=int, default=3, help="smtp-sinks behind the relay (3)")
    parser.add_argument("--links", type=int, default=64, help="Postlane's links_per_shard (64: as many as HAProxy has)")
    parser.add_argument("--relay-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--relays", default=",".join(RELAYS), help="which ones (postlane,haproxy)")
    parser.add_argument("--timeout", type=int, default=120, help="most seconds for one round's load (120)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--json", default=str(ROOT / "target/compare.json"), help="where the figures go")
    return parser.parse_args()


def load(port, messages, options):
    """Seconds the load took; a RuntimeError at the first thing it did not expect."""
    if options.load != "plain":
        return own.load(options.load, port, messages, options)
    return send(port, messages, options.size, options, each=options.per_connection_one)


def one_round(kind, sinks, options, directory):
    relay = Relay(kind, sinks.ports, options.relay_cpu, directory, LINKS=options.links)
    try:
        before = sinks.taken()
        load(relay.port, options.warm_up, options)
        cpu, segments = cpu_seconds(relay.process.pid), segments_sent()
        seconds = load(relay.port, options.messages, options)
        cpu, segments = cpu_seconds(relay.process.pid) - cpu, segments_sent() - segments
        expected = before + options.warm_up + options.messages
        arrived = sinks.settled(expected)
        if arrived != expected:
            raise RuntimeError(f"{arrived - before} messages arrived of {expected - before} sent")
    finally:
        relay.stop()
    return {
        "cpu_us_per_message": cpu / options.messages * 1e6,
        "messages_per_second": options.messages / seconds,
        "relay_busy": cpu / seconds,
        "segments_per_message": segments / options.messages,
    }


def segments_sent():
    """All that the kernel's TCP has sent (`OutSegs`, RFC 4022), in this network namespace."""
    names, values = (line.split() for line in open("/proc/net/snmp") if line.startswith("Tcp:"))
    return int(dict(zip(names, values))["OutSegs"])


def summary(rounds):
    figures = [one["cpu_us_per_message"] for one in rounds]
    return {
        "median": statistics.median(figures),
        "min": min(figures),
        "max": max(figures),
        "messages_per_second": statistics.median(one["messages_per_second"] for one in rounds),
        "relay_busy": statistics.median(one["relay_busy"] for one in rounds),
        "segments_per_message": statistics.median(one["segments_per_message"] for one in rounds),
    }


def show(results, options):
    mode = "a connection per message" if options.per_connection_one else "connections reused"
    print(
        f"\nCPU us per message of the relay alone: {options.load}, {options.size} bytes, {options.sessions} sessions, {mode}, "
        f"{options.sinks} sinks,\n{options.messages} messages a round, {options.rounds} rounds of each, interleaved\n"
    )
    print(f"{'':10} {'median':>8} {'min':>8} {'max':>8} {'msgs/s':>9} {'relay busy':>11} {'segments':>9}")
    for relay, one in results.items():
        print(
            f"{relay:10} {one['median']:8.1f} {one['min']:8.1f} {one['max']:8.1f} "
            f"{one['messages_per_second']:9.0f} {one['relay_busy']:10.0%} {one['segments_per_message']:9.1f}"
        )
    if len(results) == 2:
        ours, theirs = results["postlane"], results["haproxy"]
        print(
            f"{'ratio':10} {ours['median'] / theirs['median']:8.2f} {ours['min'] / theirs['min']:8.2f}"
            "   (Postlane / HAProxy)"
        )


def main():
    options = arguments()
    for program in ("smtp-source", "smtp-sink"):
        if not shutil.which(program):
            print(f"skipped: {program} is not installed (scripts/setup.sh)", file=sys.stderr)
            return 69
    kinds = {"postlane": Postlane(options.postlane), "haproxy": Haproxy()}
    relays = [relay for relay in options.relays.split(",") if relay in RELAYS]
    if "haproxy" in relays and kinds["haproxy"].missing():
        print(f"{kinds['haproxy'].missing()}: its side is skipped")
        relays.remove("haproxy")
    if "postlane" in relays and kinds["postlane"].missing():
        print(kinds["postlane"].missing(), file=sys.stderr)
        return 69

    rounds = {relay: [] for relay in relays}
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        directory = Path(name)
        if options.load == "plain":
            sinks = Sinks(options.sinks, options.load_cpu, directory)
        else:
            sinks = own.OwnSinks(options.sinks, options.postlane, options.load_cpu, directory)
        try:
            for number in range(options.rounds):
                for relay in relays if number % 2 == 0 else reversed(relays):
                    one = one_round(kinds[relay], sinks, options, directory)
                    rounds[relay].append(one)
                    print(f"round {number + 1} {relay:10} {one['cpu_us_per_message']:6.1f} us", flush=True)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"round failed ({relay}): {error}", file=sys.stderr)
            return 1
        finally:
            sinks.stop()
        if options.load != "plain":
            sinks.check()

    results = {relay: summary(rounds[relay]) for relay in relays}
    show(results, options)
    versions = {relay: kinds[relay].version() for relay in relays}
    save(options, versions=versions, summary=results, rounds=rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
