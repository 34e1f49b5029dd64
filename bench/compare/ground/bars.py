"""A run of `peers.py` as one self-contained page: a bar for each peer and load, on a logarithmic scale."""

import math
from html import escape

from . import page as pages

MORE = """
svg .bar { fill: var(--line); fill-opacity: .35; }
svg .ours { fill-opacity: 1; }
svg .span { stroke: var(--text); stroke-width: 1.2; }
.wide thead th:nth-child(-n+2), .wide tbody td:nth-child(2) { text-align: left; }
"""
WIDTH, LEFT, RIGHT, ROW, TOP, BOTTOM = 860, 90, 70, 24, 8, 38


def svg(title, of):
    """`of`: each peer's summary by its name. The thin line of a bar goes from the best round to the worst."""
    low = 10 ** math.floor(math.log10(min(one["cpu_us_min"] for one in of.values())))
    high = 10 ** math.ceil(math.log10(max(one["cpu_us_max"] for one in of.values()) * 1.01))
    x = lambda us: LEFT + math.log(us / low) / math.log(high / low) * (WIDTH - LEFT - RIGHT)
    bottom = TOP + ROW * len(of)
    out = [f'<svg viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img" aria-label="{escape(title)}">']
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10**power)
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        out.append(f'<text class="mid" x="{at:.1f}" y="{bottom + 16}">{10**power:,} µs</text>')
    for row, (name, one) in enumerate(of.items()):
        top, us = TOP + row * ROW, one["cpu_us_per_message"]
        middle = top + ROW / 2
        kind = "bar ours" if name == "postlane" else "bar"
        out.append(f'<text class="end" x="{LEFT - 8}" y="{middle + 4}">{escape(name)}</text>')
        out.append(f'<rect class="{kind}" x="{LEFT}" y="{top + 4}" width="{x(us) - LEFT:.1f}" height="{ROW - 8}"/>')
        out.append(f'<path class="span" d="M{x(one["cpu_us_min"]):.1f} {middle}H{x(one["cpu_us_max"]):.1f}"/>')
        out.append(f'<text x="{x(one["cpu_us_max"]) + 7:.1f}" y="{middle + 4}">{us:.0f}</text>')
    out.append(f'<text class="mid name" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 33}">CPU a message</text></svg>')
    return "\n".join(out)


def page(report, rows):
    """`rows`: the table, its heading first."""
    bars = {load: svg(f"CPU of a message, {load}", of) for load, of in report["summary"].items() if of}
    options = report["options"]
    notes = [
        "All processes of a peer together, user and system, from after the warm-up until the last message has arrived.",
        "HAProxy and nginx move bytes and know no mail. Postfix has each message on disk before its 250, and Exim "
        "writes it too; Haraka and Postlane hold it in memory until an upstream has taken it.",
        f"{options['sessions']} sessions, {options['sinks']} sinks; medians of interleaved rounds, each peer on one CPU.",
        *[escape(f"{name}: {why}") for name, why in report["absent"].items()],
        *[escape(failure) for failure in report["failures"]],
    ]
    return pages.page("CPU of a message, side by side", report, MORE, [pages.plots(bars), pages.table(rows)], notes)
