"""Numbers of committed results files, for pages that show them: read at each build, never typed.

In a page with code cells:

    from results import table, row
    cells = table("benchmarks/RESULTS_CELLS.md", containing="horizon")
    row(cells, "cell", "LSTMCell")["horizon"]

and in its text the role `{eval}` puts the value in.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

Rows = list[dict[str, str]]


def tables(file: str) -> list[Rows]:
    """Every Markdown table of a file of the repository, as rows by column heading.

    Emphasis and code marks around a heading or a value are taken off.
    """
    found: list[Rows] = []
    heading: list[str] | None = None
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            heading = None
        elif heading is None:
            heading = _cells(line)
            found.append([])
        elif not re.fullmatch(r"[|:\- ]+", line):
            found[-1].append(dict(zip(heading, _cells(line), strict=True)))
    return found


def table(file: str, *, containing: str) -> Rows:
    """The one table that has a column whose heading contains these words.

    Raises:
      LookupError: none has, or several have.
    """
    fitting = [rows for rows in tables(file) if rows and any(containing in key for key in rows[0])]
    if len(fitting) != 1:
        headings = [list(rows[0]) for rows in tables(file) if rows]
        raise LookupError(
            f"{len(fitting)} tables of {file} have a column with {containing!r}; pass words that "
            f"stand in the headings of one only. Headings: {headings}."
        )
    return fitting[0]


def row(rows: Rows, column: str, value: str) -> dict[str, str]:
    """The one row whose column begins with this value.

    Raises:
      LookupError: none does, or several do.
    """
    fitting = [row for row in rows if row[column].startswith(value)]
    if len(fitting) != 1:
        raise LookupError(
            f"{len(fitting)} rows begin with {value!r} in column {column!r}; there are "
            f"{[row[column] for row in rows]}."
        )
    return fitting[0]


def _cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [part.strip().strip("*`").strip() for part in parts]
