"""Reload: all or nothing, and no client, message or octet of memory pays for it."""

import random
import re
import signal
import socket
import threading
import time

import pytest

from lab.live import Live, text_of
from lab.ports import free_port, is_listening, wait_until
from lab.source import smtp_source
from lab.wire import Wire

QUICK = '[pool.health]\ninterval = "200ms"\nslow_start = "0s"\n'


def small(live, upstreams, **more):
    return text_of(live, {"farm": (QUICK, upstreams)}, **more)


@pytest.fixture
def pair(directory, recorder):
    """A Live with one upstream, and that upstream; and another one in reserve."""
    first, second = recorder(), recorder()
    live = Live(directory, lambda live: small(live, {"one": first.port}))
    yield live, first, second
    live.stop()


def test_what_changes_is_said_and_in_force(pair):
    live, first, second = pair
    extra = free_port()
    listener = f'max_message = "2MiB"\n[[listener]]\nname = "extra"\naddress = "127.0.0.1:{extra}"\n'
    with Wire(live.port) as before:
        done = live.reload(small(live, {"two": second.port}, listener=listener))
        assert done.returncode == 0, done
        for line in (
            f"+ listener extra: address 127.0.0.1:{extra}",
            "~ listener in: max_message: 25MiB → 2MiB",
            f"+ pool farm: upstream two 127.0.0.1:{second.port}: weight: 1",
            f"- pool farm: upstream one 127.0.0.1:{first.port}: weight: 1",
            "reloaded",
        ):
            assert line in done.stdout.splitlines(), done.stdout
        before.try_message(b"Subject: a session from before\r\n\r\nx\r\n").is_(250)
    assert first.mails() == [] and len(second.mails()) == 1
    with Wire(extra) as wire:
        wire.try_message(b"Subject: by the new listener\r\n\r\nx\r\n").is_(250)
    with Wire(live.port) as wire:
        assert "SIZE 2097152" in wire.hello.lines
        assert live.reload(small(live, {"two": second.port})).returncode == 0
        wait_until(lambda: not is_listening(extra), 5, "the listener closed")
        wire.try_message(b"Subject: still here\r\n\r\nx\r\n").is_(250)
    assert live.reload(small(live, {"two": second.port})).stdout == "nothing has changed\n"


def test_unchanged_upstreams_keep_their_links(pair):
    live, first, second = pair
    with Wire(live.port) as wire:
        wire.try_message(b"x\r\n").is_(250)
        opened = links_opened(live, "one")
        assert live.reload(small(live, {"one": (first.port, 3), "two": second.port})).returncode == 0
        for _ in range(10):
            wire.try_message(b"x\r\n").is_(250)
    assert links_opened(live, "one") - opened <= 1
    assert live.upstream("one")["weight"] == 3


def links_opened(live, name):
    return int(re.search(rf'links_opened_total{{pool="farm",upstream="{name}"}} (\d+)', live.get("/metrics"))[1])


def test_a_broken_file_changes_nothing(pair):
    live, first, _ = pair
    good = live.config.read_text()
    done = live.reload(good.replace('name = "farm"', 'name = "farm"\nbalance = "fastest"'))
    line = good.splitlines().index('name = "farm"') + 2
    assert done.returncode == 78, done
    assert f"{live.config}:{line}:11: `balance` cannot be" in done.stderr
    assert f"{live.config}:{line}:11: `balance` cannot be" in live.said()
    with socket_taken() as port:
        text = small(live, {"one": first.port}, listener=f'[[listener]]\nname = "x"\naddress = "127.0.0.1:{port}"\n')
        done = live.reload(text)
        assert done.returncode == 71 and str(port) in done.stderr and "in use" in done.stderr, done
    for key, text in [("shards", good.replace("shards = 2", "shards = 1")), ("hostname", good.replace("lane.test", "b.test"))]:
        done = live.reload(text)
        assert done.returncode == 78 and f"only a restart can change {key}" in done.stderr, done
    done = live.reload(good.replace('name = "farm"', 'name = "farm"\nlinks_per_shard = 1024'))
    assert done.returncode == 78 and "links_per_shard" in done.stderr, done
    assert live.status()["edition"] == 0
    with Wire(live.port) as wire:
        wire.try_message(b"x\r\n").is_(250)


def socket_taken():
    server = socket.create_server(("127.0.0.1", 0))

    class Taken:
        def __enter__(self):
            return server.getsockname()[1]

        def __exit__(self, *_):
            server.close()

    return Taken()


def test_hangup_and_what_is_under_way(pair):
    """HUP takes the only upstream away while it holds a message: that one is finished there, the next goes elsewhere."""
    live, first, second = pair
    first.rules.delay = 1.0
    with Wire(live.port) as wire:
        wire.envelope()
        wire.command("DATA").is_(354)
        wire.send(b"Subject: held\r\n\r\nx\r\n.\r\n")
        wait_until(lambda: first.dots == 1, 5, "the message at the upstream")
        live.config.write_text(small(live, {"two": second.port}))
        live.process.signal(signal.SIGHUP)
        wait_until(lambda: live.status()["edition"] == 1, 5, "the reload", step=0.02)
        assert [u["state"] for p in live.status()["pools"] for u in p["upstreams"] if u["name"] == "one"] == ["leaving"]
        wire.read().is_(250)
        wire.try_message(b"x\r\n").is_(250)
    assert (len(first.mails()), len(second.mails())) == (1, 1)
    wait_until(lambda: "leaving" not in str(live.status()), 5, "nothing left of it")


def test_systemd_is_told(directory, recorder, monkeypatch):
    """Type=notify-reload: RELOADING with the monotonic time, then READY, for good and for broken files."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        path = directory / "notify"
        notify.bind(str(path))
        notify.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        upstream = recorder()
        live = Live(directory, lambda live: small(live, {"one": upstream.port}))
        told = lambda: dict(line.split("=", 1) for line in notify.recv(4096).decode().splitlines())
        try:
            assert told()["READY"] == "1"
            for text in (small(live, {"two": upstream.port}), "broken ="):
                live.config.write_text(text)
                before = time.monotonic_ns() // 1000
                live.process.signal(signal.SIGHUP)
                first = told()
                assert first["RELOADING"] == "1" and before <= int(first["MONOTONIC_USEC"]) <= before + 5_000_000
                assert told()["READY"] == "1"
            assert [u["name"] for u in live.status()["pools"][0]["upstreams"] if u["state"] == "up"] == ["two"]
        finally:
            live.stop()
        assert told()["STOPPING"] == "1"


def test_pools_and_routes(pair, recorder):
    """A pool is replaced by another under routes; orders by an operator outlive it."""
    live, first, second = pair
    third = recorder()
    live.command("drain", "farm/one")
    pools = {
        "farm": (QUICK, {"one": first.port, "two": second.port}),
        "bulk": (QUICK, {"three": third.port}),
    }
    route = '[[route]]\nrecipient_domain = "bulk.test"\npool = "bulk"\n'
    assert live.reload(text_of(live, pools, routes=route)).returncode == 0
    assert live.upstream("one")["state"] == "draining"
    with Wire(live.port) as wire:
        wire.try_message(b"x\r\n", recipients=["a@bulk.test", "a@sink.test"]).is_(250)
        assert (len(first.mails()), len(second.mails()), len(third.mails())) == (0, 1, 1)
        del pools["farm"]
        assert live.reload(text_of(live, pools, routes=route)).returncode == 0
        wire.try_message(b"x\r\n").is_(250)
    assert len(third.mails()) == 2
    # Nothing is left of the pool that went, its idle links included.
    wait_until(lambda: [pool["name"] for pool in live.status()["pools"]] == ["bulk"], 40, "the pool is gone", step=0.2)


class Chance:
    """Configurations at random, valid and broken."""

    BROKEN = ["balance = 'fastest'\n", "[[route]]\npool = 'nowhere'\n", "colour = 1\n", "x = [\n", "shards = 7\n"]

    def __init__(self, seed, live, ports, spare):
        self.random, self.live, self.ports, self.spare = random.Random(seed), live, ports, spare

    def text(self):
        """A configuration, and whether it is to be refused."""
        pick = self.random
        pools = {}
        for name in ["farm", *pick.sample(["bulk", "slow", "last"], pick.randint(0, 3))]:
            names = pick.sample(range(len(self.ports)), pick.randint(1, len(self.ports)))
            keys = f'balance = "{pick.choice(["least-response-time", "round-robin", "random", "recipient-hash"])}"\n'
            keys += f"links_per_shard = {pick.randint(2, 8)}\nattempts = {pick.randint(2, 4)}\n"
            pools[name] = (keys + QUICK, {f"mta{n}": (self.ports[n], pick.randint(1, 9)) for n in names})
        order = list(pools)
        pick.shuffle(order)
        routes = "".join(
            f'[[route]]\nrecipient_domain = ["{pick.randint(0, 9)}.test", "sink.test"]\npool = "{name}"\n'
            for name in order[: pick.randint(0, len(order))]
        )
        listener = f'max_message = "{pick.randint(1, 9)}MiB"\n'
        if pick.random() < 0.4:
            listener += f'[[listener]]\nname = "extra"\naddress = "127.0.0.1:{self.spare}"\n'
        text = text_of(self.live, {name: pools[name] for name in order}, routes=routes, listener=listener)
        is_broken = pick.random() < 0.3
        if is_broken:
            text = text.replace("[delivery]", pick.choice(self.BROKEN) + "[delivery]")
        return text, is_broken


@pytest.mark.timeout(1200)
def test_many_reloads_under_load(directory, smtp_sink, say, request):
    reloads = request.config.getoption("--reloads")
    sinks = [smtp_sink() for _ in range(4)]
    live = Live(directory, lambda live: small(live, {"mta0": sinks[0].port}))
    seed = request.config.getoption("--seed") or random.randrange(1 << 32)
    chance = Chance(seed, live, [sink.port for sink in sinks], free_port())
    load = Load(live.port)
    try:
        load.start()
        outcomes = {0: 0, 78: 0}
        resident = []
        for n in range(reloads):
            text, is_broken = chance.text()
            done = live.reload(text)
            assert done.returncode == (78 if is_broken else 0), f"seed {seed}, reload {n}: {done}\n{text}"
            outcomes[done.returncode] += 1
            if n % 10 == 9:
                resident.append(live.resident_kib())
        load.finish()
        live.stop()
    finally:
        live.process.kill()
        load.stopping = True
    assert not load.complaints, f"seed {seed}: {load.complaints[:3]}"
    got = {}
    for sink in sinks:
        for delivery in sink.deliveries():
            got[delivery.message_id] = got.get(delivery.message_id, 0) + 1
    assert len(got) == load.sent, f"seed {seed}: {load.sent} were acknowledged, {len(got)} arrived"
    assert max(got.values()) == 1, f"seed {seed}: a message arrived twice"
    half = len(resident) // 2
    growth = max(resident[half:]) - max(resident[: half + 1])
    say(f"seed {seed}: {outcomes[0]} reloads applied, {outcomes[78]} refused; {load.sent} messages; "
        f"resident {resident[0]} → {resident[-1]} KiB")
    assert growth < 8 * 1024, f"seed {seed}: resident memory grows: {resident}"


class Load(threading.Thread):
    """smtp-source again and again, each with subjects of its own."""

    BATCH = 2_000

    def __init__(self, port):
        super().__init__()
        self.port, self.sent, self.complaints, self.stopping = port, 0, [], False

    def run(self):
        while not self.stopping:
            reuse = self.sent % (2 * self.BATCH) == 0
            done = smtp_source(self.port, self.BATCH, 2048, sessions=16, reuse=reuse)
            if done.returncode or done.stdout.strip() or done.stderr.strip():
                self.complaints.append(done.stdout + done.stderr)
                return
            self.sent += self.BATCH

    def finish(self):
        deadline = time.monotonic() + 60
        self.stopping = True
        self.join(deadline - time.monotonic())
        assert not self.is_alive(), "smtp-source does not end"
