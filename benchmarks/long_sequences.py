"""The gradient through long sequences: what it holds at once, and what it takes."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, Timing, peak_memory, time_in_turn

LENGTHS = [1_000, 4_000, 16_000, 100_000]
BATCH, FEATURES, SIZE = 8, 2, 64
WAYS: dict[str, dict[str, object]] = {
    "keeps all": {},
    'checkpoint="sqrt"': {"checkpoint": "sqrt"},
    'checkpoint="sqrt", truncate=100': {"checkpoint": "sqrt", "truncate": 100},
}


def measure(steps: int, rounds: int) -> Row:
    """Planned memory of each way, and milliseconds for all that fit."""
    cell = rj.LSTMCell(FEATURES, SIZE, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (BATCH, steps, FEATURES))
    row: dict[str, Timing | str] = {}
    for name, options in WAYS.items():
        gradient = jax.jit(jax.grad(lambda cell, xs, options=options: _loss(cell, xs, **options)))
        row |= {f"{name}, memory": peak_memory(gradient, cell, xs)}
        run = {name: lambda gradient=gradient: jax.block_until_ready(gradient(cell, xs))}
        row |= time_in_turn(run, rounds=max(1, rounds // 3))
    return row


def _loss(cell: rj.RNNCell, xs: jax.Array, **options: object) -> jax.Array:
    """Of the last output alone, so that no outputs need to be kept."""
    carry, _ = rj.unroll(cell, xs, **options)  # type: ignore[arg-type]
    return jnp.sum(carry[1])


BENCHMARKS = [
    Benchmark(
        "Long sequences",
        f"Gradient of the last output of an LSTM, B = {BATCH}, I = {FEATURES}, H = {SIZE}, by all "
        "weights: what the compiled program holds at once besides its arguments, and its time.",
        {f"T = {steps:,}": partial(measure, steps) for steps in LENGTHS},
    )
]
