"""The page of results, from the rows that were measured."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import floor
from benchmarks.gpu.candidates import TOLERANCES
from benchmarks.gpu.results import Record, Results, Table
from benchmarks.gpu.rounds import Cell, Effort

EFFORT = Effort(1)
PROTOTYPE = Path(__file__).with_name("prototype.md")

PROTOCOL = f"""\
All candidates of a row compute the same recurrence with the same float32 weights and inputs, in one
process. Before they are timed their outputs or gradients are compared with those of the first
column: one that deviates by more than a relative {TOLERANCES["default"]:g} (TF32) or
{TOLERANCES["highest"]:g} (otherwise) is not timed and fails, as does one that cannot be run; below
the table is the first line of its error.

Then rounds are interleaved: each candidate in turn runs n times in a row and waits once, at the
end, as a training loop does, so that the host's dispatch overlaps with the card's work and counts
only where it is the slower of the two. n is the same for all candidates of a row, and such that the
quickest takes at least {EFFORT.at_least:g} ms a round, unless the slowest would then take more than
{EFFORT.at_most:g} ms. Cells are milliseconds a run: the best round and, in brackets, the median.
Weights are handed over as plain arrays, so that flattening a module in Python is not timed. Lower
is better; quotients are of best rounds."""

COMMANDS = """\
```
make bench-gpu                                # from a fresh clone, on a machine with an NVIDIA GPU
python -m benchmarks.gpu                      # the same, in an environment that has all of it
python -m benchmarks.gpu --budget 9m          # as many rows as fit into nine minutes; again goes on
```"""


def page(tables: Sequence[Table], results: Results) -> str:
    """All of the page, as Markdown."""
    records = [
        record
        for table in tables
        for row in table.rows
        if (record := results.get(table.title, row)) is not None
    ]
    total = sum(len(table.rows) for table in tables)
    blocks = ["# Benchmarks on a GPU", _state(records, total), "## How it is measured", PROTOCOL]
    blocks += ["What measures it:", COMMANDS]
    for table in tables:
        blocks += [f"## {table.title}", table.note, _table(table, results)]
    blocks += [f"## {floor.TITLE}", floor.NOTE, _floor(results, records)]
    blocks.append(PROTOTYPE.read_text(encoding="utf-8").strip())
    return "\n\n".join(blocks) + "\n"


def _state(records: Sequence[Record], total: int) -> str:
    """What was measured, on what."""
    if not records:
        return (
            "**Not measured yet.** No row of the tables below has been measured on a GPU; each "
            "says what it will hold. The commands below measure them and write this page anew. "
            "The only figures here are a prototype's, at the end, and say so."
        )
    where = records[0]["where"]
    dates = sorted({record["date"] for record in records})
    commits = sorted({record["commit"] for record in records})
    rounds = sorted({record["rounds"] for record in records})
    lines = [
        f"- card: {where['device']}, compute capability {where['capability']}",
        f"- versions: {where['versions']}",
        f"- date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}",
        f"- commit: {', '.join(commits)}",
        f"- rounds: {', '.join(map(str, rounds))}",
        f"- rows measured: {len(records)} of {total}",
    ]
    return "\n".join(lines)


def _table(table: Table, results: Results) -> str:
    records = {row: results.get(table.title, row) for row in table.rows}
    measured = [record for record in records.values() if record is not None]
    if not measured:
        holds = "; ".join([*table.columns, *table.derived({})])
        return (
            f"Not measured yet. Columns: {holds}. Rows: {'; '.join(table.rows)}.\n\n"
            f'`python -m benchmarks.gpu --only "{table.title}:"`'
        )
    columns = [name for name in table.columns if any(name in one["cells"] for one in measured)]
    derived = list(table.derived({}))
    failures: list[str] = []
    lines = [_line(["", *columns, *derived, "n"]), "|---|" + "---:|" * (len(columns + derived) + 1)]
    for row, record in records.items():
        if record is None:
            lines.append(_line([row, "not measured", *[""] * (len(columns + derived))]))
            continue
        cells = record["cells"]
        shown = [_cell(cells.get(name), failures) for name in columns]
        lines.append(_line([row, *shown, *table.derived(cells).values(), str(record["repeats"])]))
    notes = [f"{place}. {_plain(failure)}" for place, failure in enumerate(failures, start=1)]
    return "\n".join(lines) + ("\n\nFailed:\n\n" + "\n".join(notes) if notes else "")


def _floor(results: Results, records: Sequence[Record]) -> str:
    if not records:
        return f"Not measured yet. Columns: {'; '.join(floor.COLUMNS)}. It follows from the others."
    where = records[0]["where"]
    peaks = floor.peaks_of(where["device"], where["capability"])
    if peaks is None:
        return "No published peaks of this card are listed in `benchmarks/gpu/floor.py`."
    found = floor.rows(results, peaks)
    if not found:
        return "The rows that it follows from are not measured yet."
    lines = [_line(["", *floor.COLUMNS]), "|---|" + "---:|" * len(floor.COLUMNS)]
    lines += [_line([row, *cells]) for row, cells in found.items()]
    rates = f"{peaks.tf32:g} TFLOP/s of dense TF32, {peaks.bandwidth:g} TB/s ({peaks.source})"
    return "\n".join(lines) + f"\n\nPeaks: {rates}."


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that does not end a cell of a table."""
    return text.replace("|", "\\|")


def _cell(cell: Cell | None, failures: list[str]) -> str:
    """A cell; an error, which would make the table too wide to read, stands below it."""
    if cell is None:
        return "–"
    if "error" in cell:
        if cell["error"] not in failures:
            failures.append(cell["error"])
        return f"failed ({failures.index(cell['error']) + 1})"
    if "text" in cell:
        return str(cell["text"])
    return f"{number(cell['best'])} ({number(cell['median'])})"


def number(x: float) -> str:
    """Three digits, or as many as there are before the point."""
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"
