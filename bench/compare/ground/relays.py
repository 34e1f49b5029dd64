"""The relays that are compared: how each is configured, started and stopped."""

import shutil
import signal
from pathlib import Path

from .programs import free_port, start, stop, version, wait_for_greeting

HERE = Path(__file__).resolve().parents[1]


class Kind:
    """A relay by its name, its configuration's template, and what a server's lines in that look like."""

    def __init__(self, name, template, server, end):
        self.name, self.template, self.server, self.end = name, template, server, end

    def configuration(self, port, sink_ports, directory, **values):
        """Writes it; @NAME@ in the template becomes values["NAME"]."""
        servers = "\n".join(self.server.format(n=n, port=sink) for n, sink in enumerate(sink_ports, 1))
        text = (HERE / self.template).read_text()
        for name, value in {"PORT": port, "SERVERS": servers, **values}.items():
            text = text.replace(f"@{name}@", str(value))
        path = directory / f"{self.name}-{port}-{Path(self.template).stem}"
        path.write_text(text)
        return path


class Haproxy(Kind):
    """HAProxy. `more`: what stands behind each server's address."""

    def __init__(self, name="haproxy", template="haproxy.cfg.in", more=""):
        super().__init__(name, template, f"    server mta{{n}} 127.0.0.1:{{port}} {more}".rstrip(), signal.SIGUSR1)

    def command(self, config):
        return ["haproxy", "-db", "-f", config]

    def missing(self):
        return None if shutil.which("haproxy") else "haproxy is not installed (scripts/setup.sh)"

    def version(self):
        return version("haproxy", "-v")


class Postlane(Kind):
    def __init__(self, binary, template="postlane.toml.in"):
        server = '[[pool.upstream]]\nname = "mta{n}"\naddress = "127.0.0.1:{port}"\n'
        super().__init__("postlane", template, server, signal.SIGTERM)
        self.binary = binary

    def command(self, config):
        return [self.binary, "serve", "--config", config]

    def missing(self):
        return None if shutil.which(self.binary) else f"{self.binary} is not there: cargo build --release"

    def version(self):
        return version(self.binary, "--version")


class Relay:
    """A running one; its greeting has been read."""

    def __init__(self, kind, sink_ports, cpu, directory, **values):
        self.kind, self.port = kind, free_port()
        config = kind.configuration(self.port, sink_ports, directory, **values)
        self.log = open(directory / f"{kind.name}.log", "ab")
        self.process = start(kind.command(config), cpu, self.log)
        try:
            wait_for_greeting(self.port, self.process, self.log)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        stop(self.process, self.kind.end)
        self.log.close()
