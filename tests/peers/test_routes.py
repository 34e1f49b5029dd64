"""Routes and fallbacks: each recipient's mail goes by the first rule that matches."""

import smtplib

from lab.live import Live, text_of
from lab.ports import free_port
from lab.recorder import Rules
from lab.wire import Wire

ROUTES = """
[[route]]
header = { name = "X-Campaign", pattern = "spring-*" }
pool = "c"
[[route]]
recipient_domain = ["b.test", "*.b.test"]
pool = "b"
[[route]]
sender_domain = "shop.test"
source = "127.0.0.0/8"
pool = "c"
"""


def deliver(live, sender, recipients, header=""):
    with smtplib.SMTP("127.0.0.1", live.port, timeout=10) as client:
        return client.sendmail(sender, recipients, f"{header}Subject: x\r\n\r\nx\r\n".encode())


def test_first_match(directory, recorder):
    upstreams = {name: recorder() for name in "abc"}
    live = Live(
        directory,
        lambda live: text_of(live, {n: ("", {"mta": u.port}) for n, u in upstreams.items()}, routes=ROUTES),
    )
    try:
        assert deliver(live, "me@x.test", ["1@a.test", "2@b.test", "3@deep.in.B.test", "4@notb.test"]) == {}
        got = {name: sorted(r for m in u.mails() for r in m.recipients) for name, u in upstreams.items()}
        assert got == {"a": ["1@a.test", "4@notb.test"], "b": ["2@b.test", "3@deep.in.B.test"], "c": []}
        deliver(live, "me@shop.test", ["5@a.test", "6@b.test"])
        assert upstreams["c"].for_recipient("5@a.test") and upstreams["b"].for_recipient("6@b.test")
        deliver(live, "me@x.test", ["7@b.test"], header="X-Other: 1\r\nX-Campaign: Spring-\r\n 2026\r\n")
        assert upstreams["c"].for_recipient("7@b.test")
    finally:
        live.stop()


def test_fallback(directory, recorder):
    """A pool that nobody answers for, and one whose only upstream puts everything off."""
    unwilling, last = recorder(rules=Rules(rcpt={"": "450 4.2.0 not now"})), recorder()
    pools = {
        "gone": ('fallback = "last"\nconnect_timeout = "1s"', {"mta": free_port()}),
        "later": ('fallback = "last"', {"mta": unwilling.port}),
        "last": ("", {"mta": last.port}),
    }
    routes = '[[route]]\nrecipient_domain = "later.test"\npool = "later"\n'
    live = Live(directory, lambda live: text_of(live, pools, routes=routes))
    try:
        for recipient in ("1@gone.test", "2@later.test"):
            assert deliver(live, "me@x.test", [recipient]) == {}
            assert last.for_recipient(recipient), recipient
        # Once it is known to be gone nobody is sent there first: the fallback is asked at once.
        for n in range(20):
            deliver(live, "me@x.test", [f"{n}@gone.test"])
        assert len(last.mails()) == 22
        assert "postlane_fallbacks_total 22" in live.get("/metrics")
        # What is refused for good is nobody else's.
        unwilling.rules.rcpt = {"": "550 5.1.1 never"}
        with Wire(live.port) as wire:
            wire.try_message(b"Subject: x\r\n\r\nx\r\n", recipients=["3@later.test"]).is_(550, "5.1.1")
    finally:
        live.stop()
