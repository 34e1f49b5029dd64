"""A run as one self-contained page: what the pages of `bars` and `plot` have in common."""

from html import escape

from .programs import ROOT

STYLE = ROOT / "bench/src/report/style.css"
MORE = """
.wide td, .wide th { padding-right: 14px; }
.wide thead th { color: var(--text); text-align: right; }
"""


def table(rows):
    """`rows` of text, the heading first."""
    heading, *body = rows
    cells = lambda row, tag: f"<tr><th>{escape(row[0])}</th>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in row[1:]) + "</tr>"
    body = "".join(cells(row, "td") for row in body)
    return f'<section><table class="wide"><thead>{cells(heading, "th")}</thead><tbody>{body}</tbody></table></section>'


def plots(by_name):
    """Each plot with its name above."""
    return "\n".join(f"<section><h2>{escape(name)}</h2>\n{svg}</section>" for name, svg in by_name.items())


def page(title, report, style, sections, notes):
    """`style` is added to that of all; `sections` and `notes` are HTML."""
    machine = report["machine"]
    versions = " · ".join(escape(version) for version in report["versions"].values())
    items = "\n".join(f"<li>{note}</li>" for note in notes)
    sections = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{STYLE.read_text()}{MORE}{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>
<p>{machine["time"]} · {machine["cpus"]} CPUs · {escape(machine["cpu"])} · Linux {escape(machine["kernel"])}</p>
<p>{versions}</p></header>
{sections}
<section class="notes"><h2>To judge it by</h2><ul>
{items}
</ul></section>
</main>
</body>
</html>
"""
