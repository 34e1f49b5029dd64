"""CHUNKING on either side, and none on the other: the content is the same, byte for byte."""

import random
import re
import time

import pytest

from lab.recorder import Rules
from lab.wire import Wire
from test_bytes import FIXED, random_message, split_stamp

# What DATA cannot say: no line end at the end.
UNENDED = {"unended": b"Subject: x\r\n\r\nno end", "a-dot": b".", "dot-last": b"x\r\n.", "cr-lf-dot": b"\r\n.\r\n."}


def chunked(content, dice, *, last_empty=False):
    """BDAT commands for `content`, in pieces of random length."""
    commands = []
    while content or not commands:
        size = dice.choice([0, 1, 2, 3, 100, 5000, 70000])
        piece, content = content[:size], content[size:]
        last = not content and not last_empty
        commands.append(b"BDAT %d%s\r\n%s" % (len(piece), b" LAST" if last else b"", piece))
    return commands + [b"BDAT 0 LAST\r\n"] * last_empty


def send_chunked(wire, content, dice, recipient="b@sink.test"):
    """A message by BDAT, all of it in one go after the envelope; the reply to its last chunk."""
    wire.envelope(recipients=[recipient], mail_options=" BODY=8BITMIME")
    commands = chunked(content, dice, last_empty=dice.random() < 0.3)
    wire.send(b"".join(commands))
    for _ in commands[:-1]:
        wire.read().is_(250, "2.")
    return wire.read()


@pytest.mark.parametrize("name", [*FIXED, *UNENDED])
def test_chunks_in_data_out(lane, recorder, name):
    content = {**FIXED, **UNENDED}[name]
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port) as wire:
        assert "CHUNKING" in wire.hello.lines
        send_chunked(wire, content, random.Random(name)).is_(250, "2.")
    [mail] = upstream.mails()
    _, rest = split_stamp(mail.content)
    assert rest == content if content.endswith(b"\r\n") or not content else rest == content + b"\r\n"


@pytest.mark.parametrize("by_chunks_in", [False, True], ids=["data-in", "chunks-in"])
@pytest.mark.parametrize("name", [*FIXED, *UNENDED])
def test_chunks_out(lane, lane_sink, name, by_chunks_in):
    content = {**FIXED, **UNENDED}[name]
    if not by_chunks_in and name in UNENDED:
        pytest.skip("DATA cannot say it")
    sink = lane_sink(contents=True)
    server = lane([sink])
    with Wire(server.port) as wire:
        if by_chunks_in:
            send_chunked(wire, content, random.Random(name)).is_(250, "2.")
        else:
            wire.try_message(content).is_(250, "2.")
    [message] = sink.contents()
    _, rest = split_stamp(message)
    assert rest == content


@pytest.mark.parametrize("chunking", [True, False])
def test_random_both_ways(lane, recorder, lane_sink, chunking):
    """Many messages, each way in by turns, over two shards to upstreams that do and do not take chunks."""
    dice = random.Random(chunking)
    old, new = recorder(), lane_sink(contents=True)
    server = lane([old, new], shards=2, pool={"balance": "round-robin", "chunking": chunking})
    sent = [random_message(dice, dice.randrange(60)) for _ in range(40)]
    with Wire(server.port) as wire:
        for number, content in enumerate(sent):
            recipient = f"r{number}@sink.test"
            if dice.random() < 0.5:
                send_chunked(wire, content, dice, recipient).is_(250, "2.")
            else:
                wire.try_message(content, recipients=[recipient]).is_(250, "2.")
    arrived = [mail.content for mail in old.mails()] + new.contents()
    assert len(old.mails()) > 5 and len(new.contents()) > 5
    assert sorted(split_stamp(message)[1] for message in arrived) == sorted(sent)


def test_binary(lane, lane_sink):
    """BINARYMIME once the upstream is known to take it: any octets at all."""
    dice = random.Random(3030)
    sink = lane_sink(contents=True)
    server = lane([sink])
    with Wire(server.port) as wire:
        assert "BINARYMIME" not in wire.hello.lines
        wire.try_message(b"Subject: x\r\n\r\nfirst\r\n").is_(250)
    sent = [dice.randbytes(size) for size in (1, 2, 100, 20_000, 300_000)] + [b"\n.\r\n.\r\n\r", b"\0"]
    with Wire(server.port) as wire:
        assert "BINARYMIME" in wire.hello.lines
        for content in sent:
            wire.envelope(mail_options=" BODY=BINARYMIME")
            commands = chunked(content, dice)
            wire.send(b"".join(commands))
            for _ in commands[:-1]:
                wire.read().is_(250, "2.")
            wire.read().is_(250, "2.")
    assert [split_stamp(message)[1] for message in sink.contents()[1:]] == sent


def test_what_is_refused_is_swallowed(lane, recorder):
    upstream = recorder()
    server = lane([upstream], listener={"max_message": "64KiB"})
    with Wire(server.port) as wire:
        # Out of place, whatever the octets look like.
        wire.send(b"BDAT 28 LAST\r\nMAIL FROM:<x@smuggled.test>\r\nNOOP\r\n"[:14 + 28])
        wire.read().is_(503, "5.5.1")
        # Too large in all, a bare newline where two chunks meet, DATA after BDAT: and the session goes on.
        wire.envelope()
        wire.send((b"BDAT 40000\r\n" + b"x" * 40000) * 2 + b"BDAT 3 LAST\r\nxyz")
        wire.read().is_(250)
        wire.read().is_(552, "5.3.4")
        wire.read().is_(503)
        wire.envelope()
        wire.send(b"BDAT 2\r\na\rBDAT 2 LAST\r\nb\n")
        wire.read().is_(250)
        wire.read().is_(554, "5.6.0")
        wire.envelope()
        wire.send(b"BDAT 3\r\na\r\n")
        wire.read().is_(250)
        wire.command("DATA").is_(503)
        wire.command("RSET").is_(250)
        wire.try_message(b"hello\r\n").is_(250)
    [mail] = upstream.mails()
    assert mail.content.endswith(b"hello\r\n") and not re.search(rb"smuggled", mail.content)


def test_transactions_in_one_write(lane, recorder):
    """A client that waits for nothing: all is on its way at once, and every reply comes in its turn."""
    messages, codes = 60, {0: 250, 1: 552, 2: 250, 3: 550}
    refused = {"u2": "550 5.1.1 nobody"}, {"u1": "552 5.3.4 too much"}
    # Both as slow: of two, the slower one might be taken for hung and get no more.
    upstreams = [recorder(rules=Rules(*refused, delay=0.1)) for _ in range(2)]
    server = lane(upstreams, pool={"balance": "round-robin"})
    # What is to come of each lies in its recipient: taken, refused at the end, RSET in mid-message, refused at RCPT.
    users = {0: "u0", 1: "u1", 2: "u0", 3: "u2"}
    out, expected = [], []
    for number in range(messages):
        kind = number % 4
        body = b"Subject: %d\r\n\r\n" % number + b"x" * (number * 97) + b"\r\n"
        mail = b"MAIL FROM:<a%d@client.test>\r\nRCPT TO:<%s.%d@sink.test>\r\n"
        mail %= (number, users[kind].encode(), number)
        if kind == 2:
            out.append(mail + b"RSET\r\nNOOP\r\n")
            expected += [250] * 4
        out.append(mail + b"BDAT %d LAST\r\n" % len(body) + body)
        expected += [250, 250, codes[kind]]
    with Wire(server.port) as wire:
        begun = time.monotonic()
        wire.send(b"".join(out) + b"QUIT\r\n")
        replies = [wire.read() for _ in expected]
        took = time.monotonic() - begun
        wire.read().is_(221)
        assert wire.closed_by_peer() and wire.buffer == b""
    assert [reply.code for reply in replies] == expected
    names = [re.search(r"\(id (\S+)\)", reply.text) for reply in replies]
    names = [name[1] for name in names if name]
    arrived = {
        int(re.search(rb"Subject: (\d+)", mail.content)[1]): re.search(rb" id (\S+?)[\s;]", mail.content)[1].decode()
        for upstream in upstreams for mail in upstream.mails()
    }
    taken = [number for number in range(messages) if codes[number % 4] == 250]
    assert [arrived.get(number) for number in taken] == names and sorted(arrived) == taken
    assert took < 0.1 * len(taken) / 2, f"{took:.2f} s: one behind the other"


def test_an_unreadable_size_ends_the_session(lane, recorder):
    server = lane([recorder()])
    for line in ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 1LAST"]:
        with Wire(server.port) as wire:
            wire.envelope()
            wire.command(line).is_(501, "5.5.4")
            assert wire.closed_by_peer()
