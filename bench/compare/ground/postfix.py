"""A Postfix of its own beside whatever the machine has: its queue, its configuration and its processes in one place."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .programs import cpu_seconds, free_port, start, stop, version, wait_for_greeting

HERE = Path(__file__).resolve().parents[1]
MASTER = "/usr/lib/postfix/sbin/master"


def missing():
    if os.geteuid() != 0:
        return "Postfix must be started by root"
    return None if Path(MASTER).exists() and shutil.which("postfix") else "postfix is not installed (scripts/setup.sh)"


def postfix_version():
    return version("postconf", "-d", "-h", "mail_version")


class Postfix:
    """A running one, in `directory`, which must be open to other users than root."""

    def __init__(self, sink, cpu, directory):
        self.port = free_port()
        config = directory / "config"
        for place in (config, directory / "queue", directory / "data"):
            place.mkdir(parents=True)
        shutil.chown(directory / "data", "postfix", "postfix")
        values = {"DIRECTORY": directory, "SINK": sink, "PORT": self.port}
        for name in ("main.cf", "master.cf"):
            text = (HERE / "postfix" / f"{name}.in").read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", str(value))
            (config / name).write_text(text)
        (config / "dynamicmaps.cf").write_text("")
        check = subprocess.run(["postfix", "-c", str(config), "check"], capture_output=True, text=True, timeout=60)
        if check.returncode:
            raise RuntimeError(f"postfix check: {check.stderr.strip()}")
        self.log = open(directory / "postfix.log", "ab")
        self.process = start([MASTER, "-c", config, "-s"], cpu, self.log)
        try:
            wait_for_greeting(self.port, self.process, self.log)
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self):
        """Of all its processes: of those that have ended master knows."""
        return self._of(lambda pid: cpu_seconds(pid)) + self._ended()

    def _of(self, figure):
        total = figure(self.process.pid)
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid:
                    total += figure(int(path.parent.name))
            except (OSError, ValueError):
                continue  # ended meanwhile
        return total

    def _ended(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        stop(self.process, signal.SIGTERM)
        time.sleep(0.3)  # its children follow
        self.log.close()
