"""What the pages of results have in common: where they were measured, and tables."""

import datetime
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import jax

from benchmarks.timing import Row


def where_measured(packages: Sequence[str]) -> dict[str, str]:
    """The machine, the versions of what is installed of some packages, and the day."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages if find_spec(name))
    device = jax.devices()[0].device_kind
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; JAX on {device}",
        "versions": f"Python {platform.python_version()}, {versions}",
        "date": datetime.date.today().isoformat(),
    }


def markdown_table(rows: Mapping[str, Row], first: str = "", words: Collection[str] = ()) -> str:
    """A table with a line for each row.

    Args:
      rows: by name, what stands in each column.
      first: the head of the column of names.
      words: columns that hold words, and so stand on the left; the others hold numbers.
    """
    names = list(next(iter(rows.values())))
    lines = [f"| {first}".rstrip() + " | " + " | ".join(names) + " |"]
    lines.append("|---|" + "".join("---|" if name in words else "---:|" for name in names))
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(str(row[name]) for name in names) + " |")
    return "\n".join(lines)
