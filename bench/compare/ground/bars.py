"""A run of `peers.py` as one self-contained page: a bar for each peer and load, on a logarithmic scale."""

import math
from html import escape

from .programs import ROOT

STYLE = ROOT / "bench/src/report/style.css"
MORE = """
svg .bar { fill: var(--line); fill-opacity: .35; }
svg .ours { fill-opacity: 1; }
svg .span { stroke: var(--text); stroke-width: 1.2; }
.wide td, .wide th { padding-right: 14px; }
.wide thead th { color: var(--text); text-align: right; }
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
    heading, *body = rows
    cells = lambda row, tag: f"<tr><th>{escape(row[0])}</th>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in row[1:]) + "</tr>"
    machine = report["machine"]
    plots = "\n".join(
        f"<section><h2>{escape(load)}</h2>\n{svg(f'CPU of a message, {load}', of)}</section>"
        for load, of in report["summary"].items()
        if of
    )
    versions = " · ".join(escape(one) for one in report["versions"].values())
    notes = [f"{name}: {why}" for name, why in report["absent"].items()] + report["failures"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>CPU of a message, side by side</title>
<style>
{STYLE.read_text()}{MORE}</style>
</head>
<body>
<main>
<header><h1>CPU of a message, side by side</h1>
<p>{machine["time"]} · {machine["cpus"]} CPUs · {escape(machine["cpu"])} · Linux {escape(machine["kernel"])}</p>
<p>{versions}</p></header>
{plots}
<section><table class="wide"><thead>{cells(heading, "th")}</thead><tbody>{"".join(cells(row, "td") for row in body)}</tbody></table></section>
<section class="notes"><h2>To judge it by</h2><ul>
<li>All processes of a peer together, user and system, from after the warm-up until the last message has arrived.</li>
<li>HAProxy and nginx move bytes and know no mail. Postfix has each message on disk before its 250, and Exim writes it
too; Haraka and Postlane hold it in memory until an upstream has taken it.</li>
<li>{report["options"]["sessions"]} sessions, {report["options"]["sinks"]} sinks; medians of interleaved rounds, each peer on one CPU.</li>
{"".join(f"<li>{escape(note)}</li>" for note in notes)}
</ul></section>
</main>
</body>
</html>
"""
