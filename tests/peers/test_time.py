"""What senders ask about time: FUTURERELEASE (RFC 4865) and DELIVERBY (RFC 2852), spoken by smtplib."""

import datetime
import email
import email.policy
import email.utils
import smtplib
import time

import pytest

from lab.ports import free_port
from lab.spooling import Spooling, content, soon, steady

SENDER = "sender@client.test"
HEEDFUL = b"250-scripted\r\n250-PIPELINING\r\n250-DSN\r\n250 DELIVERBY\r\n"


@pytest.fixture
def spooling(directory, recorder, scripted):
    """spooling(upstreams, **options) → Spooling, started"""
    made = []

    def make(upstreams, **options):
        made.append(Spooling(directory, upstreams, **options))
        return made[-1].start()

    yield make
    for each in made:
        each.stop()


def hello(lane):
    with smtplib.SMTP("127.0.0.1", lane.port, "client.test", timeout=10) as client:
        client.ehlo()
        return client.esmtp_features


def said_to(lane, *parameters):
    """What MAIL with these parameters is answered."""
    with smtplib.SMTP("127.0.0.1", lane.port, "client.test", timeout=10) as client:
        client.ehlo()
        code, text = client.mail(SENDER, list(parameters))
        return code, text.decode()


def notice(raw):
    """The per-message fields of a notice, and those of its recipients, by address."""
    whole = email.message_from_bytes(raw, policy=email.policy.default)
    assert whole.get_content_type() == "multipart/report" and not whole.defects
    assert whole["To"] == SENDER and whole["Auto-Submitted"] == "auto-replied"
    human, status, returned = whole.iter_parts()
    assert human.get_content_type() == "text/plain" and returned.get_content_type() == "text/rfc822-headers"
    message, *fields = status.get_payload()
    return message, {one["Final-Recipient"].partition(";")[2].strip(): one for one in fields}


def notices(upstream):
    return [raw for raw in upstream.messages if b"multipart/report" in raw]


class TestHeld:
    def test_offered_where_there_is_a_spool(self, spooling, recorder):
        lane = spooling([recorder()], delivery={"max_age": "4d"})
        interval, latest = hello(lane)["futurerelease"].split()
        assert interval == str(3 * 86_400)
        ahead = datetime.datetime.fromisoformat(latest) - datetime.datetime.now(datetime.UTC)
        assert abs(ahead.total_seconds() - 3 * 86_400) < 10
        for parameter in ["HOLDFOR=259201", "HOLDFOR=0", "HOLDFOR=-1", "HOLDFOR=x", "HOLDUNTIL=2999-01-01T00:00:00Z", "HOLDUNTIL=soon"]:
            code, text = said_to(lane, parameter)
            assert (code, text[:6]) == (501, "5.5.4 "), (parameter, code, text)
        assert said_to(lane, "HOLDFOR=1", "HOLDUNTIL=2027-01-01T00:00:00Z")[0] == 501
        assert said_to(lane, "HOLDFOR=60", "BY=60;R")[0] == 501
        assert said_to(lane, "HOLDFOR=259200")[0] == 250
        through = spooling([recorder()], mode="through")
        assert "futurerelease" not in hello(through) and "deliverby" in hello(through)
        assert said_to(through, "HOLDFOR=60")[0] == 555

    def test_arrives_at_its_time(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream], mode="through-then-spool")
        began = time.monotonic()
        code, text = lane.send(content(1), ["held@sink.test"], mail=["HOLDFOR=3"])
        assert code == 250 and "kept as" in text and time.monotonic() - began < 2
        [row] = lane.listed()
        assert row["state"] == "held" and 0 < row["due_in"] <= 3.1 and row["attempts"] == 0
        steady(lambda: not upstream.mails(), began + 2.95 - time.monotonic())
        soon(upstream.mails, "the message", 5)
        assert 3 <= time.monotonic() - began < 5
        lane.wait_empty()

    def test_until_a_date(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream])
        at = int(time.time()) + 4
        date = datetime.datetime.fromtimestamp(at, datetime.timezone(datetime.timedelta(hours=2)))
        assert lane.send(content(1), ["held@sink.test"], mail=[f"HOLDUNTIL={date.isoformat()}"])[0] == 250
        steady(lambda: not upstream.mails(), at - time.time() - 0.05)
        soon(upstream.mails, "the message", 5)
        assert at <= time.time() < at + 2.5

    def test_over_a_crash(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream], shards=2)
        began = time.monotonic()
        for number in range(10):
            assert lane.send(content(number), [f"held{number}@sink.test"], mail=["HOLDFOR=15"])[0] == 250
        sent = time.monotonic()
        lane.kill()
        lane.start()
        assert {row["state"] for row in lane.listed()} == {"held"} or time.monotonic() > began + 15
        steady(lambda: not upstream.mails(), began + 14.95 - time.monotonic())
        soon(lambda: len(upstream.mails()) == 10, "the messages", 10)
        assert time.monotonic() < sent + 20
        lane.wait_empty()

    def test_flushed_and_bounced(self, spooling, recorder):
        upstream = recorder()
        lane = spooling([upstream])
        for number in range(2):
            assert lane.send(content(number), [f"held@{number}.test"], mail=["HOLDFOR=3600"])[0] == 250
        assert {row["state"] for row in lane.listed()} == {"held"}
        lane.queue("flush", "--domain", "0.test")
        soon(lambda: upstream.for_recipient("held@0.test"), "what was flushed", 5)
        lane.queue("bounce", "--domain", "1.test")
        soon(lambda: upstream.for_recipient(SENDER), "a bounce", 5)
        [bounce] = upstream.for_recipient(SENDER)
        message, fields = notice(bounce.content)
        assert message["Future-Release-Request"] == "for;3600"
        assert fields["held@1.test"]["Action"] == "failed"
        lane.wait_empty()


class TestInTime:
    def test_a_stopped_upstream(self, spooling, recorder):
        """It comes back when its time is over; the notice goes when there is an upstream again."""
        port = free_port()
        lane = spooling([port])
        assert said_to(lane, "BY=0;R")[0] == 501 and said_to(lane, "BY=-5;R")[0] == 501
        began = time.time()
        assert lane.send(content(1), ["late@sink.test"], mail=["BY=2;R", "ENVID=urgent"])[0] == 250
        soon(lambda: [row["sender"] for row in lane.listed()] == [""], "a bounce in its place", 8)
        assert 2 <= time.time() - began < 6
        upstream = recorder(port=port)
        soon(upstream.mails, "the bounce", 10)
        [mail] = upstream.mails()
        assert mail.sender == "" and mail.recipients == [SENDER]
        message, fields = notice(mail.content)
        assert message["Original-Envelope-Id"] == "urgent"
        until = email.utils.parsedate_to_datetime(message["Deliver-By-Date"]).timestamp()
        assert abs(until - began - 2) < 2
        assert fields["late@sink.test"]["Action"] == "failed" and fields["late@sink.test"]["Status"] == "5.4.7"
        lane.wait_empty()

    def test_over_a_crash(self, spooling, recorder):
        port = free_port()
        lane = spooling([port])
        began = time.time()
        assert lane.send(content(1), ["late@sink.test"], mail=["BY=5;R"])[0] == 250
        lane.kill()
        lane.start()
        soon(lambda: [row["sender"] for row in lane.listed()] == [""], "a bounce in its place", 12)
        assert 5 <= time.time() - began < 12
        upstream = recorder(port=port)
        soon(upstream.mails, "the bounce", 10)
        _, fields = notice(upstream.mails()[0].content)
        assert fields["late@sink.test"]["Status"] == "5.4.7"
        lane.wait_empty()

    def test_what_is_left_goes_on(self, spooling, scripted):
        upstream = scripted(ehlo=HEEDFUL)
        lane = spooling([upstream])
        assert lane.send(content(1), ["first@sink.test"], mail=["BY=100;R"])[0] == 250
        soon(lambda: upstream.messages, "the message")
        [mail] = [line for line in upstream.commands if line.startswith("MAIL")]
        assert mail in (f"MAIL FROM:<{SENDER}> BY=100;R", f"MAIL FROM:<{SENDER}> BY=99;R"), mail
        # With a trace its sender hears that it was handed on.
        assert lane.send(content(2), ["second@sink.test"], mail=["BY=100;NT"])[0] == 250
        soon(lambda: notices(upstream), "a notice")
        _, fields = notice(notices(upstream)[0])
        assert fields["second@sink.test"]["Action"] == "relayed"
        lane.wait_empty()

    def test_an_upstream_that_heeds_no_time(self, spooling, scripted):
        upstream = scripted()
        lane = spooling([upstream])
        assert lane.send(content(1), ["back@sink.test"], mail=["BY=100;R"])[0] == 250
        soon(lambda: notices(upstream), "a bounce")
        _, fields = notice(notices(upstream)[0])
        assert fields["back@sink.test"]["Action"] == "failed" and fields["back@sink.test"]["Status"] == "5.4.7"
        assert len(upstream.messages) == 1
        assert lane.send(content(2), ["on@sink.test"], mail=["BY=100;N"])[0] == 250
        soon(lambda: len(notices(upstream)) == 2, "a notice")
        _, fields = notice(notices(upstream)[1])
        assert fields["on@sink.test"]["Action"] == "relayed"
        assert not [line for line in upstream.commands if "BY=" in line]
        # Without a spool the client is told at once.
        through = spooling([upstream], mode="through")
        with pytest.raises(smtplib.SMTPDataError) as error, smtplib.SMTP("127.0.0.1", through.port, timeout=10) as client:
            client.sendmail(SENDER, ["back@sink.test"], content(3), mail_options=["BY=100;R"])
        assert error.value.smtp_code == 554 and error.value.smtp_error.startswith(b"5.4.7 ")

    def test_late_and_told(self, spooling, recorder):
        """Mode N: told when the time is over, and tried on."""
        upstream = recorder()
        upstream.rules.data["late"] = "451 4.7.1 not now"
        lane = spooling([upstream], delivery={"retry": ["1h"]})
        began = time.monotonic()
        assert lane.send(content(1), ["late@sink.test"], mail=["BY=3;N"])[0] == 250
        soon(lambda: upstream.for_recipient(SENDER), "a notice", 8)
        assert 3 <= time.monotonic() - began < 7
        message, fields = notice(upstream.for_recipient(SENDER)[0].content)
        told = fields["late@sink.test"]
        assert told["Action"] == "delayed" and told["Status"] == "4.4.7" and told["Will-Retry-Until"]
        upstream.rules.data.clear()
        lane.queue("flush", "--everything")
        soon(lambda: upstream.for_recipient("late@sink.test"), "the message")
        lane.wait_empty()
        assert [mail.recipients for mail in upstream.mails()].count([SENDER]) == 2, "delayed, then handed on"
