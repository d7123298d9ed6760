"""What the main calls take to compile, beside what they take to run."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, Timing, time_in_turn


def _loss(cell: Any, xs: jax.Array) -> jax.Array:
    return jnp.sum(rj.unroll(cell, xs)[1])


CALLS: dict[str, Callable[[Any, jax.Array], Any]] = {
    "unroll": rj.unroll,
    "gradient of unroll": jax.grad(_loss),
    "linearize": rj.linearize,
    "input_jacobian": rj.input_jacobian,
    "jacobian_log_norms": rj.jacobian_log_norms,
    "jacobian_log_singular_values": rj.jacobian_log_singular_values,
    "lyapunov_exponents, k = 8": partial(rj.lyapunov_exponents, k=8),
    "covariant_lyapunov_vectors, k = 8": partial(rj.covariant_lyapunov_vectors, k=8),
    "weight_gradient_by_step": partial(rj.weight_gradient_by_step, jnp.sum),
    "backprop_signal": partial(rj.backprop_signal, jnp.sum),
    "gradient_flow": rj.gradient_flow,
}


def measure(name: str, rounds: int) -> Row:
    """Milliseconds to trace and compile, and to run."""
    cell = rj.LSTMCell(2, 64, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(0), (200, 2))
    call = CALLS[name]
    taken = []
    for _ in range(max(1, rounds // 3)):
        # The calls are jitted inside, so a first call in an empty cache is what a user waits for.
        jax.clear_caches()
        start = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(call(cell, xs)))
        taken.append(1e3 * (time.perf_counter() - start))
    run = time_in_turn(
        {"run": lambda: jax.block_until_ready(jax.tree.leaves(call(cell, xs)))}, rounds=rounds
    )
    return {"first call": Timing.of(taken), **run}


BENCHMARKS = [
    Benchmark(
        "Compile time",
        "The first call in an empty cache, which traces and compiles, beside a later one: LSTM, "
        "T = 200, I = 2, H = 64. JAX's persistent compilation cache, which the experiments use, "
        "spares the compiling in later processes.",
        {name: partial(measure, name) for name in CALLS},
    )
]
