#!/usr/bin/env python3
"""CPU microseconds per message, side by side: upstream links by io_uring and by AF_XDP over the same veth.

The same smtp-source load goes through `postlane serve` (one shard, pinned to a CPU of its own) into the same smtp-sinks
in another network namespace; only `backend` differs. Rounds are interleaved. Both namespaces are made and removed here.

What is counted, for the dispatcher alone, from after the warm-up to the last message:
    user, system   its process's CPU time, without the softirqs that merely ran in its context
    nic            softirq time spent receiving on its veth, wherever it ran
    sum            of the three
    frames         of system and nic: the kernel's moving of frames from and to AF_XDP sockets by copy; not ours
    bypass         of user: our TCP, frames and rings
    out, in        packets that its veth sent and received for a message (of several segments each with TSO)
    turns          of the shard's loop, for a message
CPU time is exact, and divided by samples of what ran (perf).
The downstream leg goes by io_uring over the loopback in both cases, and is in both sums. With --both the clients come
from the other namespace, over the same veth, and both legs go by the backend. The senders' TSO is on unless --no-tso.
A round counts only if smtp-source saw no error and every message arrived.

    bench/compare/xdp.py                         256 B to 100 KiB, MTU 1500
    bench/compare/xdp.py --sizes 1024 --mtu 3000 --coalesce
    bench/compare/xdp.py --sizes 1024 --coalesce --both
    bench/compare/xdp.py --no-tso                as on a NIC without segmentation offload

Exit: 0 done, 1 a round failed, 69 a program, privileges or AF_XDP are absent.
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
from pathlib import Path

from ground.namespaces import inside, run
from ground.programs import POSTLANE, ROOT, cpu_seconds, start, stop
from ground.report import save
from ground.samples import Samples
from ground.sinks import Sinks, counted
from ground.source import send

NEAR, FAR = "xdp-bench-near", "xdp-bench-far"
NEAR_NIC, FAR_NIC = "benchnear", "benchfar"
ADDRESS = {NEAR: "10.67.0.1", FAR: "10.67.0.2"}
PORT = 2525
ADMIN = "127.0.0.1:8025"  # in the near namespace
BACKENDS = ("uring", "xdp")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", default="256,1024,10240,102400", help="bytes of a message's body, one after the other")
    parser.add_argument("--messages", type=int, default=10_000, help="messages in a round, fewer of large ones (10000)")
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--links", type=int, default=32, help="links to each sink (32)")
    parser.add_argument("--sinks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each backend, interleaved (5)")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--coalesce", action="store_true", help="interrupts put off for 200 us, for both")
    parser.add_argument("--both", action="store_true", help="clients too come by the veth")
    parser.add_argument("--no-tso", action="store_true", help="the kernel cuts its segments itself")
    parser.add_argument("--cpu", type=int, default=0, help="the dispatcher's; all else runs on --load-cpu")
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=120, help="most seconds for one load")
    parser.add_argument("--postlane", default=str(POSTLANE))
    parser.add_argument("--before", help="another build, measured beside by AF_XDP")
    parser.add_argument("--json", default=str(ROOT / "target/compare-xdp.json"))
    return parser.parse_args()


class Network:
    def __init__(self, options):
        self.remove()
        for name in (NEAR, FAR):
            run("ip", "netns", "add", name)
        run("ip", "-n", NEAR, "link", "add", NEAR_NIC, "type", "veth", "peer", "name", FAR_NIC, "netns", FAR)
        for name, nic in ((NEAR, NEAR_NIC), (FAR, FAR_NIC)):
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", f"{ADDRESS[name]}/24", "dev", nic)
            run("ip", "-n", name, "link", "set", nic, "mtu", options.mtu, "up")
            if options.no_tso:
                run(*inside(name, "ethtool", "-K", nic, "tso", "off", "gso", "off"))
            if options.coalesce:
                script = f"echo 2 > /sys/class/net/{nic}/napi_defer_hard_irqs; echo 200000 > /sys/class/net/{nic}/gro_flush_timeout"
                run(*inside(name, "sh", "-c", script))

    @staticmethod
    def remove():
        for name in (NEAR, FAR):
            run("ip", "netns", "del", name, check=False)


def packets():
    """Sent and received so far by the near veth."""
    counters = json.loads(run("ip", "-n", NEAR, "-j", "-s", "link", "show", NEAR_NIC).stdout)[0]["stats64"]
    return {"out": counters["tx"]["packets"], "in": counters["rx"]["packets"]}


def turns():
    """Of the shard's loop so far."""
    read = "import sys, urllib.request as web; print(web.urlopen(sys.argv[1], timeout=5).read().decode())"
    page = run(*inside(NEAR, sys.executable, "-c", read, f"http://{ADMIN}/metrics")).stdout
    return {"turns": sum(int(count) for count in re.findall(r"^postlane_turns_total\S* (\d+)", page, re.M))}


class FarSinks(Sinks):
    """In the far namespace, so that nothing here can look for their greetings."""

    def __init__(self, options, directory):
        self.logs, self.processes = [], []
        self.addresses = [f"{ADDRESS[FAR]}:{2600 + number}" for number in range(options.sinks)]
        for address in self.addresses:
            log = open(directory / f"sink-{address}.log", "wb")
            command = inside(FAR, "smtp-sink", "-c", "-m", "2048", "-u", "root", address, "2048")
            self.processes.append(start(command, options.load_cpu, log))
            self.logs.append(log)
        time.sleep(0.5)
        if any(process.poll() is not None for process in self.processes):
            raise RuntimeError("smtp-sink did not start: " + Path(self.logs[0].name).read_text(errors="replace"))

    def taken(self):
        return sum(counted(Path(log.name)) for log in self.logs)

    def stop(self):
        for process in self.processes:
            stop(process)
        for log in self.logs:
            log.close()


def configuration(backend, sinks, options, directory):
    backend = "uring" if backend == "uring" else "xdp"
    lines = ['hostname = "lane.test"', f'shards = "{options.cpu}-{options.cpu}"', f'backend = "{backend}"']
    lines += ["[admin]", f'listen = "{ADMIN}"']
    lines += ["[xdp]", f'interface = "{NEAR_NIC}"'] if backend == "xdp" else []
    host = ADDRESS[NEAR] if options.both else "127.0.0.1"
    lines += ["[[listener]]", 'name = "in"', f'address = "{host}:{PORT}"', f'trusted = ["127.0.0.0/8", "{ADDRESS[FAR]}"]']
    lines += ['backend = "xdp"'] if options.both and backend == "xdp" else []
    lines += ["[[pool]]", 'name = "farm"', f"links_per_shard = {options.links}", f"idle_links = {options.links}"]
    lines += ["[pool.health]", 'probe = "off"']
    for number, address in enumerate(sinks.addresses, 1):
        lines += ["[[pool.upstream]]", f'name = "mta{number}"', f'address = "{address}"']
    lines += ["[delivery]", 'mode = "through"']
    path = directory / f"{backend}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def one_round(backend, size, sinks, options, directory):
    messages = max(500, min(options.messages, options.messages * 10_240 // size))
    config = configuration(backend, sinks, options, directory)
    with open(directory / f"{backend}.log", "wb") as log:
        process = start(inside(NEAR, options.before if backend == "before" else options.postlane, "serve", "--config", config), options.cpu, log)
        try:
            deadline = time.monotonic() + 15
            while "takes mail" not in (said := Path(log.name).read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"postlane did not start:\n{said[-2000:]}")
                time.sleep(0.05)
            mode = re.search(r"upstreams by (.+)", said)
            before = sinks.taken()
            warm_up = max(100, messages // 10)
            come = {"prefix": inside(FAR), "host": ADDRESS[NEAR]} if options.both else {"prefix": inside(NEAR)}
            send(PORT, warm_up, size, options, **come)
            # `ip netns exec` has become the dispatcher.
            samples = Samples(process.pid, directory, options)
            passed = {**packets(), **turns()}
            total = cpu_seconds(process.pid)
            seconds = send(PORT, messages, size, options, **come)
            spent = cpu_seconds(process.pid) - total
            counts = samples.stop()
            passed = {kind: count - passed[kind] for kind, count in {**packets(), **turns()}.items()}
            expected = before + warm_up + messages
            if (arrived := sinks.settled(expected)) != expected:
                raise RuntimeError(f"{arrived - before} messages arrived of {expected - before} sent")
        finally:
            stop(process)
    micro = lambda kind: counts[kind] / counts["own"] * spent / messages * 1e6
    return {
        **{kind: micro(kind) for kind in ("user", "system", "nic", "frames", "bypass")},
        **{kind: count / messages for kind, count in passed.items()},
        "sum": micro("user") + micro("system") + micro("nic"),
        "process": spent / messages * 1e6,
        "messages_per_second": messages / seconds,
        "mode": mode.group(1) if mode else "io_uring",
    }


KEYS = ("user", "system", "nic", "sum", "frames", "bypass", "out", "in", "turns", "process", "messages_per_second")
SHOWN = KEYS[:-2]


def median(rounds):
    return {key: statistics.median(one[key] for one in rounds) for key in KEYS}


def main():
    options = arguments()
    missing = [name for name in ("ip", "ethtool", "perf", "smtp-source", "smtp-sink") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        print(f"skipped: {'root is needed' if not missing else 'not installed (apt-get install iproute2 ethtool linux-perf postfix): ' + ', '.join(missing)}", file=sys.stderr)
        return 69
    if not shutil.which(options.postlane):
        print(f"{options.postlane} is not there: cargo build --release", file=sys.stderr)
        return 69
    backends = BACKENDS + (("before",) if options.before else ())
    sizes = [int(size) for size in options.sizes.split(",")]
    rounds = {size: {backend: [] for backend in backends} for size in sizes}
    print(f"{'size':>7} {'backend':8} " + " ".join(f"{key:>7}" for key in SHOWN) + "   msgs/s   us per message, medians")
    with tempfile.TemporaryDirectory(prefix="compare-xdp-") as name:
        directory = Path(name)
        try:
            Network(options)
            sinks = FarSinks(options, directory)
            try:
                for size in sizes:
                    for number in range(options.rounds):
                        for backend in backends if number % 2 == 0 else reversed(backends):
                            rounds[size][backend].append(one_round(backend, size, sinks, options, directory))
                    for backend in backends:
                        one = median(rounds[size][backend])
                        figures = " ".join(f"{one[key]:7.1f}" for key in SHOWN)
                        print(f"{size:7} {backend:8} {figures} {one['messages_per_second']:8.0f}", flush=True)
                    sums = [median(rounds[size][backend])["sum"] for backend in BACKENDS]
                    print(f"{'':7} xdp / uring {sums[1] / sums[0]:36.2f}")
            finally:
                sinks.stop()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"round failed: {error}", file=sys.stderr)
            return 1
        finally:
            Network.remove()
    medians = {size: {backend: median(all) for backend, all in each.items()} for size, each in rounds.items()}
    save(options, mode=rounds[sizes[0]]["xdp"][0]["mode"], medians=medians, rounds=rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
