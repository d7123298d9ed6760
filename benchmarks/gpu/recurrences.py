"""Whole sequences, forward and by gradient, in each library."""

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.gpu.candidates import KINDS, Shape, candidates, problem
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Cell, Effort, Measured, measure

# Those that the prototype of the kernels was measured at.
SHAPES: list[Shape] = [
    (64, 200, 2, 32),
    (64, 200, 2, 64),
    (64, 200, 2, 128),
    (32, 200, 64, 128),
    (16, 1000, 32, 256),
    (128, 100, 128, 512),
    (512, 200, 2, 128),
]
# Single sequences, large batches, long ones, and more units than the kernels may take.
MORE_SHAPES: list[Shape] = [
    (1, 1000, 2, 32),
    (1, 200, 64, 256),
    (8, 10_000, 2, 64),
    (8, 1000, 64, 512),
    (512, 100, 2, 32),
    (512, 100, 64, 512),
    (64, 100, 128, 1024),
]
TINY: list[Shape] = [(3, 5, 2, 8)]

COLUMNS = tuple(candidates("LSTM"))
CUDNN = ("PyTorch", "PyTorch, no TF32", "jax.experimental.rnn")


def label(kind: str, shape: Shape) -> str:
    """Of a row."""
    return f"{kind} {shape}"


def measure_row(kind: str, shape: Shape, gradient: bool, effort: Effort) -> Measured:
    """One kind and shape in all libraries."""
    given = problem(kind, shape, gradient=gradient)
    return measure({name: partial(make, given) for name, make in candidates(kind).items()}, effort)


def quotients(cells: Mapping[str, Cell]) -> dict[str, str]:
    """The kernel against the scan and against the quicker cuDNN, at equal precision."""
    return {
        "scan ÷ kernel": quotient(cells, ["scan"], "kernel"),
        "scan ÷ kernel, highest": quotient(cells, ["scan, highest"], "kernel, highest"),
        "quicker cuDNN ÷ kernel": quotient(cells, list(CUDNN), "kernel"),
        "cuDNN ÷ kernel, no TF32": quotient(cells, ["PyTorch, no TF32"], "kernel, highest"),
    }


def quotient(cells: Mapping[str, Cell], slow: list[str], quick: str) -> str:
    """The best round of the quickest of some columns over that of another."""
    there = [cells[name]["best"] for name in slow if "best" in cells.get(name, {})]
    if not there or "best" not in cells.get(quick, {}):
        return "–"
    return f"{min(there) / cells[quick]['best']:.2f}"


def _table(title: str, note: str, shapes: list[Shape], gradient: bool) -> Table:
    rows: dict[str, Callable[[Effort], Measured]] = {
        label(kind, shape): partial(measure_row, kind, shape, gradient)
        for shape in shapes
        for kind in KINDS
    }
    return Table(title, note, COLUMNS, rows, quotients)


GRADIENT_NOTE = (
    "Milliseconds for the gradient of the summed outputs by all weights; (B, T, I, H). *scan* and "
    "*kernel* are `unroll` with that `implementation`, at JAX's default precision or at the one "
    "named (`jax.default_matmul_precision`); PyTorch is cuDNN, with TF32 allowed and not."
)
FORWARD_NOTE = "Milliseconds for the outputs alone, nothing kept for a gradient; (B, T, I, H)."
GRADIENT, MORE_GRADIENT = "Gradient", "Gradient at other sizes"
FORWARD, MORE_FORWARD = "Forward", "Forward at other sizes"


def first_tables(tiny: bool) -> list[Table]:
    """The gradient at the sizes that the prototype was measured at."""
    return [_table(GRADIENT, GRADIENT_NOTE, TINY if tiny else SHAPES, True)]


def other_tables(tiny: bool) -> list[Table]:
    """Other sizes, and the forward run."""
    more = TINY if tiny else MORE_SHAPES
    return [
        _table(FORWARD, FORWARD_NOTE, TINY if tiny else SHAPES, False),
        _table(MORE_GRADIENT, GRADIENT_NOTE, more, True),
        _table(MORE_FORWARD, FORWARD_NOTE, more, False),
    ]
