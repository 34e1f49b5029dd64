"""Free ports on 127.0.0.1, and waiting for something to listen there."""

import random
import socket
import time

# Below the kernel's ephemeral range (32768 and up), or an outgoing connection of this very run may
# sit on the port between our look and the listener's bind.
_RANGE = range(20000, 32000)
_handed_out = set()


def free_port():
    """A port nobody listens on now, and that no earlier call returned."""
    for _ in range(1000):
        port = random.choice(_RANGE)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise RuntimeError("no free port between 20000 and 31999")


def is_listening(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


def wait_until(condition, seconds, what, step=0.02):
    """Returns the first true value of `condition()`; an AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(step)
