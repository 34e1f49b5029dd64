"""kill -9 under load, in its short form; `scripts/crash.sh` is the long one."""

import random

from lab.crash import run


def test_killed_three_times(directory, request, say):
    seed = request.config.getoption("--seed") or random.randrange(1_000_000)
    print(f"seed {seed}")
    figures = run(directory, kills=3, seed=seed, sessions=16, pause=(0.3, 1.0))
    assert figures["acknowledged"] > 20, figures
    say(f"{figures['acknowledged']} acknowledged, none lost, {figures['messages_twice']} twice (seed {seed})")
