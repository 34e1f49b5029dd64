"""Cuts the power of a disk with a Postlane's spool on it, and looks whether what was acknowledged is there.

A round: `postlane serve` runs on a real file system on a block device that logs all that is written to it and
flushed (device.py), under load, before upstreams that refuse, hang up and are away. Of the log many disks are made that a
power cut could have left (cuts.py): cut after any write or flush, without the writes that were not flushed, or with some of
them, or parts. Each of these is mounted, which replays the file system's own log, and a Postlane is started on it, which has to
deliver everything it owes, whole. The next round begins with one of these disks, so that starts after a power cut are cut as
well.

What is owed at a cut, exactly: the device carries out and logs one request after the other, and answers it when it
is in the log. A client that reads its 250 looks then how many entries the log has, k: what made the message durable is
among them, so it is owed at all cuts at k or later. (A 250 that an upstream gave, in through-then-spool, makes the disk owe
nothing.) A sink looks, before it answers, how many entries are begun, d: that the message is over can only be written
later, so at cuts at d or earlier it is owed still, unless the sink had it before the client had its 250. What is owed
has to come out of the spool, once or more often.

What this does not show: the loop device and FUSE stand for a disk and its controller, sound and with a cache that loses power;
disks that lie about flushes, or lose what they had, are others.

The seed repeats all choices but not the timing of a run. So a cut that lost mail is kept, and `--again` judges it anew.

Exit: 0 nothing was lost, 1 something was, or a start failed, 69 a program, the kernel or privileges are absent.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..programs import ROOT
from ..spooling import Spooling
from . import disk
from .cuts import KINDS, Cuts, copy
from .log import FLUSH
from .mail import NEVER, Books, Sender, Sink, pairs

PATIENCE = 60


class Lost(AssertionError):
    """A cut after which something is not as it must be."""


class Campaign:
    """What goes on from round to round."""

    def __init__(self, directory, scratch, options):
        """`scratch`: where disks are that are soon done with."""
        self.directory, self.scratch, self.options = directory, scratch, options
        self.rng = None  # the round's
        self.books, self.ids = Books(), itertools.count()
        self.owed = set()  # at the beginning of a round: (message, recipient)
        counted = "disks rounds cuts acknowledged taken refused entries flushes owed found unfinished_writes repaired not_flushed"
        self.figures = Counter(dict.fromkeys(counted.split(), 0))
        self.image = directory / "image"
        self.kind = self.sector = None

    # A round.

    def run(self):
        deadline = time.monotonic() + self.options.minutes * 60
        for number in itertools.count():
            if self.figures["cuts"] >= self.options.cuts or time.monotonic() > deadline:
                return
            # Whatever happened before: each round's choices are its own.
            self.rng = random.Random(f"{self.options.seed} {number}")
            if number % self.options.rounds == 0:
                self._new_disk(number // self.options.rounds)
            log = self.directory / "log"
            self.books.new_round(log)
            asyncio.run(self._load(log))
            self._judge(log, deadline)
            self.figures["rounds"] += 1

    def _new_disk(self, number):
        kinds = self.options.fs
        self.kind, self.sector = kinds[number % len(kinds)], self.rng.choice([512, 4096])
        disk.make(self.image, self.kind, self.options.mib, self.sector)
        self.owed, self.figures["disks"] = set(), self.figures["disks"] + 1

    def _lane(self, directory, sinks, mounted, shards, mode):
        delivery = {"through_timeout": "300ms", "retry": ["1s"], "sync": self.options.sync}
        delivery["spool_max"] = f"{384 * shards}MiB"
        keys = {"listener": {"max_message": "1MiB"}, "drain_timeout": "2s", "shards": shards}
        keys["prefix"] = ["setpriv", "--pdeathsig", "KILL"]
        upstreams = [sink.port for sink in sinks]
        return Spooling(directory, upstreams, mode=mode, spool=mounted.mountpoint / "spool", delivery=delivery, **keys)

    async def _load(self, log):
        """Load on a disk whose log begins with its mounting and ends with its unmounting."""
        rng, options = random.Random(self.rng.random()), self.options
        sinks = [Sink(self.books, self.books.taken, random.Random(rng.random())) for _ in range(2)]
        mounted = disk.Disk(self.directory, self.image, self.kind, self.sector, log=log)
        mode = rng.choice(["spool", "spool", "through-then-spool"])
        lane = self._lane(self.directory, sinks, mounted, rng.choice([1, 1, 2]), mode)
        try:
            for sink in sinks:
                await sink.start()
            await asyncio.to_thread(lane.start)
            self._sound(lane)
            sender = Sender(self.books, self.ids, lane.port, options.sessions, random.Random(rng.random()), rng.random() < 0.25)
            sending = asyncio.create_task(sender.run())
            # The first files have to be made first.
            first = time.monotonic() + PATIENCE
            while not sender.acknowledged and time.monotonic() < first:
                await asyncio.sleep(0.05)
            until = time.monotonic() + options.seconds
            while time.monotonic() < until:
                for sink in sinks:
                    sink.refuses, sink.shut = rng.choice([0, 0.1, 0.5]), rng.random() < 0.3
                await asyncio.sleep(rng.uniform(0.1, 0.6))
                assert not sending.done(), sending.exception()
            sender.over = True
            # A process that is ended at once leaves most to a start; one that ends by itself writes its last notes.
            await asyncio.to_thread(lane.kill if rng.random() < 0.5 else lambda: lane.stop(30))
            await asyncio.wait_for(sending, 60)
            self.figures["refused"] += sum(sender.refused.values())
        finally:
            if lane.process:
                lane.kill()
            for sink in sinks:
                await sink.stop()
            mounted.close()
        wrong = next((sink.wrong for sink in sinks if sink.wrong), None)
        if wrong:
            raise Lost(wrong)
        self.figures["acknowledged"] += len(self.books.acknowledged)
        self.figures["taken"] += len({number for number, _ in self.books.taken})

    def _sound(self, lane):
        """It has found no damage: nothing was damaged that had been acknowledged."""
        said = lane.said()
        if "damaged" in said or "panicked" in said:
            raise Lost(said[-4000:])

    def _count_found(self, lane):
        found = re.search(r"has (\d+) messages .*; (\d+) unfinished", lane.said())
        if found:
            self.figures["found"] += int(found[1])
            self.figures["unfinished_writes"] += int(found[2])

    # Its cuts.

    def _judge(self, log, deadline):
        base = self.directory / "durable"
        copy(self.image, base)
        cuts = Cuts(base, log, self.sector)
        self.figures.update(entries=cuts.count(), flushes=cuts.flushes())
        # A device that is never told to flush would keep all or nothing.
        assert cuts.flushes() > 5, f"only {cuts.flushes()} flushes of {cuts.count()} entries"
        bounds = Bounds(self.books, cuts, self.owed)
        acknowledged = len(self.books.acknowledged)
        many = min(self.options.cuts_per_round, self.options.cuts - self.figures["cuts"])
        places = sorted(bounds.place(self.rng) for _ in range(many))
        chosen, next_image = self.rng.choice(places), self.directory / "next"
        for some in batches(places, self.options.at_once):
            cuts.advance(some[0])
            judged = [self._cut_at(bounds, at, place) for place, at in enumerate(some)]
            asyncio.run(self._check_all(cuts, judged))
            if chosen in some:
                cut = judged[some.index(chosen)]
                cut.make(cuts, next_image)
                self.owed = cut.owed
            if time.monotonic() > deadline:
                break
        cuts.close()
        if next_image.exists():
            next_image.replace(self.image)
        print(
            f"{self.kind}, sectors of {self.sector}: {cuts.count()} entries and {cuts.flushes()} flushes, "
            f"{acknowledged} messages acknowledged; {self.figures['cuts']} cuts so far, none lost any",
            flush=True,
        )

    def _cut_at(self, bounds, at, place):
        rng = self.rng
        seed, kind, shards = rng.random(), rng.choice(KINDS), rng.choice([1, 1, 2])
        return Cut(self.scratch / f"cut-{place}", at, kind, seed, shards, bounds.owed(at))

    async def _check_all(self, cuts, these):
        """Checks them side by side, as most of that is waiting for a retry."""
        for cut in these:
            cut.directory.mkdir()
            not_flushed = cut.make(cuts, cut.image)
            self.figures.update({"cuts": 1, f"{cut.kind}_kept": 1, "owed": len(cut.owed), "not_flushed": not_flushed})
            self.figures["cuts_with_writes_not_flushed"] += not_flushed > 0
        results = await asyncio.gather(*[self._check(cut) for cut in these], return_exceptions=True)
        for cut, error in zip(these, results):
            if error:
                self._keep(cuts, cut, error)
                raise error
            shutil.rmtree(cut.directory)

    async def _check(self, cut):
        """The disk after the cut: it is mounted, and all that is owed comes out of its spool."""
        mounted = disk.Disk(cut.directory, cut.image, self.kind, self.sector)
        try:
            self.figures["repaired"] += mounted.repaired
            await self._deliver(mounted, cut)
        finally:
            mounted.close()

    async def _deliver(self, mounted, cut):
        sink = Sink(self.books, {}, random.Random())
        lane = self._lane(cut.directory, [sink], mounted, cut.shards, "spool")
        await sink.start()
        try:
            await asyncio.to_thread(lane.start)
            self._count_found(lane)
            until = time.monotonic() + PATIENCE
            while (await asyncio.to_thread(lane.queue_json, "list", "--limit", "0"))["matched"]:
                if time.monotonic() > until:
                    raise Lost(f"after {PATIENCE} s there is mail left:\n{lane.said()[-2000:]}")
                await asyncio.sleep(0.1)
            self._sound(lane)
            await asyncio.to_thread(lane.stop)
        finally:
            if lane.process:
                lane.kill()
            await sink.stop()
        lost = sorted(cut.owed - sink.taken.keys())
        if lost or sink.wrong:
            raise Lost(sink.wrong or f"{len(lost)} recipients of {len(cut.owed)} lost: {lost[:20]}")

    def _keep(self, cuts, cut, error):
        kept = self.directory / "failed"
        kept.mkdir()
        cut.make(cuts, kept / "image")
        what = f"cut at {cut.at} of {cuts.count()}, {cut.kind} kept: {error}"
        told = {"what": what, "fs": self.kind, "sector": self.sector, "shards": cut.shards}
        told |= {"owed": sorted(cut.owed), "sent": self.books.sent}
        (kept / "cut.json").write_text(json.dumps(told))
        print(what.split(":")[0], file=sys.stderr)

    def again(self, kept):
        """Judges a cut that was kept."""
        told = json.loads((kept / "cut.json").read_text())
        self.kind, self.sector = told["fs"], told["sector"]
        self.books.sent.update({int(number): tuple(sent) for number, sent in told["sent"].items()})
        self.books.new_round(self.directory / "log")
        cut = Cut(self.scratch / "cut", 0, "", 0, told["shards"], {tuple(pair) for pair in told["owed"]})
        cut.directory.mkdir()
        copy(kept / "image", cut.image)
        asyncio.run(self._check(cut))


@dataclass
class Cut:
    """A cut that is judged, in a directory of its own."""

    directory: Path
    at: int
    kind: str
    seed: float
    shards: int
    owed: set

    @property
    def image(self):
        return self.directory / "image"

    def make(self, cuts, image):
        return cuts.make(image, self.at, self.kind, random.Random(self.seed))


class Bounds:
    """From when on, and how long, each message of a round is owed, in entries of its log."""

    def __init__(self, books, cuts, before):
        self.count, self.from_, self.until = cuts.count(), {}, {}
        self.flushes = [at for at, entry in enumerate(cuts.entries) if entry.flags & FLUSH and cuts.entries[at - 1].len]
        for number, size in books.acknowledged.items():
            for pair in pairs(number, books.sent[number][1]):
                self.from_[pair] = cuts.whole(size)
        self.from_.update(dict.fromkeys(before, 0))
        for pair, size in books.taken.items():
            self.until[pair] = NEVER if size == NEVER else cuts.begun(size)

    def owed(self, at):
        return {pair for pair, since in self.from_.items() if since <= at <= self.until.get(pair, self.count)}

    def place(self, rng):
        """Where to cut: anywhere, or where something has just been acknowledged or taken, or is about to be flushed."""
        ends = [end for end in self.until.values() if end != NEVER]
        where = rng.choice(["anywhere", "flush", "acknowledged", "taken"])
        if where == "acknowledged" and self.from_:
            return min(self.count, rng.choice(list(self.from_.values())) + rng.choice([0, 0, 1, 2]))
        if where == "taken" and ends:
            return min(self.count, rng.choice(ends) + rng.choice([0, 0, 1, 2]))
        if where == "flush":
            return rng.choice(self.flushes)
        return rng.randrange(self.count + 1)


def batches(these, size):
    return [these[start : start + size] for start in range(0, len(these), size)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=30, help="no more cuts after that (30)")
    parser.add_argument("--cuts-per-round", type=int, default=40, help="of one run of a Postlane (40)")
    parser.add_argument("--at-once", type=int, default=4, help="cuts that are judged side by side (4)")
    parser.add_argument("--rounds", type=int, default=5, help="with one disk, before a new one is made (5)")
    parser.add_argument("--seconds", type=float, default=5, help="of load in a round, from the first 250 on (5)")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--fs", type=lambda text: text.split(","), default=None, help="file systems (ext4, xfs and btrfs as far as they are here)")
    parser.add_argument("--mib", type=int, default=1024, help="the disk's size (1024)")
    parser.add_argument("--no-sync", dest="sync", action="store_false", help="`sync = false`, which loses mail: exit 1")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--again", type=Path, help="a directory `failed` that was kept: judges that cut")
    parser.add_argument("--directory", type=Path, default=ROOT / "target/peers", help="where the disks are (target/peers)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args()


def missing(options):
    """What is absent; fills in the file systems."""
    if options.fs is None:
        options.fs = [kind for kind in disk.PROGRAMS if kind == "ext4" or not disk.absent(kind)]
    return sorted({what for kind in options.fs for what in disk.absent(kind)})


def roomy(options):
    """Where flushes of disks that nothing is to outlive cost nothing, if there is room for them."""
    memory = Path("/dev/shm")
    needed = options.at_once * options.mib * disk.MIB
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2 * needed else options.directory


def main():
    options = arguments()
    for name in ("again", "directory", "json"):
        if path := getattr(options, name):
            setattr(options, name, path.resolve())
    absent = missing(options)
    if not absent:
        try:
            disk.own_mounts()
        except PermissionError as error:
            absent = [str(error)]
    if absent:
        print(f"skipped: not here: {', '.join(absent)}", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="power-", dir=options.directory))
    print(f"seed {options.seed}, {' and '.join(options.fs)}", flush=True)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="power-", dir=roomy(options)) as scratch:
            campaign = Campaign(directory, Path(scratch), options)
            campaign.again(options.again) if options.again else campaign.run()
    except (AssertionError, OSError) as error:
        print(f"{error}\nseed {options.seed} failed; kept: {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    if not options.again:
        figures = {"seed": options.seed, "fs": options.fs, "seconds": round(time.monotonic() - began), **campaign.figures}
        print(json.dumps(figures, indent=2))
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
