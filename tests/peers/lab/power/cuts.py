"""The disks that a power cut could have left, made of a log of what was done to one.

A cut is *at* entry N: entries 1 to N had been carried out. A disk with a volatile cache has then whatever came before the
last flush among these, and of each write behind that flush nothing, all, or some of its sectors, whatever it has of
the others.
"""

import os
import subprocess

from .log import FLUSH, ZEROES, entries, pieces

# What becomes of the writes that nothing was flushed behind.
KINDS = ("none", "all", "some", "torn")


class Cuts:
    """Makes disks of a log, the cuts in ascending order."""

    def __init__(self, image, log, sector):
        """`image`: the disk that the log begins with; it is changed. `sector`: octets of a write that are never torn."""
        self.log, self.sector = log, sector
        self.entries = list(entries(log))
        self.file = open(log, "rb")
        self.at = 0  # entries looked at
        self.behind = []  # those among them that no flush has followed
        self.path, self.image = image, os.open(image, os.O_RDWR)

    def close(self):
        os.close(self.image)
        self.file.close()

    def count(self):
        return len(self.entries)

    def flushes(self):
        return sum(entry.flags & FLUSH for entry in self.entries)

    def whole(self, size):
        """How many entries the log had as a whole when it had so many octets."""
        return self._search(size, lambda entry: entry.end <= size)

    def begun(self, size):
        """And how many were at least begun."""
        return self._search(size, lambda entry: entry.start < size)

    def _search(self, size, holds):
        low, high = 0, len(self.entries)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if holds(self.entries[middle]) else (low, middle)
        return low

    def advance(self, to):
        """The image is as it is at entry `to` from now on, flushed writes alone."""
        flushed, self.behind = self._split(to)
        for entry in flushed:
            self._put(self.image, entry)
        self.at = to

    def _split(self, to):
        """The writes up to entry `to` that the image has not: those that a flush has followed, and the others."""
        assert to >= self.at
        flushed, behind = [], list(self.behind)
        for entry in self.entries[self.at : to]:
            if entry.flags & FLUSH:
                flushed += behind
                behind = []
            elif entry.len:
                behind.append(entry)
        return flushed, behind

    def _put(self, image, entry, start=0, end=None):
        end = entry.len if end is None else end
        at, data = entry.at + start, os.pread(self.file.fileno(), end - start, entry.data + start)
        if data != ZEROES[: len(data)] or any(pieces(image, at, at + len(data))):
            os.pwrite(image, data, at)  # or it stays a hole

    def make(self, path, to, kind, rng):
        """Makes a disk after a cut at entry `to`. How many writes no flush had followed."""
        copy(self.path, path)
        flushed, behind = self._split(to)
        with open(path, "r+b") as file:
            for entry in flushed:
                self._put(file.fileno(), entry)
            chance = {"none": 0, "all": 1}.get(kind, rng.choice([0.2, 0.5, 0.8]))
            for entry in behind:
                if rng.random() < chance:
                    for start, end in self._sectors(entry.len, rng) if kind == "torn" else [(0, entry.len)]:
                        self._put(file.fileno(), entry, start, end)
        return len(behind)

    def _sectors(self, length, rng):
        """Ranges of a torn write that got to the disk: a beginning, an end, or anything."""
        count = length // self.sector
        cut = rng.randrange(count + 1) * self.sector
        how = rng.choice(["beginning", "end", "anything"])
        if how != "anything":
            return [(0, cut) if how == "beginning" else (cut, length)]
        kept = [number * self.sector for number in range(count) if rng.random() < 0.5]
        return [(start, start + self.sector) for start in kept]


def copy(image, to):
    """Holes stay holes."""
    subprocess.run(["cp", "--sparse=always", image, to], check=True, timeout=120)
