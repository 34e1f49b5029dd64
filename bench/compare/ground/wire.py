"""A wire that is long and loses packets, between two interfaces of this network namespace: for kernels without netem.

    wire.py ONE OTHER --round-trip 0.02 --loss 0.01 --seed 1

Each packet of IP that comes by one leaves by the other half a round trip later, or not at all; in order, and no faster or
slower for others being under way. ARP is passed on like the rest, but never lost. Ends with a signal.
"""

import argparse
import os
import random
import select
import socket
import time
from collections import deque

ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 3, 263, 23, 33
ARP = b"\x08\x06"
FRAME_BYTES_MAX = 65_536
BUFFER_BYTES = 64 << 20


def end_of(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    # A burst waits here, and is not lost.
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    end.bind((interface, 0))
    end.setblocking(False)
    return end


def carry(ends, delay, loss, dice):
    flying = {end: deque() for end in ends}
    other = dict(zip(ends, reversed(ends)))
    while True:
        due = min((queue[0][0] for queue in flying.values() if queue), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        for end in select.select(ends, [], [], wait)[0]:
            now = time.monotonic()
            try:
                while True:
                    frame = end.recv(FRAME_BYTES_MAX)
                    if frame[12:14] == ARP or dice.random() >= loss:
                        flying[other[end]].append((now + delay, frame))
            except BlockingIOError:
                pass
        now = time.monotonic()
        for end, queue in flying.items():
            while queue and queue[0][0] <= now:
                end.send(queue.popleft()[1])


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("interfaces", nargs=2)
    parser.add_argument("--round-trip", type=float, required=True, help="seconds")
    parser.add_argument("--loss", type=float, required=True, help="the share of packets that are lost, either way")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # What else the machine does is not to lengthen the wire.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ends = [end_of(interface) for interface in options.interfaces]
    print("carries", flush=True)
    carry(ends, options.round_trip / 2, options.loss, random.Random(options.seed))


if __name__ == "__main__":
    main()
