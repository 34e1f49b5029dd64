#!/usr/bin/env python3
"""What a durable message costs, side by side: Postlane in each of its modes, and Postfix with its queue on the same disk.

The same smtp-source load goes through each into the same smtp-sink, in interleaved rounds; deliveries go on meanwhile,
and a round ends when the sink has all. The relay, all processes of it, is pinned to one CPU; source and sink share
another. What is counted is the relay's CPU time from after the warm-up until the sink has all: user and system, all
threads and processes, those that ended meanwhile too. What the kernel's own threads do (writing back, the journal) is
counted for nobody. Messages a second are those acknowledged, over the time that the source took.

    through, through-then-spool   one answer from the sink; the disk is idle, for the sink is well
    spool                         on disk before the answer
    postfix                       the same, as Postfix does it: bench/compare/postfix/ has its configuration

    bench/compare/spool.py                                    1 and 10 KiB, 64 and 1000 sessions
    bench/compare/spool.py --sizes 10240 --sessions 64 --rounds 5
    bench/compare/spool.py --smoke                            one short round

Exit: 0 done (Postfix absent is said, and left out), 1 a round failed, 69 smtp-source, smtp-sink or postlane absent.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ground import postfix
from ground.machine import machine
from ground.programs import POSTLANE, ROOT, cpu_seconds, free_port
from ground.relays import Postlane, Relay
from ground.sinks import Sinks

MODES = ("through", "through-then-spool", "spool")
SYNCS = ("postlane_spool_syncs_total", "postlane_spool_synced_messages_total")


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


class OurRelay:
    """Postlane in one of its modes."""

    def __init__(self, mode, options, sink, directory):
        self.admin = free_port()
        values = {"ADMIN": self.admin, "MODE": mode, "SPOOL": directory / "spool", "LINKS": options.links}
        kind = Postlane(options.postlane, "spool-postlane.toml.in")
        self.relay = Relay(kind, [sink], options.relay_cpu, directory, **values)
        self.port = self.relay.port

    def cpu_seconds(self):
        return cpu_seconds(self.relay.process.pid)

    def syncs(self):
        """Writes that made something durable, and messages in them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        return [int(re.search(rf"^{name} (\d+)", page, re.M)[1]) for name in SYNCS]

    def stop(self):
        self.relay.stop()


def load(port, messages, size, sessions, options):
    """Seconds the load took; a RuntimeError at the first thing smtp-source did not expect."""
    source = ["smtp-source", "-4", "-N", "-d", "-s", min(sessions, messages), "-m", messages, "-l", size]
    source += ["-f", "sender@source.test", "-t", "rcpt@sink.test", "-M", "source.test", f"127.0.0.1:{port}"]
    begin = time.monotonic()
    done = subprocess.run(
        [str(part) for part in source],
        capture_output=True,
        text=True,
        timeout=options.timeout,
        preexec_fn=lambda: os.sched_setaffinity(0, {options.load_cpu}),
    )
    if done.returncode or done.stderr.strip():
        raise RuntimeError(f"smtp-source, exit {done.returncode}: {done.stderr.strip()[:500]}")
    return time.monotonic() - begin


def one_round(name, size, sessions, sinks, options):
    is_postfix = name == "postfix"
    messages = options.messages_postfix if is_postfix else options.messages
    warm_up = max(messages // 10, sessions if not is_postfix else 100)
    base = Path(tempfile.mkdtemp(prefix="compare-spool-", dir=options.directory))
    base.chmod(0o755)
    try:
        sink = sinks.ports[0]
        relay = postfix.Postfix(sink, options.relay_cpu, base) if is_postfix else OurRelay(name, options, sink, base)
        try:
            expected = sinks.taken() + warm_up
            load(relay.port, warm_up, size, sessions, options)
            settle(sinks, expected)
            cpu, syncs = relay.cpu_seconds(), [0, 0] if is_postfix else relay.syncs()
            begin = time.monotonic()
            seconds = load(relay.port, messages, size, sessions, options)
            settle(sinks, expected + messages)
            whole = time.monotonic() - begin
            time.sleep(0.2)  # what is over is written down, and the numbers are told
            cpu = relay.cpu_seconds() - cpu
            syncs = None if is_postfix else [after - before for after, before in zip(relay.syncs(), syncs)]
        finally:
            relay.stop()
    finally:
        shutil.rmtree(base)
    return {
        "cpu_us_per_message": cpu / messages * 1e6,
        "messages_per_second": messages / seconds,
        "delivered_per_second": messages / whole,
        "syncs": syncs and syncs[0],
        "messages_per_sync": syncs[1] / syncs[0] if syncs and syncs[0] else None,
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
    if "postfix" in relays and postfix.missing():
        print(f"{postfix.missing()}: its side is skipped")
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
    report = {
        "machine": machine(),
        "options": {key: value for key, value in vars(options).items() if key not in ("json", "postlane", "directory")},
        "versions": {"postlane": Postlane(options.postlane).version(), "postfix": postfix.postfix_version()}
        if "postfix" in relays
        else {"postlane": Postlane(options.postlane).version()},
        "cells": cells,
    }
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
