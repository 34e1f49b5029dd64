#!/usr/bin/env python3
"""Idle sessions: what each costs the dispatcher in user space, and that mail flows while they are held.

So many sessions say EHLO and then nothing. The dispatcher's resident memory before and after them is compared; then
mail is sent through it, and in the end a part of the idle ones is asked whether they are still there.

    bench/compare/idle.py                          100,000 sessions
    bench/compare/idle.py --sessions 2000 --duration 2s

It needs files: the hard limit of open files is raised where that is allowed. Where it is not, more shards share the
sessions (each ring's table of files has that limit for itself), and several processes hold the clients' ends. Sessions
come from several loopback addresses, for one has not enough ports.

Exit: 0 done, 1 a session was lost, mail was lost, or a session costs more than --bound, 69 the binary is absent.
"""

import argparse
import json
import multiprocessing
import resource
import select
import socket
import sys
import tempfile
import time
from pathlib import Path

from ground.programs import POSTLANE, Own, free_port
from large import resident

PER_SOURCE = 20_000
BATCH = 256
SPARE_FILES = 3_000


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sessions", type=int, default=100_000, help="idle sessions (100000)")
    parser.add_argument("--duration", default="10s", help="how long mail flows meanwhile (10s)")
    parser.add_argument("--shards", type=int, help="(as many as the limit of open files asks for)")
    parser.add_argument("--bound", type=int, default=4096, help="most bytes that one may cost (4096)")
    parser.add_argument("--postlane", default=str(POSTLANE), help="the binary")
    parser.add_argument("--json", help="where the figures go")
    return parser.parse_args()


def raise_files(wanted):
    """The limit that can be had, for this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return limit
        except (ValueError, OSError):
            continue
    return soft


def hold_sessions(port, first, count, pipe):
    """A process of its own: opens sessions, says so, and when asked whether they are still there."""
    try:
        held = []
        for start in range(first, first + count, BATCH):
            batch = []
            for n in range(start, min(start + BATCH, first + count)):
                peer = socket.socket()
                peer.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                peer.bind((f"127.0.1.{1 + n // PER_SOURCE}", 0))
                peer.connect(("127.0.0.1", port))
                batch.append(peer)
            for peer in batch:
                read_reply(peer)
                peer.sendall(b"EHLO idle.example\r\n")
            for peer in batch:
                read_reply(peer)
            held += batch
        pipe.send("open")
        pipe.recv()
        for peer in held[:: max(1, len(held) // 500)]:
            peer.sendall(b"NOOP\r\n")
            read_reply(peer)
        pipe.send("there")
    except (OSError, EOFError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


class Holders:
    """Idle sessions in as many processes as their files need."""

    def __init__(self, port, sessions, per_process):
        self.holders = []
        for first in range(0, sessions, per_process):
            ours, theirs = multiprocessing.Pipe()
            count = min(per_process, sessions - first)
            process = multiprocessing.Process(target=hold_sessions, args=(port, first, count, theirs), daemon=True)
            process.start()
            self.holders.append((process, ours))
            # One after another: the listener's queue is for so many.
            self.expect(ours, "open")

    @staticmethod
    def expect(pipe, word):
        said = pipe.recv() if pipe.poll(300) else "nothing for five minutes"
        if said != word:
            sys.exit(f"idle sessions: {said}")

    def check(self):
        for _, pipe in self.holders:
            pipe.send("check")
            self.expect(pipe, "there")
        for process, _ in self.holders:
            process.join(60)


def read_reply(peer):
    text = b""
    while True:
        poll = select.poll()
        poll.register(peer, select.POLLIN)
        if not poll.poll(20_000):
            raise TimeoutError("no answer for 20 s")
        part = peer.recv(4096)
        if not part:
            raise ConnectionError("the session was closed")
        text += part
        last = text.rstrip(b"\r\n").rsplit(b"\n", 1)[-1]
        if text.endswith(b"\n") and last[3:4] == b" ":
            return text


def run(options, directory, own):
    limit = raise_files(options.sessions + SPARE_FILES)
    sessions = options.sessions
    # A shard's table has room for its links too, and the kernel does not spread sessions evenly.
    shards = options.shards or (1 if sessions < limit // 2 else 2 * -(-sessions // int(0.85 * limit)))
    sink, port = free_port(), free_port()
    own.start("sink", "--listen", f"127.0.0.1:{sink}", greets_on=sink)
    config = directory / "postlane.toml"
    config.write_text(f"""hostname = "idle.test"
shards = {shards}
memory = "64MiB"
drain_timeout = "2s"
[[listener]]
name = "in"
address = "127.0.0.1:{port}"
trusted = ["127.0.0.0/8"]
max_sessions = {sessions + 500}
idle_timeout = "1h"
[[pool]]
name = "farm"
[[pool.upstream]]
name = "mta1"
address = "127.0.0.1:{sink}"
[delivery]
mode = "through"
""")
    server = own.start("serve", "--config", config, greets_on=port)
    # A first round of mail, so that what all sessions share is there.
    load = ["bench", "--target", f"127.0.0.1:{port}", "--pid", server.pid, "--sessions", 64, "--warmup", "0s"]
    own.start(*load, "--duration", "1s").wait(60)
    before = resident(server.pid)[0]
    began = time.monotonic()
    holders = Holders(port, sessions, limit - 500)
    opened = time.monotonic() - began
    time.sleep(0.5)
    after = resident(server.pid)[0]
    result = directory / "load.json"
    own.start(*load, "--duration", options.duration, "--json", result).wait(120)
    flowing = resident(server.pid)[0]
    load = json.loads(result.read_text())["load"]
    holders.check()
    return {
        "sessions": sessions,
        "shards": shards,
        "opened_seconds": round(opened, 1),
        "resident_before": before,
        "resident_after": after,
        "resident_flowing": flowing,
        "bytes_per_session": round((after - before) / sessions),
        "messages_per_second": round(load["rate"]),
        "acknowledged": load["acknowledged"],
        "refused": sum(sum(codes.values()) for codes in load["refused"].values()),
        "interrupted": load["interrupted"],
    }


def main():
    options = arguments()
    if not Path(options.postlane).exists():
        print(f"{options.postlane} is absent: cargo build --release", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory(prefix="postlane-idle-") as directory, Own(options.postlane, Path(directory)) as own:
        figures = run(options, Path(directory), own)
    print(f"{figures['sessions']} idle sessions on {figures['shards']} shards, opened in {figures['opened_seconds']} s, all still there")
    print(f"resident       {figures['resident_before'] >> 20} MiB before, {figures['resident_after'] >> 20} MiB with them, "
          f"{figures['resident_flowing'] >> 20} MiB with mail")
    print(f"each           {figures['bytes_per_session']} bytes in user space (bound {options.bound})")
    print(f"mail meanwhile {figures['acknowledged']} messages, {figures['messages_per_second']} a second, "
          f"{figures['refused'] + figures['interrupted']} refused or lost")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    fits = figures["bytes_per_session"] <= options.bound
    return 0 if fits and figures["refused"] + figures["interrupted"] == 0 and figures["acknowledged"] else 1


if __name__ == "__main__":
    sys.exit(main())
