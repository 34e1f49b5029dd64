"""Loads that Postfix's programs cannot make: `postlane bench` as the source, `postlane sink` as the sinks.

Both relays get the same: the sinks offer PIPELINING and CHUNKING, and the generator is the same process for either.
"""

import json
import os
import subprocess

from .programs import free_port, start, stop, wait_for_greeting

# What the generator is told, by the load's name.
LOADS = {
    "pipelining": ["--pipelining"],
    "chunking": ["--chunking"],
}


def load(kind, port, messages, options):
    """Seconds the load took; a RuntimeError if any message was not acknowledged."""
    command = [options.postlane, "bench", "--target", f"127.0.0.1:{port}", *LOADS[kind], "--json", "-"]
    command += ["--sessions", options.sessions, "--messages", messages, "--size", options.size, "--warmup", "0s"]
    command += ["--in-flight", options.in_flight] if kind == "chunking" else []
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=options.timeout,
        preexec_fn=lambda: os.sched_setaffinity(0, {options.load_cpu}),
    )
    if done.returncode:
        raise RuntimeError(f"postlane bench, exit {done.returncode}: {done.stderr.strip()[:500]}")
    result = json.loads(done.stdout)["load"]
    if result["acknowledged"] != messages or result["connection_errors"]:
        raise RuntimeError(f"{result['acknowledged']} of {messages} acknowledged; {result['connection_errors']}")
    return result["elapsed_seconds"]


class OwnSinks:
    """`postlane sink`s. They count at their end, so `check` looks then whether every message of all rounds came."""

    def __init__(self, count, postlane, cpu, directory):
        self.ports, self.processes, self.counts, self.sent = [], [], [], 0
        for _ in range(count):
            port = free_port()
            log = open(directory / f"sink-{port}.log", "wb")
            counts = directory / f"sink-{port}.json"
            command = [postlane, "sink", "--listen", f"127.0.0.1:{port}", "--count-file", counts]
            process = start(command, cpu, log)
            self.ports.append(port)
            self.processes.append(process)
            self.counts.append(counts)
            wait_for_greeting(port, process, log)

    def taken(self):
        """Messages sent so far; whether they came is seen at the end."""
        return self.sent

    def settled(self, expected):
        """Takes the word of the generator, which was told of every single message, until `check`."""
        self.sent = expected
        return expected

    def stop(self):
        for process in self.processes:
            stop(process)

    def check(self):
        """After `stop`: a RuntimeError unless every message that was acknowledged is in the sinks' counts."""
        taken = sum(json.loads(path.read_text())["messages"] for path in self.counts)
        if taken != self.sent:
            raise RuntimeError(f"{taken} messages arrived of {self.sent} sent")
