"""The table on the terminal and the page for the browser."""

import html
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from page import badge, picture, write_page
from vanishing.chain import WorkedExample
from vanishing.claims import CONDITION, FAILS, HOLDS, Claim
from vanishing.results import Results

_RICH_STYLE = {HOLDS: "bold green", CONDITION: "bold yellow", FAILS: "bold red"}
_CSS_CLASS = {HOLDS: "holds", CONDITION: "condition", FAILS: "fails"}

# Which pictures belong to which claim, and what each one shows.
_PICTURES = {
    "C2": [("slopes", "Slopes met on a trajectory; the dashed line is the analytic maximum.")],
    "C3": [
        (
            "bound",
            "The exact norm goes on where floating-point differentiation has run out of numbers.",
        )
    ],
    "C4": [("weight_shares", "Share of the weight gradient by the step it comes from.")],
    "C5": [("input_gradient", "The same error signal, seen at the inputs.")],
    "C7": [("gain", "Rate of growth or decay against the scale of the recurrent weights.")],
    "C8": [
        ("gates", "Mean and middle 80 % of the units of each gate over the first 60 steps."),
        ("maps", "Row t, column s: how output t depends on input s. One colour scale for all."),
    ],
    "C10": [("training", "Loss while training, by network.")],
}

_STYLE = """
.chain { display: flex; gap: .55rem; flex-wrap: wrap; align-items: center; margin: .8rem 0; }
.chain div { text-align: center; } .chain .name { color: var(--soft); font-size: .85rem; }
.matrix { border: 0; border-left: 2px solid; border-right: 2px solid; width: auto; margin: .2rem 0;
  font-variant-numeric: tabular-nums; }
.matrix td { border: 0; padding: .1rem .4rem; text-align: right; }
"""


def print_table(console: Console, claims: list[Claim]) -> None:
    """The verdicts, fitted to the width of the terminal."""
    table = Table(title="Ten claims about gradients through time", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("verdict", min_width=9)
    table.add_column("measured", ratio=1)
    for claim in claims:
        style = _RICH_STYLE[claim.verdict]
        table.add_row(
            claim.number, f"[{style}]{claim.verdict}[/]", claim.measured, end_section=True
        )
    console.print(table)


def write_report(
    path: Path, results: Results, claims: list[Claim], figures: dict[str, Figure], machine: str
) -> None:
    """One HTML file with everything inside, readable without a network."""
    rows = "".join(
        f'<tr><td><a href="#{c.number}">{c.number}</a></td><td>{html.escape(c.statement)}</td>'
        f'<td>{_verdict(c)}</td><td class="wide numbers">{html.escape(c.measured)}</td></tr>'
        for c in claims
    )
    sections = "".join(_section(claim, results, figures) for claim in claims)
    counts = [sum(claim.verdict == verdict for claim in claims) for verdict in _CSS_CLASS]
    verdicts = (
        f"{counts[0]} hold, {counts[1]} hold with a condition, and {counts[2]} "
        f"{'does' if counts[2] == 1 else 'do'} not hold as stated"
    )
    body = f"""<h1>Why simple recurrent networks forget, and what cures it</h1>
<p class="lead">Ten claims from study notes, each measured on running networks with exact Jacobians
of every state with respect to every earlier input. Of the ten, {verdicts}.</p>
{
        picture(
            figures["norm_by_lag"],
            "Untrained networks with equal weights where they share them. "
            "A straight line is geometric decay; its slope is the loss per step in nats. "
            "The curves go on far below what float32 can hold.",
            "Norm of the Jacobian by lag for eight networks",
        )
    }
<table><thead><tr><th></th><th>claim</th><th>verdict</th><th class="wide">measured</th></tr></thead>
<tbody>{rows}</tbody></table>
{sections}
<footer>T = {results.steps}, H = {results.hidden}, seed {results.seed}. Measured on
{html.escape(machine)}. Every number is in metrics.json.</footer>"""
    write_page(path, "Why simple recurrent networks forget, measured", body, _STYLE)


def _section(claim: Claim, results: Results, figures: dict[str, Figure]) -> str:
    pictures = "".join(
        picture(figures[name], caption, claim.statement)
        for name, caption in _PICTURES.get(claim.number, [])
    )
    chains = "".join(map(_chain, results.chains)) if claim.number == "C1" else ""
    return f"""<section id="{claim.number}"><header><h2>{claim.number}. \
{html.escape(claim.statement)}</h2>{_verdict(claim)}</header>
<p class="measured numbers">{html.escape(claim.measured)}</p>
<p class="remark">{html.escape(claim.remark)}</p>{chains}{pictures}</section>"""


def _verdict(claim: Claim) -> str:
    return badge(claim.verdict, _CSS_CLASS[claim.verdict])


def _chain(example: WorkedExample) -> str:
    """The factors of a worked example, their product and what autodiff says."""
    parts = [*example.factors.items()]
    blocks = "<span>·</span>".join(_matrix(name, values) for name, values in parts)
    blocks += "<span>=</span>" + _matrix("product", example.product)
    blocks += "<span>jax.jacrev</span>" + _matrix("∂O₃/∂x₁", example.automatic)
    return f'<p><strong>{html.escape(example.title)}</strong></p><div class="chain">{blocks}</div>'


def _matrix(name: str, values: list[list[float]]) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{value:.5f}</td>" for value in row) + "</tr>" for row in values
    )
    caption = f'<div class="name">{html.escape(name)}</div>'
    return f'<div>{caption}<table class="matrix">{rows}</table></div>'
