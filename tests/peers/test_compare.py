"""The side-by-side run against other programs, in its short form: HAProxy and nginx."""

import json
import sys

from lab.programs import POSTLANE, ROOT, need, run


def test_side_by_side(tmp_path, say):
    need("smtp-source")
    need("smtp-sink")
    figures, page = tmp_path / "peers.json", tmp_path / "peers.html"
    command = [sys.executable, ROOT / "bench/compare/peers.py", "--smoke", "--postlane", POSTLANE]
    command += ["--directory", tmp_path, "--json", figures, "--html", page]
    done = run(*command, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    (results,) = report["summary"].values()
    assert set(results) | set(report["absent"]) == {"postlane", "haproxy", "nginx", "kumomta"}
    for peer, one in results.items():
        assert one["messages"] == one["arrived"] >= 100, (peer, one)
        assert one["cpu_us_per_message"] > 0, (peer, one)
        assert f">{peer}<" in page.read_text()
    for peer in report["absent"]:
        assert f"skipped: {peer}" in done.stdout or peer == "kumomta"
    say(", ".join(f"{peer} {one['cpu_us_per_message']:.0f} µs" for peer, one in results.items()))
