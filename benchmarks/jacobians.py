"""Jacobians through time against automatic differentiation, and against their bare products."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, Timing, peak_memory, ratio, time_in_turn

CELLS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}

# (steps, input features, hidden features)
Shape = tuple[int, int, int]


def _case(kind: str, shape: Shape) -> tuple[rj.RNNCell, jax.Array, int]:
    """A cell, inputs for it, and the size S of its carry."""
    steps, inputs, hidden = shape
    cell = CELLS[kind](inputs, hidden, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (steps, inputs))
    return cell, xs, hidden * len(cell.carry_parts)


def measure_input_jacobian(kind: str, shape: Shape, rounds: int) -> Row:
    """Milliseconds for the (T, H, T, I) array: ours, `jax.jacfwd` and `jax.jacrev`."""
    cell, xs, _ = _case(kind, shape)

    def outputs(cell: rj.RNNCell, xs: jax.Array) -> jax.Array:
        return rj.unroll(cell, xs)[1]

    forward = jax.jit(jax.jacfwd(outputs, argnums=1))
    reverse = jax.jit(jax.jacrev(outputs, argnums=1))
    runs = {
        "rnn_jax": lambda: jax.block_until_ready(rj.input_jacobian(cell, xs)),
        "jax.jacfwd": lambda: jax.block_until_ready(forward(cell, xs)),
    }
    slow = shape[0] > 100  # jacrev would take minutes there.
    if not slow:
        runs["jax.jacrev"] = lambda: jax.block_until_ready(reverse(cell, xs))
    row = time_in_turn(runs, rounds=rounds)
    return {**row, "jax.jacrev": "–"} if slow else row


def measure_log_norms(kind: str, shape: Shape, rounds: int) -> Row:
    """Milliseconds for the full (T, T) map, for its bare products, and the peak memory."""
    cell, xs, size = _case(kind, shape)
    steps, inputs = xs.shape
    return _beside_products(
        rj.jacobian_log_norms, cell, xs, jnp.ones((size, steps * inputs)), rounds
    )


def measure_singular_values(kind: str, shape: Shape, rounds: int) -> Row:
    """Milliseconds for all singular values, for the bare products, and the peak memory."""
    cell, xs, size = _case(kind, shape)
    row = _beside_products(rj.jacobian_log_singular_values, cell, xs, jnp.eye(size), rounds)
    a = jax.random.normal(jax.random.key(1), (size, size))

    @jax.jit
    def decompositions(a: jax.Array) -> jax.Array:
        """As many QR decompositions, each of the product with the last Q."""

        def body(q: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.linalg.qr(a @ q)[0], None

        return jax.lax.scan(body, jnp.eye(size), None, length=xs.shape[0])[0]

    bare = time_in_turn(
        {"T products and QRs": lambda: jax.block_until_ready(decompositions(a))}, rounds=rounds
    )
    return {**row, **bare}


def _beside_products(
    call: Callable[[rj.RNNCell, jax.Array], jax.Array],
    cell: rj.RNNCell,
    xs: jax.Array,
    p: jax.Array,
    rounds: int,
) -> dict[str, Timing | str]:
    """Times `call` in turn with T products A_t · P and nothing else."""
    size = p.shape[0]
    # Orthogonal, so that a thousand products neither vanish nor explode.
    a = jax.nn.initializers.orthogonal()(jax.random.key(1), (xs.shape[0], size, size))

    @jax.jit
    def products(a: jax.Array, p: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda p, a_t: (a_t @ p, None), p, a)[0]

    row = time_in_turn(
        {
            "rnn_jax": lambda: jax.block_until_ready(call(cell, xs)),
            "T products alone": lambda: jax.block_until_ready(products(a, p)),
        },
        rounds=rounds,
    )
    times = ratio(row["rnn_jax"], row["T products alone"])
    return {**row, "ours / products": times, "peak memory": peak_memory(call, cell, xs)}


def _cases(measure: Callable[[str, Shape, int], Row], shapes: list[Shape]) -> dict:
    return {
        f"{kind}, (T, I, H) = {shape}": partial(measure, kind, shape)
        for kind in CELLS
        for shape in shapes
    }


BENCHMARKS = [
    Benchmark(
        "Input Jacobian",
        "All of ∂y_t/∂x_s, (T, H, T, I). `jacfwd` and `jacrev` are of this package's own `unroll`.",
        _cases(
            measure_input_jacobian,
            [(100, 1, 64), (100, 8, 128), (300, 8, 64), (1000, 1, 64)],
        ),
    ),
    Benchmark(
        "Map of log-norms",
        "All of ln‖∂y_t/∂x_s‖, (T, T), beside T products (S, S) · (S, T·I) and nothing else. "
        "Products that stop at the present would be half of that, and for an LSTM, whose cell "
        "path is diagonal, a quarter.",
        _cases(measure_log_norms, [(1000, 2, 64), (300, 8, 128)]),
    ),
    Benchmark(
        "All singular values",
        "ln σ_i of ∂carry_T/∂carry_0, all S of them, beside T products (S, S) · (S, S) and beside "
        "T products with a QR decomposition each. An LSTM of H = 128 has S = 256.",
        _cases(measure_singular_values, [(1000, 2, 128)]),
    ),
]
