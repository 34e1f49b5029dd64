"""Load from smtp-source, through Postlane, into three smtp-sinks: all of it arrives, none of it twice."""

import pytest

from lab.source import assert_clean, smtp_source

KIB = 1024
MIB = 1024 * KIB

# messages, size: the large ones fewer, so that the dumps stay below half a gigabyte
SIZES = [
    pytest.param(20_000, 1 * KIB, id="1KiB"),
    pytest.param(20_000, 10 * KIB, id="10KiB"),
    pytest.param(2_000, 100 * KIB, id="100KiB"),
    pytest.param(150, 2 * MIB, id="2MiB"),
]


def assert_all_once(deliveries, messages):
    """By smtp-source's numbered recipient, by its Message-Id, and by Postlane's own id."""
    assert len(deliveries) == messages
    assert all(len(delivery.recipients) == 1 for delivery in deliveries)
    numbers = {delivery.recipients[0] for delivery in deliveries}
    assert len(numbers) == messages, "a recipient got two messages"
    assert len({delivery.message_id for delivery in deliveries}) == messages, "a message arrived twice"
    ids = {delivery.lane_id for delivery in deliveries}
    assert len(ids) == messages and "" not in ids, "the ids in Received: are not unique"


@pytest.fixture(scope="module")
def body_straight(tmp_path_factory):
    """body_straight(size) → digest of a body smtp-source sends, taken without Postlane in between."""
    from lab.sinks import SmtpSink

    def digest(size):
        sink = SmtpSink(tmp_path_factory.mktemp("straight"))
        try:
            assert_clean(smtp_source(sink.port, 1, size, sessions=1))
            return sink.deliveries()[0].body_digest
        finally:
            sink.stop()

    return digest


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "connection-per-message"])
@pytest.mark.parametrize("messages, size", SIZES)
def test_all_arrive_once(lane, smtp_sink, body_straight, say, messages, size, reuse):
    sinks = [smtp_sink() for _ in range(3)]
    server = lane(sinks, shards=2)
    before = server.cpu_seconds()
    assert_clean(smtp_source(server.port, messages, size, sessions=64, reuse=reuse))
    cpu = server.cpu_seconds() - before
    server.stop()

    shares = [sink.deliveries() for sink in sinks]
    deliveries = sum(shares, [])
    assert_all_once(deliveries, messages)
    assert {delivery.body_digest for delivery in deliveries} == {body_straight(size)}, "a body was altered"
    assert {delivery.mail.partition(">")[0] for delivery in deliveries} == {"<sender@source.test"}
    say(f"{messages} messages, {[len(share) for share in shares]} per sink, {cpu / messages * 1e6:.0f} us CPU each")


def test_several_recipients_each(lane, smtp_sink):
    """Every recipient gets it exactly once, however the message was split over shards."""
    sinks = [smtp_sink() for _ in range(3)]
    server = lane(sinks, shards=2)
    messages, recipients = 500, 7
    assert_clean(smtp_source(server.port, messages, KIB, sessions=16, extra=["-r", recipients]))
    server.stop()

    by_message = {}
    for delivery in sum((sink.deliveries() for sink in sinks), []):
        by_message.setdefault(delivery.message_id, []).extend(delivery.recipients)
    assert len(by_message) == messages
    for got in by_message.values():
        assert len(got) == recipients and len(set(got)) == recipients, got


def test_more_sessions_than_links(lane, smtp_sink):
    """256 clients at once over few links: they wait their turn, none is refused."""
    sinks = [smtp_sink() for _ in range(2)]
    server = lane(sinks, shards=1, pool={"links_per_shard": 2})
    assert_clean(smtp_source(server.port, 4_000, 10 * KIB, sessions=256))
    server.stop()
    assert_all_once(sum((sink.deliveries() for sink in sinks), []), 4_000)


def test_a_thousand_sessions(lane, smtp_sink):
    sinks = [smtp_sink() for _ in range(3)]
    server = lane(sinks, shards=2)
    assert_clean(smtp_source(server.port, 10_000, KIB, sessions=1000))
    server.stop()
    assert_all_once(sum((sink.deliveries() for sink in sinks), []), 10_000)
