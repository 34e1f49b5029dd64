"""Load from Postfix's smtp-source."""

from .programs import need, run


def smtp_source(port, messages, size, *, sessions=64, reuse=True, sender="sender@source.test", timeout=240, extra=(), to="127.0.0.1"):
    """Sends `messages` of `size` bytes, each to its own recipient (`1rcpt@sink.test`, `2rcpt@…`).

    smtp-source stops with an error at the first reply it did not expect, so a run that ends with 0 and
    says nothing has seen no failure. Returns the finished process.
    """
    command = [need("smtp-source"), "-4", "-s", sessions, "-m", messages, "-l", size, "-N"]
    command += ["-f", sender, "-t", "rcpt@sink.test", "-M", "source.test"]
    command += ["-d"] if reuse else []
    return run(*command, *extra, f"{to}:{port}", timeout=timeout)


def assert_clean(finished):
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0 and not said.strip(), f"exit {finished.returncode}: {said}"
