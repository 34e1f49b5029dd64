"""Mail on disk: what is acknowledged is delivered or bounced, whatever stops in between."""

import email
import email.policy
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lab.ports import free_port
from lab.programs import postlane
from lab.recorder import Rules
from lab.spooling import Spooling, content, soon, steady, without_trace
from lab.wire import Wire

SENDER = "sender@client.test"


@pytest.fixture
def spooling(directory, recorder, scripted):
    """spooling(upstreams, **options) → Spooling, started"""
    made = []

    def make(upstreams, start=True, **options):
        made.append(Spooling(directory, upstreams, **options))
        return made[-1].start() if start else made[-1]

    yield make
    for each in made:
        each.stop()


def bounces(recorder):
    return [mail for mail in recorder.mails() if mail.sender == ""]


def report(mail):
    """The fields of a notice's recipients, by address."""
    whole = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert whole.get_content_type() == "multipart/report" and not whole.defects
    human, status, _ = whole.iter_parts()
    assert human.get_content_type() == "text/plain"
    _, *fields = status.get_payload()
    by_address = {one["Final-Recipient"].partition(";")[2].strip(): one for one in fields}
    return human.get_content(), by_address


def subjects(mails):
    return sorted(int(email.message_from_bytes(mail.content)["Subject"]) for mail in mails if mail.sender)


class TestSpoolMode:
    def test_upstream_down_restart_upstream_up(self, spooling, recorder):
        port = free_port()
        lane = spooling([port], shards=2)
        sent = {number: content(number, 200 + 3000 * number) for number in range(20)}
        for number, text in sent.items():
            code, said = lane.send(text, [f"rcpt{number}@sink.test"])
            assert code == 250 and "kept as" in said, (code, said)
        soon(lambda: lane.metric("postlane_spool_messages") == 20, "twenty kept")
        lane.stop()
        lane.start()
        assert "has 20 messages" in lane.said()
        assert len(lane.listed()) == 20
        upstream = recorder(port=port)
        lane.queue("flush", "--everything")
        lane.wait_empty()
        assert subjects(upstream.mails()) == list(range(20))
        for mail in upstream.mails():
            number = subjects([mail])[0]
            assert without_trace(mail.content) == sent[number]
            assert mail.recipients == [f"rcpt{number}@sink.test"] and mail.sender == SENDER
        lane.stop()
        lane.start()  # what is over stays over
        assert lane.listed() == []
        steady(lambda: len(upstream.mails()) == 20, 1.5)

    def test_deferred_and_tried_again(self, spooling, recorder):
        upstream = recorder(rules=Rules(data={"late": "451 4.7.1 not now"}))
        lane = spooling([upstream], delivery={"retry": ["1s", "2s", "1h"]})
        began = time.monotonic()
        assert lane.send(content(1), ["late@sink.test"])[0] == 250
        soon(lambda: lane.listed() and lane.listed()[0]["attempts"] == 1, "a first attempt")
        [row] = lane.listed()
        assert row["reply"] == "451 4.7.1 not now" and row["state"] == "waiting" and 0 <= row["due_in"] <= 1.2
        soon(lambda: lane.listed()[0]["attempts"] == 3, "three attempts")
        took = time.monotonic() - began
        assert 2.5 < took < 8, took  # 1 s and 2 s, give or take a tenth
        assert 3000 < lane.listed()[0]["due_in"] < 4000
        dots = upstream.dots
        upstream.rules.data.clear()
        steady(lambda: upstream.dots == dots, 1.5)
        lane.queue("flush", "--everything")
        lane.wait_empty()
        assert subjects(upstream.mails()) == [1] and not bounces(upstream)

    def test_refused_for_good(self, spooling, recorder):
        upstream = recorder(rules=Rules(rcpt={"^nobody": "550 5.1.1 no such user"}))
        lane = spooling([upstream])
        assert lane.send(content(1), ["nobody@sink.test"])[0] == 250
        soon(lambda: bounces(upstream), "a bounce")
        [mail] = bounces(upstream)
        assert mail.recipients == [SENDER]
        text, fields = report(mail)
        assert fields["nobody@sink.test"]["Action"] == "failed"
        assert fields["nobody@sink.test"]["Status"] == "5.1.1"
        assert "no such user" in fields["nobody@sink.test"]["Diagnostic-Code"] and "no such user" in text
        lane.wait_empty()

    def test_nobody_is_told_of_a_bounce_that_bounces(self, spooling, recorder):
        upstream = recorder(rules=Rules(rcpt={".": "550 5.1.1 no such user"}))
        lane = spooling([upstream])
        assert lane.send(content(1), ["nobody@sink.test"])[0] == 250
        assert lane.send(content(2), ["nobody@sink.test"], sender="")[0] == 250
        soon(lambda: lane.metric("postlane_bounces_dropped_total") >= 1, "a bounce that bounced")
        lane.wait_empty()
        assert upstream.mails() == []

    def test_too_old(self, spooling, recorder):
        upstream = recorder(rules=Rules(data={"late": "451 4.7.1 not now"}))
        lane = spooling([upstream], delivery={"max_age": "3s"})
        assert lane.send(content(1), ["late@sink.test"])[0] == 250
        soon(lambda: bounces(upstream), "a bounce")
        [mail] = bounces(upstream)
        text, fields = report(mail)
        assert fields["late@sink.test"]["Action"] == "failed"
        assert fields["late@sink.test"]["Status"] in ("4.4.7", "5.4.7"), str(fields["late@sink.test"])
        assert "not now" in fields["late@sink.test"]["Diagnostic-Code"]
        lane.wait_empty()
        assert lane.metric("postlane_spool_expired_total") == 1

    def test_late(self, spooling, recorder):
        """NOTIFY=DELAY: told once, and the message goes on being tried."""
        upstream = recorder(rules=Rules(data={"late": "451 4.7.1 not now"}))
        lane = spooling([upstream], delivery={"delay_warning": "2s"})
        assert lane.send(content(1), ["late@sink.test"], rcpt=["NOTIFY=DELAY,FAILURE"])[0] == 250
        soon(lambda: bounces(upstream), "a warning")
        _, fields = report(bounces(upstream)[0])
        assert fields["late@sink.test"]["Action"] == "delayed"
        soon(lambda: lane.listed()[0]["attempts"] >= 5, "more attempts")
        assert len(bounces(upstream)) == 1

    def test_recipients_with_different_fates(self, spooling, recorder):
        rules = Rules(rcpt={"^nobody": "550 5.1.1 no such user", "^busy": "450 4.2.1 come back"})
        upstream = recorder(rules=rules)
        lane = spooling([upstream], shards=2)
        everybody = ["ok1@a.test", "nobody@b.test", "busy@c.test", "ok2@d.test"]
        assert lane.send(content(7), everybody)[0] == 250
        soon(lambda: bounces(upstream), "a bounce")
        soon(lambda: lane.listed() and lane.listed()[0]["recipients"] == ["busy@c.test"], "one left")
        _, fields = report(bounces(upstream)[0])
        assert list(fields) == ["nobody@b.test"]
        lane.stop()
        lane.start()
        upstream.rules.rcpt = {}
        lane.wait_empty()
        got = [to for mail in upstream.mails() if mail.sender for to in mail.recipients]
        assert sorted(got) == ["busy@c.test", "ok1@a.test", "ok2@d.test"]
        assert len(bounces(upstream)) == 1

    def test_killed_after_the_answer(self, spooling, recorder):
        """250 means on disk: kill -9 right after it, and other shards afterwards."""
        port = free_port()
        lane = spooling([port], shards=1)
        for number in range(30):
            assert lane.send(content(number), [f"r{number}@sink.test"])[0] == 250
        lane.kill()
        for shards in (3, 2):
            lane.start(shards=shards)
            assert len(lane.listed()) == 30
            lane.kill()
        upstream = recorder(port=port)
        lane.start(shards=2)
        lane.wait_empty()
        assert sorted(set(subjects(upstream.mails()))) == list(range(30))
        assert len(upstream.mails()) == 30
        soon(lambda: not list((lane.spool / "02").glob("*.seg")), "that the third shard's files are gone")


class TestThroughThenSpool:
    def test_healthy_writes_nothing(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream], mode="through-then-spool")
        for number in range(20):
            code, said = lane.send(content(number), ["ok@sink.test"])
            assert code == 250 and "recorded as number" in said, (code, said)
        assert lane.metric("postlane_spool_kept_total") == 0
        assert lane.metric("postlane_spool_syncs_total") == 0
        assert len(upstream.mails()) == 20

    def test_refused_for_good_is_said_at_once(self, spooling, recorder):
        upstream = recorder(rules=Rules(data={"^nobody": "554 5.7.1 no"}))
        lane = spooling([upstream], mode="through-then-spool")
        code, said = lane.send(content(1), ["nobody@sink.test"])
        assert code == 554 and said.startswith("5.7.1 no"), (code, said)
        assert lane.metric("postlane_spool_kept_total") == 0

    @pytest.mark.parametrize("trouble", ["deferred", "down"])
    def test_what_nobody_takes_is_kept(self, spooling, recorder, trouble):
        upstream = recorder(rules=Rules(data={".": "451 4.7.1 not now"})) if trouble == "deferred" else None
        port = upstream.port if upstream else free_port()
        lane = spooling([port], mode="through-then-spool")
        code, said = lane.send(content(1), ["r@sink.test"])
        assert code == 250 and "kept as" in said, (code, said)
        upstream = upstream or recorder(port=port)
        upstream.rules.data.clear()
        lane.wait_empty()
        assert subjects(upstream.mails()) == [1]

    def test_hung(self, spooling, recorder):
        """The upstream answers after the client was answered from the disk: once is enough."""
        upstream = recorder(rules=Rules(delay=4.0))
        lane = spooling([upstream], mode="through-then-spool", delivery={"through_timeout": "1s"})
        began = time.monotonic()
        code, said = lane.send(content(1), ["r@sink.test"])
        took = time.monotonic() - began
        assert code == 250 and "kept as" in said, (code, said)
        assert 0.9 < took < 3, took
        assert lane.listed()[0]["state"] == "sending"
        lane.wait_empty()
        assert len(upstream.mails()) == 1 and upstream.dots == 1
        steady(lambda: upstream.dots == 1, 1.5)

    def test_different_fates(self, spooling, recorder):
        rules = Rules(rcpt={"^nobody": "550 5.1.1 no such user", "^busy": "450 4.2.1 come back"})
        upstream = recorder(rules=rules)
        lane = spooling([upstream], mode="through-then-spool", shards=2)
        assert lane.send(content(3), ["ok@a.test", "nobody@b.test", "busy@c.test"])[0] == 250
        soon(lambda: bounces(upstream), "a bounce")
        soon(lambda: lane.listed() and lane.listed()[0]["recipients"] == ["busy@c.test"], "one left")
        upstream.rules.rcpt = {}
        lane.wait_empty()
        got = [to for mail in upstream.mails() if mail.sender for to in mail.recipients]
        assert sorted(got) == ["busy@c.test", "ok@a.test"]
        assert len(bounces(upstream)) == 1


class TestQueue:
    @pytest.fixture
    def lane(self, spooling, recorder):
        """Six messages that wait, three senders, two domains."""
        self.upstream = recorder(rules=Rules(data={".": "451 4.7.1 not now"}))
        lane = spooling([self.upstream], shards=2, delivery={"retry": ["1h"]})
        for number in range(6):
            code, _ = lane.send(
                content(number), [f"r{number}@{'odd' if number % 2 else 'even'}.test"], f"s{number % 3}@client.test"
            )
            assert code == 250
        soon(lambda: all(row["state"] == "waiting" for row in lane.listed()), "that all wait")
        return lane

    def test_list_and_show(self, lane):
        rows = lane.listed()
        assert len(rows) == 6 and len({row["id"] for row in rows}) == 6
        for row in rows:
            assert row["attempts"] == 1 and row["pool"] == "farm" and row["reply"] == "451 4.7.1 not now"
            assert 0 <= row["age"] < 60 and 3000 < row["due_in"] < 4000
        assert len(lane.listed("--domain", "ODD.test")) == 3
        assert len(lane.listed("--sender", "s1@client.test")) == 2
        assert len(lane.listed("--sender", "s1@client.test", "--domain", "odd.test")) == 1
        assert len(lane.listed("--pool", "farm")) == 6 and lane.listed("--pool", "other") == []
        assert lane.listed("--older-than", "1h") == []
        assert lane.queue_json("list", "--limit", "2")["matched"] == 6 and len(lane.listed("--limit", "2")) == 2
        text = lane.queue("list")
        assert "6 messages" in text and all(row["id"] in text for row in rows)
        one = lane.queue("show", rows[0]["id"])
        assert rows[0]["recipients"][0] in one and "451 4.7.1 not now" in one
        assert lane.queue_json("show", rows[0]["id"])["rows"][0]["id"] == rows[0]["id"]
        assert "no such message" in lane.queue("show", "nothing", code=65)

    def test_a_selection_is_required(self, lane):
        for verb in ("flush", "suspend", "resume", "bounce", "delete"):
            assert "--everything" in lane.queue(verb, code=64)
        assert len(lane.listed()) == 6

    def test_flush(self, lane):
        self.upstream.rules.data.clear()
        assert lane.queue_json("flush", "--domain", "odd.test")["done"] == 3
        soon(lambda: len(lane.listed()) == 3, "three delivered")
        assert subjects(self.upstream.mails()) == [1, 3, 5]

    def test_suspend_outlives_a_restart(self, lane):
        [row] = lane.listed("--sender", "s2@client.test", "--domain", "odd.test")
        assert lane.queue_json("suspend", "--id", row["id"])["done"] == 1
        lane.stop()
        self.upstream.rules.data.clear()
        lane.start()
        assert lane.queue_json("show", row["id"])["rows"][0]["state"] == "suspended"
        lane.queue("flush", "--everything")
        soon(lambda: len(lane.listed()) == 1, "that all others went")
        steady(lambda: len(self.upstream.mails()) == 5, 1)
        lane.queue("resume", "--id", row["id"])
        lane.queue("flush", "--id", row["id"])
        lane.wait_empty()
        assert subjects(self.upstream.mails()) == list(range(6))

    def test_bounce(self, lane):
        self.upstream.rules.data.clear()
        assert lane.queue_json("bounce", "--domain", "even.test")["done"] == 3
        soon(lambda: len(bounces(self.upstream)) == 3, "three bounces")
        for mail in bounces(self.upstream):
            _, fields = report(mail)
            [(address, one)] = fields.items()
            assert address.endswith("@even.test") and one["Action"] == "failed" and one["Status"].startswith("5.")
        soon(lambda: len(lane.listed()) == 3, "three left")

    def test_delete(self, lane):
        self.upstream.rules.data.clear()
        assert lane.queue_json("delete", "--sender", "s0@client.test")["done"] == 2
        assert len(lane.listed()) == 4
        lane.queue("delete", "--everything")
        lane.wait_empty(5)
        lane.stop()
        lane.start()
        assert lane.listed() == []
        assert self.upstream.mails() == []

    def test_without_an_instance(self, lane):
        """Read-only, while it runs and when it does not."""
        ids = sorted(row["id"] for row in lane.listed())
        for running in (True, False):
            done = postlane("queue", "list", "--spool", lane.spool, "--json")
            assert done.returncode == 0, done.stderr
            rows = json.loads(done.stdout)["rows"]
            assert sorted(row["id"] for row in rows) == ids, running
            shown = postlane("queue", "show", ids[0], "--spool", lane.spool)
            assert shown.returncode == 0 and ids[0] in shown.stdout
            if running:
                lane.stop()
        done = postlane("queue", "list", "--admin", f"http://127.0.0.1:{lane.admin_port}")
        assert done.returncode == 69 and "no instance" in done.stderr
        done = postlane("queue", "list", "--spool", lane.directory / "absent")
        assert done.returncode == 71 and "absent" in done.stderr


class TestStart:
    def test_one_instance_to_a_spool(self, spooling, recorder):
        upstream = recorder()
        first = spooling([upstream])
        second = spooling([upstream], start=False, spool=first.spool).run()
        assert second.returncode == 71, second
        assert "another process uses this spool" in second.stderr and str(first.spool) in second.stderr
        assert first.send(content(1), ["r@sink.test"])[0] == 250

    def test_no_permission(self, spooling, directory):
        spool = directory / "locked"
        spool.mkdir(mode=0o500)
        prefix = []
        if os.getuid() == 0:
            if not shutil.which("setpriv"):
                pytest.skip("root may everything, and setpriv is not installed")
            prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            directory.chmod(0o755)
            if subprocess.run([*prefix, "test", "-x", str(directory)]).returncode:
                pytest.skip("a directory above is closed to others than root")
        for path in (spool, spool / "below"):
            done = spooling([free_port()], start=False, spool=path, prefix=prefix).run()
            assert done.returncode == 77, done
            assert str(path) in done.stderr and "chown" in done.stderr

    def test_too_small(self, spooling):
        done = spooling([free_port()], start=False, delivery={"spool_max": "256MiB"}).run()
        assert done.returncode == 78 and "spool_max" in done.stderr and "384MiB" in done.stderr, done

    def test_sync_off_is_said_at_every_start(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream], delivery={"sync": False})
        assert lane.send(content(1), ["r@sink.test"])[0] == 250
        lane.wait_empty()
        lane.stop()
        lane.start()
        warnings = [line for line in lane.said().splitlines() if "sync" in line and "false" in line]
        assert len(warnings) == 2, lane.said()

    def test_a_damaged_record(self, spooling, recorder):
        """A flipped bit costs the message that it is in, which is set aside, told and bounced; the others live."""
        port = free_port()
        lane = spooling([port])
        for number in range(5):
            assert lane.send(content(number), [f"r{number}@sink.test"])[0] == 250
        lane.stop()
        [segment] = [path for path in (lane.spool / "00").glob("*.seg") if b"message 2 " in path.read_bytes()]
        with open(segment, "r+b") as file:
            at = segment.read_bytes().index(b"line 3 of message 2 ")
            file.seek(at)
            file.write(b"L")
        lane.start()
        assert "damaged" in lane.said() and str(segment.name)[:8] in lane.said(), lane.said()
        assert list((lane.spool / "damaged").iterdir())
        upstream = recorder(port=port)
        lane.wait_empty()
        assert subjects(upstream.mails()) == [0, 1, 3, 4]
        [mail] = bounces(upstream)
        _, fields = report(mail)
        assert fields["r2@sink.test"]["Status"] == "5.3.0"


# A file system of its own for the server alone: it goes with it.
_SMALL_DISK = """
mount -t tmpfs -o size="$1" small "$2" && head -c "$3" /dev/zero > "$2/ballast" && shift 3 && exec "$@"
"""


class TestFullDisk:
    BODY = b"Subject: %d\r\n\r\n" + (b"x" * 998 + b"\r\n") * 4000

    @pytest.fixture
    def disk(self, directory):
        """A prefix that gives a program 600 MiB at directory/small, 150 MiB of them taken, in a mount namespace."""
        place = directory / "small"
        place.mkdir()
        prefix = ["unshare", "--mount", "sh", "-c", _SMALL_DISK, "sh", "600m", place, "150m"]
        tried = subprocess.run([*map(str, prefix), "true"], capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
        return place, prefix

    def fill(self, wire, first):
        """Messages of 4 MB until one is refused: how many were taken, and the refusal."""
        deadline, taken = time.monotonic() + 120, 0
        while time.monotonic() < deadline:
            reply = wire.try_message(self.BODY % (first + taken))
            if reply.code != 250:
                wire.command("RSET").is_(250)
                return taken, reply
            taken += 1
        raise AssertionError(f"{taken} messages and no end")

    def takes(self, wire, number):
        if wire.try_message(self.BODY % number).code == 250:
            return True
        wire.command("RSET").is_(250)
        return False

    def test_full_and_recovers(self, spooling, recorder, disk, say):
        place, prefix = disk
        upstream = recorder(rules=Rules(data={".": "451 4.7.1 not now"}))
        top = {"memory": "256MiB"}
        lane = spooling([upstream], spool=place / "spool", prefix=prefix, delivery={"retry": ["1h"]}, top=top)
        with Wire(lane.port) as wire:
            kept, refusal = self.fill(wire, 0)
            refusal.is_(452, "4.3.1")
            assert kept > 20, kept
            # Alive, and all that was acknowledged is there.
            assert lane.queue_json("list")["matched"] == kept
            more, refusal = self.fill(wire, kept)
            refusal.is_(452, "4.3.1")
            kept += more

            # Somebody makes room on the disk. What could not be made before has left nothing on it.
            inside = Path(f"/proc/{lane.process.pid}/root{place}")
            before = lane.metric("postlane_spool_file_bytes")
            (inside / "ballast").unlink()
            soon(lambda: lane.metric("postlane_spool_file_bytes") > before, "a file more")
            soon(lambda: self.takes(wire, kept), "mail taken again")
            more, refusal = self.fill(wire, kept + 1)
            refusal.is_(452, "4.3.1")
            assert more > 10, more
            kept += more + 1
            files = lambda: [file.stat().st_size for file in inside.glob("spool/*/*.seg")]
            soon(lambda: sum(files()) == lane.metric("postlane_spool_file_bytes"), "no file but those in use")

            # Mail leaves.
            upstream.rules.data.clear()
            lane.queue("flush", "--everything")
            lane.wait_empty(60)
            assert subjects(upstream.mails()) == list(range(kept))
            soon(lambda: self.takes(wire, kept), "mail taken again")
            lane.wait_empty()
        soon(lambda: lane.metric("postlane_spool_refused_total") >= 3, "three refusals")
        say(f"{kept} messages of 4 MB fitted onto 600 MiB; 452 4.3.1 beyond, and mail again when there was room")
