"""Idle sessions cost little, and nobody notices them."""

import json
import sys

from lab.programs import POSTLANE, ROOT, run


def test_idle_sessions_are_cheap_while_mail_flows(directory, say):
    figures = directory / "idle.json"
    command = [sys.executable, ROOT / "bench/compare/idle.py", "--postlane", POSTLANE, "--json", figures]
    done = run(*command, "--sessions", 2000, "--duration", "2s", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(figures.read_text())
    assert figures["bytes_per_session"] <= 4096 and figures["acknowledged"] > 100
    say(f"{figures['bytes_per_session']} bytes each, {figures['messages_per_second']} messages/s meanwhile")
