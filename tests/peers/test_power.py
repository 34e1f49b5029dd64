"""Power cuts on a file system of a disk that logs: the short form of scripts/power.sh, and what it makes of a log."""

import json
import random
import subprocess
import sys

import pytest

from lab.power.campaign import Bounds
from lab.power.cuts import Cuts
from lab.power.log import FLUSH, Log
from lab.power.mail import NEVER, Books
from lab.programs import ROOT, run

SCRIPT = ROOT / "scripts/power.sh"


def campaign(*options):
    """A run of it; the test is skipped where it cannot be."""
    done = run(SCRIPT, *options, timeout=200)  # of a busy machine; else a quarter of a minute
    if done.returncode == 69:
        pytest.skip(done.stderr.strip().removeprefix("skipped: "))
    return done


def test_what_is_missing_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from lab.power import disk; disk.shutil.which = lambda name: None; "
         "from lab.power.campaign import main; sys.exit(main())"],
        cwd=ROOT / "tests/peers", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 69, done.stdout + done.stderr
    assert done.stderr.startswith("skipped: not here: "), done.stderr
    for word in ("mkfs.ext4", "losetup", "e2fsprogs"):
        assert word in done.stderr, done.stderr
    assert run("bash", "-n", SCRIPT).returncode == 0


def made(directory, steps):
    """A disk of 64 blocks of zeroes, and a log: a number is a block written with it, None a flush."""
    image, path = directory / "image", directory / "log"
    image.write_bytes(bytes(64 * 4096))
    log, ends = Log(path), []
    for step in steps:
        log.mark(FLUSH) if step is None else log.write(step * 4096, bytes([step]) * 4096)
        ends.append(log.at)
    return Cuts(image, path, 512), ends


def blocks(directory, cuts, at, kind, seed=0):
    """What is in the blocks after such a cut: by block, which octets."""
    cuts.make(directory / "cut", at, kind, random.Random(seed))
    disk = (directory / "cut").read_bytes()
    return {n: set(disk[n * 4096 : n * 4096 + 4096]) for n in range(64) if any(disk[n * 4096 : n * 4096 + 4096])}


def test_a_cut_loses_only_what_was_not_flushed(tmp_path):
    cuts, _ = made(tmp_path, [1, 2, None, 3, 4, None, 5, 6])
    assert (cuts.count(), cuts.flushes()) == (8, 2)
    assert blocks(tmp_path, cuts, 2, "none") == {}
    assert blocks(tmp_path, cuts, 3, "none").keys() == {1, 2}
    for advanced in (0, 4):
        cuts.advance(advanced)
        assert blocks(tmp_path, cuts, 5, "none").keys() == {1, 2}
        assert blocks(tmp_path, cuts, 5, "all").keys() == {1, 2, 3, 4}
        assert blocks(tmp_path, cuts, 6, "none").keys() == {1, 2, 3, 4}
        some = [blocks(tmp_path, cuts, 8, "some", seed).keys() for seed in range(40)]
        assert {frozenset(kept - {1, 2, 3, 4}) for kept in some} == {frozenset(kept) for kept in ((), (5,), (6,), (5, 6))}
        torn = [blocks(tmp_path, cuts, 8, "torn", seed) for seed in range(40)]
        assert all(kept[4] == {4} for kept in torn) and any(kept.get(5) == {0, 5} for kept in torn)
    cuts.close()


def test_owed_from_its_250_until_it_may_be_over(tmp_path):
    cuts, ends = made(tmp_path, [1, None, 2, None, 3, None])
    books = Books()
    books.sent = {number: (0, 1) for number in range(4)}
    books.acknowledged = {0: ends[1], 1: ends[1] + 600, 2: ends[3], 3: ends[5]}
    books.taken = {(0, "r0.0@sink.test"): ends[3], (1, "r1.0@sink.test"): ends[4] + 1, (3, "r3.0@sink.test"): NEVER}
    bounds = Bounds(books, cuts, {(9, "r9.0@sink.test")})
    owed = [{number for number, _ in bounds.owed(at)} for at in range(7)]
    # 0: by entry 4 it was taken, so its end may be in entry 5. 1: entry 3 was under way at its 250, 6 when it was taken.
    assert owed == [{9}, {9}, {9, 0, 1}, {9, 0, 1}, {9, 0, 1, 2}, {9, 1, 2}, {9, 1, 2}]
    cuts.close()


def test_power_cuts_lose_nothing(tmp_path, request, say):
    figures = tmp_path / "power.json"
    seed = request.config.getoption("--seed") or random.randrange(1_000_000)
    small = ["--cuts", "4", "--cuts-per-round", "2", "--at-once", "2", "--rounds", "1", "--seconds", "1.5"]
    done = campaign(*small, "--minutes", "1", "--seed", seed, "--directory", tmp_path, "--json", figures)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(figures.read_text())
    assert said["cuts"] >= 2 and said["acknowledged"] > 20 and said["flushes"] > 20, said
    say(f"{said['cuts']} cuts on {' and '.join(said['fs'][: said['disks']])}, {said['acknowledged']} acknowledged, none lost (seed {seed})")


def test_a_spool_that_does_not_sync_loses_mail(tmp_path):
    """Were it not seen, nothing above would mean anything."""
    seen = lambda done: " lost: " in done.stderr or "the spool is damaged" in done.stderr
    done = campaign("--no-sync", "--fs", "ext4", "--cuts", "16", "--cuts-per-round", "16", "--seconds", "1.5", "--directory", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert seen(done) and "kept: " in done.stderr, done.stderr
    (failed,) = tmp_path.glob("power-*/failed")
    again = campaign("--again", failed, "--fs", "ext4", "--directory", tmp_path)
    assert again.returncode == 1 and seen(again), again.stdout + again.stderr
