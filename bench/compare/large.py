#!/usr/bin/env python3
"""Large messages through a small memory: all sessions send at once, more than all buffers could ever hold.

Sinks, a dispatcher and the load are started on loopback; while they run, the dispatcher's resident memory is
sampled. What counts: every message is accepted and arrives, nobody is refused, and the memory does not grow beyond
`memory` and the fixed part of the process.

    bench/compare/large.py                                     1,000 sessions, 25 MiB each, 256 MiB of buffers
    bench/compare/large.py --sessions 200 --size 5MiB --memory 32MiB
    bench/compare/large.py --chunking                          the same by BDAT

Exit: 0 done and all arrived, 1 something was refused or lost or the memory grew, 69 the binary is absent.
"""

import argparse
import json
import re
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from ground.programs import POSTLANE, Own, free_port, stop

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# What the process has besides the buffers: code, tables, and what a thousand sessions are in user space.
FIXED_BYTES = 96 << 20


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sessions", type=int, default=1000, help="sessions at the same time (1000)")
    parser.add_argument("--messages", type=int, help="messages, all told (one for each session)")
    parser.add_argument("--size", default="25MiB", help="of a message (25MiB)")
    parser.add_argument("--memory", default="256MiB", help="the dispatcher's buffers (256MiB)")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--links", type=int, default=8, help="links_per_shard (8)")
    parser.add_argument("--sinks", type=int, default=3)
    parser.add_argument("--chunking", action="store_true", help="clients send by BDAT")
    parser.add_argument("--timeout", type=int, default=900, help="most seconds (900)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--json", help="where the figures go")
    return parser.parse_args()


def size_bytes(text):
    number, unit = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", text).groups()
    return int(number) * UNITS[unit]


def configuration(port, admin, sinks, options):
    upstreams = "".join(
        f'[[pool.upstream]]\nname = "mta{n}"\naddress = "127.0.0.1:{sink}"\n' for n, sink in enumerate(sinks, 1)
    )
    return f"""hostname = "large.test"
shards = {options.shards}
drain_timeout = "10s"
memory = "{options.memory}"
[admin]
listen = "127.0.0.1:{admin}"
[[listener]]
name = "in"
address = "127.0.0.1:{port}"
trusted = ["127.0.0.0/8"]
max_message = "{2 * size_bytes(options.size) >> 10}KiB"
[[pool]]
name = "farm"
links_per_shard = {options.links}
{upstreams}[delivery]
mode = "through"
"""


def resident(pid):
    """VmRSS and VmHWM in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+) kB", text).group(1)) << 10 for name in ("VmRSS", "VmHWM")]


def metric(admin, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line))


class Watch(threading.Thread):
    """Samples the memory of a process until it is told to stop."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.samples, self.over = pid, [], threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            try:
                self.samples.append(resident(self.pid)[0])
            except (OSError, AttributeError):
                return


def run(options, directory, own):
    ports = [free_port() for _ in range(options.sinks)]
    counts = [directory / f"sink{n}.json" for n in range(options.sinks)]
    sinks = [
        own.start("sink", "--listen", f"127.0.0.1:{port}", "--count-file", counts[n]) for n, port in enumerate(ports)
    ]
    port, admin = free_port(), free_port()
    config = directory / "postlane.toml"
    config.write_text(configuration(port, admin, ports, options))
    server = own.start("serve", "--config", config, greets_on=port)
    before = resident(server.pid)[0]
    watch = Watch(server.pid)
    watch.start()
    messages = options.messages or options.sessions
    result = directory / "load.json"
    load = ["bench", "--target", f"127.0.0.1:{port}", "--pid", server.pid, "--sessions", options.sessions]
    load += ["--messages", messages, "--size", options.size, "--warmup", "0s", "--patience", f"{options.timeout}s"]
    load += ["--json", result] + (["--chunking"] if options.chunking else [])
    began = time.monotonic()
    generator = own.start(*load)
    generator.wait(options.timeout)
    seconds = time.monotonic() - began
    _, peak = resident(server.pid)
    figures = {name: metric(admin, f"postlane_{name}_total") for name in ("streamed", "out_of_buffers", "in_doubt")}
    watch.over.set()
    for process in [server, *sinks]:
        stop(process)
    arrived = sum(json.loads(path.read_text())["messages"] for path in counts)
    acknowledged = json.loads(result.read_text())["load"]["acknowledged"] if result.exists() else 0
    return {
        "sessions": options.sessions,
        "messages": messages,
        "size": size_bytes(options.size),
        "memory": size_bytes(options.memory),
        "arrived": arrived,
        "acknowledged": acknowledged,
        "seconds": round(seconds, 1),
        "mib_per_second": round(arrived * size_bytes(options.size) / seconds / (1 << 20), 1),
        "resident_before": before,
        "resident_peak": peak,
        "resident_median": sorted(watch.samples)[len(watch.samples) // 2] if watch.samples else before,
        **figures,
    }


def main():
    options = arguments()
    if not Path(options.postlane).exists():
        print(f"{options.postlane} is absent: cargo build --release", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory(prefix="postlane-large-") as directory, Own(options.postlane, Path(directory)) as own:
        figures = run(options, Path(directory), own)
    mib = lambda octets: f"{octets / (1 << 20):.0f} MiB"
    bound = figures["memory"] + FIXED_BYTES
    fits = figures["resident_peak"] <= bound
    whole = figures["arrived"] == figures["messages"] and figures["acknowledged"] == figures["messages"]
    print(f"{figures['sessions']} sessions, {figures['messages']} messages of {options.size}, memory = {options.memory}")
    print(f"arrived        {figures['arrived']} ({figures['acknowledged']} acknowledged) in {figures['seconds']} s, "
          f"{figures['mib_per_second']} MiB/s")
    print(f"streamed       {figures['streamed']:.0f}")
    print(f"out of memory  {figures['out_of_buffers']:.0f}")
    print(f"resident       {mib(figures['resident_before'])} before, median {mib(figures['resident_median'])}, "
          f"peak {mib(figures['resident_peak'])} (VmHWM), bound {mib(bound)}: {'kept' if fits else 'BROKEN'}")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return 0 if whole and fits and figures["out_of_buffers"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
