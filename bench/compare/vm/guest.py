"""A QEMU guest of this machine: an initramfs of busybox and the dispatcher, booted and driven by a serial line."""

import ctypes
import lzma
import mmap
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from ground.programs import stop

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
HERE = Path(__file__).resolve().parent
# In the order they depend on each other. Those that a kernel has built in are no files.
MODULES = ("failover", "net_failover", "virtio_net")
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
for module in MODULES; do [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko; done
ip link set lo up
ulimit -n 100000
exec 3<>/dev/ttyS1
stty raw -echo <&3
echo ready >&3
while read -r command <&3; do eval "$command" </dev/null >&3 2>&1; done
"""


class Failed(Exception):
    """The guest did not do what it was to do: in words."""


def goes_with_us():
    """In a child: it ends with this process, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def libraries(binary):
    """The shared objects a program needs, the loader included."""
    said = subprocess.run(["ldd", binary], capture_output=True, text=True, timeout=20).stdout
    return set(re.findall(r"(/\S+) \(0x", said))


def module_bytes(path):
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix in (".zst", ".gz"):
        tool = {".zst": "zstd", ".gz": "gzip"}[path.suffix]
        return subprocess.run([tool, "-dc", path], capture_output=True, check=True, timeout=20).stdout
    return data


class Archive:
    """An initramfs: cpio in the `newc` form (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.parts, self.folders = [], set()

    def _entry(self, name, mode, data):
        head = name.encode() + b"\0"
        fields = (len(self.parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(head), 0)
        entry = b"070701" + b"".join(b"%08X" % field for field in fields) + head
        entry += b"\0" * (-len(entry) % 4) + data
        self.parts.append(entry + b"\0" * (-len(entry) % 4))

    def folder(self, name):
        if name and name not in self.folders:
            self.folder(name.rpartition("/")[0])
            self.folders.add(name)
            self._entry(name, 0o040755, b"")

    def file(self, name, data, mode=0o755):
        name = name.lstrip("/")
        self.folder(name.rpartition("/")[0])
        self._entry(name, 0o100000 | mode, data)

    def bytes(self):
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self.parts)


def initramfs(binary, modules, files):
    """The guest's whole file system, as bytes. `modules` is the kernel's directory of modules."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "tmp", "root", "modules"):
        archive.folder(name)
    archive.file("bin/busybox", Path(shutil.which("busybox")).read_bytes())
    archive.file("init", INIT.replace("MODULES", " ".join(MODULES)).encode())
    with tempfile.TemporaryDirectory() as name:
        slim = Path(name) / "postlane"
        subprocess.run(["strip", "-o", slim, binary], capture_output=True, check=True, timeout=60)
        archive.file("bin/postlane", slim.read_bytes())
    for library in sorted({*libraries(binary), *libraries(shutil.which("busybox"))}):
        archive.file(library, Path(library).read_bytes())
    for name in MODULES:
        for found in Path(modules).rglob(f"{name}.ko*"):
            archive.file(f"modules/{name}.ko", module_bytes(found), 0o644)
    for name, data in files.items():
        archive.file(name, data.encode(), 0o644)
    return archive.bytes()


class Counters:
    """Instructions executed so far: kernel's and users', over all vCPUs."""

    SIZE = 64 * 16

    def __init__(self, path):
        self.path, self.memory = path, None

    @staticmethod
    def build(directory):
        library = directory / "count.so"
        compiler = ["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "count.c"]
        done = subprocess.run(compiler, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise Failed(f"the plugin that counts does not build: {done.stderr.strip()}")
        return library

    def read(self):
        if self.memory is None:
            with open(self.path, "rb") as file:
                self.memory = mmap.mmap(file.fileno(), self.SIZE, prot=mmap.PROT_READ)
        values = struct.unpack(f"{self.SIZE // 8}Q", self.memory[:])
        return sum(values[::2]), sum(values[1::2])


class Guest:
    """Runs from `boot` to `stop`; commands go to its shell one at a time."""

    def __init__(self, directory, kernel, initramfs_bytes, options):
        self.directory, self.console = directory, directory / "console.log"
        initrd, channel = directory / "initramfs", directory / "shell.socket"
        initrd.write_bytes(initramfs_bytes)
        self.counters = Counters(directory / "instructions")
        command = ["nice", "-n", "5", "qemu-system-x86_64"]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", options.memory]
        command += ["-smp", str(options.cpus), "-kernel", kernel, "-initrd", initrd]
        command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"]
        command += ["-serial", f"file:{self.console}"]
        command += ["-chardev", f"socket,id=shell,path={channel},server=on,wait=off", "-serial", "chardev:shell"]
        command += options.devices
        # Without "fast" string instructions the kernel copies words; TCG would count every byte.
        command += ["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"]
        command += ["-plugin", f"{Counters.build(directory)},into={self.counters.path}"]
        self.log = open(directory / "qemu.log", "wb")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            preexec_fn=goes_with_us,
        )
        self.shell, self.unread, self.commands = None, b"", 0
        try:
            self._connect(channel, time.monotonic() + options.boot_timeout)
        except BaseException:
            self.stop()
            raise

    def _said(self):
        parts = [self.directory / "qemu.log", self.console]
        return "\n".join(part.read_text(errors="replace")[-2000:] for part in parts if part.exists()).strip()

    def _connect(self, channel, deadline):
        while self.shell is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"QEMU did not start:\n{self._said()}")
            try:
                self.shell = socket.socket(socket.AF_UNIX)
                self.shell.connect(str(channel))
            except OSError:
                self.shell.close()
                self.shell = None
                time.sleep(0.05)
        self._read_until(rb"ready\r?\n", deadline, "it to boot")

    def _read_until(self, pattern, deadline, what):
        """What comes before the pattern, and its match."""
        end = re.compile(pattern)
        while not (found := end.search(self.unread)):
            self.shell.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                more = self.shell.recv(65536)
            except TimeoutError:
                raise Failed(f"the guest was waited for in vain, for {what}:\n{self._said()}") from None
            if not more:
                raise Failed(f"the guest is gone, waiting for {what}:\n{self._said()}")
            self.unread += more
        said = self.unread[: found.start()].decode(errors="replace").replace("\r", "").strip()
        self.unread = self.unread[found.end() :]
        return said, found

    def run(self, command, timeout=20):
        """What a shell command prints; raises if it fails."""
        self.commands += 1
        mark = f"@{self.commands}@"
        self.shell.sendall(f"{{ {command}; }}; echo; echo {mark}$?@\n".encode())
        said, found = self._read_until(rf"{mark}(\d+)@\r?\n".encode(), time.monotonic() + timeout, command)
        if found.group(1) != b"0":
            raise Failed(f"`{command}` in the guest, exit {found.group(1).decode()}: {said[-1500:]}")
        return said

    def stop(self):
        if self.shell:
            self.shell.close()
        stop(self.process)
        self.log.close()
