"""A disk that is there as long as it is needed: device, loop device, file system. And what all this takes."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# By file system: what makes one, and what repairs it, and their package.
PROGRAMS = {
    "ext4": (["mkfs.ext4", "e2fsck"], "e2fsprogs"),
    "xfs": (["mkfs.xfs", "xfs_repair"], "xfsprogs"),
    "btrfs": (["mkfs.btrfs"], "btrfs-progs"),
}
TOOLS = {"losetup": "mount", "mount": "mount", "umount": "mount", "setpriv": "util-linux"}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


def absent(kind):
    """What is missing for disks with such a file system, in words."""
    programs, package = PROGRAMS[kind]
    needed = {**TOOLS, **dict.fromkeys(programs, package)}
    missing = [f"{name} (apt-get install {package})" for name, package in needed.items() if not shutil.which(name)]
    missing += [f"{path} (modprobe {module})" for path, module in (("/dev/fuse", "fuse"), ("/dev/loop-control", "loop")) if not Path(path).exists()]
    if os.geteuid() != 0:
        return missing + ["root"]
    if not missing and kind not in Path("/proc/filesystems").read_text().split():
        subprocess.run(["modprobe", kind], capture_output=True, timeout=20, check=False)
        if kind not in Path("/proc/filesystems").read_text().split():
            missing.append(f"{kind} in the kernel")
    # Disks after a cut are clones of one another, and there are several at a time.
    if not missing and kind == "btrfs" and not Path("/sys/fs/btrfs/features/temp_fsid").exists():
        missing.append("clones of btrfs side by side (Linux 6.7)")
    return missing


def own_mounts():
    """What this process mounts nobody else sees, and it is gone when it ends, however that ends."""
    if LIBC.unshare(CLONE_NEWNS) or LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise PermissionError(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout.strip()


def make(image, kind, mib, sector):
    """A new file system in a file."""
    with open(image, "wb") as file:
        file.truncate(mib * MIB)
    if kind == "ext4":
        run("mkfs.ext4", "-q", "-F", "-b", 4096, "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image)
    elif kind == "xfs":
        run("mkfs.xfs", "-q", "-K", "-s", f"size={sector}", image)
    else:
        run("mkfs.btrfs", "-q", "-K", image)


class Disk:
    """An image, mounted. With a log what is done to it goes there, and nothing to the image."""

    def __init__(self, directory, image, kind, sector, log=None):
        self.file, self.mountpoint, self.device = image, directory / "mounted", None
        self.kind, self.sector, self.repaired = kind, sector, False
        self.mountpoint.mkdir(exist_ok=True)
        try:
            if log:
                self.file = directory / "disk"
                self._start(image, log)
            self._mount()
        except BaseException:
            self.close()
            raise

    def _start(self, image, log):
        self.file.touch()
        command = [sys.executable, Path(__file__).with_name("device.py"), image, self.file, log]
        # It ends with the thread that starts it: this one must last.
        self.device = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        assert self.device.stdout.readline() == "mounted\n", "the device did not start"

    def _mount(self):
        loop = run("losetup", "--find", "--show", "--sector-size", self.sector, self.file)
        try:
            try:
                self._mount_at(loop)
            except OSError as error:
                # That is between the file system and the disk; what is left is judged all the same.
                self.repaired = True
                if self.kind == "ext4":
                    subprocess.run(["e2fsck", "-f", "-y", loop], capture_output=True, timeout=120, check=False)
                elif self.kind == "xfs":
                    run("xfs_repair", "-L", loop)
                print(f"repaired: {error}", flush=True)
                self._mount_at(loop)
        finally:
            run("losetup", "--detach", loop)  # when it is no longer mounted

    def _mount_at(self, loop):
        run("mount", "-t", self.kind, "-o", "nouuid" if self.kind == "xfs" else "nodiscard", loop, self.mountpoint)

    def close(self):
        for path in (self.mountpoint, self.file):
            deadline = time.monotonic() + 20
            while mounted(path):
                try:
                    run("umount", path)
                except OSError:  # something still closes its files
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
        if self.device is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.device.wait(10)
        self.device.kill()
        self.device.wait()
        self.device.stdout.close()


def mounted(path):
    """Is something mounted there? It may be a file."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())
