#!/usr/bin/env python3
"""A farm in trouble, side by side: Postlane and HAProxy (TCP mode, leastconn) before four smtp-sinks, one of which is
slow, one stopped for 5 s (SIGSTOP, SIGCONT), one killed and started again, under the same open-loop load.

`postlane bench` starts messages by schedule, whatever becomes of the earlier ones, and counts a message's time from
when it was due: nobody's stall hides the next one's wait. Each round has a farm and a relay of its own; the relays
take turns. What arrived is read from the sinks' dumps, message by message, and compared with what was acknowledged.

HAProxy is there twice: as it is, and with `on-marked-down shutdown-sessions`, which cuts the sessions of a server that
its checks find down: fewer waits for more errors. Neither can do what they are compared with: a TCP balancer moves
sessions, not messages.

    bench/compare/faults.py                     3 rounds of each, under 3 minutes
    bench/compare/faults.py --rate 1000 --rounds 5
    bench/compare/faults.py --smoke             one short round, under 25 s

Exit: 0 done (an absent relay is said, and left out), 1 a round failed, 65 a message that was acknowledged is at no sink
or, of Postlane, the client saw an error, 69 smtp-sink or postlane absent.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ground import figures, plot, report
from ground.farm import Farm
from ground.programs import POSTLANE, ROOT
from ground.relays import Haproxy, Postlane, Relay

# Seconds after the warm-up; `delay`: of the slow sink's answer to DATA.
FULL = {"warm_up": 1.0, "stop": 2.0, "continue": 7.0, "kill": 8.5, "restart": 10.5, "end": 12.5, "delay": 1}
SMOKE = {"warm_up": 0.5, "stop": 1.0, "continue": 2.5, "kill": 3.0, "restart": 4.0, "end": 5.0, "delay": 1}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rate", type=int, default=500, help="messages a second (500)")
    parser.add_argument("--sessions", type=int, default=64, help="sessions of the load (64)")
    parser.add_argument("--size", default="4KiB", help="of a message (4KiB)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each relay, in turn (3)")
    parser.add_argument("--smoke", action="store_true", help="one short round of Postlane and of HAProxy as it is")
    parser.add_argument("--relays", default="postlane,haproxy,haproxy-cut", help="which ones")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary; it makes the load too")
    parser.add_argument("--json", default=str(ROOT / "target/faults.json"), help="where the figures go")
    parser.add_argument("--html", default=str(ROOT / "target/faults.html"), help="where the plot goes")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.relays = 1, "postlane,haproxy"
    return options


def kinds(options):
    """Those asked for that are there; the others are said."""
    cut = "on-marked-down shutdown-sessions"
    known = [
        Postlane(options.postlane, "faults-postlane.toml.in"),
        Haproxy("haproxy", "faults-haproxy.cfg.in"),
        Haproxy("haproxy-cut", "faults-haproxy.cfg.in", cut),
    ]
    chosen = [kind for kind in known if kind.name in options.relays.split(",")]
    for kind in [kind for kind in chosen if kind.missing()]:
        print(f"{kind.name}: {kind.missing()}: its side is skipped")
        chosen.remove(kind)
    return chosen


def load(port, plan, options, directory):
    """Runs the load to its end; its messages, and what the generator counted."""
    log, report = directory / "load.csv", directory / "load.json"
    command = [options.postlane, "bench", "--target", f"127.0.0.1:{port}", "--rate", options.rate]
    command += ["--duration", f"{plan['end'] * 1000:.0f}ms", "--warmup", f"{plan['warm_up'] * 1000:.0f}ms"]
    command += ["--sessions", options.sessions, "--size", options.size, "--json", report, "--log", log]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=plan["end"] + 30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError(f"the load did not end {30} s after its last message was due") from None
    if process.returncode:
        raise RuntimeError(f"postlane bench, exit {process.returncode}: {said.decode(errors='replace').strip()[:500]}")
    return figures.read_log(log), json.loads(report.read_text())["load"]


def one_round(kind, plan, options):
    """The messages of a round and what they come to."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        directory = Path(name)
        farm = Farm(plan, directory)
        try:
            relay = Relay(kind, farm.ports, None, directory)
            try:
                farm.begin()
                messages, counted = load(relay.port, plan, options, directory)
            finally:
                relay.stop()
        finally:
            farm.end()
        shares = farm.shares()
        return messages, {**figures.one_round(messages, farm.taken(), counted, plan), "shares": shares}


def ms(value):
    if value is None:
        return "–"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def table(summaries):
    """In rows of text, the heading first; the last columns: how many times Postlane's figure the others' are."""
    lines = [("message " + key.removesuffix("_ms"), key, ms) for key in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms")]
    rows = [["", *summaries]]
    rows += [[title, *[show(one[key]) for one in summaries.values()]] for title, key, show in lines]
    for phase in next(iter(summaries.values()))["p99_ms_by_phase"]:
        rows.append([f"p99 with {phase}", *[ms(one["p99_ms_by_phase"][phase]) for one in summaries.values()]])
    counts = {
        "messages": "messages",
        "waited over 1 s": "over_1s",
        "messages that failed for the client": "errors",
        "sessions that broke": "sessions_lost",
        "acknowledged and lost": "lost",
        "arrived twice": "twice",
    }
    rows += [[title, *[str(one[key]) for one in summaries.values()]] for title, key in counts.items()]
    rows.append(["longest without service", *[ms(one["no_service_longest_ms"]) for one in summaries.values()]])
    others = [name for name in summaries if name != "postlane"]
    if "postlane" in summaries and others:
        rows[0] += [f"{name} / postlane" for name in others]
        by_title = {title: key for title, key, _ in lines}
        for row in rows[1:]:
            key = by_title.get(row[0])
            row += [f"{summaries[name][key] / summaries['postlane'][key]:.1f}" if key else "" for name in others]
    return rows


def show(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *rest = row
        print(first.ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(rest, widths[1:])], sep="  ")


def verdict(summaries):
    """What must not be, in words."""
    wrong = [f"{name}: {one['lost']} messages lost" for name, one in summaries.items() if one["lost"]]
    errors = summaries.get("postlane", {}).get("errors")
    return wrong + ([f"postlane: the client saw {errors} errors"] if errors else [])


def write(options, plan, rounds, summaries, versions):
    ended = {name: [one for _, one in each] for name, each in rounds.items()}
    said = report.save(options, plan=plan, versions=versions, summary=summaries, rounds=ended)
    messages = {name: [message for each, _ in rounds[name] for message in each] for name in rounds}
    report.write(options.html, plot.page(messages, table(summaries), said, plan))


def main():
    options = arguments()
    plan = SMOKE if options.smoke else FULL
    for program in ("smtp-sink", options.postlane):
        if not shutil.which(program):
            print(f"skipped: {program} is not there (scripts/setup.sh, cargo build --release)", file=sys.stderr)
            return 69
    relays = kinds(options)
    rounds = {kind.name: [] for kind in relays}
    for number in range(options.rounds):
        for kind in relays if number % 2 == 0 else reversed(relays):
            try:
                rounds[kind.name].append(one_round(kind, plan, options))
            except (RuntimeError, OSError) as error:
                print(f"round failed ({kind.name}): {error}", file=sys.stderr)
                return 1
            one = rounds[kind.name][-1][1]
            print(
                f"round {number + 1} {kind.name:12} {one['acknowledged']} acknowledged, {one['errors']} errors, "
                f"{one['lost']} lost, {one['twice']} twice; at the sinks (slow, stopped, killed, well): {one['shares']}",
                flush=True,
            )
    summaries = {name: figures.summary(each, plan) for name, each in rounds.items()}
    print()
    show(table(summaries))
    write(options, plan, rounds, summaries, {kind.name: kind.version() for kind in relays})
    print(options.html)
    wrong = verdict(summaries)
    print(*wrong, sep="\n", file=sys.stderr)
    return 65 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
