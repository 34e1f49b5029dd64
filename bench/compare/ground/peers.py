"""Programs one might run instead, beyond HAProxy: how each is found, configured, started and stopped.

Templates are in `peers/`; @NAME@ in them is replaced. A peer may be many processes, so `Peer` counts them all.
"""

import os
import pwd
import re
import select
import shutil
import signal
import subprocess
from pathlib import Path

from .programs import ROOT, cpu_seconds, free_port, start, stop, version, wait_for_greeting

HERE = Path(__file__).resolve().parents[1] / "peers"
# Where a peer is looked for that is not installed on the machine.
BESIDE = ROOT / "target/compare-peers"
TICK = 1 / os.sysconf("SC_CLK_TCK")


def found(*programs):
    return next((path for path in map(shutil.which, map(str, programs)) if path), None)


def fill(template, path, values):
    text = template.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class Nginx:
    name, end = "nginx", signal.SIGQUIT
    module = "ngx_stream_module.so"

    def missing(self):
        if not found("nginx"):
            return "nginx is not installed: apt-get install nginx libnginx-mod-stream"
        if not list(Path("/usr/lib/nginx/modules").glob(self.module)):
            return "nginx has no stream module: apt-get install libnginx-mod-stream"
        return None

    def version(self):
        return version("nginx", "-v")

    def command(self, port, sinks, directory):
        servers = "\n".join(f"        server 127.0.0.1:{sink};" for sink in sinks)
        values = {"PORT": port, "SERVERS": servers, "DIRECTORY": directory}
        return ["nginx", "-p", "/usr/share/nginx", "-c", fill(HERE / "nginx.conf", directory / "nginx.conf", values)]


class Postfix:
    name, end = "postfix", signal.SIGTERM

    def missing(self):
        if not found("postfix", "postconf"):
            return "postfix is not installed (scripts/setup.sh)"
        return None if os.getuid() == 0 else "postfix needs root"

    def version(self):
        return version("postconf", "-d", "mail_version")

    def command(self, port, sinks, directory):
        directory.chmod(0o755)
        for part in ("queue", "data"):
            (directory / part).mkdir()
        shutil.chown(directory / "data", "postfix")
        destinations = [f"[127.0.0.1]:{sink}" for sink in sinks]
        values = {
            "PORT": port,
            "DIRECTORY": directory,
            "SERVERS": ", ".join(f"smtp:{one}" for one in destinations),
            "DESTINATIONS": ", ".join(destinations),
        }
        etc = directory / "etc"
        for part in ("main.cf", "master.cf"):
            fill(HERE / f"postfix-{part}", etc / part, values)
        # Makes the queue's directories.
        check = subprocess.run(["postfix", "-c", str(etc), "check"], capture_output=True, text=True, timeout=30)
        if check.returncode:
            raise RuntimeError(f"postfix check: {check.stderr.strip()}")
        where = subprocess.run(["postconf", "-dh", "daemon_directory"], capture_output=True, text=True, timeout=10)
        return ["env", f"MAIL_CONFIG={etc}", f"{where.stdout.strip()}/master", "-c", etc, "-s"]


class Exim:
    """Debian's postfix and exim4 packages exclude each other, so it may lie unpacked beside."""

    name, end = "exim", signal.SIGTERM
    user = "Debian-exim"

    def program(self):
        return found("exim4", "exim", BESIDE / "exim/usr/sbin/exim4")

    def missing(self):
        if not self.program():
            return (
                "exim is not installed; beside Postfix: apt-get download exim4-daemon-light && "
                f"dpkg -x exim4-daemon-light*.deb {BESIDE.relative_to(ROOT)}/exim"
            )
        return None if os.getuid() == 0 else "exim needs root"

    def version(self):
        return version(self.program(), "-bV")

    def command(self, port, sinks, directory):
        try:
            user = pwd.getpwnam(self.user).pw_name
        except KeyError:
            user = "mail"
        directory.chmod(0o755)
        (directory / "spool").mkdir()
        shutil.chown(directory / "spool", user)
        shutil.chown(directory, user)
        values = {
            "PORT": port,
            "SERVERS": " : ".join(f"127.0.0.1::{sink}" for sink in sinks),
            "DIRECTORY": directory,
            "USER": user,
            "EXIM": self.program(),
        }
        config = fill(HERE / "exim.conf", directory / "exim.conf", values)
        return [self.program(), "-C", config, "-bdf"]


class Haraka:
    name, end = "haraka", signal.SIGTERM

    def program(self):
        return found("haraka", BESIDE / "node_modules/.bin/haraka")

    def missing(self):
        if self.program() and found("node"):
            return None
        return f"haraka is not installed: npm install --omit=optional --prefix {BESIDE.relative_to(ROOT)} Haraka"

    def version(self):
        # It writes in colours, to files too.
        return re.sub(r"\x1b\[[\d;]*m", "", version(self.program(), "--version"))

    def command(self, port, sinks, directory):
        values = {"PORT": port, "SERVERS": ", ".join(f"127.0.0.1:{sink}" for sink in sinks)}
        for template in (HERE / "haraka").rglob("*"):
            if template.is_file():
                fill(template, directory / template.relative_to(HERE / "haraka"), values)
        (directory / "queue").mkdir()
        return [self.program(), "-c", directory]


class Single:
    """A relay of `relays`, as a peer."""

    def __init__(self, kind, **values):
        self.kind, self.values = kind, values
        self.name, self.end = kind.name, kind.end
        self.missing, self.version = kind.missing, kind.version

    def command(self, port, sinks, directory):
        return self.kind.command(self.kind.configuration(port, sinks, directory, **self.values))


class Peer:
    """A running one: all its processes are on one CPU, and all their CPU time is counted."""

    def __init__(self, kind, sink_ports, cpu, directory):
        self.port, self.end = free_port(), kind.end
        directory.mkdir()
        self.log = open(directory / "log", "wb")
        self.process = start(kind.command(self.port, sink_ports, directory), cpu, self.log)
        try:
            wait_for_greeting(self.port, self.process, self.log)
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self):
        """Of all processes there are, and of those that have ended and been waited for."""
        total = 0.0
        for pid, (_, ended) in self.family().items():
            try:
                total += cpu_seconds(pid) + ended
            except OSError:
                # It ended just now: its parent has, or will have, its time.
                continue
        return total

    def family(self):
        """The process and all its descendants: who each one's parent is, and the CPU seconds of its ended children."""
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            stats[int(path.parent.name)] = (int(fields[1]), (int(fields[13]) + int(fields[14])) * TICK)
        family, found_more = {self.process.pid}, True
        while found_more:
            more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
            found_more, family = bool(more), family | more
        return {pid: stats[pid] for pid in family if pid in stats}

    def stop(self):
        """What is left of the family after its head's end is killed, by handles that cannot mean others."""
        left = []
        for pid in self.family():
            try:
                left.append(os.pidfd_open(pid))
            except ProcessLookupError:
                continue
        stop(self.process, self.end)
        for handle in left:
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                pass
            select.select([handle], [], [], 5)  # readable once it has ended (pidfd_open(2))
            os.close(handle)
        self.log.close()
