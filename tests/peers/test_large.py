"""Bodies that are together many times as large as the memory for them: all arrive, nobody is refused."""

import json
import sys

import pytest

from lab.programs import POSTLANE, ROOT, run


@pytest.mark.parametrize("chunking", [False, True], ids=["data", "chunks"])
def test_large_messages_through_a_small_memory(directory, say, chunking):
    figures = directory / "large.json"
    command = [sys.executable, ROOT / "bench/compare/large.py", "--postlane", POSTLANE, "--json", figures]
    command += ["--sessions", "120", "--size", "6MiB", "--memory", "32MiB", "--timeout", "100"]
    done = run(*command, *(["--chunking"] if chunking else []), timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(figures.read_text())
    assert figures["arrived"] == figures["acknowledged"] == 120
    assert figures["streamed"] > 60 and figures["out_of_buffers"] == 0
    say(f"{figures['mib_per_second']} MiB/s, at most {figures['resident_peak'] >> 20} MiB resident")
