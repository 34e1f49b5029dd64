"""SIGTERM under load: new mail is refused with 421, what is under way finishes, nothing acknowledged is lost."""

import signal
import socket
import threading
import time
from collections import Counter

import pytest

from lab.ports import wait_until
from lab.wire import Closed, Wire

CLIENTS = 24


class Client(threading.Thread):
    """Sends message after message until told to stop by the server; keeps count of what it was told."""

    def __init__(self, port, name):
        super().__init__()
        self.port, self.tag = port, name
        self.acknowledged, self.unanswered, self.refused, self.other = [], [], [], []

    def run(self):
        try:
            with Wire(self.port) as wire:
                for number in range(1_000_000):
                    if not self._send(wire, f"{self.tag}-{number}@sink.test"):
                        return
        except (Closed, ConnectionError):
            return  # between messages; inside one, _send has noted it

    def _send(self, wire, recipient):
        for line in ("MAIL FROM:<a@client.test>", f"RCPT TO:<{recipient}>", "DATA"):
            reply = wire.command(line)
            if reply.code >= 400:
                (self.refused if reply.code == 421 else self.other).append(reply)
                return False
        try:
            wire.send(b"Subject: %s\r\n\r\n" % recipient.encode() + b"x" * 5000 + b"\r\n.\r\n")
            reply = wire.read()
        except (Closed, ConnectionError):
            self.unanswered.append(recipient)
            return False
        if reply.code == 250:
            self.acknowledged.append(recipient)
            return True
        (self.refused if reply.code == 421 else self.other).append(reply)
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_under_load(lane, smtp_sink, say, number):
    sinks = [smtp_sink() for _ in range(2)]
    server = lane(sinks, shards=2)
    clients = [Client(server.port, f"c{index}") for index in range(CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: sum(len(client.acknowledged) for client in clients) > 500, 30, "500 messages")
    start = time.monotonic()
    server.process.signal(number)
    code = server.process.wait(15)
    seconds = time.monotonic() - start
    server.stopped = True
    for client in clients:
        client.join(15)
        assert not client.is_alive(), "a client was left hanging"

    assert code == 0, f"exit {code}:\n{server.process.output()[-3000:]}"
    acknowledged = [recipient for client in clients for recipient in client.acknowledged]
    got = Counter(
        recipient.partition(">")[0].lstrip("<")
        for sink in sinks for delivery in sink.deliveries() for recipient in delivery.recipients
    )
    lost = [recipient for recipient in acknowledged if not got[recipient]]
    assert not lost, f"{len(lost)} acknowledged messages are nowhere: {lost[:5]}"
    assert max(got.values()) == 1, "a message arrived twice"
    unanswered = [recipient for client in clients for recipient in client.unanswered]
    assert not unanswered, f"{len(unanswered)} messages got no answer to their final dot"
    others = [str(reply) for client in clients for reply in client.other]
    assert not others, others[:5]
    refused = [reply for client in clients for reply in client.refused]
    assert refused and all(reply.enhanced == "4.3.2" for reply in refused), list(map(str, refused))
    say(f"{len(acknowledged)} acknowledged, all arrived; {len(refused)} of {CLIENTS} clients heard 421; "
        f"ended after {seconds:.2f} s")


def test_transaction_under_way_finishes(lane, recorder):
    """A message whose upstream takes its time gets its 250; meanwhile nobody new is let in."""
    upstream = recorder()
    upstream.rules.delay = 2
    server = lane([upstream], drain_timeout="10s")
    with Wire(server.port) as busy, Wire(server.port) as idle:
        busy.envelope()
        busy.command("DATA").is_(354)
        busy.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        wait_until(lambda: upstream.dots == 1, 5, "the message at the upstream")
        server.terminate()
        idle.read().is_(421, "4.3.2")  # so it has begun
        assert idle.closed_by_peer()
        try:
            late = Wire(server.port, greeting=False, timeout=5)
            late.read().is_(421, "4.3.2")
        except (ConnectionRefusedError, Closed, ConnectionResetError):
            pass  # the listener is closed already: just as good
        busy.read().is_(250, "2.")
    assert server.process.wait(10) == 0, server.process.output()
    server.stopped = True
    assert len(upstream.mails()) == 1


def test_data_under_way_finishes(lane, recorder):
    """A client in the middle of its data may end it, and is answered."""
    upstream = recorder()
    server = lane([upstream], drain_timeout="10s")
    with Wire(server.port) as wire, Wire(server.port) as idle:
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(b"Subject: x\r\n\r\nfirst half\r\n")
        server.terminate()
        idle.read().is_(421, "4.3.2")  # so it has begun
        wire.send(b"second half\r\n.\r\n")
        wire.read().is_(250, "2.")
    assert server.process.wait(10) == 0, server.process.output()
    server.stopped = True
    [mail] = upstream.mails()
    assert mail.content.endswith(b"first half\r\nsecond half\r\n")


def test_drain_timeout_bounds_it(lane, recorder):
    """An upstream that never answers does not keep us; the client is not told 250."""
    upstream = recorder()
    upstream.rules.delay = 60
    server = lane([upstream], drain_timeout="1s")
    with Wire(server.port) as wire:
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        wait_until(lambda: upstream.dots == 1, 5, "the message at the upstream")
        start = time.monotonic()
        server.terminate()
        code = server.process.wait(6)
        assert time.monotonic() - start > 0.8, "did not wait for the transaction under way"
        try:
            reply = wire.read()
            assert reply.code in (421, 451), reply
        except (Closed, ConnectionError):
            pass
    server.stopped = True
    assert code == 0, server.process.output()


def test_idle_sessions_do_not_hold_it(lane, recorder):
    server = lane([recorder()], drain_timeout="20s")
    idle = [Wire(server.port) for _ in range(20)]
    start = time.monotonic()
    server.stop(5)
    assert time.monotonic() - start < 5
    for wire in idle:
        wire.read().is_(421, "4.3.2")
        wire.socket.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)
