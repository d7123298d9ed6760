"""The gradient of the summed outputs by all weights: what a training step spends its time on."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, time_in_turn

# (batch, steps, input features, hidden features)
Shape = tuple[int, int, int, int]
SHAPES: list[Shape] = [(64, 200, 2, 128), (16, 1000, 32, 256), (32, 200, 64, 128)]

OURS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}
LINEN = {
    "LSTM": linen.OptimizedLSTMCell,
    "GRU": linen.GRUCell,
    "simple RNN": linen.SimpleCell,
}
TORCH = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "simple RNN": torch.nn.RNN}


def measure(kind: str, shape: Shape, rounds: int) -> Row:
    """Milliseconds of one gradient for ours, Flax Linen's `RNN` and PyTorch."""
    return time_in_turn(
        {
            "rnn_jax": _ours(kind, shape),
            "Flax Linen": _linen(kind, shape),
            "PyTorch": _torch(kind, shape),
        },
        rounds=rounds,
    )


def _inputs(shape: Shape) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape[:3])


def _ours(kind: str, shape: Shape) -> Callable[[], object]:
    cell = OURS[kind](shape[2], shape[3], rngs=nnx.Rngs(0))
    gradient = jax.jit(jax.grad(lambda cell, xs: jnp.sum(rj.unroll(cell, xs)[1])))
    return partial(_run, gradient, cell, _inputs(shape))


def _linen(kind: str, shape: Shape) -> Callable[[], object]:
    model, xs = linen.RNN(LINEN[kind](shape[3])), _inputs(shape)
    variables = model.init(jax.random.key(0), xs)

    def summed(variables: Any, xs: jax.Array) -> jax.Array:
        return jnp.sum(cast(jax.Array, model.apply(variables, xs)))

    gradient = jax.jit(jax.grad(summed))
    return partial(_run, gradient, variables, xs)


def _run(gradient: Callable[..., object], weights: object, xs: jax.Array) -> object:
    return jax.block_until_ready(gradient(weights, xs))


def _torch(kind: str, shape: Shape) -> Callable[[], object]:
    model = TORCH[kind](shape[2], shape[3], batch_first=True)
    xs = torch.randn(*shape[:3])

    def run() -> None:
        model.zero_grad()
        model(xs)[0].sum().backward()

    return run


BENCHMARKS = [
    Benchmark(
        "Training step",
        "Gradient of the summed outputs by all weights.",
        {
            f"{kind}, (B, T, I, H) = {shape}": partial(measure, kind, shape)
            for kind in OURS
            for shape in SHAPES
        },
    )
]
