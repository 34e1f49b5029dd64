#!/usr/bin/env python3
"""What a durable message costs, side by side: Postlane in each of its modes, and Postfix with its queue on the same disk.

The same smtp-source load goes through each into the same smtp-sink, in interleaved rounds; deliveries go on meanwhile,
and a round ends when the sink has all. The relay, all processes of it, is pinned to one CPU; source and sink share
another. What is counted is the relay's CPU time from after the warm-up until the sink has all: user and system, all
threads and processes, those that ended meanwhile too. What the kernel's own threads do (writing back, the journal) is
counted for nobody. Messages a second are those acknowledged, over the time that the source took.

    through, through-then-spool   one answer from the sink; the disk is idle, for the sink is well
    spool                         on disk before the answer
    postfix                       the same, as Postfix does it: bench/compare/peers/ has its configuration

    bench/compare/spool.py                                    1 and 10 KiB, 64 and 1000 sessions
    bench/compare/spool.py --sizes 10240 --sessions 64 --rounds 5
    bench/compare/spool.py --smoke                            one short round

Exit: 0 done (Postfix absent is said, and left out), 1 a round failed, 69 smtp-source, smtp-sink or postlane absent.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ground.peers import Peer, Postfix, Single
from ground.programs import POSTLANE, ROOT, free_port
from ground.relays import Postlane
from ground.report import save
from ground.sinks import Sinks
from ground.source import send

MODES = ("through", "through-then-spool", "spool")
SYNCS = (
    "postlane_spool_syncs_total",
    "postlane_spool_message_syncs_total",
    "postlane_spool_synced_messages_total",
)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", default="1024,10240", help="bytes of a message's body, one after the other")
    parser.add_argument("--sessions", default="64,1000", help="parallel sessions of the source, one after the other")
    parser.add_argument("--messages", type=int, default=20_000, help="messages in a round of Postlane (20000)")
    parser.add_argument("--messages-postfix", type=int, default=3_000, help="and in one of Postfix (3000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each relay, interleaved (3)")
    parser.add_argument("--links", type=int, default=64, help="links to the sink, for each relay at most (64)")
    parser.add_argument("--relays", default=",".join([*MODES, "postfix"]), help="which ones")
    parser.add_argument("--relay-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=180, help="most seconds for one round's load (180)")
    parser.add_argument("--directory", default=str(ROOT / "target"), help="on which disk")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--json", default=str(ROOT / "target/compare-spool.json"), help="where the figures go")
    options = parser.parse_args()
    if options.smoke:
        options.sizes, options.sessions, options.rounds = "4096", "32", 1
        options.messages, options.messages_postfix = 2_000, 300
    return options


def syncs(admin):
    """Writes that made something durable, those of them that carried messages, and how many."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return [int(re.search(rf"^{name} (\d+)", page, re.M)[1]) for name in SYNCS]


def one_round(name, size, sessions, sinks, options):
    is_postfix = name == "postfix"
    messages = options.messages_postfix if is_postfix else options.messages
    warm_up = max(messages // 10, sessions if not is_postfix else 100)
    admin = free_port()
    with tempfile.TemporaryDirectory(prefix="compare-spool-", dir=options.directory) as base:
        Path(base).chmod(0o755)
        values = {"ADMIN": admin, "MODE": name, "SPOOL": f"{base}/spool", "LINKS": options.links}
        ours = Single(Postlane(options.postlane, "spool-postlane.toml.in"), **values)
        relay = Peer(Postfix() if is_postfix else ours, sinks.ports, options.relay_cpu, Path(base) / "relay")
        try:
            expected = sinks.taken() + warm_up
            send(relay.port, warm_up, size, options, sessions)
            settle(sinks, expected)
            cpu, before = relay.cpu_seconds(), None if is_postfix else syncs(admin)
            begin = time.monotonic()
            seconds = send(relay.port, messages, size, options, sessions)
            settle(sinks, expected + messages)
            whole = time.monotonic() - begin
            time.sleep(0.2)  # what is over is written down, and the numbers are told
            cpu = relay.cpu_seconds() - cpu
            counts = before and [now - then for now, then in zip(syncs(admin), before)]
            writes, carrying, written = counts or [None, 0, 0]
        finally:
            relay.stop()
    return {
        "cpu_us_per_message": cpu / messages * 1e6,
        "messages_per_second": messages / seconds,
        "delivered_per_second": messages / whole,
        "syncs": writes,
        "messages_per_sync": written / carrying if carrying else None,
    }


def settle(sinks, expected):
    arrived = sinks.settled(expected, 120)
    if arrived != expected:
        raise RuntimeError(f"{arrived} messages arrived, not {expected}")


def summary(rounds):
    figures = [one["cpu_us_per_message"] for one in rounds]
    middle = lambda key: statistics.median(one[key] for one in rounds) if rounds[0][key] is not None else None
    return {
        "cpu_us_per_message": {"median": statistics.median(figures), "min": min(figures), "max": max(figures)},
        **{key: middle(key) for key in ("messages_per_second", "delivered_per_second", "syncs", "messages_per_sync")},
    }


def show(size, sessions, results):
    print(f"\n{size} bytes, {sessions} sessions")
    heads = ("CPU us", "min", "max", "acked/s", "delivered/s", "syncs", "msgs/sync")
    print(f"{'':20}" + "".join(f"{head:>12}" for head in heads))
    for name, one in results.items():
        cpu = one["cpu_us_per_message"]
        cells = [f"{cpu['median']:.1f}", f"{cpu['min']:.1f}", f"{cpu['max']:.1f}"]
        cells += [f"{one['messages_per_second']:.0f}", f"{one['delivered_per_second']:.0f}"]
        cells += ["–" if one[key] is None else f"{one[key]:.0f}" for key in ("syncs", "messages_per_sync")]
        print(f"{name:20}" + "".join(f"{cell:>12}" for cell in cells))
    for words, one, other in (
        ("spool / through", "spool", "through"),
        ("through-then-spool / through", "through-then-spool", "through"),
        ("postfix / spool", "postfix", "spool"),
    ):
        if one in results and other in results:
            of = lambda name: results[name]["cpu_us_per_message"]["median"]
            print(f"{words:32}{of(one) / of(other):.2f}")


def main():
    options = arguments()
    for program in ("smtp-source", "smtp-sink", options.postlane):
        if not shutil.which(program):
            print(f"skipped: {program} is not there (scripts/setup.sh, cargo build --release)", file=sys.stderr)
            return 69
    relays = [name for name in options.relays.split(",") if name in (*MODES, "postfix")]
    if "postfix" in relays and Postfix().missing():
        print(f"{Postfix().missing()}: its side is skipped")
        relays.remove("postfix")
    cells = []
    with tempfile.TemporaryDirectory(prefix="compare-spool-sink-") as name:
        sinks = Sinks(1, options.load_cpu, Path(name))
        try:
            for size in map(int, options.sizes.split(",")):
                for sessions in map(int, options.sessions.split(",")):
                    rounds = {relay: [] for relay in relays}
                    for number in range(options.rounds):
                        for relay in relays if number % 2 == 0 else reversed(relays):
                            rounds[relay].append(one_round(relay, size, sessions, sinks, options))
                            one = rounds[relay][-1]
                            print(
                                f"round {number + 1} {relay:20} {one['cpu_us_per_message']:8.1f} us "
                                f"{one['messages_per_second']:8.0f}/s",
                                flush=True,
                            )
                    results = {relay: summary(each) for relay, each in rounds.items()}
                    show(size, sessions, results)
                    cells.append({"size": size, "sessions": sessions, "summary": results, "rounds": rounds})
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"round failed ({relay}): {error}", file=sys.stderr)
            return 1
        finally:
            sinks.stop()
    versions = {
        "postlane": Postlane(options.postlane).version(),
        **({"postfix": Postfix().version()} if "postfix" in relays else {}),
    }
    save(options, versions=versions, cells=cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
