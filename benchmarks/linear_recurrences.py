"""Linear recurrences by a scan and by an associative scan: what `unroll(method="auto")` goes by.

python -m benchmarks.linear_recurrences              # twenty minutes on two CPU cores
python -m benchmarks.linear_recurrences --only dense

Writes benchmarks/RESULTS_LINEAR.md, and the table from which `rnn_jax.sequence.method` chooses on a
CPU, rnn_jax/sequence/linear_recurrences.csv, unless only a part is run.
"""

import datetime
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from rich.console import Console

import rnn_jax as rj
from benchmarks.timing import Timing, peak_memory, ratio, time_in_turn
from rnn_jax.cells.linear import Kind
from rnn_jax.sequence.running.associative import linear_scan

HERE = Path(__file__).parent
METHODS = ("scan", "associative")
# (T, B, numbers in one carry).
SIZES: dict[Kind, list[tuple[int, int, int]]] = {
    "diagonal": [
        (1_000, 1, 4),
        (1_000, 1, 64),
        (1_000, 16, 64),
        (1_000, 16, 256),
        (10_000, 1, 4),
        (10_000, 1, 64),
        (10_000, 16, 64),
        (100_000, 1, 4),
        (100_000, 1, 64),
        (1_000_000, 1, 4),
        (1_000_000, 1, 16),
    ],
    "complex": [
        (1_000, 1, 4),
        (1_000, 1, 128),
        (1_000, 16, 128),
        (10_000, 1, 4),
        (10_000, 1, 128),
        (10_000, 16, 64),
        (100_000, 1, 4),
        (100_000, 1, 64),
        (1_000_000, 1, 4),
        (1_000_000, 1, 16),
    ],
    "block": [
        (1_000, 1, 4),
        (1_000, 16, 64),
        (10_000, 1, 64),
        (100_000, 1, 4),
        (100_000, 1, 64),
        (1_000_000, 1, 4),
    ],
    "dense": [
        (1_000, 1, 4),
        (1_000, 1, 16),
        (1_000, 16, 16),
        (1_000, 16, 64),
        (10_000, 1, 4),
        (10_000, 1, 16),
        (100_000, 1, 4),
        (100_000, 1, 16),
        (1_000_000, 1, 4),
    ],
}
# (T, B, H) of whole cells.
CELLS: dict[str, type] = {"LRU": rj.LRUCell, "RG-LRU": rj.RGLRUCell, "minGRU": rj.MinGRUCell}
CELL_SIZES = [(1_000, 1, 64), (1_000, 16, 128), (10_000, 1, 64), (100_000, 1, 16)]
FEATURES = 8


@dataclass(frozen=True)
class Config:
    """Time both ways of running linear recurrences, side by side in one process."""

    rounds: int = 3
    """Counted rounds of each comparison; the best one is reported."""
    only: str = ""
    """Measure only this kind, or "cells", and write nothing."""
    note: str = ""
    """What else is to be known of the machine, written beside it."""


@dataclass(frozen=True)
class Measured:
    """One row: milliseconds, seconds of compiling and planned memory, by method."""

    times: dict[str, Timing]
    compiling: dict[str, float]
    memory: dict[str, str]

    def cells(self) -> list[str]:
        """The columns of a table."""
        scan, other = (self.times[method] for method in METHODS)
        return [
            str(scan),
            str(other),
            ratio(other, scan),
            *(self.memory[method] for method in METHODS),
            *(f"{self.compiling[method]:.1f} s" for method in METHODS),
        ]


COLUMNS = [
    "scan",
    "associative",
    "associative / scan",
    "scan, memory",
    "associative, memory",
    "scan, compiling",
    "associative, compiling",
]


def recurrence(kind: Kind, steps: int, rows: int, numbers: int) -> tuple[Any, ...]:
    """Λ, b and where to start; Λ differs from step to step if it is "diagonal", as gates do.

    Λ is the same at all steps for the others, as of the cells that have such a form.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    state = {"complex": (2, numbers // 2), "block": (numbers // 2, 2)}.get(kind, (numbers,))
    if kind == "diagonal":
        factor = jax.nn.sigmoid(jax.random.normal(keys[0], (steps, rows, numbers)) + 2)
    elif kind == "complex":
        phase = jax.random.uniform(keys[0], (numbers // 2,), maxval=3.0)
        factor = 0.99 * jnp.stack([jnp.cos(phase), jnp.sin(phase)])[None, None]
    else:
        size = state[-1]
        shape = (1, 1, numbers // 2, 2, 2) if kind == "block" else (1, 1, size, size)
        factor = 0.99 * jax.random.orthogonal(keys[0], size, shape[:-2])
    added = jax.random.normal(keys[1], (steps, rows, *state))
    return factor, added, jax.random.normal(keys[2], (rows, *state))


def of_recurrence(kind: Kind, size: tuple[int, int, int], rounds: int) -> Measured:
    """The gradient of the summed squares of all carries by Λ, b and the start."""
    operands = recurrence(kind, *size)

    def gradient(method: str) -> Callable[..., Any]:
        def loss(*operands: Any) -> jax.Array:
            return jnp.sum(linear_scan(kind, *operands, methods={"default": method}) ** 2)

        return jax.grad(loss, (0, 1, 2))

    return compared(gradient, operands, rounds)


def of_cell(make: Any, size: tuple[int, int, int], rounds: int) -> Measured:
    """The gradient of the summed squares of all outputs by all weights."""
    steps, rows, units = size
    cell = make(FEATURES, units, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (rows, steps, FEATURES))

    def gradient(method: str) -> Callable[..., Any]:
        return jax.grad(lambda cell, xs: jnp.sum(rj.unroll(cell, xs, method=method)[1] ** 2))

    return compared(gradient, (cell, xs), rounds)


def compared(
    gradient: Callable[[str], Callable[..., Any]], operands: tuple[Any, ...], rounds: int
) -> Measured:
    """Both methods, in turn."""
    programs, compiling, memory = {}, {}, {}
    for method in METHODS:
        start = time.perf_counter()
        programs[method] = jax.jit(gradient(method)).lower(*operands).compile()
        compiling[method] = time.perf_counter() - start
        memory[method] = peak_memory(gradient(method), *operands)
    calls = {
        method: lambda program=program: jax.block_until_ready(program(*operands))
        for method, program in programs.items()
    }
    return Measured(time_in_turn(calls, rounds=rounds), compiling, memory)


def main() -> None:
    """Measures, prints and writes."""
    config = tyro.cli(Config)
    console = Console()
    choices = (*SIZES, "cells")
    if config.only and config.only not in choices:
        raise SystemExit(f"--only must be one of {', '.join(choices)}; got {config.only!r}.")
    recurrences: dict[tuple[Any, ...], Measured] = {}
    for kind, sizes in SIZES.items():
        for size in sizes if config.only in ("", kind) else []:
            recurrences[kind, *size] = of_recurrence(kind, size, config.rounds)
            console.print(kind, size, *recurrences[kind, *size].cells()[:3], highlight=False)
    cells: dict[tuple[Any, ...], Measured] = {}
    for name, make in CELLS.items():
        for size in CELL_SIZES if config.only in ("", "cells") else []:
            cells[name, *size] = of_cell(make, size, config.rounds)
            console.print(name, size, *cells[name, *size].cells()[:3], highlight=False)
    if not config.only:
        results = HERE / "RESULTS_LINEAR.md"
        where = ", ".join(filter(None, (machine(), config.note)))
        results.write_text(page(where, recurrences, cells), encoding="utf-8")
        table = Path(rj.__file__).parent / "sequence" / "linear_recurrences.csv"
        table.write_text(chosen_from(where, recurrences), encoding="utf-8")
        console.print(f"wrote {results} and {table}")


def machine() -> str:
    """Where this was measured."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, JAX {version('jax')} on "
        f"{jax.devices()[0].platform}, {datetime.date.today().isoformat()}"
    )


def chosen_from(where: str, recurrences: dict[tuple[Any, ...], Measured]) -> str:
    """The table that the package keeps."""
    lines = [
        "# Milliseconds, best round, of the gradient of a linear recurrence in float32; see",
        "# benchmarks/linear_recurrences.py, which writes this file. T steps, B sequences, so many",
        "# numbers in one carry.",
        f"# Measured on: {where}",
        "kind,T,B,numbers,scan_ms,associative_ms",
    ]
    for key, row in recurrences.items():
        best = (f"{float(f'{row.times[method].best:.3g}'):g}" for method in METHODS)
        lines.append(",".join([*map(str, key), *best]))
    return "\n".join(lines) + "\n"


def page(
    where: str,
    recurrences: dict[tuple[Any, ...], Measured],
    cells: dict[tuple[Any, ...], Measured],
) -> str:
    """The page of results."""
    return (
        "# Linear recurrences\n\n"
        "Milliseconds, best of the rounds and, in brackets, their median; what the compiled "
        "program holds at once besides its arguments; and how long it took to compile. Written by "
        "`python -m benchmarks.linear_recurrences`.\n\n"
        f"- machine: {where}\n"
        "- GPU and TPU: not measured\n\n"
        "## Recurrences alone\n\n"
        "Gradient of the summed squares of all carries by Λ, b and the first carry. Λ differs from "
        'step to step for "diagonal" and is one for all steps for the others.\n\n'
        f"{table_of(recurrences, 'numbers')}\n\n"
        "## Cells\n\n"
        f"Gradient of the summed squares of all outputs by all weights, I = {FEATURES}, by "
        "`unroll(method=…)`.\n\n"
        f"{table_of(cells, 'H')}\n"
    )


def table_of(rows: dict[tuple[Any, ...], Measured], units: str) -> str:
    """Rows by (name, T, B, size) as a table."""
    lines = [
        "| | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for (name, steps, batch, size), row in rows.items():
        label = f"{name}, T = {steps:,}, B = {batch}, {units} = {size}"
        lines.append(f"| {label} | " + " | ".join(row.cells()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
