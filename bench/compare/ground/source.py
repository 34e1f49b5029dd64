"""The load of the side-by-side runs: smtp-source."""

import os
import subprocess
import time


def send(port, messages, size, options, sessions=None, each=False, prefix=(), host="127.0.0.1"):
    """Seconds it took; a RuntimeError at the first thing it did not expect.

    `options` says on which CPU, how long at most, and of how many sessions where `sessions` does not. `each`: a
    connection for each message. `prefix`: a command that runs it.
    """
    source = ["smtp-source", "-4", "-N", *([] if each else ["-d"]), "-m", messages, "-l", size]
    source += ["-s", min(sessions or options.sessions, messages)]
    source += ["-f", "sender@source.test", "-t", "rcpt@sink.test", "-M", "source.test", f"{host}:{port}"]
    begin = time.monotonic()
    done = subprocess.run(
        [str(part) for part in [*prefix, *source]],
        capture_output=True,
        text=True,
        timeout=options.timeout,
        preexec_fn=lambda: os.sched_setaffinity(0, {options.load_cpu}),
    )
    if done.returncode or done.stderr.strip():
        raise RuntimeError(f"smtp-source, exit {done.returncode}: {done.stderr.strip()[:500]}")
    return time.monotonic() - begin
