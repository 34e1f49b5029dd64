"""aiosmtpd as an upstream: records the exact bytes and the envelope, refuses or waits by rule."""

import asyncio
import re
import threading
from dataclasses import dataclass, field

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from .ports import free_port


@dataclass
class Mail:
    sender: str
    mail_options: list
    recipients: list
    content: bytes


@dataclass
class Rules:
    """Replies by regular expression over the address; a delay in seconds before each final reply."""

    rcpt: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)  # if any recipient matches, the whole message gets the reply
    delay: float = 0.0


def _match(rules, address):
    return next((reply for pattern, reply in rules.items() if re.search(pattern, address)), None)


class _Handler:
    def __init__(self, recorder):
        self.recorder = recorder

    async def handle_RCPT(self, server, session, envelope, address, options):
        refusal = _match(self.recorder.rules.rcpt, address)
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        with self.recorder.lock:
            self.recorder.dots += 1
        if self.recorder.rules.delay:
            await asyncio.sleep(self.recorder.rules.delay)
        for address in envelope.rcpt_tos:
            refusal = _match(self.recorder.rules.data, address)
            if refusal:
                return refusal
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        mail = Mail(
            sender, list(envelope.mail_options), list(envelope.rcpt_tos), envelope.original_content
        )
        with self.recorder.lock:
            self.recorder.taken.append(mail)
            return f"250 2.0.0 recorded as number {len(self.recorder.taken)}"


class _Server(SMTP):
    line_length_limit = 64 * 1024 * 1024  # bytes are compared here, not policed


class Recorder:
    """Runs in a thread of this process."""

    def __init__(self, *, smtputf8=True, rules=None, port=None):
        self.port = port or free_port()
        self.rules = rules or Rules()
        self.taken = []
        self.dots = 0  # messages read to the end, whatever was answered
        self.lock = threading.Lock()
        handler = _Handler(self)

        class OurController(Controller):
            def factory(self):
                return _Server(handler, hostname="recorder.test", enable_SMTPUTF8=smtputf8, data_size_limit=2**28)

        self.controller = OurController(handler, hostname="127.0.0.1", port=self.port, ready_timeout=10)
        self.controller.start()

    def mails(self):
        with self.lock:
            return list(self.taken)

    def for_recipient(self, address):
        return [mail for mail in self.mails() if address in mail.recipients]

    def stop(self):
        self.controller.stop()
