"""Zero-copy kernel bypass in a QEMU guest: the short form of scripts/qemu.sh, or what it says where it cannot run."""

import json
import re
import subprocess
import sys

import pytest

from lab.programs import POSTLANE, ROOT, run

SCRIPT = ROOT / "scripts/qemu.sh"


def test_what_is_missing_is_said(tmp_path):
    """A kernel that is not there, and no programs: skipped, and each is named with its remedy."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench/compare/qemu.py", "--kernel", tmp_path / "none"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 69, done.stdout + done.stderr
    assert done.stderr.startswith("skipped: not here: "), done.stderr
    for word in ("qemu-system-x86", "busybox-static", "a guest kernel", "scripts/qemu.sh --install"):
        assert word in done.stderr, done.stderr


def test_the_script_is_sound():
    assert run("bash", "-n", SCRIPT).returncode == 0
    help_ = run(SCRIPT, "--help")
    assert help_.returncode == 0 and "--chunking" in help_.stdout, help_.stderr


def test_mail_by_zero_copy_on_two_queues(tmp_path, say):
    figures = tmp_path / "qemu.json"
    command = [SCRIPT, "--postlane", POSTLANE, "--json", figures, "--sizes", "1024", "--rounds", "1", "--messages", "500"]
    # Emulated on a busy machine, it may take its time; that is no fault of what it tests.
    done = run(*command, "--chunking", "--boot-timeout", "60", timeout=115)
    if done.returncode == 69:
        pytest.skip(done.stderr.strip().removeprefix("skipped: "))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    assert re.search(r"queues 0,1, zero-copy mode", report["mode"]), report["mode"]
    both = report["medians"]["1024"]
    say(", ".join(f"{name} {one['sum']:.0f} guest instructions per message" for name, one in both.items()))
    # What goes past the kernel is not done in the kernel.
    assert both["xdp"]["kernel"] < both["uring"]["kernel"], both
