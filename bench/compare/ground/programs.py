"""Programs in the background, their ports, their CPU time."""

import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
POSTLANE = ROOT / "target/release/postlane"
os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"


def free_port():
    """A port nobody listens on; below the kernel's ephemeral range, so no outgoing connection takes it either."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def start(command, cpu, log):
    """A program pinned to one CPU from its first instruction (`cpu` None: it goes where it likes)."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
    )


def stop(process, number=signal.SIGTERM):
    """Signals it, and waits for its end; it is killed when that takes too long."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_greeting(port, process, log):
    """Until it says 220, within 15 s."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if connection.recv(512).startswith(b"220"):
                    connection.sendall(b"QUIT\r\n")
                    connection.recv(512)
                    return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"no greeting on port {port}:\n{Path(log.name).read_text(errors='replace')[-2000:]}")


class Own:
    """Commands of one `postlane` binary in the background, each with a log in `directory`; they end with the `with`."""

    def __init__(self, binary, directory):
        self.binary, self.directory, self.started = binary, directory, []

    def start(self, *command, greets_on=None):
        """One of them; with `greets_on`, a port, once it says 220 there."""
        log = open(self.directory / f"{len(self.started)}.log", "wb")
        process = start([self.binary, *command], None, log)
        self.started.append((process, log))
        if greets_on:
            wait_for_greeting(greets_on, process, log)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, log in reversed(self.started):
            stop(process)
            log.close()


def cpu_seconds(pid):
    """CPU time of a process, its ended threads included, in nanosecond steps (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def version(program, *flags):
    """The first line it says of itself."""
    done = subprocess.run([program, *flags], capture_output=True, text=True, timeout=10)
    return (done.stdout + done.stderr).strip().splitlines()[0] if done.stdout or done.stderr else "unknown"
