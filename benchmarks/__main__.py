"""Runs every benchmark and writes benchmarks/RESULTS.md.

python -m benchmarks            # a quarter of an hour on two CPU cores
python -m benchmarks --rounds 3

Every cell beside its own products: `python -m benchmarks.cells`. On a GPU, beside cuDNN:
`python -m benchmarks.gpu`.
"""

from dataclasses import dataclass
from pathlib import Path

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
from benchmarks.report import markdown_table, where_measured

_PACKAGES = ("jax", "flax", "equinox", "torch")

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
        blocks.append(f"## {benchmark.title}\n\n{benchmark.note}\n\n{markdown_table(rows)}")
    config.out.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    console.print(f"wrote {config.out}")


def _header() -> str:
    lines = [f"- {what}: {value}" for what, value in where_measured(_PACKAGES).items()]
    return "\n".join(
        [
            "# Benchmarks\n",
            "Milliseconds, best of the rounds and, in brackets, their median; all candidates of a "
            "row ran in turn in one process. Lower is better.\n",
            *lines,
            "- every cell: see RESULTS_CELLS.md; GPU: see RESULTS_GPU.md",
        ]
    )


if __name__ == "__main__":
    main()
