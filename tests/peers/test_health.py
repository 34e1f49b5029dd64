"""Probes, orders for one upstream, pressure: what is shown, and where mail goes."""

import json
import signal
import smtplib
import socket
import threading
import time
import urllib.error
import urllib.request

from lab.live import Live, text_of
from lab.ports import free_port, wait_until
from lab.programs import postlane
from lab.scripted import ScriptedUpstream

QUICK = '[pool.health]\ninterval = "100ms"\nslow_start = "0s"\n'


def deliver(live, count):
    with smtplib.SMTP("127.0.0.1", live.port, timeout=10) as client:
        for n in range(count):
            client.sendmail("me@x.test", [f"{n}@y.test"], b"Subject: x\r\n\r\nx\r\n")


def deliver_until_called(live, name, shards):
    """Mail flows until every shard has a link to it: one that is back is called by each at its own moment."""

    def called():
        deliver(live, 20)
        return live.upstream(name)["links_idle"] == shards

    wait_until(called, 5, f"{name} called by all shards")


def test_probes_take_down_and_bring_up(directory, lane_sink, recorder):
    victim, other = lane_sink(), recorder()
    keys = f'balance = "round-robin"\n{QUICK}'
    live = Live(directory, lambda live: text_of(live, {"farm": (keys, {"victim": victim.port, "other": other.port})}))
    try:
        assert live.upstream("victim")["state"] == "up", "up from the start"
        wait_until(lambda: live.upstream("victim")["probes_good"] >= 3, 10, "probes")
        victim.kill()
        live.wait_for("victim", "down")
        down = live.upstream("victim")
        assert "3 probes in a row failed" in down["why"] and "refused" in down["why"], down
        deliver(live, 20)
        assert len(other.mails()) == 20
        assert live.upstream("victim")["failures"]["open"] == 0, "no mail was sent there to find out"
        assert f"upstream farm/victim: up → down: {down['why']}" in live.said()
        metrics = live.get("/metrics")
        assert 'postlane_upstream_healthy{pool="farm",upstream="victim"} 0' in metrics
        victim.start()
        live.wait_for("victim", "up")
        assert "2 probes in a row went well" in live.upstream("victim")["why"]
        assert live.upstream("victim")["since"] > down["since"]
        deliver_until_called(live, "victim", shards=2)
        before = victim.taken()
        deliver(live, 20)
        assert 8 <= victim.taken() - before <= 12
    finally:
        live.stop()


def silent_server():
    """Accepts and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        try:
            while True:
                held.append(server.accept()[0])
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    return server


def test_what_a_probe_wants(directory, recorder):
    """One that accepts and is silent is down for `smtp`, up for `tcp`; with `off` nobody looks."""
    with silent_server() as server:
        port = server.getsockname()[1]
        pools = {
            probe: (f'connect_timeout = "200ms"\n{QUICK}probe = "{probe}"', {f"u-{probe}": port, "good": recorder().port})
            for probe in ("smtp", "tcp", "off")
        }
        live = Live(directory, lambda live: text_of(live, pools))
        try:
            live.wait_for("u-smtp", "down")
            assert "no answer within 200ms" in live.upstream("u-smtp")["why"]
            wait_until(lambda: live.upstream("u-tcp")["probes_good"] > 5, 10, "tcp probes")
            assert live.upstream("u-tcp")["state"] == "up"
            off = live.upstream("u-off")
            assert (off["state"], off["probes_good"], off["probes_bad"]) == ("up", 0, 0)
        finally:
            live.stop()


def test_a_probe_that_asks_for_a_recipient(directory):
    """One that greets and takes nobody's mail is down, in its own words; alone in its pool it gets mail all the same."""
    upstream = ScriptedUpstream()
    keys = f'{QUICK}probe_sender = "prober@lane.test"\nprobe_recipient = "probe@y.test"'
    live = Live(directory, lambda live: text_of(live, {"farm": (keys, {"a": upstream.port})}))
    try:
        wait_until(lambda: live.upstream("a")["probes_good"] >= 2, 10, "good probes")
        said = upstream.commands[:5]
        assert said == ["EHLO lane.test", "MAIL FROM:<prober@lane.test>", "RCPT TO:<probe@y.test>", "RSET", "QUIT"], said
        upstream.replies[b"RCPT"] = b"451 4.3.1 no space left\r\n"
        live.wait_for("a", "down")
        down = live.upstream("a")
        assert "3 probes in a row failed, the last: it answered RCPT with `451 4.3.1 no space left" in down["why"], down
        wait_until(lambda: live.status()["pools"][0]["panic"], 5, "panic")
        upstream.replies[b"RCPT"] = b"250 2.1.5 ok\r\n"
        live.wait_for("a", "up")
        wait_until(lambda: not live.status()["pools"][0]["panic"], 5, "calm")
        assert upstream.messages == [] and "DATA" not in upstream.commands, "nothing was ever sent"
        said, metrics = live.said(), live.get("/metrics")
        for line in [
            f"upstream farm/a: up → down: {down['why']}",
            "upstream farm/a: down → up: 2 probes in a row went well",
            "pool farm: calm → panic: fewer than 0.3 of its upstreams are healthy, all get mail",
            "pool farm: panic → calm: at least 0.3 of its upstreams are healthy again",
        ]:
            assert line in said, f"{line}\n{said}"
        assert 'postlane_upstream_transitions_total{pool="farm",upstream="a",to="down"} 1\n' in metrics
        assert 'postlane_upstream_transitions_total{pool="farm",upstream="a",to="up"} 1\n' in metrics
        assert 'postlane_pool_transitions_total{pool="farm",what="panic",to="begun"} 1\n' in metrics
        assert 'postlane_pool_panic{pool="farm"} 0\n' in metrics
    finally:
        live.stop()
        upstream.stop()


def test_a_fallback_is_used_and_left_in_words(directory, lane_sink, recorder):
    own, overflow = lane_sink(), recorder()
    pools = {
        "farm": (f'fallback = "overflow"\n{QUICK}', {"a": own.port}),
        "overflow": (QUICK, {"b": overflow.port}),
    }
    live = Live(directory, lambda live: text_of(live, pools))
    farm = lambda: next(pool for pool in live.status()["pools"] if pool["name"] == "farm")
    try:
        deliver(live, 3)
        own.kill()
        live.wait_for("a", "down")
        wait_until(lambda: farm()["fallback"], 5, "the fallback in use")
        deliver(live, 3)
        assert (own.taken(), len(overflow.mails())) == (3, 3)
        shown = postlane("status", "--admin", live.url).stdout
        assert "pool farm: in panic: marks are ignored, its fallback takes its mail" in shown, shown
        own.start()
        live.wait_for("a", "up")
        wait_until(lambda: not farm()["fallback"], 5, "the fallback left")
        deliver(live, 3)
        assert (own.taken(), len(overflow.mails())) == (6, 3)
        said = live.said()
        assert "pool farm: own → fallback: none of its upstreams is healthy, its fallback takes its mail" in said, said
        assert "pool farm: fallback → own: an upstream is healthy again" in said, said
        metrics = live.get("/metrics")
        for to in ("begun", "ended"):
            assert f'postlane_pool_transitions_total{{pool="farm",what="fallback",to="{to}"}} 1\n' in metrics
    finally:
        live.stop()


def test_one_that_is_stopped_holds_nobody_up(directory, lane_sink):
    """SIGSTOP: what would go there goes to the other one after a moment, and soon nothing is tried there at all."""
    # What goes whole by BDAT may have been taken, and waits.
    stopped, other = (lane_sink("--no", "chunking") for _ in range(2))
    keys = f'balance = "round-robin"\n{QUICK}probe = "off"'
    pool = {"farm": (keys, {"a": stopped.port, "b": other.port})}
    live = Live(directory, lambda live: text_of(live, pool, shards=1))
    try:
        deliver(live, 10)
        assert (stopped.taken(), other.taken()) == (5, 5)
        stopped.process.signal(signal.SIGSTOP)
        began = time.monotonic()
        deliver(live, 10)
        took = time.monotonic() - began
        live.wait_for("a", "ejected")
        assert live.upstream("a")["why"] == "it does not answer while the others do (shard 0)"
        assert took < 3, f"{took:.1f} s"
        assert other.taken() == 15 and 2 <= live.upstream("a")["overdue"] <= 5
        stopped.process.signal(signal.SIGCONT)
        live.wait_for("a", "up")
        deliver(live, 10)
        assert stopped.taken() >= 8
        assert live.status()["in_doubt"] == 0
    finally:
        stopped.process.signal(signal.SIGCONT)
        live.stop()


def test_every_transition_is_a_line_and_a_count(directory, recorder):
    """Drained, disabled, enabled; ejected by live mail and back."""
    upstream, other = ScriptedUpstream(), recorder()
    keys = f'balance = "round-robin"\n{QUICK}probe = "off"\neject_after = 2\neject_for = "1s"'
    live = Live(directory, lambda live: text_of(live, {"farm": (keys, {"a": upstream.port, "b": other.port})}, shards=1))
    try:
        for order in ("drain", "disable", "enable"):
            assert live.command(order, "a").returncode == 0
        upstream.replies[b"MAIL"] = b"451 4.3.0 not now\r\n"
        # One that is back is called a moment later, so how much mail it takes to fail twice is not known.
        wait_until(lambda: deliver(live, 2) or live.upstream("a")["ejections"], 10, "an ejection")
        live.wait_for("a", "ejected")
        upstream.replies[b"MAIL"] = b"250 2.1.0 ok\r\n"
        live.wait_for("a", "up")
        wait_until(lambda: deliver(live, 2) or upstream.messages, 10, "mail for it again")
        said, metrics = live.said(), live.get("/metrics")
        for line in [
            "a: up → draining: by an operator",
            "a: draining → disabled: by an operator",
            "a: disabled → up: by an operator",
            "a: up → ejected: live mail failed there again and again (shard 0)",
            "a: ejected → up: its time out is over, live mail tries it",
        ]:
            assert f"postlane: upstream farm/{line}\n" in said, f"{line}\n{said}"
        for state, count in {"draining": 1, "disabled": 1, "ejected": 1, "up": 2, "down": 0}.items():
            line = f'postlane_upstream_transitions_total{{pool="farm",upstream="a",to="{state}"}} {count}\n'
            assert line in metrics, line
        status = live.upstream("b")
        parts = status["estimates_seconds"]
        assert set(parts) == {"connect", "mail", "data", "eod"} and parts["connect"] > 0, status
        assert abs(parts["mail"] + parts["data"] + parts["eod"] - status["estimate_seconds"]) < 1e-3, status
    finally:
        live.stop()
        upstream.stop()


def test_orders(directory, recorder):
    upstreams = {name: recorder() for name in ("a", "b")}
    keys = f'balance = "weighted-round-robin"\n{QUICK}'
    live = Live(
        directory, lambda live: text_of(live, {"farm": (keys, {n: u.port for n, u in upstreams.items()})}, shards=1)
    )
    taken = lambda: {name: len(u.mails()) for name, u in upstreams.items()}
    try:
        deliver(live, 10)
        assert taken() == {"a": 5, "b": 5}
        done = live.command("drain", "a")
        assert done.returncode == 0 and "farm/a is draining" in done.stdout, done
        deliver(live, 10)
        assert taken() == {"a": 5, "b": 15}
        wait_until(lambda: live.upstream("a")["links_idle"] == 0, 5, "its idle links closed")
        assert live.command("disable", "farm/a").stdout == "farm/a is disabled\n"
        probes = live.upstream("a")["probes_good"]
        assert live.command("weight", "farm/a", "4").returncode == 0
        assert live.upstream("a")["probes_good"] <= probes + 1, "a disabled one is left alone"
        assert live.command("enable", "a").stdout == "farm/a is up\n"
        deliver_until_called(live, "a", shards=1)
        before = taken()
        deliver(live, 50)
        assert sum(taken().values()) == sum(before.values()) + 50
        assert 38 <= taken()["a"] - before["a"] <= 42, (before, taken())
        listed = json.loads(live.command("list", "--json").stdout)
        assert [(u["name"], u["weight"], u["state"]) for u in listed[0]["upstreams"]] == [("a", 4, "up"), ("b", 1, "up")]
        # All drained: told at once, not after minutes.
        live.command("drain", "a"), live.command("drain", "b")
        with smtplib.SMTP("127.0.0.1", live.port, timeout=5) as client:
            client.ehlo(), client.mail("me@x.test"), client.rcpt("you@y.test")
            assert client.data(b"x")[0] == 451
    finally:
        live.stop()


def test_orders_that_make_no_sense(directory, recorder):
    live = Live(directory, lambda live: text_of(live, {"farm": ("", {"a": recorder().port})}))
    try:
        for arguments, words in [
            (("drain", "nobody"), "there is no upstream `nobody`"),
            (("drain", "farm/nobody"), "there is no upstream `nobody` in a pool `farm`"),
            (("weight", "farm/a", "0"), "0 is not in 1..=65535"),
        ]:
            done = live.command(*arguments)
            assert done.returncode == 64 and words in done.stderr, done
        done = postlane("upstream", "list", "--admin", f"http://127.0.0.1:{free_port()}")
        assert done.returncode == 69 and "is it running" in done.stderr
    finally:
        live.stop()


def test_orders_over_http(directory, recorder):
    """A page of another origin that a browser has open cannot give orders, nor can whoever lacks the token."""
    token = "s3cret"
    make = lambda live: text_of(live, {"farm": ("", {"a": recorder().port})}).replace("[admin]", f'[admin]\ntoken = "{token}"')
    live = Live(directory, make)

    def post(path, body, **headers):
        request = urllib.request.Request(live.url + path, data=body, headers=headers, method="POST")
        try:
            return urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code

    json_type = {"Content-Type": "application/json"}
    bearer = {"Authorization": f"Bearer {token}"}
    path, drain = "/api/v1/upstreams/farm/a", b'{"order": "drain"}'
    try:
        assert post(path, drain, **json_type) == 401
        assert post("/api/v1/reload", b"", **json_type) == 401
        assert post(path, drain, **bearer) == 415
        assert post(path, drain, **bearer, **{"Content-Type": "text/plain"}) == 415
        assert post(path, b'{"order": "explode"}', **bearer, **json_type) == 400
        assert post(path, b'{"weight": 0}', **bearer, **json_type) == 400
        assert post(path, b"{", **bearer, **json_type) == 400
        assert post("/api/v1/upstreams/farm/b", drain, **bearer, **json_type) == 404
        assert post(path, b" " * 5000, **bearer, **json_type) == 413
        assert post(path, drain, **bearer, **json_type) == 200
        assert postlane("upstream", "list", "--admin", live.url).returncode == 69
        listed = postlane("upstream", "list", "--admin", live.url, "--token", token)
        assert "draining" in listed.stdout and "by an operator" in listed.stdout, listed
    finally:
        live.stop()


def test_pressure_is_not_illness(directory):
    """An upstream that takes two connections and turns the third away with 421 keeps its mail, on fewer links."""
    with FewConnections(most=2) as upstream:
        keys = f'links_per_shard = 8\n{QUICK}probe = "off"'
        live = Live(directory, lambda live: text_of(live, {"farm": (keys, {"a": upstream.port})}, shards=1))
        try:
            deliver(live, 1)
            delivered = []
            clients = [threading.Thread(target=lambda: delivered.append(deliver(live, 20))) for _ in range(8)]
            [client.start() for client in clients], [client.join(30) for client in clients]
            assert len(delivered) == 8, "a client was told of it"
            status = live.upstream("a")
            assert upstream.refused > 0, "it was never asked for too much"
            assert status["pressures"] > 0, status
            assert status["ejections"] == 0 and status["state"] == "up", status
        finally:
            live.stop()


class FewConnections:
    """A small SMTP server that bears only so many connections at a time, and takes 20 ms for a message."""

    def __init__(self, most):
        self.most, self.open, self.refused = most, 0, 0
        self.lock = threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.close()

    def _accept(self):
        try:
            while True:
                connection = self.server.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            pass

    def _serve(self, connection):
        with self.lock:
            welcome = self.open < self.most
            self.open += welcome
            self.refused += not welcome
        try:
            with connection:
                if not welcome:
                    connection.sendall(b"421 4.7.0 Too many connections from your host\r\n")
                    return
                connection.sendall(b"220 few.test\r\n")
                lines, in_data = connection.makefile("rb"), False
                for line in lines:
                    if in_data:
                        if line == b".\r\n":
                            in_data = False
                            threading.Event().wait(0.02)
                            connection.sendall(b"250 2.0.0 ok\r\n")
                        continue
                    verb = line[:4].upper()
                    in_data = verb == b"DATA"
                    connection.sendall({b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
        except OSError:
            pass
        finally:
            with self.lock:
                self.open -= welcome
