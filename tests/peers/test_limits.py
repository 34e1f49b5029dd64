"""Each limit of a listener: what is said at the bound, and that the mail within it still flows."""

import time

import pytest

from lab.ports import wait_until
from lab.wire import Closed, Wire, stuffed


def test_message_too_large(lane, recorder):
    upstream = recorder()
    server = lane([upstream], listener={"max_message": "64KiB"})
    with Wire(server.port) as wire:
        assert "SIZE 65536" in wire.hello.lines
        wire.command("MAIL FROM:<a@client.test> SIZE=65537").is_(552, "5.3.4")
        wire.command("MAIL FROM:<a@client.test> SIZE=99999999999999999999").is_(552, "5.3.4")
        # Undeclared: refused after the final dot, and the session goes on.
        big = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n"
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(big + (b"y" * 70 + b"\r\n") * 3000 + b".\r\n")
        wire.read().is_(552, "5.3.4")
        wire.try_message(b"Subject: small\r\n\r\nx\r\n").is_(250)
    [mail] = upstream.mails()
    assert b"Subject: small" in mail.content


def test_message_at_the_bound(lane, recorder):
    upstream = recorder()
    server = lane([upstream], listener={"max_message": "64KiB"})
    at_bound = b"x" * 65534 + b"\r\n"
    with Wire(server.port) as wire:
        wire.command("MAIL FROM:<a@client.test> SIZE=65536").is_(250)
        wire.command("RSET").is_(250)
        wire.try_message(at_bound).is_(250)
        # Stuffed dots are not part of a message's size (RFC 1870 section 5).
        dotted = (b"." * 62 + b"\r\n") * 1024
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(stuffed(dotted) + b".\r\n")
        wire.read().is_(250)
        wire.try_message(b"x" * 65535 + b"\r\n").is_(552, "5.3.4")
    assert [mail.content[-65536:] for mail in upstream.mails()] == [at_bound, dotted]


def test_recipients(lane, recorder):
    upstream = recorder()
    server = lane([upstream], listener={"max_recipients": 100})
    with Wire(server.port) as wire:
        wire.envelope(recipients=[f"r{number}@sink.test" for number in range(100)])
        wire.command("RCPT TO:<r100@sink.test>").is_(452, "4.5.3")
        wire.command("DATA").is_(354)
        wire.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        wire.read().is_(250)
    got = [recipient for mail in upstream.mails() for recipient in mail.recipients]
    assert sorted(got) == sorted(f"r{number}@sink.test" for number in range(100))


def test_sessions(lane, recorder):
    server = lane([recorder()], listener={"max_sessions": 4})
    held = [wait_until(lambda: _greeted(server), 5, "a session within the limit") for _ in range(4)]
    refused = Wire(server.port, greeting=False)
    refused.read().is_(421, "4.3.2")
    assert refused.closed_by_peer()
    held[0].try_message(b"x\r\n").is_(250)  # those inside are served
    held.pop().socket.close()
    again = wait_until(lambda: _greeted(server), 5, "a session after one has left")
    again.try_message(b"x\r\n").is_(250)
    for wire in [*held, again]:
        wire.socket.close()


def _greeted(server):
    """A session, or None while the earlier ones are still being counted out."""
    wire = Wire(server.port, greeting=False)
    if wire.read(enhanced=False).code != 220:
        return None
    wire.command("EHLO client.test", enhanced=False).is_(250)
    return wire


@pytest.mark.parametrize("stage", ["greeting", "hello", "rcpt", "data"])
def test_idle(lane, recorder, stage):
    upstream = recorder()
    server = lane([upstream], listener={"idle_timeout": "1s"})
    with Wire(server.port, hello=None if stage == "greeting" else "EHLO client.test") as wire:
        if stage in ("rcpt", "data"):
            wire.envelope()
        if stage == "data":
            wire.command("DATA").is_(354)
            wire.send(b"Subject: never ends\r\n")
        start = time.monotonic()
        wire.read().is_(421, "4.4.2")
        waited = time.monotonic() - start
        assert 0.7 < waited < 4, waited
        assert wire.closed_by_peer()
    assert upstream.mails() == []


def test_idle_is_not_slow(lane, recorder):
    """A client that says something every 0.4 s is not idle, though the whole takes longer than the timeout."""
    server = lane([recorder()], listener={"idle_timeout": "1s"})
    with Wire(server.port) as wire:
        for _ in range(5):
            time.sleep(0.4)
            wire.command("NOOP").is_(250)
        wire.envelope()
        wire.command("DATA").is_(354)
        for _ in range(4):
            time.sleep(0.4)
            wire.send(b"a line\r\n")
        wire.send(b".\r\n")
        wire.read().is_(250)


def test_slow_upstream_is_not_an_idle_client(lane, recorder):
    """The client waits for our reply; that is not its idleness."""
    upstream = recorder()
    upstream.rules.delay = 2.5
    server = lane([upstream], listener={"idle_timeout": "1s"})
    with Wire(server.port) as wire:
        wire.try_message(b"x\r\n").is_(250)
    assert len(upstream.mails()) == 1


def test_untrusted(lane, recorder):
    upstream = recorder()
    server = lane([upstream], listener={"trusted": ["192.0.2.0/24"]})
    with Wire(server.port) as wire:
        reply = wire.command("MAIL FROM:<a@client.test>")
        if reply.code == 250:
            reply = wire.command("RCPT TO:<b@sink.test>")
        reply.is_(550, "5.7.1")
        assert wire.command("DATA").code in (503, 554)
        wire.command("QUIT").is_(221)
    assert upstream.mails() == []


def test_endless_bad_commands(lane, recorder):
    """Either the session is ended in a civil way (421), or it goes on; the others are not harmed."""
    server = lane([recorder()])
    with Wire(server.port) as wire:
        try:
            for _ in range(200):
                if wire.command("NONSENSE").code == 421:
                    assert wire.closed_by_peer()
                    break
        except Closed:
            pytest.fail("closed without a word")
    with Wire(server.port) as wire:
        wire.try_message(b"x\r\n").is_(250)


@pytest.mark.parametrize("command", [b"NOOP\r\n", b"NONSENSE\r\n", b"EHLO x\r\n"])
def test_client_that_does_not_read(lane, recorder, command):
    """Replies nobody reads are not piled up without end: our reading stops, or the session is ended."""
    server = lane([recorder()])
    before = server.memory()
    with Wire(server.port) as wire:
        wire.socket.settimeout(2)
        sent, burst = 0, command * (1_000_000 // len(command))
        try:
            while sent < 100_000_000:
                sent += wire.socket.send(burst)
        except (TimeoutError, ConnectionError):
            pass
        grown = server.memory() - before
        assert grown < 30_000_000, f"{grown / 1e6:.0f} MB for replies to {sent / 1e6:.0f} MB of commands"
    with Wire(server.port) as wire:
        wire.try_message(b"x\r\n").is_(250)


def test_client_that_does_not_read_sends_mail(lane, recorder):
    """The same with whole messages: those that arrive are whole, and the memory has a bound."""
    upstream = recorder()
    server = lane([upstream])
    before = server.memory()
    message = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\nSubject: x\r\n\r\n"
    message += b"y" * 70 + b"\r\n.\r\n"
    with Wire(server.port) as wire:
        wire.socket.settimeout(1)
        try:
            for _ in range(20):
                wire.socket.sendall(message * 5_000)
        except (TimeoutError, ConnectionError):
            pass
        assert server.memory() - before < 60_000_000
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: next\r\n\r\nx\r\n", recipients=["next@sink.test"]).is_(250)
    assert upstream.for_recipient("next@sink.test")
