"""The side-by-side run of a farm in trouble, in its short form: one sink slow, one stopped, one killed."""

import json
import sys

from lab.programs import POSTLANE, ROOT, need, run


def test_a_farm_in_trouble(tmp_path, say):
    need("smtp-sink")
    figures, page = tmp_path / "faults.json", tmp_path / "faults.html"
    script = ROOT / "bench/compare/faults.py"
    done = run(
        sys.executable, script, "--smoke", "--postlane", POSTLANE, "--json", figures, "--html", page, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    ours = report["summary"]["postlane"]
    assert (ours["errors"], ours["lost"], ours["sessions_lost"]) == (0, 0, 0), ours
    # At least once: what was in doubt when a sink was killed may be twice, at most what was in flight.
    assert ours["twice"] <= 16, ours
    # What is queued for an upstream that hangs goes elsewhere: only what it may have taken waits for it.
    assert ours["p99_ms"] < 500, ours
    assert page.read_text().count("<svg") == len(report["summary"])
    theirs = report["summary"].get("haproxy")
    if theirs is None:
        assert "its side is skipped" in done.stdout
        return
    assert ours["p99_ms"] < theirs["p99_ms"], (ours, theirs)
    say(f"p99 {ours['p99_ms']:.1f} ms, through HAProxy {theirs['p99_ms']:.1f} ms")
