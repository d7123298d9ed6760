"""What it takes blocks of a kernel to hand one another their part of a state, and nothing else."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from benchmarks.gpu.candidates import Candidate, Results, of_jax
from benchmarks.gpu.results import Table
from benchmarks.gpu.rounds import Effort, Measured, measure

TITLE = "Exchange"
# Rows of a tile and units of a block, as the kernels have them.
ROWS, UNITS = 16, 16
STEPS = 5000
# Blocks that share a tile, and tiles at once: no more blocks than an H100 has multiprocessors.
BLOCKS = [2, 4, 8, 16, 32]
TILES = {"one tile": 1, "four tiles": 4}


def exchange(blocks: int, tiles: int, steps: int) -> Any:
    """A function (tiles, ROWS, blocks · UNITS) -> the same, after so many exchanges of all of it.

    Each block writes its part and waits until it has read all parts, as in a step of the kernels.
    """
    # Not needed, and not there, where the package has no kernels.
    from rnn_jax.sequence.kernels.exchange import poll, tag_of, tagged

    size = blocks * UNITS

    def kernel(x_ref: Any, _: Any, y_ref: Any, buffer: Any) -> None:
        tile = pl.program_id(0)
        own = pl.ds(pl.program_id(1) * UNITS, UNITS)

        def step(t: jax.Array, state: Any) -> Any:
            part, alive = state
            buffer[tile, t & 1, :, own] = tagged(part, tag_of(t))
            _, alive = poll([buffer.at[tile, t & 1]], tag_of(t), alive)
            # The next step's part is there only when this step's parts have all been read.
            return part * alive.astype(jnp.float32), alive

        start = (x_ref[tile, :, own], jnp.int32(1))
        y_ref[tile, :, own], _ = lax.fori_loop(jnp.int32(0), jnp.int32(steps), step, start)

    shape = jax.ShapeDtypeStruct((tiles, ROWS, size), jnp.float32)
    both = jax.ShapeDtypeStruct((tiles, 2, ROWS, size), jnp.float32)

    def call(x: jax.Array) -> jax.Array:
        return pl.pallas_call(
            kernel,
            out_shape=[shape, both],
            grid=(tiles, blocks),
            input_output_aliases={1: 1},
            name="exchange",
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        )(x, jnp.zeros(both.shape, jnp.float32))[0]

    return call


def measure_row(blocks: int, effort: Effort) -> Measured:
    """Milliseconds of `STEPS` exchanges; what comes out is what went in, or nothing was read."""
    makes = {name: partial(_candidate, blocks, tiles) for name, tiles in TILES.items()}
    measured = measure(makes, effort)
    for cell in measured.cells.values():
        if "best" in cell:
            microseconds = 1e3 * cell["best"] / STEPS
            cell |= {"microseconds": microseconds, "text": f"{microseconds:.2f}"}
    return measured


def _candidate(blocks: int, tiles: int) -> Candidate:
    x = jax.random.normal(jax.random.key(0), (tiles, ROWS, blocks * UNITS), jnp.float32)

    def read(y: jax.Array) -> Results:
        if not np.array_equal(np.asarray(y), np.asarray(x)):
            raise RuntimeError("a block waited longer than the kernels wait")
        return {}

    return of_jax(exchange(blocks, tiles, STEPS), (x,), read, "highest")


def tables(tiny: bool) -> list[Table]:
    """By number of blocks."""
    note = (
        f"Microseconds for one exchange: blocks that share a tile of {ROWS} rows each write "
        f"{UNITS} units and read those of all, by the package's own `exchange.py`; mean of {STEPS} "
        "in one launch, the best round."
    )
    rows = {f"{count} blocks": partial(measure_row, count) for count in BLOCKS[: 1 if tiny else 5]}
    return [Table(TITLE, note, tuple(TILES), rows)]
