"""Three upstreams of 1, 5 and 50 ms; the middle one is killed and restarted under load."""

import threading
import time

from lab.ports import wait_until
from lab.source import assert_clean, smtp_source

LATENCIES = ("1ms", "5ms", "50ms")
MESSAGES = 20_000


class Load(threading.Thread):
    """smtp-source runs of 20,000 messages one after another, until told that this one is the last."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.last = threading.Event()
        self.finished = []

    def run(self):
        while not self.last.is_set():
            sender = f"run{len(self.finished)}@source.test"
            self.finished.append(smtp_source(self.port, MESSAGES, 10 * 1024, sender=sender))
            if self.finished[-1].returncode:
                return


def test_shares_and_a_crash(lane, lane_sink, say):
    sinks = [lane_sink("--latency", latency) for latency in LATENCIES]
    victim = sinks[1]
    server = lane(sinks, shards=2)
    taken = lambda: sum(sink.taken() for sink in sinks)

    load = Load(server.port)
    load.start()
    try:
        wait_until(lambda: taken() > MESSAGES / 5, 60, "a fifth of the load", step=0.05)
        victim.kill()
        before, at_kill = victim.taken(), taken()
        wait_until(lambda: taken() > at_kill + MESSAGES / 5, 60, "load while one is down", step=0.05)
        victim.start()
        restarted = time.monotonic()
        # The longest a first ejection lasts is 10 s (eject_for), and probation after it one more message.
        wait_until(lambda: victim.taken() > before + 100, 45, "the restarted upstream takes mail again", step=0.05)
        back = time.monotonic() - restarted
    finally:
        load.last.set()
        load.join(120)
    assert not load.is_alive(), "smtp-source does not end"
    for finished in load.finished:
        assert_clean(finished)
    server.stop()

    messages = MESSAGES * len(load.finished)
    deliveries = [delivery for sink in sinks for delivery in sink.deliveries()]
    reached = {(delivery["from"], *delivery["to"]) for delivery in deliveries}
    assert len(reached) == messages, f"{messages - len(reached)} messages are nowhere"
    # At least once: what was in doubt when the link was cut may be twice, at most what was in flight.
    twice = len(deliveries) - messages
    assert 0 <= twice <= 16, f"{twice} messages arrived twice"
    shares = [sink.taken() for sink in sinks]
    say(", ".join(f"{latency} {share / len(deliveries):.1%}" for latency, share in zip(LATENCIES, shares))
        + f" of {messages}; {twice} twice; the 5 ms one was back {back:.1f} s after its restart")
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
