"""Claim C1 by hand: one unit and two units over three steps, every factor written out."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj

Matrix = list[list[float]]


@dataclass(frozen=True)
class WorkedExample:
    """A chain of one-step factors beside automatic differentiation of the unrolled network.

    Attributes:
      title: what network.
      factors: ∂O_3/∂O_2, ∂O_2/∂O_1 and ∂O_1/∂x_1, from the formula diag(O(1−O)) Wᵀ.
      product: their product, ∂O_3/∂x_1.
      automatic: the same block from `jax.jacrev`.
      difference: the largest absolute difference of the two.
    """

    title: str
    factors: dict[str, Matrix]
    product: Matrix
    automatic: Matrix
    difference: float


def worked_examples() -> list[WorkedExample]:
    """The scalar and the two-unit example, in float64."""
    with jax.enable_x64(True):
        return [
            _example("one unit", [[0.9]], [[1.5]], [-0.4], [[1.0], [-0.5], [2.0]]),
            _example(
                "two units",
                [[0.9, -0.3]],
                [[1.5, 0.4], [-0.7, 1.1]],
                [-0.4, 0.2],
                [[1.0], [-0.5], [2.0]],
            ),
        ]


def _example(title: str, w_x: Matrix, w_h: Matrix, b: list[float], xs: Matrix) -> WorkedExample:
    inputs, hidden = len(w_x), len(w_h)
    cell = rj.SimpleRNNCell(inputs, hidden, activation="sigmoid", rngs=nnx.Rngs(0))
    cell.kernel[...] = jnp.asarray(w_x)
    cell.recurrent_kernel[...] = jnp.asarray(w_h)
    cell.bias[...] = jnp.asarray(b)
    x = jnp.asarray(xs)

    _, outputs = rj.unroll(cell, x)
    slopes = [np.diag(np.asarray(o * (1 - o))) for o in outputs]
    by_state = [slope @ np.asarray(w_h).T for slope in slopes]
    factors = {
        "∂O₃/∂O₂": by_state[2],
        "∂O₂/∂O₁": by_state[1],
        "∂O₁/∂x₁": slopes[0] @ np.asarray(w_x).T,
    }
    product = np.linalg.multi_dot(list(factors.values()))
    automatic = np.asarray(jax.jacrev(lambda x: rj.unroll(cell, x)[1][2])(x)[:, 0, :])
    return WorkedExample(
        title,
        {name: factor.tolist() for name, factor in factors.items()},
        product.tolist(),
        automatic.tolist(),
        float(np.abs(product - automatic).max()),
    )
