"""A running Postlane whose configuration is written, rewritten and asked about while mail flows."""

import json
import time
import urllib.error
import urllib.request

from .ports import free_port, wait_until
from .programs import POSTLANE, Process, postlane


class Live:
    """`postlane serve` from a text of its own, with an admin endpoint. `text(live)` makes the configuration."""

    def __init__(self, directory, text):
        self.port, self.admin_port = free_port(), free_port()
        self.config = directory / f"live-{self.port}.toml"
        self.config.write_text(text(self))
        self.process = Process([POSTLANE, "serve", "--config", self.config], directory / f"live-{self.port}.log")
        try:
            wait_until(self._ready, 15, "the admin endpoint")
        except BaseException:
            self.process.kill()
            raise

    def _ready(self):
        assert self.process.alive(), f"it ended:\n{self.process.output()}"
        try:
            return self.get("/readyz") == "taking mail\n"
        except (OSError, urllib.error.URLError):
            return False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def get(self, path):
        return urllib.request.urlopen(self.url + path, timeout=10).read().decode()

    def status(self):
        return json.loads(self.get("/api/v1/status"))

    def upstream(self, name, pool=None):
        """The status of an upstream that stays."""
        for each in self.status()["pools"]:
            for upstream in each["upstreams"]:
                if upstream["name"] == name and pool in (None, each["name"]) and upstream["state"] != "leaving":
                    return upstream
        raise AssertionError(f"there is no upstream {name}")

    def wait_for(self, name, state, seconds=10):
        wait_until(lambda: self.upstream(name)["state"] == state, seconds, f"{name} {state}", step=0.05)

    def reload(self, text):
        """Rewrites the file and has it read; the finished `postlane reload`."""
        self.config.write_text(text)
        return postlane("reload", "--admin", self.url)

    def command(self, *arguments):
        return postlane("upstream", *arguments, "--admin", self.url)

    def resident_kib(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1])

    def said(self):
        return self.process.output()

    def stop(self, seconds=15):
        if self.process.alive():
            self.process.signal(15)
        code = self.process.wait(seconds)
        assert code == 0, f"exit {code}:\n{self.said()[-5000:]}"


def text_of(live, pools, *, routes="", listener="", more="", shards=2):
    """A configuration: `pools` maps a name to (keys, {upstream: port or (port, weight)})."""
    lines = [
        'hostname = "lane.test"',
        f"shards = {shards}",
        'drain_timeout = "10s"',
        f'[admin]\nlisten = "127.0.0.1:{live.admin_port}"',
        f'[[listener]]\nname = "in"\naddress = "127.0.0.1:{live.port}"\n{listener}',
    ]
    for name, (keys, upstreams) in pools.items():
        lines.append(f'[[pool]]\nname = "{name}"\n{keys}')
        for upstream, port in upstreams.items():
            port, weight = port if isinstance(port, tuple) else (port, 1)
            lines.append(
                f'[[pool.upstream]]\nname = "{upstream}"\naddress = "127.0.0.1:{port}"\nweight = {weight}'
            )
    return "\n".join([*lines, routes, more, '[delivery]\nmode = "through"\n'])
