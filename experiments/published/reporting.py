"""The table on the terminal, and report.html: what each paper says beside what came out."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from page import badge, picture, write_page
from published.record import Finding, Result, Verdict, number
from published.running import Record

_STYLE: dict[Verdict, str] = {
    "reproduced": "green",
    "reproduced with a condition": "yellow",
    "not reproduced": "bold red",
}
_KIND: dict[Verdict, str] = {
    "reproduced": "holds",
    "reproduced with a condition": "condition",
    "not reproduced": "fails",
}
# How many findings stand in a row of the table on the terminal.
_FIRST = 3


def list_results(console: Console, results: Sequence[Result]) -> None:
    """What there is to run, and how long it takes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # A name is what is typed, so it stays whole however narrow the terminal is.
    table.add_column("name", no_wrap=True)
    table.add_column("source", ratio=1)
    table.add_column("what it says", ratio=2)
    table.add_column("minutes", justify="right", no_wrap=True)
    for result in results:
        minutes = f"{result.minutes:g}" if result.device == "cpu" else f"{result.minutes:g} (GPU)"
        table.add_row(result.name, result.source, result.says, minutes)
    console.print(table)


def show(
    console: Console,
    results: Sequence[Result],
    records: Mapping[str, Record],
    missing: Mapping[str, str],
) -> None:
    """One row for each result, and what has none."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("result", "verdict", "published → measured", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for result, record in pair(results, records):
        verdict = record.outcome.verdict
        findings = record.outcome.findings
        lines = [in_short(finding) for finding in findings[:_FIRST]]
        if len(findings) > _FIRST:
            lines.append(f"and {len(findings) - _FIRST} more")
        table.add_row(
            Text(result.name),
            Text(verdict, style=_STYLE[verdict]),
            Text("\n".join(lines)),
            f"{record.seconds:.0f}",
        )
    console.print(table)
    for line in without(missing):
        console.print(Text(f"No outcome of {line}"), soft_wrap=True)


def in_short(finding: Finding) -> str:
    """A finding in one line."""
    unit = f" {finding.unit}" if finding.unit else ""
    published, measured = number(finding.published), number(finding.measured)
    mark = "" if finding.holds else "  ✗"
    return f"{finding.quantity}: {published} → {measured}{unit}{mark}"


def pair(results: Sequence[Result], records: Mapping[str, Record]) -> list[tuple[Result, Record]]:
    """Each record with its result, in the order of the results."""
    return [(result, records[result.name]) for result in results if result.name in records]


def without(missing: Mapping[str, str]) -> list[str]:
    """The names of what has no outcome, a line for each reason."""
    reasons = dict.fromkeys(missing.values())
    return [
        f"{', '.join(name for name in missing if missing[name] == reason)}: {reason}."
        for reason in reasons
    ]


def write_report(
    path: Path,
    results: Sequence[Result],
    records: Mapping[str, Record],
    missing: Mapping[str, str],
) -> None:
    """Every outcome in one file, and what has none."""
    pairs = pair(results, records)
    counts = dict.fromkeys(_STYLE, 0)
    for record in records.values():
        counts[record.outcome.verdict] += 1
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    rows = "".join(
        f'<tr><td><a href="#{result.name}">{html.escape(result.source)}</a></td>'
        f"<td>{html.escape(result.says)}</td><td>{_badge(record)}</td>"
        f'<td class="wide numbers">{record.seconds:.0f} s</td></tr>'
        for result, record in pairs
    )
    machines = ", ".join(sorted({record.machine for record in records.values()}))
    absent = "".join(f"<p>No outcome of {html.escape(line)}</p>" for line in without(missing))
    body = f"""<h1>Published results, run again</h1>
<p class="lead">What papers on recurrent networks report, beside what came out here:
{summary}.</p>
<table><thead><tr><th>source</th><th>result</th><th>verdict</th><th class="wide">time</th></tr>
</thead>
<tbody>{rows}</tbody></table>
{absent}
{"".join(_section(result, record) for result, record in pairs)}
<footer>Measured on {html.escape(machines)}. Every number is in outcomes.json.</footer>"""
    write_page(path, "Published results, run again", body)


def write_table(
    path: Path,
    results: Sequence[Result],
    records: Mapping[str, Record],
    missing: Mapping[str, str],
) -> None:
    """Every outcome in one table of Markdown, every finding in a second one, and what has none."""
    pairs = pair(results, records)
    machines = ", ".join(sorted({record.machine for record in records.values()}))
    lines = [
        "# Published results, run again",
        "",
        f"Written by `python -m experiments.published`, measured on {machines}.",
        "",
        "| result | what it says | verdict | seconds |",
        "|---|---|---|---:|",
        *(
            f"| `{result.name}` | {result.source}: {_escaped(result.says)} | "
            f"{record.outcome.verdict} | {record.seconds:.0f} |"
            for result, record in pairs
        ),
        "",
        "| result | quantity | published | measured | criterion | met |",
        "|---|---|---:|---:|---|---|",
        *(
            f"| `{result.name}` | {_escaped(finding.quantity)} | {number(finding.published)} | "
            f"{number(finding.measured)} | {finding.criterion} | "
            f"{'yes' if finding.holds else 'no'} |"
            for result, record in pairs
            for finding in record.outcome.findings
        ),
        "",
        *(
            f"- `{result.name}`: {said}"
            for result, record in pairs
            for said in (record.outcome.condition, record.outcome.tried)
            if said
        ),
    ]
    if missing:
        lines += ["", *(f"No outcome of {line}" for line in without(missing))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _badge(record: Record) -> str:
    verdict = record.outcome.verdict
    return badge(verdict, _KIND[verdict])


def _section(result: Result, record: Record) -> str:
    outcome = record.outcome
    rows = "".join(
        f"<tr><td>{html.escape(finding.quantity)}</td><td>{number(finding.published)}</td>"
        f"<td>{number(finding.measured)} {html.escape(finding.unit)}</td>"
        f"<td>{html.escape(finding.criterion)}</td>"
        f"<td>{badge('yes', 'holds') if finding.holds else badge('no', 'fails')}</td></tr>"
        for finding in outcome.findings
    )
    protocol = ", ".join(f"{name} = {value}" for name, value in record.config.items())
    remarks = "".join(
        f'<p class="remark">{html.escape(said)}</p>'
        for said in (outcome.condition, outcome.tried)
        if said
    )
    figure = result.draw(outcome)
    return f"""<section id="{result.name}"><header><h2>{html.escape(result.source)}</h2>
{_badge(record)}</header><p>{html.escape(result.says)}</p>{remarks}
<table class="numbers"><thead><tr><th>quantity</th><th>published</th><th>measured</th>
<th>criterion</th><th>met</th></tr></thead><tbody>{rows}</tbody></table>
{picture(figure, f"Protocol: {protocol}.", result.says)}</section>"""
