"""A raw SMTP dialogue: exact bytes out, replies in, every reply checked for its form."""

import re
import socket
from dataclasses import dataclass

# RFC 2034: an enhanced code on every 2xx, 4xx and 5xx except the greeting and the answer to HELO and EHLO.
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?: |$)")


class Closed(Exception):
    """The server closed (or reset) the connection instead of replying."""


@dataclass(frozen=True)
class Reply:
    code: int
    lines: tuple  # the text of each line, without the code

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def enhanced(self):
        """Such as "5.1.1"; "" when there is none."""
        found = _ENHANCED.match(self.lines[0])
        return found.group().strip() if found else ""

    def is_(self, code, enhanced=None):
        """Asserts the code, and the enhanced code or its beginning."""
        assert self.code == code, f"wanted {code}, got {self}"
        if enhanced is not None:
            assert self.enhanced.startswith(enhanced), f"wanted {code} {enhanced}, got {self}"
        return self

    def __str__(self):
        return f"{self.code} {' / '.join(self.lines)}"


class Wire:
    """A connection to the server under test. The greeting is read, and EHLO said, unless told otherwise."""

    def __init__(self, port, *, hello="EHLO client.test", greeting=True, timeout=20):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.hello = None
        if greeting:
            self.greeting = self.read(enhanced=False).is_(220)
            if hello:
                self.hello = self.command(hello, enhanced=False).is_(250)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def _line(self):
        while b"\r\n" not in self.buffer:
            try:
                piece = self.socket.recv(65536)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed(f"after {self.buffer!r}")
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        assert b"\r" not in line and b"\n" not in line, f"a bare CR or LF in a reply: {line!r}"
        return line.decode()

    def read(self, *, enhanced=True):
        """The next reply. Its form is asserted, and its enhanced code unless there need be none."""
        lines, code = [], None
        while True:
            line = self._line()
            form = re.fullmatch(r"([2-5]\d\d)([ -]?)(.*)", line)
            assert form, f"not a reply line: {line!r}"
            assert code in (None, form[1]), f"the code changes within a reply: {line!r}"
            assert len(line) <= 510, f"a reply line of {len(line)} bytes"
            code = form[1]
            lines.append(form[3])
            if form[2] != "-":
                break
        reply = Reply(int(code), tuple(lines))
        if enhanced and reply.code // 100 != 3:
            assert reply.enhanced, f"no enhanced status code: {reply}"
            assert reply.enhanced[0] == code[0], f"the enhanced code is of another class: {reply}"
        return reply

    def command(self, line, *, enhanced=True):
        self.send(line.encode() + b"\r\n" if isinstance(line, str) else line + b"\r\n")
        return self.read(enhanced=enhanced)

    def envelope(self, sender="a@client.test", recipients=("b@sink.test",), mail_options="", rcpt_options=""):
        """MAIL and RCPT, each accepted."""
        self.command(f"MAIL FROM:<{sender}>{mail_options}").is_(250)
        for recipient in recipients:
            self.command(f"RCPT TO:<{recipient}>{rcpt_options}").is_(250)

    def try_message(self, content, sender="a@client.test", recipients=("b@sink.test",)):
        """A whole transaction; the first reply that refuses it, else the reply to the final dot."""
        for line in [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"]:
            reply = self.command(line)
            if reply.code >= 400:
                return reply
        self.send(stuffed(content) + b".\r\n")
        return self.read()

    def closed_by_peer(self, seconds=5):
        """True when the server closes within `seconds`; what it still says is kept in `buffer`."""
        self.socket.settimeout(seconds)
        try:
            while True:
                piece = self.socket.recv(65536)
                if not piece:
                    return True
                self.buffer += piece
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def stuffed(content):
    """Dot-stuffed content. Every line of it must end with CRLF."""
    assert content == b"" or content.endswith(b"\r\n")
    return re.sub(rb"(?m)^\.", b"..", content)
