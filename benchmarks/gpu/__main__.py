"""Measures what is missing, row by row, and writes the page; see `benchmarks.gpu`."""

import argparse
import datetime
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

import benchmarks.gpu
from benchmarks.gpu import accuracy, ensembles, exchange, instrument, modes, recurrences
from benchmarks.gpu.page import page
from benchmarks.gpu.results import Results, Table
from benchmarks.gpu.rounds import Effort
from benchmarks.timing import parts_of

OUT = Path(__file__).parents[1] / "RESULTS_GPU.md"
# Seconds that a row is taken to need before any of its table is measured.
FIRST_ROW = 30.0


def all_tables(tiny: bool) -> list[Table]:
    """In the order of their weight."""
    return [
        *recurrences.first_tables(tiny),
        *accuracy.tables(tiny),
        *exchange.tables(tiny),
        *instrument.tables(tiny),
        *ensembles.tables(tiny),
        *modes.tables(tiny),
        *recurrences.other_tables(tiny),
        *instrument.first_call_tables(tiny),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes."""
    options = _parse(arguments)
    tables = all_tables(options.tiny)
    results = Results(options.out.with_suffix(".jsonl"))
    if options.page:
        options.out.write_text(page(tables, results), encoding="utf-8")
        return
    wanted = list(_wanted(tables, options.only))
    if not wanted:
        titles = ", ".join(table.title for table in tables)
        raise SystemExit(
            f"--only must be part of a row's name, or of a table's: {titles}; got {options.only!r}."
        )
    missing = [
        (table, row)
        for table, row in wanted
        if not results.is_done(table.title, row, without_errors=options.retry)
    ]
    if options.list:
        for table, row in wanted:
            print(f"{'missing ' if (table, row) in missing else 'measured'} {table.title}: {row}")
        return
    where = _where(options.platform)
    if results.where not in (None, where):
        raise SystemExit(
            f"{results.path} must hold rows of one machine; got some of {results.where}, and this "
            f"is {where}. Pass another --out, or remove the file."
        )
    left = _measure(tables, missing, results, where, options)
    print(f"wrote {options.out}; {left} of {len(wanted)} rows are left to measure")


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=None, help="the page; rows are kept beside it, in .jsonl")
    add("--only", default="", help="parts of tables' or rows' names, with commas between them")
    add("--budget", default=None, help="start no row that would end later, such as 9m or 540s")
    add("--rounds", type=int, default=5, help="counted rounds of each row")
    add("--retry", action="store_true", help="measure rows anew that hold an error")
    add("--list", action="store_true", help="list the rows and end")
    add("--page", action="store_true", help="only write the page from the rows that there are")
    add("--platform", choices=("gpu", "cpu"), default="gpu", help="cpu is for a rehearsal")
    add("--tiny", action="store_true", help="a rehearsal: few rows of tiny sizes")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {options.rounds}. Pass 1 or more.")
    if options.platform == "cpu" and not options.tiny:
        parser.error("--platform cpu must come with --tiny; a CPU would take days for the rest.")
    if options.tiny and options.out is None:
        parser.error("--tiny must come with --out: what it writes is no result.")
    options.out = OUT if options.out is None else options.out
    try:
        options.budget = _seconds(options.budget)
    except ValueError as error:
        parser.error(str(error))
    return options


def _seconds(budget: str | None) -> float:
    if budget is None:
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(h|m|s|)", budget)
    if found is None:
        raise ValueError(f"--budget must be a time such as 9m or 540s; got {budget!r}.")
    return float(found[1]) * {"h": 3600, "m": 60, "s": 1, "": 1}[found[2]]


def _wanted(tables: Sequence[Table], only: str) -> Iterator[tuple[Table, str]]:
    texts = parts_of(only)
    for table in tables:
        for row in table.rows:
            if any(text in f"{table.title}: {row}".lower() for text in texts):
                yield table, row


def _measure(
    tables: Sequence[Table],
    missing: Sequence[tuple[Table, str]],
    results: Results,
    where: dict[str, str],
    options: Any,
) -> int:
    """Measures rows while there is time; the number of those that are left."""
    start, longest = time.monotonic(), dict[str, float]()
    commit = _commit()
    effort = Effort(options.rounds, at_least=0) if options.tiny else Effort(options.rounds)
    for done, (table, row) in enumerate(missing):
        began = time.monotonic()
        needed = 1.2 * longest.get(table.title, FIRST_ROW)
        if began - start + needed > options.budget:
            return len(missing) - done
        measured = table.rows[row](effort)
        taken = time.monotonic() - began
        longest[table.title] = max(taken, longest.get(table.title, 0.0))
        results.add(
            {
                "table": table.title,
                "row": row,
                "cells": measured.cells,
                "repeats": measured.repeats,
                "rounds": options.rounds,
                "date": datetime.date.today().isoformat(),
                "commit": commit,
                "where": where,
            }
        )
        # After each row, because nobody knows which one is the last.
        options.out.write_text(page(tables, results), encoding="utf-8")
        print(f"{taken:6.1f} s  {table.title}: {row}  {_short(measured.cells)}", flush=True)
    options.out.write_text(page(tables, results), encoding="utf-8")
    return 0


def _short(cells: dict[str, Any]) -> str:
    """A row on one line, for whoever watches."""

    def of(cell: dict[str, Any]) -> str:
        return f"{cell['best']:.3f}" if "best" in cell else cell.get("text", "failed")

    return ", ".join(f"{name} {of(cell)}" for name, cell in cells.items())


def _where(wanted: str) -> dict[str, str]:
    """Card and versions; ends the process with code 2 where there is no such device."""
    found = jax.default_backend()
    if found != wanted:
        print(
            f"These benchmarks need {'an NVIDIA GPU' if wanted == 'gpu' else 'a CPU'}; JAX found "
            f"{found} alone. Nothing was measured and nothing written. With a GPU, install the "
            "extra cuda: pip install -e '.[test,peers,cuda]'.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    device = jax.devices()[0]
    names = ["jax", "flax", "torch"]
    versions = [f"{name} {version(name)}" for name in names if find_spec(name)]
    return {
        "device": device.device_kind,
        "capability": str(getattr(device, "compute_capability", "–")),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def _commit() -> str:
    """The source's, with a + if it was changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--match="]
    try:
        done = subprocess.run(command, cwd=OUT.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    main()
