#!/usr/bin/env python3
"""Mail over long wires that lose packets: our TCP past the kernel beside the kernel's, with CUBIC and with BBR.

`postlane serve` in one network namespace, `postlane sink` in another, and between them a third, where a program delays
every packet by half the round trip and loses some of them, either way (bench/compare/ground/wire.py: many kernels have no
netem). The same load of `postlane bench` goes through it by the loopback, which loses nothing; only the upstream leg
differs: AF_XDP, or io_uring with the kernel's TCP. Rounds are interleaved, and the same dice are thrown for all. All
is made and removed here. Segmentation offload is off: packets are lost one by one.

The table has milliseconds that a message takes on average, from the client's MAIL to its 250, and the ratio to the
kernel's CUBIC, which is Linux's own choice.

    bench/compare/loss.py
    bench/compare/loss.py --sizes 10KiB --loss 1 --round-trips 20 --rounds 5

Exit: 0 done, 1 a round failed, 69 a program or privileges are absent.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ground.namespaces import inside, run
from ground.programs import POSTLANE, ROOT, start, stop
from ground.report import save

WIRE = Path(__file__).resolve().parent / "ground/wire.py"
NEAR_ADDRESS, FAR_ADDRESS, LISTENER, SINK = "10.69.0.1", "10.69.0.2", 2525, 2600
# Whose TCP, and how it fills the path.
STACKS = {"ours": ("xdp", "cubic"), "cubic": ("uring", "cubic"), "bbr": ("uring", "bbr")}
# Messages that a session sends in a round, by the round trip in milliseconds: the longest that is not more.
MESSAGES = ((0, 250), (5, 60), (50, 20))


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--loss", default="0,0.1,1,3", help="percent of packets lost, either way")
    parser.add_argument("--round-trips", default="0.2,20,100", help="milliseconds")
    parser.add_argument("--sizes", default="10KiB,256KiB", help="of a message")
    parser.add_argument("--stacks", default=",".join(STACKS))
    parser.add_argument("--sessions", type=int, default=8, help="and so many links are in use (8)")
    parser.add_argument("--messages", type=int, help="of a session (by the round trip: 250, 60, 20; of large ones a fifth)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="wires at a time where the round trip is long (2)")
    parser.add_argument("--timeout", type=int, default=240, help="most seconds for a round's load")
    parser.add_argument("--postlane", default=str(POSTLANE))
    parser.add_argument("--json", default=str(ROOT / "target/compare-loss.json"))
    return parser.parse_args()


class Wire:
    """Three namespaces in a row, and the program that carries packets through the one in the middle."""

    def __init__(self, number, round_trip, loss, directory):
        self.near, self.middle, self.far = (f"loss{os.getpid()}-{number}-{part}" for part in ("near", "wire", "far"))
        self.nic, self.round_trip, self.loss, self.directory = f"lossnear{number}", round_trip, loss, directory
        self.process = None
        self.remove()
        for name in (self.near, self.middle, self.far):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for end, nic, other, address in (
            (self.near, self.nic, "one", NEAR_ADDRESS), (self.far, "lossfar", "other", FAR_ADDRESS)
        ):
            run("ip", "-n", end, "link", "add", nic, "type", "veth", "peer", "name", other, "netns", self.middle)
            run("ip", "-n", end, "addr", "add", f"{address}/24", "dev", nic)
            for namespace, name in ((end, nic), (self.middle, other)):
                offloads = [word for kind in ("tx", "rx", "tso", "gso", "gro") for word in (kind, "off")]
                run(*inside(namespace, "ethtool", "-K", name, *offloads))
                run("ip", "-n", namespace, "link", "set", name, "up")

    def lay(self, seed):
        """From now on packets are carried, and lost by these dice."""
        options = ("--round-trip", self.round_trip / 1e3, "--loss", self.loss / 100, "--seed", seed)
        command = inside(self.middle, sys.executable, WIRE, "one", "other", *options)
        log = self.directory / "wire.log"
        with open(log, "wb") as into:
            self.process = start(command, None, into)
        wait_for("carries", self.process, log)

    def cut(self):
        if self.process:
            stop(self.process)
            self.process = None

    def remove(self):
        self.cut()
        for name in (self.near, self.middle, self.far):
            run("ip", "netns", "del", name, check=False)


def wait_for(words, process, log):
    deadline = time.monotonic() + 20
    while words not in (said := Path(log).read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it did not start:\n{said[-1500:]}")
        time.sleep(0.05)


def configuration(wire, stack, options):
    backend, _ = STACKS[stack]
    lines = ['hostname = "lane.test"', "shards = 1", f'backend = "{backend}"', 'memory = "128MiB"']
    lines += ["[xdp]", f'interface = "{wire.nic}"'] if backend == "xdp" else []
    lines += ["[[listener]]", 'name = "in"', f'address = "127.0.0.1:{LISTENER}"']
    lines += ["[[pool]]", 'name = "farm"', f"links_per_shard = {options.sessions}", f"idle_links = {options.sessions}"]
    lines += ["[pool.health]", 'probe = "off"']
    lines += ["[[pool.upstream]]", 'name = "mta"', f'address = "{FAR_ADDRESS}:{SINK}"', "[delivery]", 'mode = "through"']
    path = wire.directory / f"{stack}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def messages(wire, size, options):
    each = options.messages or [count for least, count in MESSAGES if wire.round_trip >= least][-1]
    is_large = size.endswith("MiB") or size.endswith("KiB") and int(size[:-3]) >= 100
    return options.sessions * (max(2, each // 5) if is_large and not options.messages else each)


def one_round(wire, stack, size, seed, options):
    """Figures of one load."""
    congestion = f"net.ipv4.tcp_congestion_control={STACKS[stack][1]}"
    for namespace in (wire.near, wire.far):
        run(*inside(namespace, "sysctl", "-qw", congestion, "net.ipv4.tcp_no_metrics_save=1"))
    wire.lay(seed)
    log, started = wire.directory / f"{stack}.log", []
    try:
        with open(wire.directory / "sink.log", "wb") as into:
            sink = [options.postlane, "sink", "--listen", f"{FAR_ADDRESS}:{SINK}"]
            started.append(start(inside(wire.far, *sink), None, into))
        with open(log, "wb") as into:
            serve = [options.postlane, "serve", "--config", configuration(wire, stack, options)]
            started.append(start(inside(wire.near, *serve), None, into))
        wait_for("takes mail", started[-1], log)
        load = [options.postlane, "bench", "--target", f"127.0.0.1:{LISTENER}", "--sessions", options.sessions, "--json", "-"]
        load += ["--warmup", "2s", "--messages", messages(wire, size, options), "--size", size, "--patience", "120s"]
        done = subprocess.run(
            inside(wire.near, *load), capture_output=True, text=True, timeout=options.timeout
        )
        if done.returncode:
            raise RuntimeError(f"{stack}: {done.stderr.strip()[-800:]}\n{log.read_text(errors='replace')[-800:]}")
        return json.loads(done.stdout)
    finally:
        for process in reversed(started):
            stop(process)
        wire.cut()


def cell(number, round_trip, loss, sizes, stacks, options, directory):
    """All loads over one wire: figures by size and stack."""
    mine = directory / str(number)
    mine.mkdir()
    wire = Wire(number, round_trip, loss, mine)
    figures = {size: {stack: [] for stack in stacks} for size in sizes}
    try:
        for seed in range(1, options.rounds + 1):
            for size in sizes:
                for stack in stacks if seed % 2 else reversed(stacks):
                    load = one_round(wire, stack, size, seed, options)["load"]
                    if load["acknowledged"] != load["started"]:
                        raise RuntimeError(f"{stack}: {load['acknowledged']} of {load['started']} messages were taken")
                    latency = load["latency_us"]
                    p99 = next(value for share, value in latency["percentiles"] if share == 99.0)
                    figures[size][stack].append({"mean": latency["mean"] / 1e3, "p99": p99 / 1e3})
    finally:
        wire.remove()
    return figures


def show(round_trip, loss, size, by_stack):
    medians = {
        stack: {key: statistics.median(one[key] for one in rounds) for key in ("mean", "p99")}
        for stack, rounds in by_stack.items()
    }
    row = f"{round_trip:7g} {loss:6g} {size:>7}"
    for one in medians.values():
        row += f" {one['mean']:9.1f} {one['p99']:9.1f}"
    if "ours" in medians and "cubic" in medians:
        row += f" {medians['ours']['mean'] / medians['cubic']['mean']:7.2f} {medians['ours']['p99'] / medians['cubic']['p99']:7.2f}"
    print(row, flush=True)
    return medians


def main():
    options = arguments()
    missing = [name for name in ("ip", "ethtool", "sysctl") if not shutil.which(name)]
    if missing or os.geteuid() != 0 or not shutil.which(options.postlane):
        why = f"not installed: {', '.join(missing)}" if missing else f"root is needed, and {options.postlane}"
        print(f"skipped: {why}", file=sys.stderr)
        return 69
    sizes, stacks = options.sizes.split(","), options.stacks.split(",")
    cells = [(float(rtt), float(loss)) for rtt in options.round_trips.split(",") for loss in options.loss.split(",")]
    heads = "".join(f" {stack:>9} {'p99':>9}" for stack in stacks)
    print(f"{'rtt ms':>7} {'loss %':>6} {'size':>7}{heads}   ratio     p99   milliseconds for a message, medians of means")
    rows = []
    with tempfile.TemporaryDirectory(prefix="compare-loss-") as name:
        # Short wires keep a CPU busy, so there is one at a time.
        pools = {True: ThreadPoolExecutor(options.jobs), False: ThreadPoolExecutor(1)}
        try:
            waiting = []
            for number, (round_trip, loss) in enumerate(cells):
                what = (cell, number, round_trip, loss, sizes, stacks, options, Path(name))
                done = pools[round_trip >= 5].submit(*what)
                # What is short comes first, alone.
                if round_trip < 5:
                    done.exception()
                waiting.append((round_trip, loss, done))
            for round_trip, loss, done in waiting:
                for size, by_stack in done.result().items():
                    medians = show(round_trip, loss, size, by_stack)
                    rows.append({"round_trip_ms": round_trip, "loss": loss, "size": size, "medians": medians, "rounds": by_stack})
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"round failed: {error}", file=sys.stderr)
            return 1
        finally:
            for pool in pools.values():
                pool.shutdown(cancel_futures=True)
    save(options, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
