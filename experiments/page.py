"""A self-contained page for the browser: its style, its pictures and its marks of a verdict."""

import base64
import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STYLE = """
:root { --ink: #1d2329; --soft: #5b6670; --line: #e3e7ea; --paper: #ffffff; --wash: #f6f8f9; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; line-height: 1.35; margin: 0; }
p { margin: .5rem 0; } .lead { font-size: 1.1rem; color: var(--soft); max-width: 46rem; }
figure { margin: 1.25rem 0 0; } img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .4rem; }
table { border-collapse: collapse; width: 100%; margin: 2rem 0; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .55rem .7rem .55rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } td a { color: inherit; }
.badge { display: inline-block; padding: .08rem .55rem; border-radius: 1rem; font-size: .8rem;
  font-weight: 600; white-space: nowrap; }
.holds { background: #d9efe6; color: #00543c; } .condition { background: #fdeecb; color: #6b4700; }
.fails { background: #f8dccf; color: #7d3000; }
section { border-top: 1px solid var(--line); padding: 2rem 0 .5rem; }
section header { display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
.measured { background: var(--wash); border-left: 3px solid #0072b2; padding: .6rem .9rem; }
.remark { color: var(--soft); } .numbers { font-variant-numeric: tabular-nums; }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem; }
td.numbers { white-space: nowrap; }
@media (max-width: 40rem) { .wide { display: none; } main { padding-top: 1.5rem; }
  table { font-size: .8rem; } th, td { padding-right: .4rem; } td { overflow-wrap: anywhere; }
  .badge { white-space: normal; overflow-wrap: normal; font-size: .72rem; padding: .08rem .4rem; } }
"""


def write_page(path: Path, title: str, body: str, style: str = "") -> None:
    """One HTML file with everything inside, readable without a network.

    Args:
      path: of the file.
      title: of the window, as text.
      body: HTML.
      style: further CSS.
    """
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head>
<body><main>
{body}
</main></body></html>
"""
    path.write_text(page, encoding="utf-8")


def picture(figure: Figure, caption: str, alt: str) -> str:
    """A figure with its caption, inside the page; it is closed, as pyplot keeps only so many."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def badge(verdict: str, kind: str) -> str:
    """A verdict; `kind` is "holds", "condition" or "fails"."""
    return f'<span class="badge {kind}">{html.escape(verdict)}</span>'
