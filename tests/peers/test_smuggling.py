"""Only CRLF.CRLF ends data; a bare CR, a bare LF or a NUL is refused and nothing of it arrives."""

import pytest

from lab.wire import Closed, Wire

FALSE_ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CRLF": b"\r.\r\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.CRLF": b"\r\r\n.\r\r\n",
    "CRLF-NUL.CRLF": b"\r\n\x00.\r\n",
    "CRLF.NUL-CRLF": b"\r\n.\x00\r\n",
}
EVIL = b"MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@sink.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nboo\r\n"


@pytest.mark.parametrize("name", FALSE_ENDS)
def test_nothing_is_smuggled(lane, recorder, name):
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port) as wire:
        wire.envelope(recipients=["first@sink.test"])
        wire.command("DATA").is_(354)
        wire.send(b"Subject: carrier\r\n\r\nhello" + FALSE_ENDS[name] + EVIL + b".\r\n")
        wire.read().is_(554, "5.6.0")
        # One message was sent, so one reply comes; the session ends, or goes on in good order.
        try:
            wire.command("NOOP").is_(250)
            wire.try_message(b"Subject: after\r\n\r\nx\r\n", recipients=["after@sink.test"]).is_(250)
            expected = [["after@sink.test"]]
        except Closed:
            expected = []
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: next\r\n\r\nx\r\n", recipients=["next@sink.test"]).is_(250)
    assert [mail.recipients for mail in upstream.mails()] == [*expected, ["next@sink.test"]]


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"\r",
        b"a\nb\r\n",
        b"a\rb\r\n",
        b"Subject: x\n\nx\n",
        b"Subject: x\r\n\r\na\r\r\n",
        b"Subject: x\r\n\r\na\n\r\n",
        b"Subject: x\r\n\r\nNUL \x00 here\r\n",
        b"Subject: x\r\n\r\n" + b"x" * 100_000 + b"\n" + b"y" * 100_000 + b"\r\n",
        b"Subject: x\r\n\r\n" + b"x" * 16383 + b"\r" + b"y" * 16384 + b"\r\n",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_bare_newlines_and_nul(lane, recorder, content):
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port) as wire:
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(content)
        wire.send(b"\r\n.\r\n")
        wire.read().is_(554, "5.6.0")
    assert upstream.mails() == []


@pytest.mark.parametrize("line", [b"MAIL FROM:<a@client.test>\nRCPT TO:<b@sink.test>\r\n",
                                  b"MAIL FROM:<a@client.test>\rRCPT TO:<b@sink.test>\r\n",
                                  b"MAIL FROM:<a\x00@client.test>\r\n"])
def test_bare_newlines_in_commands(lane, recorder, line):
    """Such a line is one refused command, never two."""
    server = lane([recorder()])
    with Wire(server.port) as wire:
        wire.send(line)
        reply = wire.read()
        assert reply.code // 100 == 5, reply
        try:
            wire.command("NOOP").is_(250)  # the very next reply: the line had only one
            wire.command("DATA").is_(503)
        except Closed:
            pass


def test_split_false_end_at_every_place(lane, recorder):
    """Buffers may end anywhere within the false end of data."""
    upstream = recorder()
    server = lane([upstream])
    data = b"Subject: x\r\n\r\nhello\n.\r\n" + EVIL + b".\r\n"
    for cut in range(15, 30):
        with Wire(server.port) as wire:
            wire.envelope()
            wire.command("DATA").is_(354)
            wire.send(data[:cut])
            wire.send(data[cut:])
            wire.read().is_(554, "5.6.0")
    assert upstream.mails() == []
