"""Recipients of one message that end differently: 250 and a DSN, or one refusal and nothing delivered."""

import email
import email.policy

from lab.ports import wait_until
from lab.wire import Wire

REFUSAL = "550 5.7.13 this house takes no such mail"
PAIRS = 16


def send_pairs(server, *, sender="sender@client.test", notify=""):
    """Messages to ok-N and refused-N; {N: reply}."""
    replies = {}
    with Wire(server.port) as wire:
        for number in range(PAIRS):
            wire.command(f"MAIL FROM:<{sender}>").is_(250)
            wire.command(f"RCPT TO:<ok-{number}@sink.test>").is_(250)
            wire.command(f"RCPT TO:<refused-{number}@sink.test>{notify}").is_(250)
            wire.command("DATA").is_(354)
            wire.send(b"Subject: pair %d\r\nMessage-ID: <pair-%d@client.test>\r\n\r\nx\r\n.\r\n" % (number, number))
            replies[number] = wire.read()
    return replies


def in_one_piece(replies):
    """Those refused as a whole, and those whose parts ended differently."""
    whole = {number for number, reply in replies.items() if reply.code != 250}
    for number in whole:
        replies[number].is_(550, "5.7.13")
    return whole, set(replies) - whole


def delivered(upstream):
    return {recipient for mail in upstream.mails() for recipient in mail.recipients}


def test_split_over_shards(lane, recorder, say):
    """Refused at the end of data, when the other shard's group may be accepted already."""
    upstream = recorder()
    upstream.rules.data["^refused-"] = REFUSAL
    server = lane([upstream], shards=2)
    replies = send_pairs(server)
    whole, parted = in_one_piece(replies)
    assert parted, "no pair was split over two shards"
    say(f"{len(parted)} of {PAIRS} pairs parted")

    dsns = lambda: [mail for mail in upstream.mails() if "sender@client.test" in mail.recipients]
    wait_until(lambda: len(dsns()) >= len(parted), 10, "a DSN for each parted message")
    server.stop()
    assert len(dsns()) == len(parted)
    assert delivered(upstream) - {"sender@client.test"} == {f"ok-{number}@sink.test" for number in parted}

    told = set()
    for dsn in dsns():
        told.add(check_dsn(dsn))
    assert told == {f"refused-{number}@sink.test" for number in parted}


def check_dsn(mail):
    """RFC 3464's form, as Python's email package reads it; the recipient it is about."""
    assert mail.sender == "", f"a DSN from <{mail.sender}>: it could bounce for ever"
    dsn = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert not dsn.defects and dsn.get_content_type() == "multipart/report", dsn.get_content_type()
    assert dsn["Content-Type"].params["report-type"] == "delivery-status"
    assert dsn["To"].addresses[0].addr_spec == "sender@client.test"
    for header in ("From", "Date", "Message-ID", "Subject", "MIME-Version"):
        assert dsn[header], f"a DSN without {header}"
    assert dsn["Auto-Submitted"] and dsn["Auto-Submitted"].startswith("auto-"), dsn["Auto-Submitted"]

    human, status, original = list(dsn.iter_parts())
    assert human.get_content_type() == "text/plain" and "refused-" in human.get_content()
    assert status.get_content_type() == "message/delivery-status"
    per_message, per_recipient = status.get_payload()
    assert per_message["Reporting-MTA"].replace(" ", "") == "dns;lane.test"
    assert per_recipient["Action"].lower() == "failed"
    assert per_recipient["Status"] == "5.7.13"
    kind, _, diagnostic = per_recipient["Diagnostic-Code"].partition(";")
    assert kind.strip() == "smtp" and REFUSAL in " ".join(diagnostic.split()), diagnostic
    kind, _, recipient = per_recipient["Final-Recipient"].partition(";")
    assert kind.strip() == "rfc822"
    assert original.get_content_type() in ("message/rfc822", "text/rfc822-headers")
    returned = original.get_payload(0) if original.is_multipart() else email.message_from_string(original.get_content())
    assert returned["Message-ID"].startswith("<pair-"), returned["Message-ID"]
    return recipient.strip()


def test_no_dsn_for_the_null_sender(lane, recorder):
    """RFC 5321 6.1: a bounce of a bounce would go round for ever."""
    upstream = recorder()
    upstream.rules.data["^refused-"] = REFUSAL
    server = lane([upstream], shards=2)
    _, parted = in_one_piece(send_pairs(server, sender=""))
    assert parted, "no pair was split over two shards"
    server.stop()
    assert delivered(upstream) == {f"ok-{number}@sink.test" for number in parted}


def test_no_dsn_when_never_wanted(lane, recorder):
    """RFC 3461 4.1: NOTIFY=NEVER."""
    upstream = recorder()
    upstream.rules.data["^refused-"] = REFUSAL
    server = lane([upstream], shards=2)
    _, parted = in_one_piece(send_pairs(server, notify=" NOTIFY=NEVER"))
    assert parted, "no pair was split over two shards"
    server.stop()
    assert delivered(upstream) == {f"ok-{number}@sink.test" for number in parted}


def test_one_of_a_group_refused_at_rcpt(lane, recorder):
    """One shard, one group: either the whole is refused before data, or it is 250 with a DSN. Never silence."""
    upstream = recorder()
    upstream.rules.rcpt["^refused-"] = REFUSAL
    server = lane([upstream], shards=1)
    whole, parted = in_one_piece(send_pairs(server))
    dsns = lambda: [mail for mail in upstream.mails() if "sender@client.test" in mail.recipients]
    wait_until(lambda: len(dsns()) >= len(parted), 10, "a DSN for each parted message")
    server.stop()
    assert {check_dsn(dsn) for dsn in dsns()} == {f"refused-{number}@sink.test" for number in parted}
    assert delivered(upstream) - {"sender@client.test"} == {f"ok-{number}@sink.test" for number in parted}
    assert whole | parted == set(range(PAIRS))


def test_one_of_a_group_deferred_at_rcpt(lane, recorder):
    """4xx for one of two: the message cannot be kept here, so the sender hears 451 or gets a DSN; never silence."""
    upstream = recorder()
    upstream.rules.rcpt["^refused-"] = "450 4.2.1 mailbox busy"
    server = lane([upstream], shards=1)
    replies = send_pairs(server)
    dsns = lambda: [mail for mail in upstream.mails() if "sender@client.test" in mail.recipients]
    taken = {number for number, reply in replies.items() if reply.code == 250}
    for number in set(replies) - taken:
        replies[number].is_(451, "4.")
    wait_until(lambda: len(dsns()) >= len(taken), 10, "a DSN for each message answered 250")
    server.stop()
    assert delivered(upstream) - {"sender@client.test"} == {f"ok-{number}@sink.test" for number in taken}
