"""The server side of the conversation, command by command, over a raw socket."""

import socket

import pytest

from lab.wire import Wire


@pytest.fixture
def server(lane, recorder):
    server = lane([recorder()])
    server.upstream_mails = lambda: server_upstream_mails(recorder)
    return server


def server_upstream_mails(recorder):
    return [mail for upstream in recorder.started for mail in upstream.mails()]


def test_ehlo_offers(server):
    with Wire(server.port) as wire:
        assert wire.greeting.text.startswith("lane.test"), wire.greeting
        assert wire.hello.lines[0].startswith("lane.test"), wire.hello
        offered = {line.split(" ")[0] for line in wire.hello.lines[1:]}
        assert {"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"} <= offered, offered
        [size] = [line for line in wire.hello.lines if line.startswith("SIZE")]
        assert int(size.split()[1]) > 0
        # What needs TLS or a user file is not there when neither is configured.
        assert not offered & {"STARTTLS", "AUTH", "XCLIENT"}, offered


def test_helo_offers_nothing(server):
    with Wire(server.port, hello="HELO client.test") as wire:
        assert len(wire.hello.lines) == 1


@pytest.mark.parametrize(
    "before, command, code, enhanced",
    [
        ([], "RCPT TO:<b@sink.test>", 503, "5.5.1"),
        ([], "DATA", 503, "5.5.1"),
        (["MAIL FROM:<a@client.test>"], "DATA", (503, 554), "5.5.1"),
        (["MAIL FROM:<a@client.test>"], "MAIL FROM:<a@client.test>", 503, "5.5.1"),
        (["MAIL FROM:<a@client.test>", "RSET"], "RCPT TO:<b@sink.test>", 503, "5.5.1"),
        ([], "NONSENSE", (500, 502), "5.5."),
        ([], "MAIL FROM:a@client.test>", 501, "5."),
        ([], "MAIL FROM:<a@client.test", 501, "5."),
        ([], "MAIL", 501, "5.5."),
        ([], "MAIL FROM:<a@client.test> SIZE=many", 501, "5.5.4"),
        ([], "MAIL FROM:<a@client.test> BODY=9BIT", 501, "5.5.4"),
        ([], "MAIL FROM:<a@client.test> UNKNOWN=1", 555, "5.5.4"),
        (["MAIL FROM:<a@client.test>"], "RCPT TO:<>", (501, 550, 553), "5."),
        (["MAIL FROM:<a@client.test>"], "RCPT TO:<b@sink.test> NOTIFY=NEVER,FAILURE", 501, "5.5.4"),
        (["MAIL FROM:<a@client.test>"], "RCPT TO:<b@sink.test> UNKNOWN=1", 555, "5.5.4"),
        ([], "VRFY someone", (252, 502), ""),
        ([], "EXPN list", 502, "5.5.1"),
        ([], "NOOP anything", 250, "2.0.0"),
        ([], "RSET", 250, "2.0.0"),
        ([], "HELP", (214, 502), ""),
        ([], "STARTTLS", (502, 503, 454), ""),
        ([], "AUTH PLAIN AGEAYg==", (502, 503, 530, 535), "5."),
        ([], "NOOP " + "x" * 5000, 500, "5.5."),
        ([], "MAIL FROM:<" + "x" * 65 + "@client.test>", (250, 501, 553), ""),
        ([], "", (500, 501), "5.5."),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_command_by_command(server, before, command, code, enhanced):
    codes = code if isinstance(code, tuple) else (code,)
    with Wire(server.port) as wire:
        for line in before:
            wire.command(line).is_(250)
        reply = wire.command(command)
        assert reply.code in codes and reply.enhanced.startswith(enhanced), reply
        # The session goes on as if nothing had been said.
        wire.command("RSET").is_(250, "2.")
        wire.try_message(b"Subject: still here\r\n\r\nx\r\n").is_(250, "2.")
        wire.command("QUIT").is_(221, "2.0.0")
        assert wire.closed_by_peer()


def test_mail_before_hello(server):
    """Refused (503), or taken as old SMTP was; never the end of the session."""
    with Wire(server.port, hello=None) as wire:
        reply = wire.command("MAIL FROM:<a@client.test>", enhanced=False)
        assert reply.code in (250, 503), reply
        wire.command("EHLO client.test", enhanced=False).is_(250)
        wire.try_message(b"x\r\n").is_(250)


@pytest.mark.parametrize(
    "sender, recipient",
    [
        ("MAIL FROM:<a@client.test>", "RCPT TO:<b@sink.test>"),
        ("mail from:<a@client.test>", "rcpt to:<b@sink.test>"),
        ("MAIL FROM: <a@client.test>", "RCPT TO: <b@sink.test>"),
        ("MAIL FROM:<a@client.test> ", "RCPT TO:<b@sink.test> "),
        ('MAIL FROM:<"a b"@client.test>', 'RCPT TO:<"b@c"@sink.test>'),
        ("MAIL FROM:<a@[192.0.2.1]>", "RCPT TO:<b@[IPv6:2001:db8::1]>"),
        ("MAIL FROM:<>", "RCPT TO:<b+tag=x/y@sink.test>"),
        ("MAIL FROM:<@relay.test,@other.test:a@client.test>", "RCPT TO:<@relay.test:b@sink.test>"),
    ],
)
def test_legal_addresses(server, sender, recipient):
    """The last pair are source routes: RFC 5321 4.1.1.3 says to accept and ignore them."""
    with Wire(server.port) as wire:
        wire.command(sender).is_(250, "2.1.0")
        wire.command(recipient).is_(250, "2.1.5")
        wire.command("DATA").is_(354)
        wire.send(b"x\r\n.\r\n")
        wire.read().is_(250, "2.")
    [mail] = server.upstream_mails()
    assert mail.sender == {"MAIL FROM:<>": ""}.get(sender, mail.sender)
    assert len(mail.recipients) == 1


def test_everything_in_one_write(server):
    """A pipelining client that does not wait even for 354 would be wrong; up to DATA it is right."""
    with Wire(server.port) as wire:
        group = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@sink.test>\r\nRCPT TO:<c@sink.test>\r\nDATA\r\n"
        wire.send(group)
        for code in (250, 250, 250, 354):
            wire.read().is_(code)
        # The final dot goes out with the next transaction's commands.
        for number in range(20):
            wire.send(b"Subject: %d\r\n\r\nx\r\n.\r\n" % number + group)
            for code in (250, 250, 250, 250, 354):
                wire.read().is_(code)
        wire.send(b"Subject: last\r\n\r\nx\r\n.\r\nQUIT\r\n")
        wire.read().is_(250, "2.")
        wire.read().is_(221, "2.0.0")
        assert wire.closed_by_peer() and wire.buffer == b""
    delivered = [recipient for mail in server.upstream_mails() for recipient in mail.recipients]
    assert sorted(delivered) == ["b@sink.test"] * 21 + ["c@sink.test"] * 21


def test_pipelined_with_refused_commands(server):
    """Each command has its own reply, in order, also when some are refused (RFC 2920 3.1)."""
    with Wire(server.port) as wire:
        wire.send(
            b"MAIL FROM:<a@client.test>\r\nRCPT TO:<broken\r\nRCPT TO:<b@sink.test>\r\nNOOP\r\n"
            b"RSET\r\nDATA\r\nNONSENSE\r\nQUIT\r\n"
        )
        codes = [wire.read().code for _ in range(8)]
        assert codes[0] == 250 and codes[1] == 501 and codes[2] == codes[3] == codes[4] == 250, codes
        assert codes[5] == 503 and codes[6] in (500, 502) and codes[7] == 221, codes


def test_one_byte_at_a_time(server):
    with Wire(server.port, hello=None) as wire:
        for octet in b"EHLO slow.test\r\n":
            wire.send(bytes([octet]))
        wire.read(enhanced=False).is_(250)
        for octet in b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\n":
            wire.send(bytes([octet]))
        for code in (250, 250, 354):
            wire.read().is_(code)
        for octet in b"Subject: slow\r\n\r\n..\r\n.\r\n":
            wire.send(bytes([octet]))
        wire.read().is_(250, "2.")
    [mail] = server.upstream_mails()
    assert mail.content.endswith(b"Subject: slow\r\n\r\n.\r\n")


def test_client_that_vanishes_in_data(server):
    """No final dot, no message."""
    for tail in (b"", b"half a line", b"line\r\n", b"line\r\n.", b"line\r\n.\r"):
        with Wire(server.port) as wire:
            wire.envelope()
            wire.command("DATA").is_(354)
            wire.send(b"Subject: cut off\r\n\r\n" + tail)
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: whole\r\n\r\nx\r\n").is_(250)
    [mail] = server.upstream_mails()
    assert b"Subject: whole" in mail.content


def test_garbage_does_not_hurt(server):
    """Every byte value, TLS and HTTP openings; the listener lives on."""
    for noise in (
        bytes(range(256)) * 50,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET / HTTP/1.1\r\nHost: lane.test\r\n\r\n",
        b"\r\n" * 1000,
        b"\x00" * 10000,
        b"x" * 200_000,
    ):
        with Wire(server.port, hello=None) as wire:
            try:
                wire.send(noise)
            except ConnectionError:
                pass
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: alive\r\n\r\nx\r\n").is_(250)
    assert len(server.upstream_mails()) == 1


def test_client_that_closes_its_sending_side(server):
    """All in one go, then FIN: every answer still comes, and each message arrives once."""
    message = "MAIL FROM:<a@client.test>\r\nRCPT TO:<b@sink.test>\r\nDATA\r\n"
    with Wire(server.port) as wire:
        wire.send(message)
        for code in (250, 250, 354):
            wire.read().is_(code)
        wire.send("Subject: one\r\n\r\nx\r\n.\r\n" + message)
        for code in (250, 250, 250, 354):
            wire.read().is_(code)
        wire.send("Subject: two\r\n\r\nx\r\n.\r\nQUIT\r\n")
        wire.socket.shutdown(socket.SHUT_WR)
        wire.read().is_(250)
        wire.read().is_(221)
    assert len(server.upstream_mails()) == 2
