"""What the pages of results have in common: where they were measured, and tables."""

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
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


def markdown_table(rows: Mapping[str, Row], first: str = "") -> str:
    """A table with a line for each row; `first` heads the column of their names."""
    names = list(next(iter(rows.values())))
    lines = [f"| {first}".rstrip() + " | " + " | ".join(names) + " |"]
    lines.append("|---|" + "---:|" * len(names))
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(str(row[name]) for name in names) + " |")
    return "\n".join(lines)
