"""Where CPU time goes: the stacks that `perf record -g` saw, each told by the first kind of work that it is part of."""

import re
import shutil
import signal
import subprocess
import time

# From the innermost frame outwards the first that fits; kinds in order, for one frame may fit several.
KINDS = {
    "copying into the kernel": r"_copy_from_iter|copy_user.*from|skb_do_copy_data",
    "copying out of the kernel": r"_copy_to_iter|skb_copy_datagram",
    "waking others": r"try_to_wake_up|__wake_up|ttwu|wake_up_q|sock_def_readable|ep_poll_callback",
    "being switched": r"^(__)?schedule|^finish_task_switch|io_cqring_wait$|schedule_hrtimeout",
    "the peer's receipt": r"net_rx_action|__netif_receive_skb|process_backlog|tcp_v4_rcv",
    "sending": r"tcp_sendmsg|sock_sendmsg|io_send|__tcp_push_pending|tcp_write_xmit",
    "receiving": r"tcp_recvmsg|sock_recvmsg|io_recv",
    "interrupts": r"sysvec|asm_common_interrupt|irq_exit",
    "the ring": r"io_|do_syscall|entry_SYSCALL|syscall",
}
OWN = "our own code"
REST = "the rest"


def kind(frames):
    """Of one stack, innermost first: pairs of symbol and object."""
    if frames and not frames[0][1].startswith("[kernel") and frames[0][0] != "[unknown]":
        return OWN
    kernel = [symbol for symbol, place in frames if place.startswith("[")]
    for symbol in kernel:
        for name, pattern in KINDS.items():
            if re.search(pattern, symbol):
                return name
    return REST


def shares(path):
    """By kind: the share of all samples in a file of perf's."""
    said = subprocess.run(
        ["perf", "script", "-i", str(path), "-F", "ip,sym,dso"], capture_output=True, text=True, check=True
    ).stdout
    counts = dict.fromkeys([*KINDS, OWN, REST], 0)
    for stack in said.split("\n\n"):
        frames = [parsed for parsed in map(frame, stack.splitlines()) if parsed]
        if frames:
            counts[kind(frames)] += 1
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}


def frame(line):
    found = re.match(r"\s*[0-9a-f]+ (.+?) \((.*)\)$", line)
    return (found[1], found[2]) if found else None


class Record:
    """perf, recording processes; `finish` ends it."""

    def __init__(self, pids, path):
        self.path = path
        command = ["perf", "record", "-q", "-F", "4000", "-g", "-e", "cpu-clock", "-o", path, "-p", ",".join(map(str, pids))]
        self.perf = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.5)

    @staticmethod
    def missing():
        return None if shutil.which("perf") else "perf is not installed"

    def finish(self):
        """Shares by kind."""
        self.perf.send_signal(signal.SIGINT)
        self.perf.communicate(timeout=60)
        return shares(self.path)
