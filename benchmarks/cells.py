"""Every cell: the time of a training step, beside the matrix products that it must contain.

python -m benchmarks.cells              # writes benchmarks/RESULTS_CELLS.md
python -m benchmarks.cells --docs       # and the table of docs/cells/index.md
python -m benchmarks.cells --describe   # of that table only what is not measured, in seconds
python -m benchmarks.cells --only lru --rounds 3
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

import rnn_jax as rj
from benchmarks.cell_products import Products, bare_run, products_of
from benchmarks.cells_page import measured, write_page
from benchmarks.peers import Run, Shape, inputs
from benchmarks.report import markdown_table, where_measured
from benchmarks.timing import Row, Timing, parts_of, ratio, time_in_turn

SHAPE: Shape = (64, 200, 2, 128)
_STEP = "training step"
_PRODUCTS = "products with the state"
NOTE = (
    "Milliseconds of one training step in float32, `jax.value_and_grad` of the mean square of all "
    "outputs by all weights: best of the rounds and, in brackets, their median. All cells ran in "
    "turn in one process. The products are those of the cell's own step: with the state one a step "
    "forward, one a step backward and one over all steps for the weights' gradient, for each that "
    "is listed; those at the end and that with the input are done for all steps at once. Lower is "
    "better, and 1.00 is nothing but products. An echo state network trains nothing, so that only "
    "its forward pass is left."
)


@dataclass(frozen=True)
class Config:
    """Time a training step of every cell."""

    rounds: int = 9
    """Counted rounds; best and median are reported."""
    only: str = ""
    """Only cells whose name holds this text, or one of several with commas between them."""
    docs: bool = False
    """Also measure the other columns of docs/cells/index.md, and write its table."""
    describe: bool = False
    """Measure nothing; bring the other columns of docs/cells/index.md up to date."""
    out: Path = Path(__file__).parent / "RESULTS_CELLS.md"
    """Where the table of timings is written."""


def every_cell() -> dict[str, Callable[..., rj.RNNCell]]:
    """The cells of `rnn_jax.cells` by name, without what wraps other cells."""
    public = {name: getattr(rj.cells, name) for name in rj.cells.__all__}
    return {
        name: found
        for name, found in public.items()
        if isinstance(found, type) and issubclass(found, rj.RNNCell) and found is not rj.RNNCell
    }


def abstract_cells() -> dict[str, rj.RNNCell]:
    """Every cell of the size that is timed, of shapes without numbers."""
    _, _, features, size = SHAPE
    return {
        name: nnx.eval_shape(lambda cell=cell: cell(features, size, rngs=nnx.Rngs(0)))
        for name, cell in every_cell().items()
    }


def training_step(cell: rj.RNNCell, shape: Shape) -> Run:
    """A call that runs one step: the loss and its gradient by all weights."""

    def loss(cell: rj.RNNCell, xs: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(rj.unroll(cell, xs)[1]))

    step, xs = jax.jit(jax.value_and_grad(loss)), inputs(shape)
    return lambda: jax.block_until_ready(step(cell, xs))


def measure(cells: Mapping[str, rj.RNNCell], shape: Shape, rounds: int) -> dict[str, Row]:
    """A row for each cell: its step, its products, and how many times these the step takes."""
    needed = {name: products_of(cell) for name, cell in cells.items()}
    candidates = {name: training_step(cell, shape) for name, cell in cells.items()}
    # Cells of equal products share one candidate.
    bare = {products: bare_run(products, shape) for products in needed.values()}
    taken = time_in_turn(
        candidates | {f"{products!r}": run for products, run in bare.items()}, rounds=rounds
    )
    return {name: _row(taken[name], needed[name], taken[f"{needed[name]!r}"]) for name in cells}


def _row(step: Timing, needed: Products, bare: Timing) -> Row:
    return {
        _STEP: step,
        "its products alone": bare,
        "step / products": ratio(step, bare) if needed.recurrent or needed.readout else "–",
        _PRODUCTS: str(needed),
    }


def main() -> None:
    """Measures, prints and writes."""
    config = tyro.cli(Config)
    if config.rounds < 1:
        raise SystemExit(f"--rounds must be at least 1; got {config.rounds}. Pass 1 or more.")
    wanted = parts_of(config.only)
    chosen = {n: cell for n, cell in every_cell().items() if any(w in n.lower() for w in wanted)}
    if not chosen:
        names = ", ".join(every_cell())
        raise SystemExit(f"--only must be part of one of: {names}; got {config.only!r}.")
    if (config.docs or config.describe) and len(chosen) < len(every_cell()):
        raise SystemExit(
            f"a page is of every cell; got --only {config.only!r} with --docs or --describe. Leave "
            "one of them out."
        )
    console = Console()
    if config.describe:
        console.print(f"wrote {write_page(abstract_cells())}")
        return
    _, _, features, size = SHAPE
    cells = {name: cell(features, size, rngs=nnx.Rngs(0)) for name, cell in chosen.items()}
    with console.status(f"compiling and timing {len(cells)} cells"):
        rows = measure(cells, SHAPE, config.rounds)
    console.print(_printed(rows))
    where = where_measured(("jax", "flax"))
    lines = [f"- {what}: {value}" for what, value in where.items()]
    title = f"# Every cell, (B, T, I, H) = {SHAPE}"
    table = markdown_table(rows, "cell", words=(_PRODUCTS,))
    text = "\n\n".join([title, NOTE, "\n".join(lines), table])
    config.out.write_text(text + "\n", encoding="utf-8")
    console.print(f"wrote {config.out}")
    if config.docs:
        steps = {n: step for n, row in rows.items() if isinstance(step := row[_STEP], Timing)}
        console.print(f"wrote {write_page(cells, measured(cells, steps, console), where)}")


def _printed(rows: Mapping[str, Row]) -> Table:
    names = list(next(iter(rows.values())))
    table = Table("", *names)
    for label, row in rows.items():
        table.add_row(label, *(str(row[name]) for name in names))
    return table


if __name__ == "__main__":
    main()
