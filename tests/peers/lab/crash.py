"""Kills a Postlane with a spool again and again under load, and counts what arrives in the end.

Every message has an id of its own. What was answered 250 has to be at a sink in the end, whole; and what arrives
twice must have been in flight when it was killed: under way, or over and that not yet on disk. A start that finds
fewer messages says how many those can have been.

A kill -9 leaves the kernel's cache alone: what this shows is that the process may end between any two instructions.
Power cuts, torn and lost writes are the simulator's (`scripts/simulate-spool.sh`).
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .ports import wait_until
from .programs import ROOT
from .sinks import LaneSink
from .spooling import Spooling

SIZES = [0, 300, 2_000, 9_000, 30_000, 120_000]


def fnv1a(content):
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def bodies(sizes=SIZES):
    """Some bodies, and what the sink makes of them."""
    made = []
    for number, size in enumerate(sizes):
        body = b"".join(b"line %d of body %d, %s\r\n" % (n, number, b"." * (n % 70)) for n in range(size // 60 + 1))
        made.append((body, fnv1a(body)))
    return made


# Of a shard: messages that its links can have, which is fewer, and notes that wait to be written.
IN_FLIGHT_MAX = 1024 + 512


class Load:
    """Sessions that send messages one after the other, connect again when they are cut off, and note every 250."""

    def __init__(self, port, sessions, rng, bodies):
        self.port, self.sessions, self.rng, self.bodies = port, sessions, rng, bodies
        self.ids = itertools.count()
        self.sent = {}  # id → its body's number: all whose final dot was sent
        self.acknowledged = set()
        self.refused = Counter()
        self.over = False

    async def run(self):
        await asyncio.gather(*[self._session() for _ in range(self.sessions)])

    async def _session(self):
        while not self.over:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                await self._talk(reader, writer)
            except (OSError, EOFError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

    async def _line(self, reader):
        """A reply's last line."""
        while True:
            line = await reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                return line

    async def _reply(self, reader):
        return int((await self._line(reader))[:3])

    async def _talk(self, reader, writer):
        assert await self._reply(reader) == 220
        writer.write(b"EHLO crash.test\r\n")
        assert await self._reply(reader) == 250
        while not self.over:
            await self.pace()
            number = next(self.ids)
            which = self.rng.randrange(len(self.bodies))
            recipients = [f"r{number}.{n}@sink.test" for n in range(self.rng.choice([1, 1, 1, 3]))]
            lines = ["MAIL FROM:<>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"]
            writer.write("".join(line + "\r\n" for line in lines).encode())
            codes = [await self._reply(reader) for _ in lines]
            if codes[-1] != 354:
                self.refused[codes[-1]] += 1
                return
            head = b"From: crash@crash.test\r\nMessage-ID: <%d@crash.test>\r\n\r\n" % number
            self.sent[number] = (which, len(recipients))
            writer.write(head + self.bodies[which][0] + b".\r\n")
            line = await self._line(reader)
            if line.startswith(b"250"):
                self.acknowledge(number, line)
            else:
                self.refused[int(line[:3])] += 1

    async def pace(self):
        """Before each message: nothing holds it back."""

    def acknowledge(self, number, line):
        """Its 250 has come, with this line."""
        self.acknowledged.add(number)


class Source:
    """smtp-source beside it, started anew whenever it has been cut off."""

    def __init__(self, port):
        program = shutil.which("smtp-source")
        self.command = [program, "-4", "-d", "-s", "16", "-m", "1000000", "-l", "4000", "-f", "source@source.test"]
        self.command += ["-t", "source@sink.test", f"127.0.0.1:{port}"]
        self.process = None
        self.there = program is not None

    def keep_going(self):
        if self.there and (self.process is None or self.process.poll() is not None):
            self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()


def arrived(sinks, bodies, sent):
    """How often each message arrived for each of its recipients; an AssertionError for one that is not whole."""
    times = Counter()
    for sink in sinks:
        for one in sink.deliveries():
            found = re.fullmatch(r"<(\d+)@crash\.test>", one["message_id"] or "")
            if not found:
                continue  # smtp-source's
            number = int(found[1])
            assert one["body_hash"] == bodies[sent[number][0]][1], f"message {number} is not what was sent"
            for recipient in one["to"]:
                times[number, recipient.strip("<>")] += 1
    return times


async def campaign(lane, load, source, rng, kills, pause, say):
    """Runs the load and kills; how many messages the starts found in all, and of these were in flight at the most."""
    task = asyncio.create_task(load.run())
    found = in_flight = 0
    shards = 1
    for kill in range(kills):
        source.keep_going()
        await asyncio.sleep(rng.uniform(*pause))
        assert not task.done(), task.exception()
        acknowledged = len(load.acknowledged)
        lane.kill()
        source.stop()
        lane.log.unlink()
        lane.delivery["mode"] = rng.choice(["spool", "through-then-spool"])
        shards_before, shards = shards, rng.randint(1, 3)
        await asyncio.to_thread(lane.start, shards=shards)
        said = re.search(r"has (\d+) messages", lane.said())
        left = int(said[1]) if said else 0
        assert "damaged" not in lane.said() and "panicked" not in lane.said(), lane.said()
        found += left
        in_flight += min(left, shards_before * IN_FLIGHT_MAX)
        say(f"kill {kill + 1}: {acknowledged} acknowledged, {left} found, on with {shards} shards, {lane.delivery['mode']}")
    load.over = True
    await asyncio.wait_for(task, 60)
    return found, in_flight


def run(directory, *, kills, seed, sessions=32, pause=(0.3, 2.0), patience=180, say=print):
    """The whole of it; the figures. An AssertionError says what went wrong."""
    rng = random.Random(seed)
    sinks = [
        LaneSink(directory, "--latency", "2ms", "--jitter"),
        LaneSink(directory, "--latency", "20ms", "--fail", "rcpt:450:0.05"),
    ]
    lane = Spooling(directory, sinks, delivery={"through_timeout": "500ms", "retry": ["1s", "2s"]})
    source = Source(lane.port)
    made = bodies()
    try:
        lane.start()
        load = Load(lane.port, sessions, rng, made)
        began = time.monotonic()
        found, in_flight = asyncio.run(campaign(lane, load, source, rng, kills, pause, say))
        seconds = time.monotonic() - began
        wait_until(lambda: lane.queue_json("list", "--limit", "0")["matched"] == 0, patience, "an empty spool", step=0.5)
        lane.stop()
    finally:
        source.stop()
        if lane.process:
            lane.process.kill()
        for sink in sinks:
            sink.stop()
    times = arrived(sinks, made, load.sent)
    wanted = {
        (number, f"r{number}.{n}@sink.test") for number in load.acknowledged for n in range(load.sent[number][1])
    }
    lost = sorted(wanted - times.keys())
    twice = {number for (number, _), count in times.items() if count > 1}
    figures = {
        "seed": seed,
        "kills": kills,
        "seconds": round(seconds, 1),
        "sent": len(load.sent),
        "acknowledged": len(load.acknowledged),
        "refused": dict(load.refused),
        "recipients_acknowledged": len(wanted),
        "lost": len(lost),
        "found_by_the_starts": found,
        "in_flight_at_most": in_flight,
        "messages_twice": len(twice),
        "smtp_source_beside": source.there,
    }
    assert not lost, f"lost: {lost[:20]}; {figures}"
    assert len(twice) <= in_flight, figures
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--keep", action="store_true", help="keep the spool, logs and dumps")
    parser.add_argument("--json", help="where the figures go")
    options = parser.parse_args()
    base = ROOT / "target/peers"
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="crash-", dir=base))
    print(f"seed {options.seed}")
    try:
        figures = run(directory, kills=options.kills, seed=options.seed, sessions=options.sessions)
    except BaseException:
        print(f"seed {options.seed} failed; kept: {directory}", file=sys.stderr)
        raise
    if not options.keep:
        shutil.rmtree(directory)
    print(json.dumps(figures, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
