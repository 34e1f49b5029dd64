"""Commands, and those that run in a network namespace."""

import subprocess


def run(*command, check=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done


def inside(namespace, *command):
    return ["ip", "netns", "exec", namespace, *[str(part) for part in command]]
