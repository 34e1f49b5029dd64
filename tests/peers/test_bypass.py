"""Kernel bypass: real peers behind a veth, in network namespaces of their own. Skipped, and said, where there can be none."""

import re
import signal
import subprocess
import threading
import time
import urllib.request

import pytest

from lab.network import FAR, FAR6, INTERFACE, NEAR, Network
from lab.ports import free_port, is_listening, wait_until
from lab.programs import POSTLANE, need, postlane, run
from lab.server import config_text
from lab.source import assert_clean, smtp_source

XDP = {"top": {"backend": "xdp"}, "xdp": {"interface": INTERFACE}}


@pytest.fixture
def network():
    network = Network()
    yield network
    network.stop()


@pytest.fixture
def bypass(lane):
    """bypass(addresses, **options) → Postlane that reaches them past the kernel, or the test is skipped, saying why."""

    def start(upstreams, **options):
        options = {"pool": {"links_per_shard": 8}, **XDP, **options}
        try:
            server = lane(upstreams, **options)
        except AssertionError as error:
            words = str(error)
            if "exit 71" in words and ("needs privileges" in words or "has no AF_XDP" in words):
                pytest.skip(words.strip().splitlines()[-1])
            raise
        said = lambda: f"upstreams by AF_XDP on {INTERFACE}" in server.process.output()
        wait_until(said, 5, "it says that it bypasses the kernel")
        return server

    return start


def far_sink(network, smtp_sink, *options, host=FAR, **kwargs):
    with network.far():
        return smtp_sink(*options, host=host, **kwargs)


def digests(deliveries):
    return sorted(delivery.body_digest for delivery in deliveries)


@pytest.mark.parametrize("size", [256, 1_024, 10_240, 102_400])
def test_mail_arrives_whole(network, smtp_sink, bypass, size):
    sinks = [far_sink(network, smtp_sink) for _ in range(2)]
    server = bypass([f"{FAR}:{sink.port}" for sink in sinks], shards=2)
    messages = 2_000 if size < 50_000 else 400
    assert_clean(smtp_source(server.port, messages, size, sessions=32))
    deliveries = [delivery for sink in sinks for delivery in sink.deliveries()]
    assert len(deliveries) == messages
    recipients = sorted(delivery.recipients for delivery in deliveries)
    assert len(set(recipients)) == messages, "each once"
    assert len({len(delivery.body) for delivery in deliveries}) <= 2, "all of one size"
    assert network.program()


def test_ipv6(network, smtp_sink, bypass):
    sink = far_sink(network, smtp_sink, host=FAR6)
    server = bypass([f"[{FAR6}]:{sink.port}"])
    assert_clean(smtp_source(server.port, 500, 5_000, sessions=8))
    assert len(sink.deliveries()) == 500


@pytest.mark.parametrize("percent", [0.1, 1, 3])
def test_lost_packets_lose_no_mail(network, smtp_sink, bypass, lane, say, percent):
    """The same through the kernel's TCP is measured beside it."""
    sinks = [far_sink(network, smtp_sink) for _ in range(2)]
    servers = {
        "AF_XDP": bypass([f"{FAR}:{sinks[0].port}"]),
        "io_uring": lane([f"{FAR}:{sinks[1].port}"], pool={"links_per_shard": 8}),
    }
    network.lose(percent)
    seconds = {}
    for (name, server), sink in zip(servers.items(), sinks):
        begun = time.monotonic()
        assert_clean(smtp_source(server.port, 1_000, 10_240, sessions=16))
        seconds[name] = time.monotonic() - begun
        deliveries = sink.deliveries()
        assert len({delivery.recipients for delivery in deliveries}) == 1_000
        assert len(deliveries) == 1_000, "none twice: nothing was in doubt"
    took = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    say(f"1000 messages of 10 KiB on 8 links at {percent} % loss, both ways: {took}")


def test_a_link_that_goes_and_comes_loses_no_mail(network, smtp_sink, bypass):
    sink = far_sink(network, smtp_sink)
    server = bypass([f"{FAR}:{sink.port}"])
    results = []
    source = threading.Thread(target=lambda: results.append(smtp_source(server.port, 3_000, 4_000, sessions=8)))
    source.start()
    wait_until(lambda: sink.dump.exists() and sink.dump.stat().st_size > 400_000, 30, "mail arrives")
    network.set_link("down")
    time.sleep(0.5)
    network.set_link("up")
    source.join(120)
    assert_clean(results[0])
    assert len({delivery.recipients for delivery in sink.deliveries()}) == 3_000


def test_an_upstream_that_dies_is_passed_by(network, smtp_sink, lane_sink, bypass):
    with network.far():
        dying = smtp_sink(host=FAR)
        other = smtp_sink(host=FAR)
    server = bypass(
        [f"{FAR}:{dying.port}", f"{FAR}:{other.port}"], pool={"links_per_shard": 8, "balance": "round-robin"}
    )
    results = []
    source = threading.Thread(target=lambda: results.append(smtp_source(server.port, 3_000, 4_000, sessions=8)))
    source.start()
    wait_until(lambda: dying.dump.exists() and dying.dump.stat().st_size > 400_000, 30, "mail arrives")
    dying.process.kill()
    source.join(120)
    assert_clean(results[0])
    arrived = {delivery.recipients for sink in (dying, other) for delivery in sink.deliveries()}
    # What the dying one had taken and not written to its dump, nobody knows.
    assert len(arrived) >= 2_990, len(arrived)


def test_killed_and_started_again(network, smtp_sink, bypass, directory):
    sink = far_sink(network, smtp_sink)
    for life in (1, 2, 3):
        server = bypass([f"{FAR}:{sink.port}"])
        assert_clean(smtp_source(server.port, 200, 2_000, sessions=4))
        assert len(sink.deliveries()) == 200 * life
        assert network.program()
        server.process.signal(signal.SIGKILL)
        server.process.wait(10)
        server.stopped = True
        wait_until(lambda: not network.program(), 10, "the program is gone with the process")


def test_an_orderly_end_leaves_nothing(network, smtp_sink, bypass):
    sink = far_sink(network, smtp_sink)
    server = bypass([f"{FAR}:{sink.port}"])
    assert_clean(smtp_source(server.port, 50, 2_000, sessions=4))
    server.stop()
    wait_until(lambda: not network.program(), 5, "the program is gone")
    with network.far():
        states = subprocess.run(["ss", "-Htn"], capture_output=True, text=True).stdout
    assert f":{sink.port}" not in states, f"the upstream still has connections:\n{states}"


def test_the_kernel_keeps_what_is_its_own(network, smtp_sink, bypass):
    """Its own TCP over the same interface goes on, and so does the asking for neighbours."""
    sink = far_sink(network, smtp_sink)
    server = bypass([f"{FAR}:{sink.port}"])
    assert_clean(smtp_source(server.port, 50, 2_000, sessions=4))
    assert_clean(smtp_source(sink.port, 50, 2_000, sessions=4, to=FAR))
    with network.far():
        neighbours = subprocess.run(["ip", "neigh"], capture_output=True, text=True).stdout
    assert f"{NEAR} dev" in neighbours and "FAILED" not in neighbours, neighbours
    assert len(sink.deliveries()) == 100


def test_response_times_count_from_the_last_byte(network, lane_sink, bypass):
    """The reply brings the acknowledgement of what it answers: that must not hide how long it took."""
    with network.far():
        sink = lane_sink("--latency", "20ms", "--no", "chunking", host=FAR)
    admin = f"127.0.0.1:{free_port()}"
    server = bypass([f"{FAR}:{sink.port}"], top={**XDP["top"], "admin.listen": admin})
    assert_clean(smtp_source(server.port, 100, 256, sessions=1))
    assert "copy mode, frames on " in postlane("status", "--admin", f"http://{admin}").stdout
    metrics = urllib.request.urlopen(f"http://{admin}/metrics", timeout=10).read().decode()
    name = 'postlane_upstream_response_seconds_{}{{pool="farm",upstream="mta1",stage="eod"}} (\\S+)'
    total, count = (float(re.search(name.format(of), metrics)[1]) for of in ("sum", "count"))
    assert count == 100 and 0.02 <= total / count < 0.2, (total, count)


def test_what_is_refused_is_said(network, directory):
    def serve(**xdp):
        config = directory / "refused.toml"
        config.write_text(config_text(free_port(), [25], top={"backend": "xdp"}, xdp=xdp))
        return postlane("serve", "--config", config)

    none = serve(interface="eth77")
    assert none.returncode == 71 and "there is no interface `eth77`" in none.stderr, none.stderr
    zero_copy = serve(interface=INTERFACE, mode="zero-copy")
    assert zero_copy.returncode == 71 and 'write `mode = "auto"`' in zero_copy.stderr, zero_copy.stderr
    ports = serve(interface=INTERFACE, ports="40000-40999")
    assert ports.returncode == 71 and "ip_local_reserved_ports" in ports.stderr, ports.stderr


def test_without_privileges_it_says_what_it_needs_or_falls_back(network, directory, smtp_sink, lane):
    config = directory / "bare.toml"
    config.write_text(config_text(free_port(), [25], **XDP))
    bare = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    done = subprocess.run(
        [*bare, str(POSTLANE), "serve", "--config", str(config)], capture_output=True, text=True, timeout=30
    )
    if "setpriv" in done.stderr:
        pytest.skip(f"setpriv cannot take privileges away: {done.stderr.strip()}")
    assert done.returncode == 71 and "CAP_NET_ADMIN" in done.stderr, done.stderr
    # With `fallback` an interface that refuses is no reason not to serve.
    sink = far_sink(network, smtp_sink)
    server = lane([f"{FAR}:{sink.port}"], **{**XDP, "xdp": {"interface": "eth77", "fallback": True}})
    assert "everything goes by the kernel" in server.process.output()
    assert_clean(smtp_source(server.port, 20, 1_000, sessions=2))
    assert len(sink.deliveries()) == 20


class TestPostfix:
    """A real Postfix at the far end: smtpd, and everything it takes is discarded and logged."""

    @pytest.fixture
    def postfix(self, network, directory):
        need("postfix")
        home = directory / "postfix"
        config, queue, data = home / "etc", home / "queue", home / "data"
        for path in (config, queue, data):
            path.mkdir(parents=True)
        subprocess.run(["chown", "postfix", str(data)], check=True, timeout=10)
        for path in (directory, home):
            path.chmod(0o755)
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": queue,
            "data_directory": data,
            "maillog_file": home / "mail.log",
            "maillog_file_prefixes": home,
            "inet_interfaces": FAR,
            "inet_protocols": "ipv4",
            "myhostname": "far.test",
            "mydestination": "",
            "mynetworks": "10.66.0.0/24",
            "default_transport": "discard:",
            "smtputf8_enable": "no",
            "smtpd_peername_lookup": "no",
        }
        (config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        services = [
            "2525 inet n - n - - smtpd",
            "pickup unix n - n 60 1 pickup",
            "cleanup unix n - n - 0 cleanup",
            "qmgr unix n - n 300 1 qmgr",
            "rewrite unix - - n - - trivial-rewrite",
            "bounce unix - - n - 0 bounce",
            "defer unix - - n - 0 bounce",
            "error unix - - n - - error",
            "discard unix - - n - - discard",
            "proxymap unix - - n - - proxymap",
            "anvil unix - - n - 1 anvil",
            "postlog unix-dgram n - n - 1 postlogd",
        ]
        (config / "master.cf").write_text("".join(f"{line}\n" for line in services))
        with network.far():
            started = run("postfix", "-c", config, "start")
            if started.returncode:
                pytest.skip(f"Postfix does not start here: {started.stdout}{started.stderr}")
            try:
                wait_until(lambda: is_listening(2525, FAR), 15, "Postfix listens")
            except AssertionError as error:
                run("postfix", "-c", config, "stop")
                pytest.skip(f"{error}: {(home / 'mail.log').read_text() if (home / 'mail.log').exists() else ''}")
        yield home / "mail.log"
        with network.far():
            run("postfix", "-c", config, "stop")
            wait_until(lambda: not is_listening(2525, FAR), 15, "Postfix has stopped")

    def test_takes_what_was_sent_once(self, postfix, bypass):
        server = bypass([f"{FAR}:2525"], pool={"links_per_shard": 4})
        assert_clean(smtp_source(server.port, 200, 5_000, sessions=8))
        taken = lambda: set(re.findall(r"to=<(\d+rcpt@sink\.test)>.*status=sent", postfix.read_text()))
        wait_until(lambda: len(taken()) == 200, 30, "Postfix has logged them all")
        lines = re.findall(r"to=<\d+rcpt@sink\.test>.*status=sent", postfix.read_text())
        assert len(lines) == 200, "each once"
