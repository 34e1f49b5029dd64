"""What leaves is what came, byte for byte, but for one Received: on top; and the envelope with it."""

import random
import re
import time
from email.utils import parsedate_to_datetime

import pytest

from lab.wire import Wire

RECEIVED = re.compile(
    rb"\AReceived: from (?P<helo>\S+) (?P<client>[^\r\n]*(?:\r\n[ \t][^\r\n]*)*?)\bby (?P<by>\S+)"
    rb"(?P<rest>[^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n"
)


def split_stamp(content):
    """The Received: on top, unfolded, and all that follows it."""
    stamp = re.match(rb"\A[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*", content)
    assert stamp and stamp.group().startswith(b"Received: "), content[:300]
    assert RECEIVED.match(stamp.group()), stamp.group()
    return re.sub(r"\s+", " ", stamp.group().decode()).strip(), content[stamp.end() :]


def random_message(random, lines):
    """A legal message of CRLF lines: any byte but NUL, CR, LF; dots first, long lines, empty lines."""
    octets = bytes(octet for octet in range(1, 256) if octet not in (10, 13))
    out = [b"Subject: " + str(random.random()).encode(), b"From: <a@client.test>", b""]
    for _ in range(lines):
        length = random.choice([0, 0, 1, 2, 70, 78, 998, random.randrange(5000)])
        line = bytes(random.choices(octets, k=length))
        out.append(b"." * random.choice([0, 0, 0, 1, 2, 3]) + line)
    return b"\r\n".join(out) + b"\r\n"


FIXED = {
    "empty": b"",
    "one-empty-line": b"\r\n",
    "no-header": b"\r\nbody only\r\n",
    "header-only": b"Subject: x\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n.a\r\n..a\r\n",
    "dot-first-of-all": b".\r\n",
    "received-already": b"Received: from a by b; Tue, 1 Jan 2030 00:00:00 +0000\r\nSubject: x\r\n\r\nhello\r\n",
    "spaces-at-line-ends": b"Subject: x \r\n\r\n \r\n\t\r\nx \t\r\n\r\n\r\n",
    "eight-bit": "Subject: grüße\r\n\r\n".encode() + bytes(range(128, 256)) + b"\r\n",
    "long-line": b"Subject: x\r\n\r\n" + b"y" * 300_000 + b"\r\n",
    "many-short-lines": b"Subject: x\r\n\r\n" + b"\r\n" * 50_000,
    "many-dots": b"\r\n" + b".\r\n" * 20_000,
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed(lane, recorder, name):
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port) as wire:
        wire.try_message(FIXED[name]).is_(250, "2.")
    [mail] = upstream.mails()
    _, rest = split_stamp(mail.content)
    assert rest == FIXED[name]


@pytest.mark.parametrize("seed", range(4))
def test_random(lane, recorder, seed):
    """A session with many messages, written to the socket in pieces of random length."""
    dice = random.Random(seed)
    upstream = recorder()
    server = lane([upstream], shards=2)
    sent = [random_message(dice, dice.randrange(60)) for _ in range(25)]
    with Wire(server.port) as wire:
        for number, content in enumerate(sent):
            wire.envelope(recipients=[f"r{number}@sink.test"], mail_options=" BODY=8BITMIME")
            wire.command("DATA", enhanced=False).is_(354)
            data = re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"
            while data:
                piece = dice.choice([1, 2, 3, 100, 1460, 16384, 70000])
                wire.send(data[:piece])
                data = data[piece:]
            wire.read().is_(250, "2.")
    mails = upstream.mails()
    assert len(mails) == len(sent)
    for number, content in enumerate(sent):
        [mail] = [mail for mail in mails if mail.recipients == [f"r{number}@sink.test"]]
        _, rest = split_stamp(mail.content)
        assert rest == content


def test_end_of_data_cut_anywhere(lane, recorder):
    """CRLF.CRLF spread over segments in every way is still the end, once, and dots are unstuffed right."""
    upstream = recorder()
    server = lane([upstream])
    content = b"Subject: cut\r\n\r\n.x\r\n..\r\nlast\r\n"
    data = re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"
    with Wire(server.port) as wire:
        for cut in range(len(data)):
            wire.envelope()
            wire.command("DATA", enhanced=False).is_(354)
            wire.send(data[:cut])
            time.sleep(0.001)  # so that most pieces are read apart; all must work either way
            wire.send(data[cut:])
            wire.read().is_(250, "2.")
    mails = upstream.mails()
    assert len(mails) == len(data)
    assert {split_stamp(mail.content)[1] for mail in mails} == {content}


def test_received_line(lane, recorder):
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port, hello="EHLO told.client.test") as wire:
        one = wire.try_message(b"Subject: 1\r\n\r\n1\r\n", recipients=["only@sink.test"]).is_(250)
        two = wire.try_message(b"Subject: 2\r\n\r\n2\r\n", recipients=["x@sink.test", "y@sink.test"]).is_(250)
    with Wire(server.port, hello="HELO old.client.test") as wire:
        old = wire.try_message(b"Subject: 3\r\n\r\n3\r\n", recipients=["old@sink.test"]).is_(250)

    stamp = split_stamp(upstream.for_recipient("only@sink.test")[0].content)[0]
    assert stamp.startswith("Received: from told.client.test ") and "127.0.0.1" in stamp, stamp
    assert " by lane.test " in stamp and " with ESMTP " in stamp, stamp
    assert "for <only@sink.test>" in stamp, stamp
    date = stamp.rpartition("; ")[2]
    assert parsedate_to_datetime(date).utcoffset() is not None, date

    for mail in upstream.for_recipient("x@sink.test"):
        both = split_stamp(mail.content)[0]
        assert " for " not in both, f"several recipients, and one of them shown: {both}"
        assert id_in(both) in two.text, (both, two)
    assert id_in(stamp) in one.text, f"the id in Received: is not in the reply: {stamp}, {one}"

    plain = split_stamp(upstream.for_recipient("old@sink.test")[0].content)[0]
    assert " with SMTP " in plain and id_in(plain) in old.text, plain
    assert id_in(plain) != id_in(stamp)


def id_in(stamp):
    return re.search(r"\bid (\S+?)(?=[;\s])", stamp).group(1)


def test_upstream_text_is_passed_on(lane, recorder):
    upstream = recorder()
    server = lane([upstream])
    with Wire(server.port) as wire:
        reply = wire.try_message(b"Subject: x\r\n\r\nx\r\n").is_(250, "2.")
    assert "recorded as number 1" in reply.text, reply


class TestParameters:
    """MAIL and RCPT parameters reach an upstream that offers them, and only such a one."""

    def send(self, server, mail_options, rcpt_options, content=b"Subject: x\r\n\r\nx\r\n"):
        with Wire(server.port) as wire:
            wire.envelope(mail_options=mail_options, rcpt_options=rcpt_options)
            wire.command("DATA", enhanced=False).is_(354)
            wire.send(content + b".\r\n")
            return wire.read()

    def test_dsn(self, lane, smtp_sink):
        sink = smtp_sink()
        server = lane([sink])
        self.send(
            server,
            " RET=HDRS ENVID=QQ314159",
            " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2Bold@sink.test",
        ).is_(250)
        [delivery] = sink.deliveries()
        assert "RET=HDRS" in delivery.mail and "ENVID=QQ314159" in delivery.mail, delivery.mail
        [recipient] = delivery.recipients
        assert "ORCPT=rfc822;Bob+2Bold@sink.test" in recipient, recipient
        notify = re.search(r"NOTIFY=(\S+)", recipient).group(1)
        assert set(notify.split(",")) == {"SUCCESS", "FAILURE"}, recipient

    def test_dsn_not_offered(self, lane, smtp_sink):
        sink = smtp_sink("-N", "-v")
        server = lane([sink])
        self.send(server, " RET=FULL ENVID=E1", " NOTIFY=NEVER").is_(250)
        [delivery] = sink.deliveries()
        for parameter in ("RET=", "ENVID=", "NOTIFY=", "ORCPT="):
            assert parameter not in delivery.mail + "".join(delivery.recipients)

    def test_size_body_and_smtputf8(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream])
        content = "Subject: grüße\r\n\r\nüber\r\n".encode()
        with Wire(server.port) as wire:
            wire.command("MAIL FROM:<jörg@client.test> SIZE=200 BODY=8BITMIME SMTPUTF8").is_(250)
            wire.command("RCPT TO:<zoë@sink.test>").is_(250)
            wire.command("DATA", enhanced=False).is_(354)
            wire.send(content + b".\r\n")
            wire.read().is_(250)
        [mail] = upstream.mails()
        assert mail.sender == "jörg@client.test" and mail.recipients == ["zoë@sink.test"]
        options = {option.upper() for option in mail.mail_options}
        assert {"BODY=8BITMIME", "SMTPUTF8"} <= options, options
        [size] = [option for option in options if option.startswith("SIZE=")]
        assert int(size[5:]) >= len(content), size
        assert split_stamp(mail.content)[1] == content

    def test_eight_bit_goes_where_it_is_offered(self, lane, smtp_sink):
        narrow, wide = smtp_sink("-8"), smtp_sink()
        server = lane([narrow, wide], pool={"balance": "round-robin"})
        for _ in range(6):
            self.send(server, " BODY=8BITMIME", "", "Subject: x\r\n\r\nü\r\n".encode()).is_(250)
        assert len(wide.deliveries()) == 6
        assert narrow.deliveries() == []

    def test_eight_bit_offered_nowhere(self, lane, smtp_sink):
        narrow = smtp_sink("-8")
        server = lane([narrow])
        with Wire(server.port) as wire:
            reply = refusal(wire, " BODY=8BITMIME", "Subject: x\r\n\r\nü\r\n".encode())
        assert reply.code // 100 == 5 and reply.enhanced.startswith("5.6."), reply
        assert narrow.deliveries() == []

    def test_utf8_address_offered_nowhere(self, lane, recorder):
        upstream = recorder(smtputf8=False)
        server = lane([upstream])
        with Wire(server.port) as wire:
            reply = refusal(wire, " SMTPUTF8", b"Subject: x\r\n\r\nx\r\n", recipient="zoë@sink.test")
        assert reply.code // 100 == 5 and reply.enhanced.startswith("5.6."), reply
        assert upstream.mails() == []


def refusal(wire, mail_options, content, recipient="b@sink.test"):
    """The reply that refuses the transaction, at whichever command it comes."""
    for line in (f"MAIL FROM:<a@client.test>{mail_options}", f"RCPT TO:<{recipient}>", "DATA"):
        reply = wire.command(line)
        if reply.code >= 400:
            return reply
    wire.send(content + b".\r\n")
    return wire.read()
