"""smtp-sinks, and what they have taken."""

import os
import re
import signal
import time
from pathlib import Path

from .programs import free_port, start, stop, wait_for_greeting


def counted(log):
    """The messages of its last running count in what it wrote there."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        counts = re.findall(rb"mesg=(\d+)", file.read())
    return int(counts[-1]) if counts else 0


class Sink:
    """One smtp-sink. `flags` go to it as they are; its output goes to a file beside what else is in `directory`."""

    def __init__(self, number, cpu, directory, flags=()):
        self.port = free_port()
        self.cpu = cpu
        self.flags = list(flags)
        self.log = open(directory / f"sink{number}-{self.port}.log", "wb")
        self.process = None
        self.start()

    def start(self):
        command = ["smtp-sink", "-4", "-m", "2048", *self.flags]
        command += ["-u", "root"] if os.getuid() == 0 else []
        self.process = start([*command, f"127.0.0.1:{self.port}", "2048"], self.cpu, self.log)
        wait_for_greeting(self.port, self.process, self.log)

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def taken(self):
        """By its running counters (flag -c), which begin anew with it."""
        return counted(Path(self.log.name))

    def stop(self):
        if self.process.poll() is None:
            # One that was stopped would not hear of its end.
            self.process.send_signal(signal.SIGCONT)
        stop(self.process)
        self.log.close()


class Sinks:
    """Equal sinks with their running counters on."""

    def __init__(self, count, cpu, directory):
        self.sinks = [Sink(number, cpu, directory, ["-c"]) for number in range(count)]

    @property
    def ports(self):
        return [sink.port for sink in self.sinks]

    def taken(self):
        """Messages taken by all since the start."""
        return sum(sink.taken() for sink in self.sinks)

    def settled(self, expected, seconds=5):
        """What they have taken, once that is `expected` or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while self.taken() < expected and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.taken()

    def quiet(self, seconds=5):
        """Until nothing has come for half a second, at most so long."""
        deadline, before = time.monotonic() + seconds, -1
        while (now := self.taken()) != before and time.monotonic() < deadline:
            before = now
            time.sleep(0.5)

    def stop(self):
        for sink in self.sinks:
            sink.stop()
