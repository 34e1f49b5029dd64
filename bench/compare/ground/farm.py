"""Four smtp-sinks, and what befalls them: one is slow, one is stopped for a while, one is killed and started again."""

import re
import signal
import threading
import time
from collections import Counter

from .sinks import Sink

MESSAGE_ID = re.compile(rb"^Message-ID: <(\d{10})\.", re.MULTILINE | re.IGNORECASE)


class Farm:
    """The sinks append all they take to files; `plan` has the times, in seconds after the warm-up."""

    def __init__(self, plan, directory):
        self.plan = plan
        self.dumps = [directory / f"mail{number}" for number in range(4)]
        flags = [["-D", str(dump)] for dump in self.dumps]
        # smtp-sink delays in whole seconds.
        flags[0] += ["-w", str(plan["delay"])]
        self.sinks = [Sink(number, None, directory, each) for number, each in enumerate(flags)]
        self.slow, self.stopped, self.killed, self.well = self.sinks
        self.happened = []
        self._fate = None
        self._over = threading.Event()
        self._trouble = None

    @property
    def ports(self):
        return [sink.port for sink in self.sinks]

    def begin(self):
        """The warm-up begins now."""
        deeds = [
            ("stop", lambda: self.stopped.signal(signal.SIGSTOP)),
            ("continue", lambda: self.stopped.signal(signal.SIGCONT)),
            ("kill", self.killed.kill),
            ("restart", self.killed.start),
        ]
        self._fate = threading.Thread(target=self._run, args=(time.monotonic(), deeds), daemon=True)
        self._fate.start()

    def _run(self, start, deeds):
        try:
            for name, deed in deeds:
                due = start + self.plan["warm_up"] + self.plan[name]
                if self._over.wait(max(0.0, due - time.monotonic())):
                    return
                deed()
                self.happened.append(name)
        except (OSError, RuntimeError) as error:
            self._trouble = error

    def taken(self):
        """How often each message has been taken, by its number."""
        counts = Counter()
        for dump in self.dumps:
            if dump.exists():
                counts.update(int(number) for number in MESSAGE_ID.findall(dump.read_bytes()))
        return counts

    def shares(self):
        return [len(MESSAGE_ID.findall(dump.read_bytes())) if dump.exists() else 0 for dump in self.dumps]

    def end(self):
        """All sinks end; a RuntimeError if not everything befell them that should."""
        self._over.set()
        if self._fate:
            self._fate.join(20)
        for sink in self.sinks:
            sink.stop()
        if self._fate and self.happened != ["stop", "continue", "kill", "restart"]:
            raise RuntimeError(f"of the faults only {self.happened} happened: {self._trouble}")
