"""Jacobians through time against automatic differentiation of the unrolled network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Timing, time_in_turn

CELLS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}

# (steps, input features, hidden features)
SHAPES: list[tuple[int, int, int]] = [(100, 2, 64), (200, 2, 64)]


def measure_input_jacobian(
    kind: str, shape: tuple[int, int, int], *, rounds: int
) -> dict[str, Timing]:
    """Milliseconds for the (T, H, T, I) array: ours, `jax.jacfwd` and `jax.jacrev`."""
    steps, inputs, hidden = shape
    cell = CELLS[kind](inputs, hidden, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (steps, inputs))

    def outputs(cell: rj.RNNCell, xs: jax.Array) -> jax.Array:
        return rj.unroll(cell, xs)[1]

    forward = jax.jit(jax.jacfwd(outputs, argnums=1))
    reverse = jax.jit(jax.jacrev(outputs, argnums=1))
    return time_in_turn(
        {
            "rnn_jax": lambda: jax.block_until_ready(rj.input_jacobian(cell, xs)),
            "jax.jacfwd": lambda: jax.block_until_ready(forward(cell, xs)),
            "jax.jacrev": lambda: jax.block_until_ready(reverse(cell, xs)),
        },
        rounds=rounds,
    )


def measure_log_norms(kind: str, *, steps: int, hidden: int, rounds: int) -> dict[str, Timing]:
    """Milliseconds for the full (T, T) map, and for the plain matrix products that it contains.

    The products are A · P with A (S, S) and P (S, T·I), once for each step.
    """
    inputs = 2
    cell = CELLS[kind](inputs, hidden, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (steps, inputs))
    size = rj.linearize(cell, xs[:1]).carries.shape[1]
    # Orthogonal, so that a thousand products neither vanish nor explode.
    a = jax.nn.initializers.orthogonal()(jax.random.key(1), (steps, size, size))
    p = jnp.ones((size, steps * inputs))

    @jax.jit
    def products(a: jax.Array, p: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda p, a_t: (a_t @ p, None), p, a)[0]

    return time_in_turn(
        {
            "rnn_jax": lambda: jax.block_until_ready(rj.jacobian_log_norms(cell, xs)),
            "products alone": lambda: jax.block_until_ready(products(a, p)),
        },
        rounds=rounds,
    )
