"""Mail to and from a Postlane whose disk logs: what was acknowledged, and taken, with how far the log was by then."""

import asyncio
import os
import re

from ..crash import Load, bodies
from ..ports import free_port

SIZES = [0, 200, 200, 1_500, 6_000, 30_000]
# Such fill a segment of 64 MiB soon.
LARGE = [250_000, 800_000]
# Messages that wait: no more than what a start after a cut delivers soon.
BACKLOG, BACKLOG_LARGE = 500, 50
# What a 250 says that comes from the disk.
KEPT = b" kept as "
NEVER = -1  # it was taken before it was acknowledged


class Books:
    """What there is to know of all messages.

    `acknowledged`, by message, and `taken`, by message and recipient, are of a round: octets that the log had.
    """

    def __init__(self):
        self.bodies = bodies(SIZES + LARGE)
        self.sent = {}  # by number: which body, and how many recipients
        self.acknowledged, self.taken, self.log = {}, {}, None

    def new_round(self, log):
        """A log begins."""
        if self.log is not None:
            os.close(self.log)
        self.log = os.open(log, os.O_RDONLY | os.O_CREAT)
        self.acknowledged, self.taken = {}, {}

    def position(self):
        return os.fstat(self.log).st_size


class Sender(Load):
    """A load whose every 250 is noted with the log's length."""

    def __init__(self, books, ids, port, sessions, rng, large):
        super().__init__(port, sessions, rng, books.bodies if large else books.bodies[: len(SIZES)])
        self.books, self.ids, self.sent = books, ids, books.sent
        self.backlog = BACKLOG_LARGE if large else BACKLOG

    async def pace(self):
        while len(self.acknowledged) > self.backlog + len(self.books.taken) and not self.over:
            await asyncio.sleep(0.02)

    def acknowledge(self, number, line):
        super().acknowledge(number, line)
        if KEPT not in line:
            return  # an upstream has it, and whom that put off its sender is told of: it has not been on the disk
        self.books.acknowledged[number] = self.books.position()
        for pair in pairs(number, self.books.sent[number][1]):
            if pair in self.books.taken:
                self.books.taken[pair] = NEVER


def pairs(number, recipients):
    """A message's recipients are all of its own."""
    return [(number, f"r{number}.{n}@sink.test") for n in range(recipients)]


class Sink:
    """An upstream with moods: it takes mail, puts some off, or hangs up. What it took is whole, or `wrong` says so."""

    def __init__(self, books, taken, rng):
        self.books, self.taken, self.rng, self.port = books, taken, rng, free_port()
        self.refuses, self.shut, self.wrong, self.server = 0.0, False, None, None
        self.sessions = {}  # tasks and what they write to

    async def start(self):
        self.server = await asyncio.start_server(self._session, "127.0.0.1", self.port, limit=1 << 20)

    async def stop(self):
        self.server.close()
        for writer in list(self.sessions.values()):
            writer.close()
        await asyncio.gather(*self.sessions)

    async def _session(self, reader, writer):
        self.sessions[asyncio.current_task()] = writer
        try:
            await self._talk(reader, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            del self.sessions[asyncio.current_task()]
            writer.close()

    async def _talk(self, reader, writer):
        say = lambda line: writer.write(line.encode() + b"\r\n")
        if self.shut:
            return say("421 4.3.2 closed")
        say("220 sink.test ESMTP")
        recipients = []
        while True:
            line = (await reader.readuntil(b"\r\n")).decode().strip()
            verb = line[:4].upper()
            if verb == "EHLO":
                say("250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
            elif verb == "RCPT":
                if self.rng.random() < self.refuses:
                    say("450 4.2.1 later")
                else:
                    recipients.append(re.search("<(.*?)>", line)[1])
                    say("250 2.1.5 fine")
            elif verb == "DATA" and not recipients:
                say("554 5.5.1 no recipients")
            elif verb == "DATA":
                say("354 go on")
                content = await reader.readuntil(b"\r\n.\r\n")
                if self.shut:
                    return None
                if self.rng.random() < self.refuses:
                    say("451 4.3.0 later")
                else:
                    self._take(content[:-3], recipients)
                    say("250 2.0.0 taken")
                recipients = []
            else:
                recipients = [] if verb in ("MAIL", "RSET") else recipients
                say("221 2.0.0 bye" if verb == "QUIT" else "250 2.0.0 fine")
                if verb == "QUIT":
                    return None

    def _take(self, content, recipients):
        head, _, body = content.partition(b"\r\n\r\n")
        found = re.search(rb"^Message-ID: <(\d+)@crash\.test>$", head.replace(b"\r", b""), re.MULTILINE)
        if not found or int(found[1]) not in self.books.sent:
            self.wrong = f"a message nobody sent: {content[:300]!r}"
            return
        number = int(found[1])
        which, count = self.books.sent[number]
        if body != self.books.bodies[which][0] or not {(number, to) for to in recipients} <= set(pairs(number, count)):
            self.wrong = f"message {number}, for {recipients}, is not what was sent"
        position = self.books.position()
        for recipient in recipients:
            self.taken.setdefault((number, recipient), position)
