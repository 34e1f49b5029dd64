"""A Postlane with a spool that can be stopped, killed and started again on the same spool."""

import json
import smtplib
import time
import urllib.request

from .ports import free_port, wait_until
from .programs import POSTLANE, Process, postlane
from .server import config_text


class Spooling:
    """`postlane serve` with a spool and an admin endpoint; started by `start()`.

    `keys` go to config_text; `prefix` is a command that runs it, such as unshare or setpriv.
    """

    def __init__(self, directory, upstreams, *, mode="spool", spool=None, prefix=(), delivery=(), pool=(), **keys):
        self.directory, self.prefix = directory, [str(part) for part in prefix]
        self.port, self.admin_port = free_port(), free_port()
        self.spool = spool or directory / f"spool-{self.port}"
        self.upstreams = [getattr(upstream, "port", upstream) for upstream in upstreams]
        self.delivery = {"mode": mode, "spool": self.spool, "retry": ["1s"], **dict(delivery)}
        # Live mail alone says whether an upstream is well: nothing here waits for a probe.
        self.pool = {"health.probe": "off", "health.eject_after": 1000, "connect_timeout": "2s", **dict(pool)}
        self.keys = keys
        self.config = directory / f"spooling-{self.port}.toml"
        self.log = directory / f"spooling-{self.port}.log"
        self.process = None

    def write(self, **more):
        text = config_text(self.port, self.upstreams, delivery=self.delivery, pool=self.pool, **{**self.keys, **more})
        self.config.write_text(text + f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n')

    def start(self, **more):
        """Starts it, with `more` keys for config_text, and waits until it takes mail."""
        self.write(**more)
        self.process = Process([*self.prefix, POSTLANE, "serve", "--config", self.config], self.log)
        try:
            wait_until(self._ready, 30, "that it takes mail")
        except BaseException:
            self.process.kill()
            raise
        return self

    def run(self, timeout=20):
        """For starts that are to be refused: the finished process."""
        from .programs import run

        self.write()
        return run(*self.prefix, POSTLANE, "serve", "--config", self.config, timeout=timeout)

    def _ready(self):
        assert self.process.alive(), f"exit {self.process.wait(1)}:\n{self.said()[-4000:]}"
        try:
            return self.get("/readyz") == "taking mail\n"
        except OSError:
            return False

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        """The sum over its labels."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        values = [float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name]
        assert values, f"there is no metric {name}"
        return sum(values)

    def send(self, content, recipients, sender="sender@client.test", timeout=30, **options):
        """Sends one mail; the reply to its end as (code, text). Any other reply than 2xx raises."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.test", timeout=timeout) as client:
            client.ehlo()
            code, text = client.mail(sender, list(options.get("mail", ())))
            assert code == 250, (code, text)
            for recipient in recipients:
                code, text = client.rcpt(recipient, list(options.get("rcpt", ())))
                assert code == 250, (code, text)
            code, text = client.data(content)
            return code, text.decode()

    def queue(self, *arguments, code=0):
        """`postlane queue …`: what it prints."""
        done = postlane("queue", *arguments, "--admin", f"http://127.0.0.1:{self.admin_port}")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def queue_json(self, *arguments):
        return json.loads(self.queue(*arguments, "--json"))

    def listed(self, *arguments):
        return self.queue_json("list", *arguments)["rows"]

    def wait_empty(self, seconds=20):
        wait_until(lambda: self.queue_json("list")["matched"] == 0, seconds, "an empty spool", step=0.1)

    def said(self):
        return self.process.output()

    def kill(self):
        """As a crash would."""
        self.process.kill()

    def stop(self, seconds=20):
        if self.process is None or not self.process.alive():
            return
        self.process.signal(15)
        code = self.process.wait(seconds)
        assert code == 0, f"exit {code} on SIGTERM:\n{self.said()[-5000:]}"


def content(number, size=2000):
    """A message with its number in it, and bytes that a careless relay would alter."""
    lines = ["." * (number % 3) + f"line {line} of message {number} \t" for line in range(size // 40)]
    head = f"From: sender@client.test\r\nSubject: {number}\r\nMessage-ID: <{number}@client.test>\r\n"
    return (head + "\r\n" + "\r\n".join(lines) + "\r\n.\r\n..\r\ngrüße\r\n").encode()


def without_trace(received):
    """What came, without the Received: field on top."""
    assert received.startswith(b"Received: "), received[:80]
    lines = received.split(b"\r\n")
    after = next(n for n, line in enumerate(lines[1:], 1) if line[:1] not in b" \t")
    return b"\r\n".join(lines[after:])


def soon(condition, what, seconds=20):
    return wait_until(condition, seconds, what, step=0.05)


def steady(condition, seconds):
    """It holds now and all the time until then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        time.sleep(0.05)
