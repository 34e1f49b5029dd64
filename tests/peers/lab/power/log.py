"""What was done to a disk, in order: in the form of dm-log-writes (drivers/md/dm-log-writes.c), octet for octet.

A superblock, then entries, each of a sector of its own and after it what was written. Places and lengths are in
sectors. Written zeroes are holes of the file, which otherwise would be most of it.
"""

import os
import struct
from dataclasses import dataclass

SECTOR = 512
MAGIC, VERSION = 0x6A736677736872, 1
FLUSH = 1
ZEROES = bytes(1 << 20)
SUPERBLOCK, ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")


@dataclass(slots=True)
class Entry:
    """`at` and `len` are octets of the disk, `start`, `data` and `end` of the log: of it, of what was written, behind it."""

    at: int
    len: int
    flags: int
    start: int
    data: int
    end: int


class Log:
    """Written entry by entry, of up to 1 MiB each; an entry is there as a whole before its request is answered."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.count, self.at = 0, SECTOR
        self._superblock()

    def _superblock(self):
        os.pwrite(self.file, SUPERBLOCK.pack(MAGIC, VERSION, self.count, SECTOR).ljust(SECTOR, b"\0"), 0)

    def _entry(self, at, length, flags):
        return ENTRY.pack(at // SECTOR, length // SECTOR, flags, 0).ljust(SECTOR, b"\0")

    def write(self, at, data):
        head = self._entry(at, len(data), 0)
        if data != ZEROES[: len(data)]:
            os.pwritev(self.file, [head, data], self.at)
            self.at += SECTOR + len(data)
        else:
            os.pwrite(self.file, head, self.at)
            self.at += SECTOR + len(data)
            os.ftruncate(self.file, self.at)
        self.count += 1

    def mark(self, flags):
        os.pwrite(self.file, self._entry(0, 0, flags), self.at)
        self.at += SECTOR
        self.count += 1
        if flags & FLUSH:
            self._superblock()


def entries(path):
    """All that are whole."""
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, SECTOR
        magic, version, _, sector = SUPERBLOCK.unpack(os.pread(file.fileno(), SUPERBLOCK.size, 0))
        assert (magic, version, sector) == (MAGIC, VERSION, SECTOR), f"{path} is no log"
        while start + SECTOR <= size:
            at, length, flags, extra = ENTRY.unpack(os.pread(file.fileno(), ENTRY.size, start))
            data = start + SECTOR + extra
            end = data + length * SECTOR
            if end > size:
                return
            yield Entry(at * SECTOR, length * SECTOR, flags, start, data, end)
            start = end


def pieces(file, at, end):
    """Where a sparse file has octets between these: (start, end)."""
    while at < end:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: none any more
            return
        if start >= end:
            return
        at = os.lseek(file, start, os.SEEK_HOLE)
        yield start, min(at, end)
