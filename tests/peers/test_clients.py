"""Clients people use: swaks, and Python's smtplib."""

import smtplib
from email.message import EmailMessage

import pytest

from lab.programs import need, run


def swaks(server, *options):
    """Exit codes of swaks: 0 sent, 23 MAIL refused, 24 every RCPT refused, 25/26 DATA or message refused."""
    return run(need("swaks"), "--server", "127.0.0.1", "--port", server.port, "--ehlo", "swaks.test",
               "--from", "a@client.test", "--hide-informational", *options, timeout=30)


class TestSwaks:
    def test_plain(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream])
        sent = swaks(server, "--to", "b@sink.test", "--body", "hello", "--h-Subject", "plain")
        assert sent.returncode == 0, sent.stdout
        [mail] = upstream.mails()
        assert mail.sender == "a@client.test" and mail.recipients == ["b@sink.test"]
        assert b"\r\nSubject: plain\r\n" in mail.content and b"\r\n\r\nhello\r\n" in mail.content

    def test_three_recipients(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream], shards=2)
        sent = swaks(server, "--to", "b@sink.test,c@sink.test,d@sink.test")
        assert sent.returncode == 0, sent.stdout
        got = sorted(recipient for mail in upstream.mails() for recipient in mail.recipients)
        assert got == ["b@sink.test", "c@sink.test", "d@sink.test"]

    def test_dots_and_long_lines(self, lane, recorder, directory):
        upstream = recorder()
        server = lane([upstream])
        lines = ["Subject: odd", "", ".", "..", ".dot first", "x" * 5000, "", ".", "end"]
        message = directory / "message"
        message.write_text("\n".join(lines) + "\n")
        sent = swaks(server, "--to", "b@sink.test", "--data", f"@{message}")
        assert sent.returncode == 0, sent.stdout
        [mail] = upstream.mails()
        assert "\r\n".join(lines).encode() in mail.content

    def test_refused_recipient(self, lane, recorder):
        upstream = recorder()
        upstream.rules.rcpt["^nobody@"] = "550 5.1.1 no such user here"
        server = lane([upstream])
        sent = swaks(server, "--to", "nobody@sink.test")
        assert sent.returncode in (24, 25, 26), sent.stdout
        assert "550 5.1.1" in sent.stdout and "no such user here" in sent.stdout, sent.stdout
        assert upstream.mails() == []

    def test_eight_bit(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream])
        sent = swaks(server, "--to", "b@sink.test", "--body", "grüße, 世界")
        assert sent.returncode == 0, sent.stdout
        [mail] = upstream.mails()
        assert "grüße, 世界".encode() in mail.content

    def test_quit_after_each_stage(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream])
        for stage in ("CONNECT", "FIRST-HELO", "MAIL", "RCPT"):
            sent = swaks(server, "--to", "b@sink.test", "--quit-after", stage)
            assert sent.returncode == 0, f"{stage}: {sent.stdout}"
            assert "221 2.0.0" in sent.stdout, f"{stage}: {sent.stdout}"
        for stage in ("CONNECT", "MAIL", "RCPT"):
            swaks(server, "--to", "b@sink.test", "--drop-after", stage)
        assert swaks(server, "--to", "b@sink.test").returncode == 0
        assert len(upstream.mails()) == 1

    def test_pipelining(self, lane, recorder):
        upstream = recorder()
        server = lane([upstream])
        sent = swaks(server, "--to", "b@sink.test,c@sink.test", "--pipeline")
        assert sent.returncode == 0, sent.stdout
        got = sorted(recipient for mail in upstream.mails() for recipient in mail.recipients)
        assert got == ["b@sink.test", "c@sink.test"]


def message(subject="a subject", body="hello\n.\n..dots\n"):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@client.test", "b@sink.test", subject
    message.set_content(body)
    return message


class TestSmtplib:
    @pytest.fixture
    def upstream(self, recorder):
        return recorder()

    @pytest.fixture
    def client(self, lane, upstream):
        server = lane([upstream], shards=2)
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="client.test", timeout=20) as client:
            yield client

    def test_send_message(self, client, upstream):
        assert client.send_message(message()) == {}
        [mail] = upstream.mails()
        sent = message().as_bytes().replace(b"\n", b"\r\n")
        assert mail.content.endswith(sent)
        assert [option for option in mail.mail_options if option.startswith("SIZE=")]

    def test_many_on_one_connection(self, client, upstream):
        for number in range(100):
            assert client.sendmail("a@client.test", [f"r{number}@sink.test"], b"Subject: x\r\n\r\nx\r\n") == {}
        got = [mail.recipients for mail in upstream.mails()]
        assert sorted(got) == sorted([f"r{number}@sink.test"] for number in range(100))

    def test_fifty_recipients(self, client, upstream):
        recipients = [f"r{number}@sink.test" for number in range(50)]
        assert client.send_message(message(), to_addrs=recipients) == {}
        got = [recipient for mail in upstream.mails() for recipient in mail.recipients]
        assert sorted(got) == sorted(recipients)

    def test_utf8(self, client, upstream):
        international = message(subject="grüße", body="世界\n")
        international.replace_header("To", "zoë@sink.test")
        client.send_message(international)
        [mail] = upstream.mails()
        assert mail.recipients == ["zoë@sink.test"] and "SMTPUTF8" in mail.mail_options

    def test_refusal_and_then_another(self, client, upstream):
        upstream.rules.data["^nobody@"] = "554 5.7.0 not this one, says the upstream"
        with pytest.raises((smtplib.SMTPDataError, smtplib.SMTPRecipientsRefused)) as caught:
            client.sendmail("a@client.test", ["nobody@sink.test"], b"Subject: x\r\n\r\nx\r\n")
        assert "not this one, says the upstream" in str(caught.value)
        assert client.sendmail("a@client.test", ["b@sink.test"], b"Subject: x\r\n\r\nx\r\n") == {}
        assert [mail.recipients for mail in upstream.mails()] == [["b@sink.test"]]

    def test_two_megabytes(self, client, upstream):
        body = b"Subject: big\r\n\r\n" + (b"z" * 76 + b"\r\n") * 27_000
        assert client.sendmail("a@client.test", ["b@sink.test"], body) == {}
        [mail] = upstream.mails()
        assert mail.content.endswith(body)
