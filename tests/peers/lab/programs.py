"""Where the programs are, and why a test that needs an absent one is skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"

POSTLANE = Path(os.environ.get("POSTLANE_BIN", ROOT / "target/release/postlane"))


def need(program):
    """The path of a peer program, or the test is skipped, saying why."""
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is not installed (scripts/setup.sh says why)")
    return found


def run(*command, timeout=60, **kwargs):
    """Runs to the end with text output captured; a run over `timeout` seconds is a failure."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        **kwargs,
    )


def postlane(*arguments, timeout=30, **kwargs):
    return run(POSTLANE, *arguments, timeout=timeout, **kwargs)


class Process:
    """A program in the background whose output goes to a file. Only ever signalled by its own pid."""

    def __init__(self, command, log):
        self.command = [str(part) for part in command]
        self.log = Path(log)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds):
        """The exit code; killed, and an AssertionError, if it is not there in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"still running after {seconds} s: {' '.join(self.command)}\n{self.output()[-3000:]}"
            ) from None

    def kill(self):
        if self.alive():
            self.process.kill()
        self.process.wait()
