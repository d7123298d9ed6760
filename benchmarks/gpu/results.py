"""What was measured: one JSON line for each row, so that a run that is cut short keeps its rows."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.rounds import Cell, Effort, Measured

# Of one row in the file: {"table", "row", "cells", "repeats", "rounds", "where"}.
Record = dict[str, Any]


def no_more_columns(cells: Mapping[str, Cell]) -> dict[str, str]:
    """A table that shows what was measured and nothing derived from it."""
    return {}


class Table(NamedTuple):
    """One table of the page.

    Attributes:
      title: its heading, by which its rows are known in the file.
      note: what is timed.
      columns: of what is measured, in order.
      rows: by label, what measures it.
      derived: further columns from the cells of a row.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Mapping[str, Callable[[Effort], Measured]]
    derived: Callable[[Mapping[str, Cell]], dict[str, str]] = no_more_columns


class Results:
    """The rows that were measured so far, on one machine with one set of versions.

    Args:
      path: of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[tuple[str, str], Record] = {}
        for number, line in enumerate(self._whole_lines().splitlines(), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                raise SystemExit(
                    f"{path} must hold one JSON object a line; line {number} is none. Mend it or "
                    "remove the file, which measures anew."
                ) from None
            self._records[record["table"], record["row"]] = record

    @property
    def where(self) -> dict[str, str] | None:
        """Card and versions of what there is; None of nothing."""
        return next((record["where"] for record in self._records.values()), None)

    def get(self, table: str, row: str) -> Record | None:
        """The last record of a row."""
        return self._records.get((table, row))

    def is_done(self, table: str, row: str, *, without_errors: bool) -> bool:
        """Whether a row is there; with errors in it, only if those count as results."""
        record = self.get(table, row)
        if record is None:
            return False
        failed = any("error" in cell for cell in record["cells"].values())
        return not (failed and without_errors)

    def add(self, record: Record) -> None:
        """Keeps a row, at once; a later one of the same name takes its place."""
        whole = self._whole_lines()
        with self.path.open("a", encoding="utf-8") as file:
            file.truncate(len(whole.encode()))
            file.write(json.dumps(record) + "\n")
        self._records[record["table"], record["row"]] = record

    def _whole_lines(self) -> str:
        """What the file holds, without a last line that a killed run has not finished."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return text[: text.rfind("\n") + 1]
