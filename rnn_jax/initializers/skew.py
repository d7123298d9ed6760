"""Initialisers of skew-symmetric matrices, from which orthogonal ones are made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.initializers.drawing import Initializer
from rnn_jax.initializers.entries import square_size


def skew_henaff() -> Initializer:
    """The skew-symmetric matrix whose exponential `henaff` is.

    A = diag([[0, θ], [−θ, 0]], …),    θ ~ U(−π, π)

    By name it is "henaff", where a constructor asks for a skew-symmetric matrix, as `ExpRNNCell`
    does.

    Returns:
      An initialiser of square matrices; with an odd number of rows the last of them is 0.

    Example:
      >>> a = rj.initializers.skew_henaff()(jax.random.key(0), (4, 4), jnp.float32)
      >>> bool(jnp.array_equal(a, -a.T)), int((a != 0).sum())
      (True, 4)

    References:
      M. Henaff, A. Szlam and Y. LeCun, "Recurrent orthogonal networks and long-memory tasks", 2016.
    """
    return _SkewHenaff()


def skew_cayley() -> Initializer:
    """The skew-symmetric matrix whose Cayley transform turns planes by random angles.

    A = diag([[0, s], [−s, 0]], …),    s = −√((1 − cos u)/(1 + cos u)),    u ~ U(0, π/2)

    so that (I + A)⁻¹ (I − A) turns by u. By name it is "cayley", where a constructor asks for a
    skew-symmetric matrix, as `ScoRNNCell` does.

    Returns:
      An initialiser of square matrices; with an odd number of rows the last of them is 0.

    Example:
      >>> a = rj.initializers.skew_cayley()(jax.random.key(0), (4, 4), jnp.float32)
      >>> w = jnp.linalg.solve(jnp.eye(4) + a, jnp.eye(4) - a)
      >>> bool(jnp.allclose(w @ w.T, jnp.eye(4), atol=1e-5)), bool((jnp.diag(w) > 0).all())
      (True, True)

    References:
      K. Helfrich, D. Willmott and Q. Ye, "Orthogonal recurrent neural networks with scaled Cayley
      transform", 2018.
    """
    return _SkewCayley()


@dataclass(frozen=True)
class _SkewHenaff:
    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        size = square_size("henaff", shape)
        return skew_matrix(random_angles(key, size, dtype), size)


@dataclass(frozen=True)
class _SkewCayley:
    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        size = square_size("cayley", shape)
        angles = jax.random.uniform(key, (size // 2,), dtype, maxval=math.pi / 2)
        # √((1 − cos u)/(1 + cos u)) = tan(u/2)
        return skew_matrix(-jnp.tan(angles / 2), size)


def skew_matrix(values: jax.Array, size: int) -> jax.Array:
    """Blocks [[0, a], [−a, 0]], and a row of 0 over if the size is odd."""
    at = jnp.arange(0, size - 1, 2)
    upper = jnp.zeros((size, size), values.dtype).at[at, at + 1].set(values)
    return upper - upper.T


def random_angles(key: jax.Array, size: int, dtype: Any) -> jax.Array:
    """Uniform on the circle, one for each plane, (size // 2,)."""
    return jax.random.uniform(key, (size // 2,), dtype, -math.pi, math.pi)
