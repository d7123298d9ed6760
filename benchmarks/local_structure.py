"""Covariant Lyapunov vectors beside Ginelli's algorithm in a plain NumPy loop."""

from functools import partial

import jax
import numpy as np
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, ratio, time_in_turn

FEATURES = 2
# Units, steps, vectors.
SIZES = [(64, 1000, 8), (64, 1000, 64), (512, 500, 8)]


def ginelli(jacobians: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (T+1, S, k) and log growth (T, k) from one-step Jacobians."""
    frames, triangles = [np.eye(jacobians.shape[1], k, dtype=jacobians.dtype)], []
    for jacobian in jacobians:
        q, r = np.linalg.qr(jacobian @ frames[-1])
        frames.append(q)
        triangles.append(r)
    c = np.eye(k, dtype=jacobians.dtype)
    vectors, growth = [frames[-1]], []
    for q, r in zip(frames[-2::-1], triangles[::-1], strict=True):
        c = np.linalg.solve(r, c)
        lengths = np.linalg.norm(c, axis=0)
        c = c / lengths
        vectors.append(q @ c)
        growth.append(-np.log(lengths))
    return np.stack(vectors[::-1]), np.stack(growth[::-1])


def measure(size: int, steps: int, k: int, rounds: int) -> Row:
    """Milliseconds with and without Jacobians at hand, and of the exponents alone."""
    cell = rj.GRUCell(FEATURES, size, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(1), (steps, FEATURES))
    jacobians = np.asarray(rj.linearize(cell, xs).state_jacobians)

    def ours() -> object:
        return jax.block_until_ready(rj.covariant_lyapunov_vectors(cell, xs, k=k).vectors)

    candidates = {
        "exponents alone": lambda: jax.block_until_ready(
            rj.lyapunov_exponents(cell, xs, k=k).exponents
        ),
        "covariant vectors": ours,
        "NumPy, Jacobians given": lambda: ginelli(jacobians, k),
    }
    row = time_in_turn(candidates, rounds=rounds)
    both = ratio(row["NumPy, Jacobians given"], row["covariant vectors"])
    return {**row, "NumPy ÷ ours": both}


BENCHMARKS = [
    Benchmark(
        "Covariant Lyapunov vectors",
        "Of a GRU, I = 2, in float32: cell and inputs in, k vectors at every step out. Beside the "
        "exponents alone, which the same forward sweep gives, and beside a loop in NumPy that is "
        "handed the Jacobians.",
        {
            f"H = {size}, T = {steps}, k = {k}": partial(measure, size, steps, k)
            for size, steps, k in SIZES
        },
    )
]
