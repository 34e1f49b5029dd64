"""The commands an operator types: exit codes, messages that name place and cause, the demo."""

import json
import os
import pty
import re
import select
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lab.ports import free_port, is_listening
from lab.programs import POSTLANE, postlane
from lab.server import config_text

BROKEN = """\
hostname = "lane.test"
shards = "many"
drain_timeout = "5 parsecs"
colour = "blue"

[[listener]]
name = "in"
address = "127.0.0.1:notaport"
trusted = ["127.0.0.0/40"]

[[pool]]
name = "farm"
balance = "most-beautiful"

[[pool.upstream]]
name = "mta1"
address = "127.0.0.1:2600"
weigth = 2

[delivery]
mode = "through"
"""
# the lines of BROKEN that are wrong, and a word each message must have
WRONG = {2: "shards", 3: "drain_timeout", 4: "colour", 8: "address", 9: "trusted", 13: "balance", 18: "weigth"}


@pytest.fixture
def good_config(directory):
    path = directory / "good.toml"
    path.write_text(config_text(free_port(), [free_port(), free_port()], shards=2))
    return path


class TestCheck:
    def test_every_error_at_once(self, directory):
        path = directory / "broken.toml"
        path.write_text(BROKEN)
        done = postlane("check", "--config", path)
        assert done.returncode == 78, (done.returncode, done.stderr)
        assert "panicked" not in done.stderr
        found = {}
        for line in done.stderr.splitlines():
            place = re.match(rf"{re.escape(str(path))}:(\d+):(\d+): (.+)", line)
            if place:
                found.setdefault(int(place[1]), []).append((int(place[2]), place[3]))
        assert set(WRONG) <= set(found), f"lines {set(WRONG) - set(found)} are not named:\n{done.stderr}"
        lines = BROKEN.splitlines()
        for number, word in WRONG.items():
            columns = [column for column, _ in found[number]]
            assert all(1 <= column <= len(lines[number - 1]) + 1 for column in columns), found[number]
        assert not set(found) - set(WRONG), f"errors where there are none:\n{done.stderr}"

    def test_good(self, good_config):
        done = postlane("check", "--config", good_config)
        assert done.returncode == 0, done.stderr
        for word in ("shards", "farm", "mta1", "mta2"):
            assert word in done.stdout, f"the plan does not show {word}:\n{done.stdout}"

    def test_good_as_json(self, good_config):
        done = postlane("check", "--config", good_config, "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)

    @pytest.mark.parametrize(
        "text, line",
        [("hostname = \n", 1), ("hostname = 'a'\n[[listener]\n", 2), ("a = 1\na = 2\n", 2), ("x = 'é\n", 1)],
    )
    def test_not_toml(self, directory, text, line):
        path = directory / "x.toml"
        path.write_text(text)
        done = postlane("check", "--config", path)
        assert done.returncode == 78, done.stderr
        assert re.search(rf"^{re.escape(str(path))}:{line}:\d+: ", done.stderr, re.M), done.stderr

    @pytest.mark.parametrize("mode", ["through", "spool", "through-then-spool"])
    def test_modes(self, directory, mode):
        """Checking does not touch the spool."""
        path, spool = directory / "spool.toml", directory / "nothing-there"
        path.write_text(config_text(free_port(), [free_port()], delivery={"mode": mode, "spool": spool}))
        done = postlane("check", "--config", path)
        assert done.returncode == 0, done.stderr
        assert mode in done.stdout and (str(spool) in done.stdout) == (mode != "through"), done.stdout
        assert not spool.exists()

    def test_no_such_file(self, directory):
        done = postlane("check", "--config", directory / "absent.toml")
        assert done.returncode in (66, 78), done
        assert "absent.toml" in done.stderr

    def test_serve_refuses_what_check_refuses(self, directory):
        path = directory / "broken.toml"
        path.write_text(BROKEN)
        done = postlane("serve", "--config", path)
        assert done.returncode == 78
        assert f"{path}:13:" in done.stderr, done.stderr


class TestUsage:
    @pytest.mark.parametrize("arguments", [["--no-such-flag"], ["no-such-command"], ["serve", "--nonsense"]])
    def test_wrong(self, arguments):
        done = postlane(*arguments)
        assert done.returncode == 64, done
        assert arguments[-1] in done.stderr

    @pytest.mark.parametrize("command", ["serve", "check", "bench", "sink"])
    def test_help_with_an_example(self, command):
        done = postlane(command, "--help")
        assert done.returncode == 0
        assert f"postlane {command}" in done.stdout and "xample" in done.stdout, done.stdout

    def test_version(self):
        assert re.match(r"postlane \d+\.\d+\.\d+", postlane("--version").stdout)


class TestPorts:
    def test_in_use(self, directory):
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            port = taken.getsockname()[1]
            path = directory / "taken.toml"
            path.write_text(config_text(port, [free_port()]))
            done = postlane("serve", "--config", path)
        assert done.returncode == 71, (done.returncode, done.stderr)
        assert str(port) in done.stderr and "in use" in done.stderr, done.stderr

    def test_taken_by_another_postlane(self, lane, recorder):
        """Listeners shared by the shards of one instance must not be shared with a second by mistake."""
        first = lane([recorder()])
        done = postlane("serve", "--config", first.config, timeout=5)
        assert done.returncode == 71, (done.returncode, done.stderr)
        assert str(first.port) in done.stderr, done.stderr

    def test_not_our_address(self, directory):
        path = directory / "foreign.toml"
        path.write_text(config_text(0, [free_port()], listener={"address": f"192.0.2.1:{free_port()}"}))
        done = postlane("serve", "--config", path)
        assert done.returncode == 71, (done.returncode, done.stderr)
        assert "192.0.2.1" in done.stderr, done.stderr


def read_terminal(terminal, seconds, until=None):
    """What appears on a pseudo-terminal for `seconds`, or until it has `until`."""
    text, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline and not (until and re.search(until, text)):
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                text += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the program has closed its end
                break
    return text


def test_demo():
    """As its first user would: start, send a mail, watch the live line, Ctrl-C."""
    for port in (2525, 8025):
        if is_listening(port):
            pytest.skip(f"port {port} is in use on this machine")
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    demo = subprocess.Popen([POSTLANE, "serve", "--demo"], stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    try:
        hello = read_terminal(ours, 15, until="2525")
        assert "2525" in hello, f"it does not say where to send a mail:\n{hello}"
        deadline = time.monotonic() + 10
        while not is_listening(2525) and time.monotonic() < deadline:
            time.sleep(0.05)
        with smtplib.SMTP("127.0.0.1", 2525, timeout=15) as client:
            for number in range(30):
                refused = client.sendmail(
                    "me@client.test", [f"you{number}@sink.test"], b"Subject: first\r\n\r\nhello\r\n"
                )
                assert refused == {}
        live = read_terminal(ours, 5, until=r"\b30\b")
        assert re.search(r"\b30\b", live), f"30 messages went through, and the live line does not show it:\n{live}"
        demo.send_signal(signal.SIGINT)
        rest = read_terminal(ours, 2)
        assert demo.wait(15) == 0, rest
        assert "panicked" not in hello + live + rest
        assert not list(Path(tempfile.gettempdir()).glob(f"postlane-demo-{demo.pid}")), "its spool is left"
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
        os.close(ours)
