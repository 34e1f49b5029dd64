"""smtp-sinks that refuse, defer, drop and hang at each stage, alone and beside a good one.

Round robin, one shard: the bad one is certainly tried.
"""

import pytest

from lab.ports import free_port
from lab.wire import Wire

STAGES = {
    "connect": "CONNECT",
    "hello": "EHLO,HELO",
    "mail": "MAIL",
    "rcpt": "RCPT",
    "data": "DATA",
    "dot": ".",
}
MESSAGES = 12
ROUND_ROBIN = {"balance": "round-robin", "connect_timeout": "2s", "reply_timeout": "5s"}


def send_each_on_its_own(server, count=MESSAGES):
    """`count` messages on two sessions, each to its own recipient; the reply to each."""
    replies = {}
    with Wire(server.port) as one, Wire(server.port) as two:
        for number in range(count):
            recipient = f"r{number}@sink.test"
            wire = (one, two)[number % 2]
            replies[recipient] = wire.try_message(b"Subject: %d\r\n\r\nx\r\n" % number, recipients=[recipient])
            if replies[recipient].code != 250:
                wire.command("RSET").is_(250)
    return replies


def arrived(sink):
    """Recipients of what a sink took, sorted."""
    return sorted(
        recipient.partition(">")[0].lstrip("<") for delivery in sink.deliveries() for recipient in delivery.recipients
    )


def all_taken(replies):
    for recipient, reply in replies.items():
        assert reply.code == 250, f"{recipient}: {reply}"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["-r", "-q", "-Q"], ids=["defers", "drops", "says-421"])
def test_trouble_beside_a_good_one(lane, smtp_sink, how, stage):
    """The client sees nothing of it, and each message is on the good one once."""
    bad, good = smtp_sink(how, STAGES[stage], "-v"), smtp_sink()
    server = lane([bad, good], pool=ROUND_ROBIN)
    replies = send_each_on_its_own(server)
    server.stop()
    all_taken(replies)
    assert arrived(good) == sorted(replies)
    assert "connect (AF_INET" in bad.heard(), "the bad upstream was never tried"


@pytest.mark.parametrize("stage", ["connect", "hello"])
def test_5xx_before_any_mail_is_the_upstreams_own_trouble(lane, smtp_sink, stage):
    """554 for a greeting says nothing about the message: the other upstream gets it."""
    bad, good = smtp_sink("-f", STAGES[stage], "-v"), smtp_sink()
    server = lane([bad, good], pool=ROUND_ROBIN)
    replies = send_each_on_its_own(server)
    server.stop()
    all_taken(replies)
    assert arrived(good) == sorted(replies)
    assert "connect (AF_INET" in bad.heard(), "the bad upstream was never tried"


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
def test_5xx_beside_a_good_one(lane, smtp_sink, stage):
    """A 5xx is final: passed on with its text, the others arrive; nothing both refused and delivered."""
    bad, good = smtp_sink("-f", STAGES[stage], "-B", "554 5.7.9 the policy of this house"), smtp_sink()
    server = lane([bad, good], pool=ROUND_ROBIN)
    replies = send_each_on_its_own(server)
    server.stop()
    taken = sorted(recipient for recipient, reply in replies.items() if reply.code == 250)
    refused = {recipient: reply for recipient, reply in replies.items() if reply.code != 250}
    assert arrived(good) == taken and taken
    assert refused, "round robin never chose the bad one"
    for reply in refused.values():
        reply.is_(554, "5.7.9")
        assert "the policy of this house" in reply.text, reply


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["-r", "-q", "-Q"], ids=["defer", "drop", "say-421"])
def test_trouble_everywhere(lane, smtp_sink, how, stage):
    bad = [smtp_sink(how, STAGES[stage], "-v") for _ in range(2)]
    server = lane(bad, pool=ROUND_ROBIN)
    for reply in send_each_on_its_own(server, 4).values():
        reply.is_(451, "4.4.")
    server.stop()
    assert all("connect (AF_INET" in sink.heard() for sink in bad), "not both were tried"


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
def test_5xx_everywhere(lane, smtp_sink, stage):
    bad = [smtp_sink("-f", STAGES[stage], "-B", "550 5.7.8 go away now") for _ in range(2)]
    server = lane(bad, pool=ROUND_ROBIN)
    for reply in send_each_on_its_own(server, 4).values():
        reply.is_(550, "5.7.8")
        assert "go away now" in reply.text, reply


@pytest.mark.parametrize("stage", STAGES)
def test_hangs_beside_a_good_one(lane, smtp_sink, stage):
    """A reply that does not come in `reply_timeout` is as good as none."""
    waits = [option for command in STAGES[stage].split(",") for option in ("-W", f"{command}:60")]
    hanging, good = smtp_sink(*waits, "-v"), smtp_sink()
    server = lane([hanging, good], pool={**ROUND_ROBIN, "reply_timeout": "1s"})
    replies = send_each_on_its_own(server, 3)
    server.stop()
    all_taken(replies)
    assert arrived(good) == sorted(replies)
    assert "connect (AF_INET" in hanging.heard(), "the hanging upstream was never tried"


@pytest.mark.parametrize("stage", STAGES)
def test_hangs_everywhere(lane, smtp_sink, stage):
    waits = [option for command in STAGES[stage].split(",") for option in ("-W", f"{command}:60")]
    server = lane([smtp_sink(*waits)], pool={**ROUND_ROBIN, "reply_timeout": "1s"})
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: x\r\n\r\nx\r\n").is_(451, "4.4.")


def test_nobody_listens_beside_a_good_one(lane, smtp_sink):
    good = smtp_sink()
    server = lane([free_port(), good, free_port()], pool=ROUND_ROBIN)
    replies = send_each_on_its_own(server)
    server.stop()
    all_taken(replies)
    assert arrived(good) == sorted(replies)


def test_nobody_listens_anywhere(lane):
    server = lane([free_port(), free_port()], pool=ROUND_ROBIN)
    for reply in send_each_on_its_own(server, 4).values():
        reply.is_(451, "4.4.")


def test_comes_back(lane, smtp_sink):
    """Deferred while there is nobody, delivered once there is."""
    port = free_port()
    server = lane([port], pool=ROUND_ROBIN)
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: 1\r\n\r\nx\r\n").is_(451, "4.4.")
        sink = smtp_sink(port=port)
        for _ in range(50):
            reply = wire.try_message(b"Subject: 2\r\n\r\nx\r\n", recipients=["later@sink.test"])
            if reply.code == 250:
                break
            wire.command("RSET").is_(250)
        reply.is_(250)
    assert arrived(sink) == ["later@sink.test"]


def test_warm_link_closed_by_upstream(lane, smtp_sink):
    """A link that the upstream closed while idle costs no mail: a fresh one is used."""
    port = free_port()
    sink = smtp_sink(port=port)
    server = lane([sink], pool=ROUND_ROBIN)
    with Wire(server.port) as wire:
        wire.try_message(b"Subject: 1\r\n\r\nx\r\n", recipients=["one@sink.test"]).is_(250)
        sink.stop()
        again = smtp_sink(port=port)
        wire.try_message(b"Subject: 2\r\n\r\nx\r\n", recipients=["two@sink.test"]).is_(250)
    assert arrived(again) == ["one@sink.test", "two@sink.test"]  # one dump file, appended to


def test_plain_smtp_upstream(lane, smtp_sink):
    """An upstream without EHLO (RFC 5321 3.2: fall back to HELO) and one of the kind with stars for a banner."""
    old, starred = smtp_sink("-e"), smtp_sink("-P")
    server = lane([old, starred], pool=ROUND_ROBIN)
    replies = send_each_on_its_own(server)
    server.stop()
    all_taken(replies)
    assert sorted(arrived(old) + arrived(starred)) == sorted(replies)


def test_aborts_in_the_middle_of_data(lane, smtp_sink):
    """`-A 0`: 354, then at once 550 and the end, without reading on (some filters do so)."""
    aborting, good = smtp_sink("-A", "0", "-v"), smtp_sink()
    server = lane([aborting, good], pool=ROUND_ROBIN)
    big = b"Subject: big\r\n\r\n" + (b"z" * 76 + b"\r\n") * 10_000
    replies = {}
    with Wire(server.port) as wire:
        for number in range(6):
            recipient = f"r{number}@sink.test"
            replies[recipient] = wire.try_message(big, recipients=[recipient])
            wire.command("RSET").is_(250)
    server.stop()
    # Both readings are right: its 550 is an answer (passed on), or the cut link says more (another is tried).
    for reply in replies.values():
        assert reply.code in (250, 550), reply
    assert arrived(good) == sorted(recipient for recipient, reply in replies.items() if reply.code == 250)
    assert "connect (AF_INET" in aborting.heard()


def test_reads_slowly(lane, smtp_sink):
    """A sink that lets a small window fill for a second: the sending waits, and no byte is lost."""
    slow = smtp_sink("-H", "1", "-T", "2000")
    server = lane([slow], pool=ROUND_ROBIN)
    big = b"Subject: big\r\n\r\n" + b"".join(b"%07d" % line * 10 + b"\r\n" for line in range(20_000))
    with Wire(server.port) as wire:
        wire.try_message(big).is_(250)
    server.stop()
    [delivery] = slow.deliveries()
    assert delivery.unstamped == big.replace(b"\r\n", b"\n")
