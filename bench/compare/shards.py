#!/usr/bin/env python3
"""What a second shard costs: the same load through one shard and through two, in interleaved rounds.

Four arrangements take turns, with the same generator, sinks and messages:

    1      one shard
    2      two shards, so that half of the messages are another shard's than the one that received them
    2s     two shards by `shard_by = "session"`: each delivers what it received
    1+1    two processes of one shard each: two shards that have nothing to say to each other. What 2 costs beyond 1+1 is
           the letters; what 1+1 costs beyond 1 is that either has only half of the events to send together

and are told on one of two grounds. The load is two generators with half of the sessions each.

    --ground one   the shards share CPU 0, generators and sinks have CPU 1. The work is compared, and the switches between
                   the shards; a letter's wake-up crosses no CPU. A shard that waits is behind the other one.
    --ground two   each shard has a CPU, and each CPU a generator; sinks go where they like. (With one shard too, so that
                   a generator competes with it.) What a user with two CPUs has: wake-ups cross CPUs. Compare at a --rate
                   that leaves room: at full speed the arrangements do not do the same number of messages in a second.

Told per message: CPU time of the dispatcher; turns of its loops, letters and context switches by its own and the
kernel's counters; entries into io_uring where perf is there. Latency is the generator's, from when a message was due.
Instructions cannot be counted on machines without such counters: bench/micro/run.py does, for what a shard does alone.

    bench/compare/shards.py                               10 KiB, 64 sessions, as fast as it goes, one CPU
    bench/compare/shards.py --ground two --rate 6000
    bench/compare/shards.py --chunking --in-flight 4 --rounds 15 --json target/shards.json

Exit: 0 done, 1 a round failed, 69 the binary is absent.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ground import own
from ground.programs import POSTLANE, ROOT, cpu_seconds, free_port, start, stop, version, wait_for_greeting
from ground.relays import Postlane
from ground.report import save

ARRANGEMENTS = {"1": [1], "2": [2], "2s": [2], "1+1": [1, 1]}
ENTERS = "syscalls:sys_enter_io_uring_enter"


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ground", choices=["one", "two"], default="one", help="the shards' CPUs (one)")
    parser.add_argument("--arrangements", default="1,2,2s,1+1", help="which ones (1,2,2s,1+1)")
    parser.add_argument("--size", type=int, default=10240, help="bytes of a message (10240)")
    parser.add_argument("--sessions", type=int, default=64, help="parallel sessions (64)")
    parser.add_argument("--rate", type=float, help="messages a second (as fast as it goes)")
    parser.add_argument("--messages", type=int, default=20_000, help="messages in a round (20000)")
    parser.add_argument("--warm-up", type=int, default=2_000, help="messages before each round, not counted (2000)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each arrangement, interleaved (9)")
    parser.add_argument("--sinks", type=int, default=3, help="sinks behind the dispatcher (3)")
    parser.add_argument("--links", type=int, default=8, help="links_per_shard of one shard; two have half of it each (8)")
    parser.add_argument("--pipelining", action="store_true", help="MAIL, RCPT and DATA in one send")
    parser.add_argument("--chunking", action="store_true", help="MAIL, RCPT and the message by BDAT in one send")
    parser.add_argument("--in-flight", type=int, default=1, help="with chunking: unanswered messages of a client (1)")
    parser.add_argument("--timeout", type=int, default=120, help="most seconds for one round's load (120)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--against", action="append", default=[], help="another binary, interleaved with this one; repeatable")
    parser.add_argument("--json", default=str(ROOT / "target/shards.json"), help="where the figures go")
    return parser.parse_args()


class Dispatcher:
    """Running processes of one arrangement, each with a port."""

    def __init__(self, binary, arrangement, sink_ports, options, directory):
        self.ports, self.admins, self.processes = [], [], []
        kind, shards = Postlane(binary, "shards.toml.in"), ARRANGEMENTS[arrangement]
        by = "session" if arrangement == "2s" else "address"
        self.log = open(directory / "dispatcher.log", "ab")
        try:
            for number, count in enumerate(shards):
                port, admin = free_port(), free_port()
                one_cpu = options.ground == "one"
                cpus = count if one_cpu else '"0-1"' if count == 2 else f'"{number}-{number}"'
                links = max(1, options.links // sum(shards))
                values = {"SHARDS": cpus, "BY": by, "ADMIN": admin, "LINKS": links}
                config = kind.configuration(port, sink_ports, directory, **values)
                process = start(kind.command(config), 0 if one_cpu else None, self.log)
                self.processes.append(process)
                self.ports.append(port)
                self.admins.append(admin)
                wait_for_greeting(port, process, self.log)
                self.wait_for_admin()
        except BaseException:
            self.stop()
            raise

    def wait_for_admin(self):
        """The endpoint comes up after the listeners; at most 10 s."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.counter("postlane_turns_total")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def counter(self, name):
        """The sum of a counter over all shards."""
        total = 0.0
        for admin in self.admins:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as reply:
                text = reply.read().decode()
            total += sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))
        return total

    def figures(self):
        """What it has spent and counted so far."""
        switches = 0
        for process in self.processes:
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                status = (task / "status").read_text()
                switches += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", status))
        return {
            "turns": self.counter("postlane_turns_total"),
            "letters": self.counter("postlane_letters_total"),
            "wake_ups": self.counter("postlane_wake_ups_total"),
            "switches": switches,
            "cpu_us": sum(cpu_seconds(process.pid) for process in self.processes) * 1e6,
        }

    def stop(self):
        for process in self.processes:
            stop(process)
        self.log.close()


class Enters:
    """Counts entries into io_uring with perf while it is there."""

    def __init__(self, processes):
        self.perf = None
        if shutil.which("perf"):
            pids = ",".join(str(process.pid) for process in processes)
            command = ["perf", "stat", "-x,", "-e", ENTERS, "-p", pids]
            self.perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            time.sleep(0.3)

    def finish(self):
        """So many; None where perf may not."""
        if not self.perf:
            return None
        self.perf.send_signal(signal.SIGINT)
        _, said = self.perf.communicate(timeout=20)
        found = re.search(rf"^(\d+),.*{ENTERS}", said, re.MULTILINE)
        return int(found[1]) if found else None


def generator(number, port, messages, options):
    command = [options.postlane, "bench", "--target", f"127.0.0.1:{port}", "--json", "-", "--warmup", "0s"]
    command += ["--sessions", options.sessions // 2, "--messages", messages // 2, "--size", options.size]
    command += ["--rate", options.rate / 2] if options.rate else []
    command += ["--pipelining"] if options.pipelining else []
    command += ["--chunking", "--in-flight", options.in_flight] if options.chunking else []
    cpu = 1 if options.ground == "one" else number
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )


def load(ports, messages, options):
    """What the generators say of their runs; a RuntimeError if any message was not acknowledged."""
    running = [generator(number, ports[number % len(ports)], messages, options) for number in range(2)]
    try:
        said = [one.communicate(timeout=options.timeout) for one in running]
    finally:
        for one in running:
            one.kill()
    results = []
    for one, (out, errors) in zip(running, said):
        if one.returncode:
            raise RuntimeError(f"postlane bench, exit {one.returncode}: {errors.strip()[:500]}")
        results.append(json.loads(out)["load"])
        if results[-1]["acknowledged"] != messages // 2:
            raise RuntimeError(f"{results[-1]['acknowledged']} acknowledged; {results[-1]['connection_errors']}")
    return results


def one_round(binary, arrangement, sinks, options, directory):
    dispatcher = Dispatcher(binary, arrangement, sinks.ports, options, directory)
    try:
        load(dispatcher.ports, options.warm_up, options)
        enters = Enters(dispatcher.processes)
        before = dispatcher.figures()
        results = load(dispatcher.ports, options.messages, options)
        after = dispatcher.figures()
        entered = enters.finish()
    finally:
        dispatcher.stop()
    sinks.settled(sinks.taken() + options.warm_up + options.messages)
    latencies = [dict(result["latency_us"]["percentiles"]) for result in results]
    return {
        **{key: (after[key] - before[key]) / options.messages for key in before},
        "enters": None if entered is None else entered / options.messages,
        "messages_per_second": options.messages / max(result["elapsed_seconds"] for result in results),
        "p50_us": statistics.mean(one[50.0] for one in latencies),
        "p99_us": max(one[99.0] for one in latencies),
    }


def summary(rounds):
    """Medians."""
    middle = {}
    for key in rounds[0]:
        values = [one[key] for one in rounds if one[key] is not None]
        middle[key] = statistics.median(values) if values else None
    middle["cpu_us_min"] = min(one["cpu_us"] for one in rounds)
    return middle


def show(results, options):
    speed = f"{options.rate:.0f} messages/s" if options.rate else "as fast as it goes"
    print(
        f"\nPer message, medians of {options.rounds} interleaved rounds: {options.size} bytes, {options.sessions} sessions, "
        f"{speed}, ground {options.ground}\n"
    )
    heads = ("CPU us", "min", "enters", "turns", "letters", "wake-ups", "switches", "msgs/s", "p50 us", "p99 us")
    keys = ("cpu_us", "cpu_us_min", "enters", "turns", "letters", "wake_ups", "switches", "messages_per_second", "p50_us", "p99_us")
    print(f"{'':18}" + "".join(f"{head:>10}" for head in heads))
    for name, one in results.items():
        cells = ["-" if one[key] is None else f"{one[key]:.{0 if one[key] > 1000 else 2}f}" for key in keys]
        print(f"{name:18}" + "".join(f"{cell:>10}" for cell in cells))
    for name, one in results.items():
        base = results.get(re.sub(r"^\S+", "1", name))
        if base and base is not one:
            ratios = one["cpu_us"] / base["cpu_us"], one["cpu_us_min"] / base["cpu_us_min"]
            print(f"{name:18}{ratios[0]:10.2f}{ratios[1]:10.2f}   of the CPU time of 1 shard")


def main():
    options = arguments()
    if not shutil.which(options.postlane):
        print(f"{options.postlane} is not there: cargo build --release", file=sys.stderr)
        return 69
    binaries = {"": options.postlane, **{f" {Path(other).name}": other for other in options.against}}
    kinds = [(one + suffix, one, binary) for one in options.arrangements.split(",") for suffix, binary in binaries.items()]
    rounds = {name: [] for name, _, _ in kinds}
    with tempfile.TemporaryDirectory(prefix="shards-") as name:
        directory = Path(name)
        sinks = own.OwnSinks(options.sinks, options.postlane, 1 if options.ground == "one" else None, directory)
        try:
            for number in range(options.rounds):
                for name, arrangement, binary in kinds if number % 2 == 0 else reversed(kinds):
                    one = one_round(binary, arrangement, sinks, options, directory)
                    rounds[name].append(one)
                    print(f"round {number + 1} {name:18} {one['cpu_us']:6.1f} us", flush=True)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            print(f"round failed ({name}): {error}", file=sys.stderr)
            return 1
        finally:
            sinks.stop()
        sinks.check()
    results = {name: summary(of) for name, of in rounds.items()}
    show(results, options)
    save(options, version=version(options.postlane, "--version"), summary=results, rounds=rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
