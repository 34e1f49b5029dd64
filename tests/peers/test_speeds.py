"""Three upstreams of 1, 5 and 50 ms; the middle one is killed and restarted under load."""

import threading
import time

from lab.ports import wait_until
from lab.source import assert_clean, smtp_source

LATENCIES = ("1ms", "5ms", "50ms")
MESSAGES = 20_000


def test_shares_and_a_crash(lane, lane_sink, say):
    sinks = [lane_sink("--latency", latency) for latency in LATENCIES]
    victim = sinks[1]
    server = lane(sinks, shards=2)

    finished = []
    load = threading.Thread(target=lambda: finished.append(smtp_source(server.port, MESSAGES, 10 * 1024)))
    load.start()
    taken = lambda: sum(sink.taken() for sink in sinks)
    wait_until(lambda: taken() > MESSAGES / 5, 60, "a fifth of the load", step=0.1)
    victim.kill()
    before = victim.taken()
    at_kill = taken()
    wait_until(lambda: taken() > at_kill + MESSAGES / 5, 60, "load while one is down", step=0.1)
    victim.start()
    load.join(200)
    assert finished, "smtp-source does not end"
    assert_clean(finished[0])
    server.stop()

    deliveries = [delivery for sink in sinks for delivery in sink.deliveries()]
    reached = {recipient for delivery in deliveries for recipient in delivery["to"]}
    assert len(reached) == MESSAGES, f"{MESSAGES - len(reached)} messages are nowhere"
    # At least once: what was in doubt when the link was cut may be twice, at most what was in flight.
    twice = len(deliveries) - MESSAGES
    assert 0 <= twice <= 16, f"{twice} messages arrived twice"
    shares = [sink.taken() for sink in sinks]
    say(", ".join(f"{latency} {share / len(deliveries):.1%}" for latency, share in zip(LATENCIES, shares))
        + f" of {MESSAGES}; {twice} twice; the 5 ms one took {shares[1] - before} after its restart")
    assert shares[1] > before, "the restarted upstream got nothing"
    assert shares[0] > shares[2] * 2 and shares[2] > 0, shares


def test_shares_in_peace(lane, lane_sink, say):
    """The slow one's share is small but never nothing, and goes with its speed."""
    sinks = [lane_sink("--latency", latency) for latency in LATENCIES]
    server = lane(sinks, shards=1)
    start = time.monotonic()
    assert_clean(smtp_source(server.port, MESSAGES, 1024))
    seconds = time.monotonic() - start
    server.stop()
    shares = [sink.taken() for sink in sinks]
    say(", ".join(f"{latency} {share / MESSAGES:.1%}" for latency, share in zip(LATENCIES, shares))
        + f" of {MESSAGES} at {MESSAGES / seconds:.0f} a second")
    assert sum(shares) == MESSAGES
    assert shares[0] > shares[1] > shares[2] > 0, shares
    assert shares[2] < MESSAGES / 5, shares
