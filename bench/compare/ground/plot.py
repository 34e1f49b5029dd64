"""A run of `faults.py` as one self-contained page: every message's wait over the time at which it was due."""

import math
from html import escape

from . import page as pages

MORE = """
svg .dot { fill: var(--line); fill-opacity: .55; }
svg .lost { stroke: var(--bad); stroke-width: 1.5; }
svg .span { fill: var(--bad); fill-opacity: .09; }
.wide thead th:first-child { text-align: left; }
"""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 250, 64, 16, 22, 40
LOW_MS, HIGH_MS = 0.1, 10_000
# As many of the quickest messages in a strip are drawn; the slow ones all are.
STRIP_S, QUICK_MAX = 0.1, 4


def drawn(messages):
    """Of those in the same strip the slowest and some of the others: a dot on a dot shows nothing."""
    strips = {}
    for _, due, took, end in messages:
        strips.setdefault(int(due / STRIP_S), []).append((due, took * 1e3, end))
    for strip in strips.values():
        strip.sort(key=lambda one: -one[1])
        slow = [one for one in strip if one[1] > 50 or one[2] != "acknowledged"]
        quick = [one for one in strip if not (one[1] > 50 or one[2] != "acknowledged")]
        step = max(1, len(quick) // QUICK_MAX)
        yield from slow
        yield from quick[::step]


def svg(title, messages, plan):
    x = lambda seconds: LEFT + seconds / plan["end"] * (WIDTH - LEFT - RIGHT)
    ratio = math.log(HIGH_MS / LOW_MS)
    y = lambda ms: HEIGHT - BOTTOM - math.log(min(max(ms, LOW_MS), HIGH_MS) / LOW_MS) / ratio * (HEIGHT - TOP - BOTTOM)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for name, begin, end in (("stopped", "stop", "continue"), ("killed", "kill", "restart")):
        begin, end = x(plan[begin]), x(plan[end])
        out.append(f'<rect class="span" x="{begin:.1f}" y="{TOP}" width="{end - begin:.1f}" height="{bottom - TOP}"/>')
        out.append(f'<text class="mid" x="{(begin + end) / 2:.1f}" y="{TOP - 7}">one {name}</text>')
    for ms, text in ((0.1, "0.1 ms"), (1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1000, "1 s"), (10_000, "10 s")):
        out.append(f'<path class="grid" d="M{LEFT} {y(ms):.1f}H{right}"/>')
        out.append(f'<text class="end" x="{LEFT - 8}" y="{y(ms) + 4:.1f}">{text}</text>')
    for second in range(0, math.floor(plan["end"]) + 1, 1 if plan["end"] < 10 else 2):
        out.append(f'<text class="mid" x="{x(second):.1f}" y="{bottom + 17}">{second} s</text>')
    crosses, dots = [], []
    for due, ms, end in drawn(messages):
        at, of = x(due), y(ms)
        if end == "acknowledged":
            dots.append(f'<circle class="dot" cx="{at:.1f}" cy="{of:.1f}" r="1.6"/>')
        else:
            crosses.append(f"M{at - 3:.1f} {of - 3:.1f}l6 6m0 -6l-6 6")
    out += dots
    out.append(f'<path class="lost" fill="none" d="{"".join(crosses)}"/>')
    out.append(f'<text class="mid name" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}">when the message was due</text></svg>')
    return "\n".join(out)


def page(relays, rows, report, plan):
    """`relays`: each one's messages by its name. `rows`: the table, its heading first."""
    plots = {name: svg(f"Waits of messages through {name}", messages, plan) for name, messages in relays.items()}
    notes = [
        "Each dot is a message: how long it took from the moment it was due to its 250. A cross is one that the client "
        "was not told of: refused, or its connection lost. All rounds lie over each other; of quick messages only some "
        "are drawn.",
        f"One upstream of four answers DATA after {plan['delay']} s all the time.",
    ]
    return pages.page("A farm in trouble, side by side", report, MORE, [pages.table(rows), pages.plots(plots)], notes)
