"""Where the CPU time of a program goes that moves frames: by samples of what runs on every CPU, with its callers.

Samples (perf, 5,000 a second and CPU) weigh nothing on the paths they look at. Probes on softirqs, which this replaces,
took a third of the CPU time they were to divide: copy mode has a softirq a frame.
"""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from .programs import start, stop

PERIOD_NS = 200_000
HEAD = re.compile(r"(.+?)\s+(\d+)/\d+ +\[(\d+)\]\s*$")
KERNEL = {"do_syscall_64", "entry_SYSCALL_64_after_hwframe", "asm_sysvec_apic_timer_interrupt", "asm_exc_page_fault", "ret_from_fork_asm"}
# In whose context the interface's softirqs run, beside the program's own.
LOAD = re.compile(r"smtp-source|smtp-sink|swapper|ksoftirqd")
REDIRECTING = {"__xsk_map_redirect", "xsk_rcv", "__xsk_map_flush", "xdp_do_redirect", "xdp_do_flush"}


def kind(is_own, is_load, is_sent_here, callers):
    """Whose a sample is: `user` or `system` of the program's own, `nic` (its interface's receiving, wherever it runs),
    None (others', and softirqs that merely run in its context). Then what of it is the kernel's way of moving frames from
    and to a socket of AF_XDP, or our TCP.

    With AF_XDP the near interface is the only one with NAPI. Without, a veth's frames are received on the CPU they were
    sent on: what the load has sent is received by the program, and the other way round.
    """
    chain = set(callers)
    if "handle_softirqs" in chain:
        if "veth_poll" in chain and (is_own or is_load):
            return "nic", "frames" if chain & REDIRECTING else None
        return ("nic" if is_load and is_sent_here and "process_backlog" in chain else None), None
    if not is_own:
        return None, None
    if chain & KERNEL:
        return "system", "frames" if "__xsk_generic_xmit" in chain else None
    return "user", "bypass" if "net::xdp" in callers[0] or "sys::xdp" in callers[0] else None


class Samples:
    """From the start to `stop`."""

    def __init__(self, pid, directory, options):
        self.pid, self.load_cpu, self.path = pid, options.load_cpu, directory / "samples.perf"
        self.path.unlink(missing_ok=True)
        self.log = open(directory / "perf.log", "w+b")
        command = ["perf", "record", "-a", "-g", "-e", "cpu-clock", "-c", PERIOD_NS, "-m", "16M", "-o", self.path]
        self.process = start(command, options.load_cpu, self.log)
        deadline = time.monotonic() + 20
        while not self.path.exists() or not self.path.stat().st_size:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("perf: " + Path(self.log.name).read_text(errors="replace")[-500:])
            time.sleep(0.05)

    def stop(self):
        """Samples of each kind, and of all that ran as the program."""
        stop(self.process, signal.SIGINT)
        self.log.close()
        command = ["perf", "script", "-i", str(self.path), "-F", "comm,pid,tid,cpu,ip,sym"]
        script = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
        counts, whose, callers = Counter(), (False, False, False), []
        for line in script.stdout:
            if found := HEAD.match(line):
                name, pid, cpu = found.group(1).strip(), int(found.group(2)), int(found.group(3))
                whose, callers = (pid == self.pid, bool(LOAD.match(name)), cpu == self.load_cpu), []
            elif line.strip():
                callers.append(line.strip().partition(" ")[2])
            elif callers:
                of, part = kind(*whose, callers)
                counts[of] += of is not None
                counts[part] += part is not None
                counts["own"] += whose[0]
                callers = []
        if script.wait() or not counts["own"]:
            raise RuntimeError("perf saw nothing of the program")
        os.unlink(self.path)
        return counts
