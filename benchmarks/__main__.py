"""Runs every benchmark and writes benchmarks/RESULTS.md.

python -m benchmarks            # a few minutes on two CPU cores
python -m benchmarks --rounds 3
"""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import tyro
from rich.console import Console

from benchmarks import jacobians, training_step
from benchmarks.timing import Timing


@dataclass(frozen=True)
class Config:
    """Time the package against its peers, side by side in one process."""

    rounds: int = 7
    """Counted rounds of each comparison; best and median are reported."""
    out: Path = Path(__file__).parent / "RESULTS.md"
    """Where the table is written."""


def main() -> None:
    """Runs, prints and writes."""
    config = tyro.cli(Config)
    console = Console()
    blocks = [_header()]

    def add(title: str, note: str, rows: Mapping[str, Mapping[str, Timing]]) -> None:
        blocks.append(f"## {title}\n\n{note}\n\n{_table(rows)}")

    steps: dict[str, dict[str, Timing]] = {}
    for kind in training_step.OURS:
        for shape in training_step.SHAPES:
            label = f"{kind}, (B, T, I, H) = {shape}"
            console.print(f"training step: {label}", highlight=False)
            steps[label] = training_step.measure(kind, shape, rounds=config.rounds)
    add("Training step", "Gradient of the summed outputs by all weights.", steps)

    full: dict[str, dict[str, Timing]] = {}
    for kind in jacobians.CELLS:
        for size in jacobians.SHAPES:
            label = f"{kind}, (T, I, H) = {size}"
            console.print(f"input Jacobian: {label}", highlight=False)
            full[label] = jacobians.measure_input_jacobian(kind, size, rounds=config.rounds)
    add("Input Jacobian", "All of ∂y_t/∂x_s, (T, H, T, I).", full)

    maps: dict[str, dict[str, Timing]] = {}
    for kind in jacobians.CELLS:
        label = f"{kind}, T = 1000, I = 2, H = 64"
        console.print(f"map of log-norms: {label}", highlight=False)
        maps[label] = jacobians.measure_log_norms(kind, steps=1000, hidden=64, rounds=config.rounds)
    add(
        "Map of log-norms",
        "All of ln‖∂y_t/∂x_s‖, (T, T), beside T products (S, S) · (S, T·I) and nothing else.",
        maps,
    )
    config.out.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    console.print(f"wrote {config.out}")


def _header() -> str:
    device = jax.devices()[0]
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch"))
    return (
        "# Benchmarks\n\n"
        "Milliseconds, best of the rounds and, in brackets, their median; all candidates of a row "
        "ran in turn in one process. Lower is better.\n\n"
        f"- machine: {platform.machine()}, {os.cpu_count()} cores; JAX on {device.device_kind}\n"
        f"- versions: Python {platform.python_version()}, {versions}\n"
        f"- date: {datetime.date.today().isoformat()}\n"
        "- GPU: " + ("this table" if device.platform == "gpu" else "not measured")
    )


def _table(rows: Mapping[str, Mapping[str, Timing]]) -> str:
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for label, timings in rows.items():
        cells = (f"{timings[name].best:.1f} ({timings[name].median:.1f})" for name in names)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
