"""A network of its own: near and far, two namespaces with a veth between them. Needs root; gone afterwards."""

import contextlib
import ctypes
import os
import subprocess

import pytest

NEAR, FAR = "10.66.0.1", "10.66.0.2"
NEAR6, FAR6 = "fd66::1", "fd66::2"
INTERFACE = "xdpnear"
FAR_INTERFACE = "xdpfar"
_CLONE_NEWNET = 0x40000000


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """While it stands this thread, and what it starts, is in the near namespace; inside `far()` in the far one."""

    def __init__(self, queues=2, mtu=1500):
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._near = self._far = None
        names = [f"xdp-{os.getpid()}-near", f"xdp-{os.getpid()}-far"]
        made = []
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            self._near, self._far = (os.open(f"/run/netns/{name}", os.O_RDONLY) for name in names)
            self._set_up(*names, queues, mtu)
        except RuntimeError as error:
            self.stop()
            pytest.skip(f"there can be no network namespaces here: {error}")
        finally:
            for name in made:  # they live on by what is open in them
                ip("netns", "del", name)
        self._enter(self._near)

    def _set_up(self, near, far, queues, mtu):
        count = ["numrxqueues", str(queues), "numtxqueues", str(queues)]
        ip("-n", near, "link", "add", INTERFACE, *count, "type", "veth",
           "peer", "name", FAR_INTERFACE, *count, "netns", far)
        for name, interface, addresses in ((near, INTERFACE, (NEAR, NEAR6)), (far, FAR_INTERFACE, (FAR, FAR6))):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{addresses[0]}/24", "dev", interface)
            ip("-n", name, "addr", "add", f"{addresses[1]}/64", "dev", interface, "nodad")
            ip("-n", name, "link", "set", interface, "mtu", str(mtu), "up")

    def _enter(self, namespace):
        if self._libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    @contextlib.contextmanager
    def far(self):
        """Everything started and bound in here is at the far end."""
        self._enter(self._far)
        try:
            yield
        finally:
            self._enter(self._near)

    def lose(self, percent):
        """Loses so many of TCP's packets, in either direction, at the far end."""
        rule = f"tcp flags & rst == 0 numgen random mod 1000 < {round(percent * 10)} drop"
        script = (
            "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; "
            "add chain inet loss out { type filter hook output priority 0; }; "
            f"add rule inet loss in {rule}; add rule inet loss out {rule}"
        )
        with self.far():
            try:
                done = subprocess.run(["nft", script], capture_output=True, text=True, timeout=20)
            except FileNotFoundError:
                pytest.skip("nft is not installed (scripts/setup.sh says why)")
        if done.returncode:
            pytest.skip(f"nft cannot lose packets here: {done.stderr.strip()}")

    def program(self):
        """Whether an XDP program is on the near interface."""
        return "prog/xdp" in ip("link", "show", INTERFACE)

    def set_link(self, state):
        ip("link", "set", INTERFACE, state)

    def stop(self):
        self._enter(self._home)
        for fd in (self._near, self._far, self._home):
            if fd is not None:
                os.close(fd)
