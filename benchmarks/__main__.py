"""Runs every benchmark and writes benchmarks/RESULTS.md.

python -m benchmarks            # a quarter of an hour on two CPU cores
python -m benchmarks --rounds 3

On a GPU, beside cuDNN: `python -m benchmarks.gpu`.
"""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import jax
import tyro
from rich.console import Console

from benchmarks import (
    compiling,
    gradient_flow,
    jacobians,
    local_structure,
    long_sequences,
    training_runs,
    training_step,
)
from benchmarks.timing import Row

BENCHMARKS = [
    *training_step.BENCHMARKS,
    *jacobians.BENCHMARKS,
    *gradient_flow.BENCHMARKS,
    *local_structure.BENCHMARKS,
    *long_sequences.BENCHMARKS,
    *training_runs.BENCHMARKS,
    *compiling.BENCHMARKS,
]


@dataclass(frozen=True)
class Config:
    """Time the package against its peers, side by side in one process."""

    rounds: int = 7
    """Counted rounds of each comparison; best and median are reported."""
    only: str = ""
    """Run only the tables whose title holds this text."""
    out: Path = Path(__file__).parent / "RESULTS.md"
    """Where the tables are written."""


def main() -> None:
    """Runs, prints and writes."""
    config = tyro.cli(Config)
    if config.rounds < 1:
        raise SystemExit(f"--rounds must be at least 1; got {config.rounds}. Pass 1 or more.")
    console = Console()
    chosen = [one for one in BENCHMARKS if config.only.lower() in one.title.lower()]
    if not chosen:
        titles = ", ".join(one.title for one in BENCHMARKS)
        raise SystemExit(f"--only must be part of one of: {titles}; got {config.only!r}.")
    blocks = [_header()]
    for benchmark in chosen:
        rows = {}
        for label, measure in benchmark.cases.items():
            console.print(f"{benchmark.title}: {label}", highlight=False)
            rows[label] = measure(config.rounds)
        blocks.append(f"## {benchmark.title}\n\n{benchmark.note}\n\n{_table(rows)}")
    config.out.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    console.print(f"wrote {config.out}")


def _header() -> str:
    device = jax.devices()[0]
    peers = [name for name in ("jax", "flax", "equinox", "torch") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in peers)
    return (
        "# Benchmarks\n\n"
        "Milliseconds, best of the rounds and, in brackets, their median; all candidates of a row "
        "ran in turn in one process. Lower is better.\n\n"
        f"- machine: {platform.machine()}, {os.cpu_count()} cores; JAX on {device.device_kind}\n"
        f"- versions: Python {platform.python_version()}, {versions}\n"
        f"- date: {datetime.date.today().isoformat()}\n"
        "- GPU: see RESULTS_GPU.md"
    )


def _table(rows: Mapping[str, Row]) -> str:
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(str(row[name]) for name in names) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
