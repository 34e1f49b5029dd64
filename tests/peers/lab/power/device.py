"""A block device that logs every write and every flush, in order: a loop device over a FUSE file, which this serves.

The file is the whole file system: its root is a regular file (fs/fuse/inode.c, `rootmode`), read and written past
the page cache, so that the kernel's writes come as the loop device gets them and its flushes as FUSE_FSYNC
(include/uapi/linux/fuse.h; drivers/block/loop.c). One request is carried out and logged before the next is read, so the
log is all that ever happened to the disk. The image itself is mapped privately and never changes.

A process of its own, as the kernel may wait for it wherever a process touches the file system:

    device.py IMAGE MOUNTPOINT LOG
"""

import ctypes
import errno
import mmap
import os
import signal
import stat
import struct
import sys

from log import FLUSH, SECTOR, ZEROES, Log, pieces

LOOKED_AT = 40  # octets of a request's header
LARGEST, CHUNK = len(ZEROES), 1 << 16
# A request's number in include/uapi/linux/fuse.h, 7.38.
GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH_FILE, INIT, DESTROY = 3, 4, 14, 15, 16, 17, 18, 20, 25, 26, 38
FORGET, INTERRUPT = 2, 36
BIG_WRITES, MAX_PAGES, DIRECT_IO = 1 << 5, 1 << 22, 1
MS_NOSUID, MS_NODEV, PR_SET_PDEATHSIG = 2, 4, 1


class Disk:
    """The octets, and the log of what is done to them."""

    def __init__(self, image, log):
        with open(image, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self.octets = mmap.mmap(file.fileno(), self.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            # By chunk, is there anything but zeroes? Most of a disk is not, and need not be looked at.
            self.used = bytearray(self.size // CHUNK + 1)
            for start, end in pieces(file.fileno(), 0, self.size):
                self._use(start, end - start)
        self.log = log

    def _chunks(self, at, length):
        return slice(at // CHUNK, (at + length - 1) // CHUNK + 1)

    def _use(self, at, length):
        chunks = self._chunks(at, length)
        self.used[chunks] = b"\1" * (chunks.stop - chunks.start)

    def read(self, at, length):
        if any(self.used[self._chunks(at, length)]):
            return self.octets[at : at + length]
        return memoryview(ZEROES)[: max(0, min(length, self.size - at))]

    def _put(self, at, data):
        # A page that stays as it is takes no memory.
        if data != ZEROES[: len(data)] or self.read(at, len(data)) != data:
            self.octets[at : at + len(data)] = data
            self._use(at, len(data))

    def write(self, at, data):
        if at % SECTOR or len(data) % SECTOR or at + len(data) > self.size:
            return -errno.EIO
        self._put(at, data)
        self.log.write(at, data)
        return len(data)

    def flush(self):
        self.log.mark(FLUSH)


class Server:
    """Answers the kernel until the file is unmounted."""

    def __init__(self, disk, mountpoint):
        self.disk, self.mountpoint = disk, mountpoint
        self.fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.fuse},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,max_read={LARGEST}"
        flags = MS_NOSUID | MS_NODEV
        if libc.mount(b"power-cuts", os.fsencode(mountpoint), b"fuse", flags, options.encode()):
            raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")

    def run(self):
        request = memoryview(bytearray(LARGEST + 8192))
        while True:
            try:
                length = os.readv(self.fuse, [request])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode in (FORGET, INTERRUPT):
                continue
            failed, parts = self._answer(opcode, request[LOOKED_AT:length])
            head = struct.pack("<IiQ", 16 + sum(map(len, parts)), -failed, unique)
            try:
                os.writev(self.fuse, [head, *parts])
            except OSError as error:
                if error.errno != errno.ENOENT:  # it does not wait any more
                    raise
            if opcode == DESTROY:
                return

    def _answer(self, opcode, body):
        if opcode == WRITE:
            _, at, size = struct.unpack_from("<QQI", body)
            written = self.disk.write(at, bytes(body[40 : 40 + size]))
            return (0, [struct.pack("<II", written, 0)]) if written >= 0 else (-written, [])
        if opcode == READ:
            _, at, size = struct.unpack_from("<QQI", body)
            return 0, [self.disk.read(at, size)]
        if opcode == FSYNC:
            self.disk.flush()
            return 0, []
        if opcode in (GETATTR, SETATTR):
            return 0, [self._attributes()]
        if opcode == OPEN:
            return 0, [struct.pack("<QII", 1, DIRECT_IO, 0)]
        if opcode in (RELEASE, FLUSH_FILE, DESTROY):
            return 0, []
        if opcode == STATFS:
            return 0, [struct.pack("<5Q4I24x", self.disk.size // 4096, 0, 0, 1, 0, 4096, 255, 4096, 0)]
        if opcode == INIT:
            major, minor, ahead, flags = struct.unpack_from("<4I", body)
            kept = flags & (BIG_WRITES | MAX_PAGES)
            pages = LARGEST // mmap.PAGESIZE
            return 0, [struct.pack("<4IHHIIHHI28x", major, min(minor, 38), ahead, kept, 16, 12, LARGEST, 1, pages, 0, 0)]
        return errno.ENOSYS, []

    def _attributes(self):
        owner = (stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0)
        times = (0, 0, 0, 0, 0, 0)
        return struct.pack("<QII6Q10I", 3600, 0, 0, 1, self.disk.size, self.disk.size // 512, *times, *owner)


def main():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    image, mountpoint, log = sys.argv[1:]
    server = Server(Disk(image, Log(log)), mountpoint)
    print("mounted", flush=True)
    server.run()


if __name__ == "__main__":
    main()
