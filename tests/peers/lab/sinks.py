"""Upstreams that nobody here wrote (smtp-sink), and Postlane's own sink for millisecond delays."""

import json
import os
import signal

from .dumps import read_dump
from .ports import free_port, is_listening, wait_until
from .programs import POSTLANE, Process, need


class SmtpSink:
    """Postfix's smtp-sink, dumping what it takes to one file. `options` go in as they are."""

    def __init__(self, directory, *options, port=None, host="127.0.0.1"):
        self.port = port or free_port()
        self.host = host
        self.dump = directory / f"sink-{self.port}.dump"
        command = [need("smtp-sink"), "-h", f"sink-{self.port}", "-m", "1024", "-D", self.dump, *options]
        if os.getuid() == 0:
            command += ["-u", "root"]  # smtp-sink insists on being told whom to run as
        command += [f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}", "1024"]
        self.process = Process(command, directory / f"sink-{self.port}.log")
        try:
            wait_until(self._ready, 10, f"smtp-sink on {self.port}")
        except BaseException:
            self.process.kill()
            raise

    def _ready(self):
        assert self.process.alive(), f"smtp-sink ended:\n{self.process.output()}"
        return is_listening(self.port, self.host)

    def deliveries(self):
        return read_dump(self.dump)

    def heard(self):
        """What it logged; with `-v` that is every command it was sent."""
        return self.process.output()

    def stop(self):
        self.process.kill()


class LaneSink:
    """`postlane sink`, for delays below the second that smtp-sink cannot make, and for CHUNKING. It can be restarted.

    With `contents` it keeps whole messages, and nothing else of them.
    """

    def __init__(self, directory, *options, port=None, host="127.0.0.1", contents=False):
        self.port = port or free_port()
        self.host = host
        self.maildir = directory / f"lane-sink-{self.port}" if contents else None
        self.dump = directory / f"lane-sink-{self.port}.jsonl"
        self._log = directory / f"lane-sink-{self.port}.log"
        self._options = options
        self.process = None
        self.start()

    def start(self):
        store = ["--maildir", self.maildir] if self.maildir else ["--dump", self.dump]
        self.process = Process(
            [POSTLANE, "sink", "--listen", f"{self.host}:{self.port}", *store, *self._options], self._log
        )
        try:
            wait_until(self._ready, 10, f"postlane sink on {self.port}")
        except BaseException:
            self.process.kill()
            raise

    def _ready(self):
        assert self.process.alive(), f"postlane sink ended:\n{self.process.output()}"
        return is_listening(self.port, self.host)

    def kill(self):
        """As a crash would: SIGKILL. What it had taken stays in the dump."""
        self.process.kill()

    def taken(self):
        """How many messages it has taken, over all its lives."""
        return self.dump.read_bytes().count(b"\n") if self.dump.exists() else 0

    def contents(self):
        """What it has taken, byte for byte."""
        return [path.read_bytes() for path in sorted((self.maildir / "new").iterdir())]

    def deliveries(self):
        """One dictionary per message: from, to, size, hash, message_id and more."""
        if not self.dump.exists():
            return []
        return [json.loads(line) for line in self.dump.read_text().splitlines()]

    def stop(self):
        """SIGTERM, and exit 0."""
        if not self.process.alive():
            return
        self.process.signal(signal.SIGTERM)
        code = self.process.wait(10)
        assert code == 0, f"postlane sink: exit {code} on SIGTERM:\n{self.process.output()}"
