"""Notices (DSNs) as a mail program gets them: made by a running Postlane, read by Python's email package."""

import email
import email.policy
import smtplib
from email.utils import parsedate_to_datetime

import pytest

from lab.live import Live, text_of
from lab.ports import wait_until
from lab.programs import need, run

SENDER = "sender@client.test"
REFUSAL = "550 5.7.13 this house takes no such mail"
ROUTES = '[[route]]\nrecipient_domain = ["bad.test", "*.bad.test"]\npool = "bad"\n'
MESSAGE = (
    "From: Ümit <sender@client.test>\r\nSubject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <one@client.test>\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    "grüße, 世界\r\n.\r\n..two dots\r\n--=a boundary?=\r\n\r\nend\r\n"
).encode()


@pytest.fixture
def house(directory, recorder):
    """A Postlane whose mail for bad.test goes elsewhere than the rest: what goes to both ends differently."""
    good, bad = recorder(), recorder()
    bad.rules.rcpt["^refused"] = bad.rules.data["^late"] = REFUSAL
    pools = {"good": ("", {"mta-good": good.port}), "bad": ("", {"mta-bad": bad.port})}
    live = Live(directory, lambda live: text_of(live, pools, routes=ROUTES, shards=1))
    live.good, live.bad = good, bad
    yield live
    live.stop()


def send(live, recipients, *, sender=SENDER, message=MESSAGE, mail=(), rcpt=()):
    with smtplib.SMTP("127.0.0.1", live.port, timeout=20) as client:
        client.ehlo("client.test")
        return client.sendmail(sender, recipients, message, mail_options=list(mail), rcpt_options=list(rcpt))


def notices(upstream, sender=SENDER):
    return [mail for mail in upstream.mails() if sender in mail.recipients]


def one_notice(upstream, sender=SENDER):
    wait_until(lambda: notices(upstream, sender), 10, "a notice")
    [mail] = notices(upstream, sender)
    return mail


class Report:
    """A notice taken apart; what every notice has is asserted."""

    def __init__(self, mail):
        assert mail.sender == "", f"from <{mail.sender}>: it could bounce for ever"
        self.whole = email.message_from_bytes(mail.content, policy=email.policy.default)
        assert not self.whole.defects, self.whole.defects
        assert self.whole.get_content_type() == "multipart/report"
        assert self.whole["Content-Type"].params["report-type"] == "delivery-status"
        assert self.whole["Auto-Submitted"] == "auto-replied"
        assert self.whole["From"].addresses[0].username == "MAILER-DAEMON"
        assert parsedate_to_datetime(self.whole["Date"]).tzinfo is not None
        assert self.whole["Message-ID"] and self.whole["MIME-Version"] == "1.0"
        assert max(map(len, mail.content.split(b"\r\n"))) < 998 and b"\0" not in mail.content
        is_declared = "BODY=8BITMIME" in mail.mail_options
        assert is_declared == (not mail.content.isascii()), mail.mail_options
        assert self.whole["Content-Transfer-Encoding"] == ("8bit" if is_declared else "7bit")

        parts = list(self.whole.iter_parts())
        assert len(parts) == 3 and not any(part.defects for part in parts), parts
        human, self.status, self.returned = parts
        pieces = mail.content.split(b"--" + self.whole.get_boundary().encode())
        assert len(pieces) == 5 and pieces[4] == b"--\r\n", "a boundary in what it bounds"
        self.raw = [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces[1:4]]
        assert human.get_content_type() == "text/plain" and human.get_content_charset() == "utf-8"
        self.text = human.get_content()
        self.message, *self.recipients = self._fields()
        assert self.message["Reporting-MTA"] == "dns; lane.test"
        assert parsedate_to_datetime(self.message["Arrival-Date"]).tzinfo is not None
        for recipient in self.recipients:
            assert parsedate_to_datetime(recipient["Last-Attempt-Date"]).tzinfo is not None
            assert recipient["Status"].split(".")[0] in "245"

    def _fields(self):
        if self.status.get_content_type() == "message/delivery-status":
            return self.status.get_payload()
        # RFC 6533's type is not known to the package, which takes it for a message like any other.
        assert self.status.get_content_type() == "message/global-delivery-status"
        blocks = self.raw[1].decode().replace("\r\n", "\n").strip().split("\n\n")
        return [email.message_from_string(block) for block in blocks]

    def recipient(self, number=0):
        """Fields of a recipient by name; folds undone, the type of an address apart."""
        fields = {name: " ".join(value.split()) for name, value in self.recipients[number].items()}
        for name in ("Final-Recipient", "Original-Recipient", "Diagnostic-Code", "Remote-MTA"):
            if name in fields:
                kind, _, value = fields[name].partition(";")
                fields[name] = (kind.strip(), value.strip())
        return fields


def test_a_refused_recipient(house):
    """RFC 3464's fields, and the header returned."""
    send(house, ["ok@sink.test"])  # so that ids and times are not all the first
    assert send(house, ["ok@sink.test", "refused@bad.test"], mail=["ENVID=QQ+2B314159"]) == {}
    report = Report(one_notice(house.good))
    assert report.message["Original-Envelope-Id"] == "QQ+314159"
    [fields] = [report.recipient()]
    assert fields["Final-Recipient"] == ("rfc822", "refused@bad.test") and "Original-Recipient" not in fields
    assert fields["Action"] == "failed" and fields["Status"] == "5.7.13"
    assert fields["Remote-MTA"] == ("dns", "[127.0.0.1] (mta-bad)")
    assert fields["Diagnostic-Code"] == ("smtp", REFUSAL)
    assert "<refused@bad.test>" in report.text and f"mta-bad said: {REFUSAL}" in report.text
    assert "ok@sink.test" not in report.text
    # The original's header has an umlaut, as RFC 6532 allows.
    assert report.returned.get_content_type() == "message/global-headers"
    assert b"Message-ID: <one@client.test>" in bytes(report.returned)
    assert "two dots" not in report.whole.as_string()


@pytest.mark.parametrize("as_chunks", [False, True], ids=["data", "bdat"])
def test_the_whole_comes_back(house, as_chunks):
    """RET=FULL: byte for byte, in whichever form it came; beyond 50 KiB the header."""
    message = MESSAGE.replace("Ümit".encode(), b"Umit")
    recipients = ["ok@sink.test", "late@bad.test"]
    if as_chunks:
        with smtplib.SMTP("127.0.0.1", house.port, timeout=20) as client:
            client.ehlo("client.test")
            assert client.docmd(f"MAIL FROM:<{SENDER}> RET=FULL BODY=8BITMIME")[0] == 250
            assert all(client.docmd(f"RCPT TO:<{recipient}>")[0] == 250 for recipient in recipients)
            client.send(f"BDAT {len(message)} LAST\r\n".encode() + message)
            assert client.getreply()[0] == 250
    else:
        assert send(house, recipients, message=message, mail=["RET=FULL", "BODY=8BITMIME"]) == {}
    report = Report(one_notice(house.good))
    assert report.recipient()["Diagnostic-Code"] == ("smtp", REFUSAL)
    assert report.returned.get_content_type() == "message/rfc822"
    received, _, original = report.raw[2].partition(b"From: ")
    assert b"From: " + original == message and received.startswith(b"Received: from client.test ")
    [inner] = report.returned.get_payload()
    assert inner["Subject"] == "grüße" and "世界" in inner.get_content()


def test_too_large_to_return(house):
    message = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + b"y\r\n" * 20_000
    assert send(house, ["ok@sink.test", "late@bad.test"], message=message, mail=["RET=FULL"]) == {}
    report = Report(one_notice(house.good))
    assert report.returned.get_content_type() == "text/rfc822-headers"
    assert report.raw[2].endswith(b"\r\nSubject: large\r\n")


def test_addresses_in_utf8(house):
    """RFC 6533; the notice itself needs SMTPUTF8 only where the sender's address does."""
    for sender in ("sénder@client.test", SENDER):
        with smtplib.SMTP("127.0.0.1", house.port, timeout=20, local_hostname="client.test") as client:
            client.ehlo()
            client.command_encoding = "utf-8"
            assert client.mail(sender, ["SMTPUTF8", "BODY=8BITMIME"])[0] == 250
            assert client.rcpt("ok@sink.test")[0] == 250
            assert client.docmd("RCPT", "TO:<refused-é@bad.test> ORCPT=utf-8;was-\\x{E9}@bad.test")[0] == 250
            assert client.data(MESSAGE)[0] == 250
        mail = one_notice(house.good, sender)
        assert ("SMTPUTF8" in mail.mail_options) == (not sender.isascii())
        report = Report(mail)
        assert f"\r\nTo: <{sender}>\r\n".encode() in mail.content
        fields = report.recipient()
        assert fields["Final-Recipient"] == ("utf-8", "refused-é@bad.test")
        assert fields["Original-Recipient"] == ("utf-8", "was-é@bad.test")
        assert "<refused-é@bad.test>" in report.text
        assert report.returned.get_content_type() == "message/global-headers"


def test_success_where_the_upstream_reports_none(house):
    """aiosmtpd offers no DSN, so that it took the mail is for us to say (RFC 3461 5.2.2)."""
    notify = ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;first@sink.test"]
    assert send(house, ["a@sink.test", "b@sink.test"], rcpt=notify, mail=["RET=FULL", "ENVID=e1"]) == {}
    report = Report(one_notice(house.good))
    assert report.message["Original-Envelope-Id"] == "e1" and len(report.recipients) == 2
    for number, address in enumerate(["a@sink.test", "b@sink.test"]):
        fields = report.recipient(number)
        assert fields["Final-Recipient"] == ("rfc822", address)
        assert fields["Original-Recipient"] == ("rfc822", "first@sink.test")
        assert fields["Action"] == "relayed" and fields["Status"] == "2.0.0"
        assert fields["Remote-MTA"] == ("dns", "[127.0.0.1] (mta-good)")
        assert fields["Diagnostic-Code"][0] == "smtp" and "recorded as number" in fields["Diagnostic-Code"][1]
    assert report.returned.get_content_type() == "message/global-headers"  # RET is for failures
    assert not any(option.startswith(("RET", "ENVID")) for mail in house.good.mails() for option in mail.mail_options)
    metrics = house.get("/metrics")
    assert "postlane_relay_notices_total 1" in metrics and "postlane_bounces_total 0" in metrics


def test_success_and_failure_are_told_apart(house):
    assert send(house, ["ok@sink.test", "refused@bad.test"], rcpt=["NOTIFY=SUCCESS,FAILURE"]) == {}
    wait_until(lambda: len(notices(house.good)) >= 2, 10, "two notices")
    reports = [Report(mail) for mail in notices(house.good)]
    told = {(report.recipient()["Action"], report.recipient()["Final-Recipient"][1]) for report in reports}
    assert told == {("failed", "refused@bad.test"), ("relayed", "ok@sink.test")} and len(reports) == 2


def test_success_where_the_upstream_reports_it(lane, lane_sink):
    """`postlane sink` offers DSN: it has the request, and nothing is said here. Without DSN it is."""
    reporting, silent = lane_sink(), lane_sink("--no", "dsn")
    for sink, notices_due in ((reporting, 0), (silent, 1)):
        server = lane([sink])
        assert send(server, ["a@sink.test"], rcpt=["NOTIFY=SUCCESS"]) == {}
        wait_until(lambda: sink.taken() >= 1 + notices_due, 10, "the message, and a notice if one is due")
        server.stop()  # a drain waits for what is under way
        got = [(mail["from"], mail["to"]) for mail in sink.deliveries()]
        assert got == [(SENDER, ["a@sink.test"])] + [("", [SENDER])] * notices_due


def test_swaks(house):
    sent = run(need("swaks"), "--server", "127.0.0.1", "--port", house.port, "--ehlo", "swaks.test",
               "--from", SENDER, "--to", "ok@sink.test,refused@bad.test", "--h-Subject", "by swaks", timeout=30)
    assert sent.returncode == 0, sent.stdout
    report = Report(one_notice(house.good))
    assert report.recipient()["Final-Recipient"] == ("rfc822", "refused@bad.test")
    assert report.returned.get_content_type() == "text/rfc822-headers"
    assert "Subject: by swaks" in report.returned.get_content()


def test_a_notice_never_bounces(house):
    """Those to this sender are refused, at RCPT or later; nobody is told of that, and none is made for `<>`."""
    house.good.rules.rcpt["^gone@"] = house.good.rules.data["^full@"] = REFUSAL
    for sender in ("gone@client.test", "full@client.test", ""):
        options = ["NOTIFY=SUCCESS,FAILURE"]
        assert send(house, ["ok@sink.test", "refused@bad.test"], sender=sender, rcpt=options) == {}
    # Two notices for each of the first two, all refused, and one for the third that there was nobody for.
    dropped = f"postlane_bounces_dropped_total {4 + 1}\n"
    wait_until(lambda: dropped in house.get("/metrics"), 10, "the end of all notices")
    house.stop()  # a drain waits for what is under way
    assert house.good.dots == 3 + 2 and house.bad.dots == 0  # those refused for their data were offered once
    assert {tuple(mail.recipients) for mail in house.good.mails()} == {("ok@sink.test",)}
    assert len(house.good.mails()) == 3
