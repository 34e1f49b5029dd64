"""Clients past the kernel: real ones at the far end of a veth, and the mail goes back there. Skipped where bypass is."""

import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from lab.network import FAR, NEAR
from lab.ports import free_port, wait_until
from lab.programs import need, run
from lab.source import assert_clean, smtp_source
from test_bypass import XDP, bypass, far_sink, network  # noqa: F401 (fixtures)

SESSIONS = 2_000


@pytest.fixture
def ingress(network, bypass, smtp_sink):
    """ingress(**options) → Postlane that listens at the near end, and the far sink behind it."""

    def start(**options):
        sink = far_sink(network, smtp_sink)
        admin = f"127.0.0.1:{free_port()}"
        options = {
            "top": {**XDP["top"], "admin.listen": admin},
            "also": [NEAR],
            "listener": {"trusted": ["127.0.0.0/8", "10.66.0.0/24"], "backend": "xdp"},
            **options,
        }
        server = bypass([f"{FAR}:{sink.port}"], **options)
        server.admin = admin
        return server, sink

    return start


def metric(server, name):
    text = urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=10).read().decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:[,}}].*)? (\S+)$", text, re.M))


def received(server):
    return metric(server, 'postlane_bypass_segments_total{shard="0",kind="received"}')


def from_far(network, server, *args, **kwargs):
    with network.far():
        return smtp_source(server.port, *args, to=NEAR, **kwargs)


@pytest.mark.parametrize("size", [1_024, 10_240, 102_400])
def test_mail_of_far_clients_arrives_whole(network, ingress, size):
    server, sink = ingress(shards=2)
    assert f"in ({NEAR}:{server.port})" in server.process.output()
    messages = 1_000 if size < 50_000 else 200
    assert_clean(from_far(network, server, messages, size, sessions=32))
    deliveries = sink.deliveries()
    assert len({delivery.recipients for delivery in deliveries}) == len(deliveries) == messages
    assert len({len(delivery.body) for delivery in deliveries}) <= 2, "all of one size"


def test_both_kinds_of_clients_at_once(network, ingress):
    server, sink = ingress()
    results = []

    def near():
        results.append(smtp_source(server.port, 500, 2_000, sessions=8, sender="near@source.test"))

    source = threading.Thread(target=near)
    source.start()
    before = received(server)
    assert_clean(from_far(network, server, 500, 2_000, sessions=8))
    source.join(120)
    assert_clean(results[0])
    assert len(sink.deliveries()) == 1_000
    # MAIL, RCPT, DATA and the message, each answered.
    wait_until(lambda: received(server) - before >= 4 * 500, 10, "all are counted")


def test_a_session_for_each_message(network, ingress):
    server, sink = ingress(shards=2)
    assert_clean(from_far(network, server, 1_000, 1_024, sessions=16, reuse=False))
    assert len(sink.deliveries()) == 1_000


def test_swaks(network, ingress):
    server, sink = ingress()
    with network.far():
        done = run(
            need("swaks"), "--server", NEAR, "--port", server.port, "--ehlo", "swaks.test",
            "--from", "a@source.test", "--to", "b@sink.test", "--pipeline", "--body", "past the kernel",
            timeout=30,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    [delivery] = sink.deliveries()
    assert b"past the kernel" in delivery.body and f"[{FAR}]" in delivery.received


@pytest.mark.parametrize("percent", [1, 3])
def test_lost_packets_lose_no_mail(network, ingress, say, percent):
    """After a loss the far kernel may choose another queue for a session: its segments still find their shard."""
    server, sink = ingress(shards=2)
    network.lose(percent)
    assert_clean(from_far(network, server, 500, 10_240, sessions=16))
    assert len({delivery.recipients for delivery in sink.deliveries()}) == 500
    passed_on = sum(metric(server, f'postlane_bypass_segments_total{{shard="{n}",kind="handed_over"}}') for n in (0, 1))
    say(f"{passed_on:.0f} segments came by another shard's queue")


def far_source(network, server, sessions, messages):
    """smtp-source under way at the far end."""
    command = [need("smtp-source"), "-4", "-N", "-d", "-s", sessions, "-m", messages, "-l", 4_000]
    command += ["-f", "s@source.test", "-t", "rcpt@sink.test", "-M", "source.test", f"{NEAR}:{server.port}"]
    with network.far():
        return subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE)


def test_an_interface_that_goes_and_comes_keeps_sessions(network, ingress):
    server, sink = ingress()
    source = far_source(network, server, 8, 2_000)
    wait_until(lambda: sink.dump.exists() and sink.dump.stat().st_size > 400_000, 30, "mail arrives")
    network.set_link("down")
    time.sleep(0.5)
    network.set_link("up")
    assert source.wait(120) == 0, source.stderr.read()
    assert len({delivery.recipients for delivery in sink.deliveries()}) == 2_000


def test_a_client_that_is_killed_leaves_nothing(network, ingress):
    server, sink = ingress()
    client = far_source(network, server, 32, 100_000)
    wait_until(lambda: sink.dump.exists() and sink.dump.stat().st_size > 400_000, 30, "mail arrives")
    assert metric(server, "postlane_sessions{listener=\"in\"") >= 1
    client.send_signal(signal.SIGKILL)
    client.wait(10)
    wait_until(lambda: metric(server, "postlane_sessions{listener=\"in\"") == 0, 10, "its sessions have ended")
    assert_clean(from_far(network, server, 50, 1_000, sessions=4))


def test_a_listener_can_be_kept_to_the_kernel(network, ingress):
    server, sink = ingress(listener={"trusted": ["127.0.0.0/8", "10.66.0.0/24"]})
    assert f"in ({NEAR}" not in server.process.output()
    with network.far():
        assert_clean(smtp_source(server.port, 100, 1_000, sessions=4, to=NEAR))
    # Of the links only: the commands' and the message's replies.
    assert received(server) < 4 * 100 + 200
    assert len(sink.deliveries()) == 100


def test_thousands_of_sessions_cost_little(network, ingress, say):
    """Connected, greeted and silent: what each of them takes of memory."""
    server, sink = ingress()
    resident = lambda: int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[1])
    sockets = []
    with network.far():
        for number in range(SESSIONS):
            if number == SESSIONS // 4:
                before = resident()
            sockets.append(socket.create_connection((NEAR, server.port), timeout=20))
    for client in sockets:
        assert client.recv(100).startswith(b"220 ")
    taken = (resident() - before) * 1_024 / (SESSIONS - SESSIONS // 4)
    say(f"{taken:.0f} bytes resident for each of {SESSIONS} silent sessions")
    assert taken < 16_384
    for client in sockets:
        client.sendall(b"QUIT\r\n")
    for client in sockets:
        assert client.recv(100).startswith(b"221 ")
        client.close()
    wait_until(lambda: metric(server, "postlane_sessions{listener=\"in\"") == 0, 10, "all have ended")


def test_killed_and_started_again(network, ingress):
    for life in (1, 2):
        server, sink = ingress()
        assert_clean(from_far(network, server, 100, 2_000, sessions=4))
        assert len(sink.deliveries()) == 100
        server.process.signal(signal.SIGKILL)
        server.process.wait(10)
        server.stopped = True
        wait_until(lambda: not network.program(), 10, "the program is gone with the process")
