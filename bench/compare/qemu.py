#!/usr/bin/env python3
"""Zero-copy kernel bypass on virtio_net in a QEMU guest: mail end to end, and instructions per message beside kernel TCP.

The guest has two interfaces of two queues each: clients come by one, upstreams are reached by the other. It runs
`postlane serve` and nothing else; smtp-source and smtp-sink run on this side of the wires, in a network namespace that
ends with the program. Only `backend` differs between rounds, which are interleaved. Every instruction that the guest
executes during a round, on all its CPUs, is counted by a plugin of QEMU's, the user's and the kernel's apart; so the
clients' leg, by kernel TCP, is in both sums. With --both the clients come by the upstreams' interface too, and both legs go
by the backend. Kernel TCP has virtio's checksum, segmentation and receive offloads.

Before anything is counted: both queues must have bound in zero-copy mode, and random messages must arrive byte for
byte. A round counts only if smtp-source saw no error, every message arrived, both shards sent, and none passed segments on.

    scripts/qemu.sh                          says what is missing, or runs this
    scripts/qemu.sh --install                fetches QEMU, busybox and a kernel by apt first
    bench/compare/qemu.py --sizes 1024 --rounds 5
    bench/compare/qemu.py --both             clients past the kernel as well
    bench/compare/qemu.py --no-tso           kernel TCP as on a NIC without segmentation offload

Exit: 0 done, 1 a check or a round failed, 69 a program, the kernel or privileges are absent.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ground.programs import POSTLANE, ROOT, stop
from ground.sinks import Sinks, counted
from vm.guest import Failed, Guest, goes_with_us, initramfs
from vm.letters import send_letters

BACKENDS = ("uring", "xdp")
QUEUES = 2  # and CPUs of the guest, and shards
NEAR, FAR = ("10.68.0.1", "10.68.1.1"), ("10.68.0.2", "10.68.1.2")  # the guest's addresses, and ours
LISTENER, SINKS, WHOLE = 2525, 2600, 2700
ADMIN = "127.0.0.1:8025"
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "cc": "gcc", "strip": "binutils",
    "ip": "iproute2", "smtp-source": "postfix", "smtp-sink": "postfix",
}
CLONE_NEWNET = 0x40000000


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sizes", default="1024,10240", help="bytes of a message's body, one after the other")
    parser.add_argument("--messages", type=int, default=3_000, help="messages in a round (3000)")
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--links", type=int, default=16, help="links of a shard to each of two sinks (16)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each backend, interleaved (3)")
    parser.add_argument("--chunking", action="store_true", help="clients and upstreams speak BDAT: a round trip each")
    parser.add_argument("--both", action="store_true", help="clients too come by the interface of AF_XDP")
    parser.add_argument("--no-tso", action="store_true", help="the guest's kernel cuts its segments itself")
    parser.add_argument("--coalesce", action="store_true", help="interrupts put off for 200 us, for both")
    parser.add_argument("--mode", default="zero-copy", choices=["zero-copy", "copy"], help="what AF_XDP is to bind by")
    parser.add_argument("--memory", default="1G", help="the guest's (1G)")
    parser.add_argument("--kernel", type=Path, help="bzImage, Linux 6.14 or newer (the newest in target/qemu)")
    parser.add_argument("--modules", type=Path, help="its directory of modules (where the kernel is)")
    parser.add_argument("--boot-timeout", type=int, default=90, help="most seconds until the guest answers (90)")
    parser.add_argument("--timeout", type=int, default=120, help="most seconds for one load (120)")
    parser.add_argument("--postlane", default=str(POSTLANE))
    parser.add_argument("--json", default=str(ROOT / "target/compare-qemu.json"))
    return parser.parse_args()


def absent(options):
    """What is missing, in words; fills in the kernel."""
    missing = [f"{name} (apt-get install {package})" for name, package in PROGRAMS.items() if not shutil.which(name)]
    if shutil.which("qemu-system-x86_64"):
        version = run("qemu-system-x86_64", "--version").splitlines()[0]
        if int(re.search(r"version (\d+)", version).group(1)) < 9:
            missing.append(f"QEMU 9 or newer, whose plugins count (scripts/qemu.sh --install); there is {version}")
    kernels = sorted((ROOT / "target/qemu/kernel").glob("usr/lib/modules/*/vmlinuz"), key=lambda path: path.stat().st_mtime)
    options.kernel = options.kernel or (kernels[-1] if kernels else None)
    if options.kernel is None or not options.kernel.exists():
        missing.append("a guest kernel with zero-copy in virtio_net (scripts/qemu.sh --install unpacks one to target/qemu)")
    elif options.modules is None:
        options.modules = options.kernel.parent
    if not Path("/dev/net/tun").exists():
        missing.append("/dev/net/tun (modprobe tun)")
    if os.geteuid() != 0:
        missing.append("root")
    if not Path(options.postlane).exists():
        missing.append(f"{options.postlane} (cargo build --release)")
    return missing


def run(*command, timeout=30):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()[:500]}")
    return done.stdout


def network():
    """This process, and what it starts, moves to a network of its own with two taps; it ends with them."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise Failed(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    run("ip", "link", "set", "lo", "up")
    for number, address in enumerate(FAR):
        tap = f"tap{number}"
        run("ip", "tuntap", "add", "dev", tap, "mode", "tap", "multi_queue", "vnet_hdr")
        run("ip", "addr", "add", f"{address}/24", "dev", tap)
        run("ip", "link", "set", tap, "up")


def devices(options):
    arguments = []
    for number in range(2):
        arguments += ["-netdev", f"tap,id=n{number},ifname=tap{number},script=no,downscript=no,queues={QUEUES},vhost=off"]
        nic = f"virtio-net-pci,netdev=n{number},mq=on,rss=on,vectors={2 * QUEUES + 2},addr={4 + number},romfile="
        # Zero-copy needs a device that goes by the DMA API.
        nic += ",iommu_platform=on,disable-legacy=on"
        if options.no_tso:
            nic += ",host_tso4=off,host_tso6=off,host_ufo=off,host_uso=off"
        arguments += ["-device", nic]
    return arguments


def serving(options):
    """Where the guest takes mail."""
    return NEAR[1] if options.both else NEAR[0]


def configuration(backend, upstreams, options):
    lines = ['hostname = "lane.test"', f"shards = {QUEUES}", f'backend = "{backend}"', 'memory = "128MiB"']
    lines += ["[admin]", f'listen = "{ADMIN}"']
    lines += ["[xdp]", 'interface = "eth1"', f'mode = "{options.mode}"'] if backend == "xdp" else []
    lines += ["[[listener]]", 'name = "in"', f'address = "{serving(options)}:{LISTENER}"', 'trusted = ["10.68.0.0/16"]']
    lines += ['backend = "xdp"'] if options.both and backend == "xdp" else []
    lines += ["[[pool]]", 'name = "farm"', f"links_per_shard = {options.links}", f"idle_links = {options.links}"]
    lines += ["[pool.health]", 'probe = "off"']
    for number, upstream in enumerate(upstreams, 1):
        lines += ["[[pool.upstream]]", f'name = "mta{number}"', f'address = "{upstream}"']
    lines += ["[delivery]", 'mode = "through"']
    return "\n".join(lines) + "\n"


class FarSinks(Sinks):
    """Two sinks that count, and one that keeps what it gets."""

    def __init__(self, directory, options):
        self.letters, self.dumps = directory / "letters", []
        self.logs, self.processes = [], []
        for port in (SINKS, SINKS + 1):
            log = directory / f"sink-{port}.log"
            if options.chunking:
                self.dumps.append(directory / f"sink-{port}.json")
                command = [options.postlane, "sink", "--listen", f"{FAR[1]}:{port}", "--dump", self.dumps[-1]]
            else:
                command = ["smtp-sink", "-c", "-m", "2048", "-u", "root", f"{FAR[1]}:{port}", "2048"]
            self._start(command, log)
        keeper = [options.postlane, "sink", "--listen", f"{FAR[1]}:{WHOLE}", "--maildir", self.letters]
        self._start(keeper, directory / "keeper.log")
        time.sleep(0.5)
        for log, process in zip(self.logs, self.processes):
            if process.poll() is not None:
                raise Failed(f"a sink did not start: {Path(log.name).read_text(errors='replace')[-500:]}")

    def _start(self, command, log):
        self.logs.append(open(log, "wb"))
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=self.logs[-1],
            stderr=subprocess.STDOUT,
            preexec_fn=goes_with_us,
        )
        self.processes.append(process)

    def taken(self):
        if self.dumps:
            return sum(dump.read_bytes().count(b"\n") for dump in self.dumps)
        return sum(counted(Path(log.name)) for log in self.logs[:2])

    def stop(self):
        for process in self.processes:
            stop(process)
        for log in self.logs:
            log.close()


class Lane:
    """The dispatcher in the guest."""

    def __init__(self, guest, name):
        self.guest, self.log = guest, f"/tmp/{name}.log"
        self.pid = guest.run(f"postlane serve --config /etc/{name}.toml >{self.log} 2>&1 & echo $!")
        deadline = time.monotonic() + 30
        while "metrics and status on" not in (said := guest.run(f"cat {self.log}")):
            if time.monotonic() > deadline or not guest.run(f"kill -0 {self.pid} 2>/dev/null && echo runs || true"):
                raise Failed(f"postlane did not start in the guest:\n{said[-2000:]}")
            time.sleep(0.2)
        mode = re.search(r"upstreams by (AF_XDP.+)", said)
        self.mode = mode.group(1) if mode else "io_uring"

    def segments(self):
        """By shard and kind, as its metrics say."""
        page = self.guest.run(f"wget -q -O - http://{ADMIN}/metrics | grep ^postlane_bypass_segments_total || true")
        found = re.findall(r'shard="(\d+)",kind="(\w+)"\} (\d+)', page)
        return {(int(shard), kind): int(count) for shard, kind, count in found}

    def stop(self):
        self.guest.run(f"kill {self.pid}; wait {self.pid}", 40)


def set_up(guest, options):
    for number, address in enumerate(NEAR):
        nic = f"eth{number}"
        guest.run(f"ip addr add {address}/24 dev {nic}; ip link set {nic} up")
        if options.coalesce:
            guest.run(
                f"echo 2 >/sys/class/net/{nic}/napi_defer_hard_irqs; echo 200000 >/sys/class/net/{nic}/gro_flush_timeout"
            )
    deadline = time.monotonic() + 20
    while True:
        try:
            guest.run(f"ping -c 1 -W 1 {FAR[0]} && ping -c 1 -W 1 {FAR[1]}", 10)
            return
        except Failed:
            if time.monotonic() > deadline:
                raise


def check_bound(lane, options):
    """It bound as it was told to, by what the kernel said of each socket."""
    queues = ",".join(str(number) for number in range(QUEUES))
    want = rf"queues {queues}, {options.mode} mode"
    if not re.search(want, lane.mode) or "chosen by the interface's hash" not in lane.mode:
        raise Failed(f"bound otherwise than asked for: {lane.mode}")
    deadline = time.monotonic() + 10
    while options.mode not in (status := lane.guest.run(f"postlane status --admin http://{ADMIN} 2>&1 || true")):
        if time.monotonic() > deadline:
            raise Failed(f"`postlane status` does not show the mode:\n{status}")
        time.sleep(0.2)


def check_whole(guest, sinks, options):
    """Letters of all sizes and random text arrive as they were sent, over links of their own."""
    lane = Lane(guest, "whole")
    try:
        check_bound(lane, options)
        sent = send_letters(serving(options), LISTENER, 240, 8, options.timeout)
        arrived = []
        for path in (sinks.letters / "new").iterdir():
            arrived.append(path.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")[2])
        if sorted(arrived) != sorted(sent):
            raise Failed(f"{len(arrived)} letters arrived of {len(sent)}, {len(set(arrived) & set(sent))} of them whole")
        segments = lane.segments()
    finally:
        lane.stop()
    print(f"{len(sent)} letters of random text arrived byte for byte, {sum(map(len, sent)) >> 10} KiB in all")
    print(f"upstreams by {lane.mode}; segments {describe(segments)}", flush=True)
    return lane.mode


def describe(segments):
    kinds = sorted({kind for _, kind in segments})
    shards = sorted({shard for shard, _ in segments})
    return ", ".join(f"{kind} {'+'.join(str(segments[shard, kind]) for shard in shards)}" for kind in kinds)


def load(messages, size, options):
    target = f"{serving(options)}:{LISTENER}"
    if options.chunking:
        command = [options.postlane, "bench", "--target", target, "--warmup", "0s", "--sessions", options.sessions]
        command += ["--messages", messages, "--size", size, "--chunking", "--in-flight", "4"]
    else:
        command = ["smtp-source", "-4", "-N", "-d", "-s", options.sessions, "-m", messages, "-l", size]
        command += ["-f", "sender@source.test", "-t", "rcpt@sink.test", "-M", "source.test", target]
    begun = time.monotonic()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=options.timeout)
    if done.returncode or not options.chunking and done.stderr.strip():
        raise Failed(f"{command[0]}, exit {done.returncode}: {done.stderr.strip()[:500]}")
    return time.monotonic() - begun


def one_round(guest, backend, size, sinks, options):
    lane = Lane(guest, backend)
    try:
        before, warm_up = sinks.taken(), max(200, options.messages // 10)
        load(warm_up, size, options)
        kernel, user = guest.counters.read()
        seconds = load(options.messages, size, options)
        kernel_after, user_after = guest.counters.read()
        expected = before + warm_up + options.messages
        if (arrived := sinks.settled(expected, 10)) != expected:
            counts = guest.run(f"wget -q -O - http://{ADMIN}/metrics | grep -v ^# | grep -v ' 0$' | grep -v _bucket")
            raise Failed(f"{backend}: {arrived - before} messages arrived of {expected - before} sent\n{counts}")
        segments = lane.segments()
        if backend == "xdp":
            shards = range(QUEUES)
            if any(not segments[shard, "sent"] for shard in shards):
                raise Failed(f"a shard sent nothing: {describe(segments)}")
            if any(segments[shard, "handed_over"] for shard in shards):
                raise Failed(f"segments came by another shard's queue: {describe(segments)}")
    finally:
        lane.stop()
    return {
        "kernel": (kernel_after - kernel) / options.messages,
        "user": (user_after - user) / options.messages,
        "sum": (kernel_after - kernel + user_after - user) / options.messages,
        "messages_per_second": options.messages / seconds,
        "segments": describe(segments),
    }


def median(rounds):
    return {key: statistics.median(one[key] for one in rounds) for key in ("kernel", "user", "sum", "messages_per_second")}


def measure(guest, sinks, options):
    rounds = {}
    print(f"{'size':>7} {'backend':8} {'user':>8} {'kernel':>8} {'sum':>8} {'least':>8} {'most':>8}   guest instructions per message")
    for size in [int(size) for size in options.sizes.split(",")]:
        rounds[size] = {backend: [] for backend in BACKENDS}
        for number in range(options.rounds):
            for backend in BACKENDS if number % 2 == 0 else reversed(BACKENDS):
                rounds[size][backend].append(one_round(guest, backend, size, sinks, options))
        for backend, each in rounds[size].items():
            one, sums = median(each), [round_["sum"] for round_ in each]
            figures = " ".join(f"{value:8.0f}" for value in (one["user"], one["kernel"], one["sum"], min(sums), max(sums)))
            print(f"{size:7} {backend:8} {figures}   {each[-1]['segments'] if backend == 'xdp' else ''}", flush=True)
        ratio = median(rounds[size]["xdp"])["sum"] / median(rounds[size]["uring"])["sum"]
        print(f"{'':7} xdp / uring {ratio:22.2f}", flush=True)
    return rounds


def report(rounds, mode, guest, options):
    said = {
        "guest_kernel": guest.run("uname -r"),
        "qemu": run("qemu-system-x86_64", "--version").splitlines()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "mode": mode,
        "options": {key: str(value) for key, value in vars(options).items() if key not in ("json", "postlane", "devices", "cpus")},
        "medians": {size: {backend: median(each) for backend, each in both.items()} for size, both in rounds.items()},
        "rounds": rounds,
    }
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(said, indent=2) + "\n")
    print(options.json)


def main():
    options = arguments()
    if missing := absent(options):
        print(f"skipped: not here: {', '.join(missing)}", file=sys.stderr)
        return 69
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.devices, options.cpus = devices(options), QUEUES
    with tempfile.TemporaryDirectory(prefix="compare-qemu-") as name:
        directory = Path(name)
        try:
            network()
            upstreams = [f"{FAR[1]}:{SINKS}", f"{FAR[1]}:{SINKS + 1}"]
            files = {f"etc/{backend}.toml": configuration(backend, upstreams, options) for backend in BACKENDS}
            files["etc/whole.toml"] = configuration("xdp", [f"{FAR[1]}:{WHOLE}"], options)
            sinks = FarSinks(directory, options)
            try:
                guest = Guest(directory, options.kernel, initramfs(options.postlane, options.modules, files), options)
                try:
                    set_up(guest, options)
                    mode = check_whole(guest, sinks, options)
                    report(measure(guest, sinks, options), mode, guest, options)
                finally:
                    guest.stop()
            finally:
                sinks.stop()
        except (Failed, subprocess.TimeoutExpired) as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
