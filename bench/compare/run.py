#!/usr/bin/env python3
"""CPU microseconds per message, side by side: Postlane (one shard) and HAProxy (TCP mode, one thread).

The same smtp-source load goes through either into the same smtp-sinks, in interleaved rounds. The relay is
pinned to one CPU; source and sinks share another. What is counted is the process CPU time of the relay alone
(user and system, all its threads, ended ones too), from after the warm-up to the last message; the kernel
charges loopback's receive work to whoever sends, the same way for both. A round counts only if smtp-source
saw no error and the sinks' own counters show that every message arrived.

They do not do the same work: HAProxy moves bytes and knows no mail; Postlane speaks SMTP on both sides.

    bench/compare/run.py                          10 KiB, 64 sessions, connections reused
    bench/compare/run.py --size 1024 --per-connection-one
    bench/compare/run.py --load pipelining          clients that pipeline: postlane bench and postlane sink
    bench/compare/run.py --load chunking --in-flight 4
    bench/compare/run.py --rounds 20 --json target/compare.json

Exit: 0 done (HAProxy absent is said, and its column left out), 1 a round failed, 69 smtp-source or smtp-sink absent.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import own

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
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
    parser.add_argument("--postlane", default=str(ROOT / "target/release/postlane"), help="the binary")
    parser.add_argument("--json", default=str(ROOT / "target/compare.json"), help="where the figures go")
    return parser.parse_args()


def free_port():
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def start(command, cpu, log):
    """A program pinned to one CPU from its first instruction."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )


def stop(process, number=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_greeting(port, process, log):
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if connection.recv(512).startswith(b"220"):
                    connection.sendall(b"QUIT\r\n")
                    connection.recv(512)
                    return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"no greeting on port {port}:\n{Path(log.name).read_text(errors='replace')[-2000:]}")


def cpu_seconds(pid):
    """CPU time of a process, its ended threads included, in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


class Sinks:
    """smtp-sinks with their running counters on."""

    def __init__(self, count, cpu, directory):
        self.logs, self.ports, self.processes = [], [], []
        for number in range(count):
            port = free_port()
            log = open(directory / f"sink{number}.log", "wb")
            command = ["smtp-sink", "-4", "-c", "-m", "2048"]
            command += ["-u", "root"] if os.getuid() == 0 else []
            process = start([*command, f"127.0.0.1:{port}", "2048"], cpu, log)
            self.ports.append(port)
            self.logs.append(log)
            self.processes.append(process)
            wait_for_greeting(port, process, log)

    def taken(self):
        """Messages taken by all since the start."""
        return sum(self._counter(Path(log.name)) for log in self.logs)

    @staticmethod
    def _counter(path):
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            counts = re.findall(rb"mesg=(\d+)", file.read())
        return int(counts[-1]) if counts else 0

    def settled(self, expected, seconds=5):
        """What they have taken, once that is `expected` or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while self.taken() < expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.taken()

    def stop(self):
        for process in self.processes:
            stop(process)
        for log in self.logs:
            log.close()


def configuration(relay, port, sink_ports, links, directory):
    if relay == "haproxy":
        template, server = "haproxy.cfg.in", "    server mta{n} 127.0.0.1:{port}"
    else:
        template, server = "postlane.toml.in", '[[pool.upstream]]\nname = "mta{n}"\naddress = "127.0.0.1:{port}"\n'
    servers = "\n".join(server.format(n=number, port=sink) for number, sink in enumerate(sink_ports, 1))
    text = (HERE / template).read_text()
    for name, value in {"PORT": port, "SERVERS": servers, "LINKS": links}.items():
        text = text.replace(f"@{name}@", str(value))
    path = directory / template.removesuffix(".in")
    path.write_text(text)
    return path


def command(relay, config, options):
    if relay == "haproxy":
        return ["haproxy", "-db", "-f", config]
    return [options.postlane, "serve", "--config", config]


def load(port, messages, options):
    """Seconds the load took; a RuntimeError at the first thing smtp-source did not expect."""
    if options.load != "plain":
        return own.load(options.load, port, messages, options)
    source = ["smtp-source", "-4", "-N", "-s", options.sessions, "-m", messages, "-l", options.size]
    source += [] if options.per_connection_one else ["-d"]
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


def one_round(relay, sinks, options, directory):
    port = free_port()
    config = configuration(relay, port, sinks.ports, options.links, directory)
    with open(directory / f"{relay}.log", "ab") as log:
        process = start(command(relay, config, options), options.relay_cpu, log)
        try:
            wait_for_greeting(port, process, log)
            before = sinks.taken()
            load(port, options.warm_up, options)
            cpu = cpu_seconds(process.pid)
            seconds = load(port, options.messages, options)
            cpu = cpu_seconds(process.pid) - cpu
            expected = before + options.warm_up + options.messages
            arrived = sinks.settled(expected)
            if arrived != expected:
                raise RuntimeError(f"{arrived - before} messages arrived of {expected - before} sent")
        finally:
            stop(process, signal.SIGTERM if relay == "postlane" else signal.SIGUSR1)
    return {
        "cpu_us_per_message": cpu / options.messages * 1e6,
        "messages_per_second": options.messages / seconds,
        "relay_busy": cpu / seconds,
    }


def version(program, *flags):
    done = subprocess.run([program, *flags], capture_output=True, text=True, timeout=10)
    return (done.stdout + done.stderr).strip().splitlines()[0] if done.stdout or done.stderr else "unknown"


def machine():
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def summary(rounds):
    figures = [one["cpu_us_per_message"] for one in rounds]
    return {
        "median": statistics.median(figures),
        "min": min(figures),
        "max": max(figures),
        "messages_per_second": statistics.median(one["messages_per_second"] for one in rounds),
        "relay_busy": statistics.median(one["relay_busy"] for one in rounds),
    }


def show(results, options):
    mode = "a connection per message" if options.per_connection_one else "connections reused"
    print(
        f"\nCPU us per message of the relay alone: {options.load}, {options.size} bytes, {options.sessions} sessions, {mode}, "
        f"{options.sinks} sinks,\n{options.messages} messages a round, {options.rounds} rounds of each, interleaved\n"
    )
    print(f"{'':10} {'median':>8} {'min':>8} {'max':>8} {'msgs/s':>9} {'relay busy':>11}")
    for relay, one in results.items():
        print(
            f"{relay:10} {one['median']:8.1f} {one['min']:8.1f} {one['max']:8.1f} "
            f"{one['messages_per_second']:9.0f} {one['relay_busy']:10.0%}"
        )
    if len(results) == 2:
        ours, theirs = results["postlane"], results["haproxy"]
        print(
            f"{'ratio':10} {ours['median'] / theirs['median']:8.2f} {ours['min'] / theirs['min']:8.2f}"
            "   (Postlane / HAProxy)"
        )


def main():
    options = arguments()
    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"
    for program in ("smtp-source", "smtp-sink"):
        if not shutil.which(program):
            print(f"skipped: {program} is not installed (scripts/setup.sh)", file=sys.stderr)
            return 69
    relays = [relay for relay in options.relays.split(",") if relay in RELAYS]
    if "haproxy" in relays and not shutil.which("haproxy"):
        print("haproxy is not installed (scripts/setup.sh): its side is skipped")
        relays.remove("haproxy")
    if "postlane" in relays and not shutil.which(options.postlane):
        print(f"{options.postlane} is not there: cargo build --release", file=sys.stderr)
        return 69

    rounds = {relay: [] for relay in relays}
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        directory = Path(name)
        if options.load == "plain":
            sinks = Sinks(options.sinks, options.load_cpu, directory)
        else:
            ports = [free_port() for _ in range(options.sinks)]
            sinks = own.OwnSinks(options.sinks, start, ports, options.postlane, options.load_cpu, directory)
        try:
            for number in range(options.rounds):
                for relay in relays if number % 2 == 0 else reversed(relays):
                    one = one_round(relay, sinks, options, directory)
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
    programs = {"haproxy": lambda: version("haproxy", "-v"), "postlane": lambda: version(options.postlane, "--version")}
    report = {
        "machine": machine(),
        "options": {key: value for key, value in vars(options).items() if key not in ("json", "postlane")},
        "versions": {relay: programs[relay]() for relay in relays},
        "summary": results,
        "rounds": rounds,
    }
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
