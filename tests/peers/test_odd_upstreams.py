"""Upstreams that say what no upstream should: the client gets a right answer, the memory has a bound, the next mail flows."""

import pytest

from lab.wire import Wire

QUICK = {"connect_timeout": "2s", "reply_timeout": "3s"}


def send_two(server):
    replies = []
    for number in range(2):
        with Wire(server.port) as wire:
            replies.append(wire.try_message(b"Subject: %d\r\n\r\nx\r\n" % number))
    return replies


@pytest.mark.parametrize(
    "final, code, enhanced, text",
    [
        (b"250 queued as 77\r\n", 250, "2.0.0", "queued as 77"),
        (b"250-2.0.0 one\r\n250-2.0.0 two\r\n250 2.0.0 three\r\n", 250, "2.0.0", "three"),
        (b"250\r\n", 250, "2.0.0", ""),
        (b"251 2.1.5 forwarded\r\n", 250, "2.", "forwarded"),
        (b"550 denied\r\n", 550, "5.0.0", "denied"),
        (b"550 2.0.0 of two minds\r\n", 550, "5.", "of two minds"),
        (b"550-5.7.1 line\r\n" * 200 + b"550 5.7.1 the last\r\n", 550, "5.7.1", ""),
        (b"550 5.7.1 " + b"t" * 3000 + b"\r\n", 550, "5.7.1", "ttt"),
        (b"550 5.7.1 a\x1b[31m\x07\r250 2.0.0 fake\r\n", 550, "5.7.1", "fake"),
        (b"450 4.2.1 later\r\n", 451, "4.4.", ""),
        (b"\x00\xff\xfe\r\n", 451, "4.4.", ""),
        (b"999 what\r\n", 451, "4.4.", ""),
        (b"150 go on\r\n", 451, "4.4.", ""),
        (b"354 again\r\n", 451, "4.4.", ""),
        (b"250-2.0.0 yes\r\n550 5.0.0 no\r\n", 451, "4.4.", ""),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_final_reply(lane, scripted, final, code, enhanced, text):
    """`Wire` asserts of each reply that it is one legal reply: no stray CR, no line too long, an enhanced code."""
    upstream = scripted(final=final)
    server = lane([upstream], pool=QUICK)
    for reply in send_two(server):
        reply.is_(code, enhanced)
        assert text in reply.text
        assert not [char for char in reply.text if ord(char) < 32 and char not in "\t\n"], repr(reply.text)


@pytest.mark.parametrize(
    "surplus", [b"250 2.0.0 phantom\r\n", b"354 go\r\n250 2.0.0 phantom\r\n" * 3, b"421 4.3.2 bye\r\n"]
)
def test_surplus_replies_acknowledge_nothing(lane, scripted, surplus):
    """What comes unasked after a final reply is never taken for the answer to the next message."""
    upstream = scripted(final=b"250 2.0.0 Ok\r\n" + surplus)
    server = lane([upstream], pool=QUICK)
    with Wire(server.port) as wire:
        for number in range(10):
            reply = wire.try_message(b"Subject: %d\r\n\r\nx\r\n" % number)
            if reply.code == 250:
                assert any(b"Subject: %d\r\n" % number in content for content in upstream.messages), number
                assert "phantom" not in reply.text
            else:
                assert reply.code == 451, reply
                wire.command("RSET").is_(250)


@pytest.mark.parametrize(
    "banner", [b"220-" + b"x" * 50 + b"\r\n", b"x"], ids=["endless lines", "one endless line"]
)
def test_endless_greeting(lane, scripted, banner):
    upstream = scripted(banner=banner * (100_000_000 // len(banner)))
    server = lane([upstream], pool=QUICK)
    before = server.memory()
    with Wire(server.port) as wire:
        wire.try_message(b"x\r\n").is_(451, "4.4.")
    assert server.memory() - before < 20_000_000


def test_early_replies_before_ehlo(lane, scripted):
    """An upstream out of step from its greeting on gets no mail, or takes it in order; never a false 250."""
    upstream = scripted(banner=b"220 scripted\r\n250 early\r\n")
    server = lane([upstream], pool=QUICK)
    for reply in send_two(server):
        assert reply.code == 451 or len(upstream.messages) >= 1, reply


def test_message_larger_than_the_upstream_takes(lane, scripted):
    small, large = scripted(ehlo=b"250-scripted\r\n250 SIZE 1000\r\n"), scripted()
    server = lane([small, large], pool={**QUICK, "balance": "round-robin"})
    content = b"Subject: x\r\n\r\n" + b"y" * 2000 + b"\r\n"
    with Wire(server.port) as wire:
        for _ in range(4):
            wire.try_message(content).is_(250)
    assert small.messages == [] and len(large.messages) == 4

    alone = lane([small], pool=QUICK)
    with Wire(alone.port) as wire:
        wire.try_message(content).is_(552, "5.3.4")
    assert small.messages == []
