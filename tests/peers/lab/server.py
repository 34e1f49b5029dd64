"""`postlane serve` under test: its configuration, start, readiness, stop."""

import os
import signal
import socket
import time

from .ports import free_port
from .programs import POSTLANE, Process


def toml(value):
    """A Python value as TOML; a Raw goes in as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def config_text(
    port, upstream_ports, *, shards=1, drain_timeout="10s", listener=(), pool=(), delivery=(), top=(), xdp=(), also=()
):
    """A configuration with one listener and one pool; the dictionaries override or add keys.

    An upstream is a port of 127.0.0.1, or an address with its port. `also`: other addresses to listen at.
    """
    sections = [
        ("", {"hostname": "lane.test", "shards": shards, "drain_timeout": drain_timeout, **dict(top)}),
        *([("[xdp]", dict(xdp))] if xdp else []),
        (
            "[[listener]]",
            {"name": "in", "address": [f"{host}:{port}" for host in ("127.0.0.1", *also)], "trusted": ["127.0.0.0/8"], **dict(listener)},
        ),
        ("[[pool]]", {"name": "farm", **dict(pool)}),
    ]
    for number, upstream in enumerate(upstream_ports, start=1):
        address = f"127.0.0.1:{upstream}" if isinstance(upstream, int) else upstream
        sections.append(("[[pool.upstream]]", {"name": f"mta{number}", "address": address}))
    sections.append(("[delivery]", {"mode": "through", **dict(delivery)}))

    lines = []
    for title, keys in sections:
        if title:
            lines += ["", title]
        lines += [f"{key} = {toml(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


class Postlane:
    """A running dispatcher. Ready when constructed: its greeting has been read."""

    def __init__(self, directory, upstream_ports, **options):
        self.port = free_port()
        self.config = directory / f"postlane-{self.port}.toml"
        self.config.write_text(config_text(self.port, upstream_ports, **options))
        self.process = Process(
            [POSTLANE, "serve", "--config", self.config], directory / f"postlane-{self.port}.log"
        )
        self.stopped = False
        try:
            self._wait_for_greeting(15)
        except BaseException:
            self.process.kill()
            raise

    def _wait_for_greeting(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.process.alive():
                raise AssertionError(f"exit {self.process.wait(1)} at start:\n{self.process.output()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.settimeout(5)
                    greeting = connection.recv(4096)
                    if greeting.startswith(b"220 "):
                        connection.sendall(b"QUIT\r\n")
                        while connection.recv(4096):
                            pass
                        return
                    raise AssertionError(f"greeted with {greeting!r}")
            except (ConnectionError, TimeoutError):
                time.sleep(0.02)
        raise AssertionError(f"no greeting within {seconds} s:\n{self.process.output()}")

    def cpu_seconds(self):
        """User and system time of all its threads so far (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory(self):
        """Resident bytes."""
        return int(open(f"/proc/{self.process.pid}/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self):
        self.process.signal(signal.SIGTERM)

    def stop(self, seconds=15):
        """SIGTERM, and exit 0 within `seconds`."""
        if self.stopped:
            return
        self.stopped = True
        if not self.process.alive():
            code = self.process.wait(1)
            raise AssertionError(f"died during the test, exit {code}:\n{self.process.output()[-5000:]}")
        self.terminate()
        code = self.process.wait(seconds)
        assert code == 0, f"exit {code} on SIGTERM:\n{self.process.output()[-5000:]}"
