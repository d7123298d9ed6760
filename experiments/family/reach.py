"""How far gradients of an untrained cell reach: its horizon and its leading Lyapunov exponent."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnn_jax as rj
from family.networks import make_cell


@dataclass(frozen=True)
class Reach:
    """Of one cell before any training, along sequences of the adding problem.

    Attributes:
      steps: T of the sequences.
      horizon: the largest lag at which a gradient has 1 % of what it has at lag 0, by seed; T − 1
        is as far as a sequence shows.
      exponent: λ₁ in nats a step, by seed, after a tenth of the steps.
      by_lag: mean ln‖∂y_t/∂x_s‖ by lag, of the first seed, (T,).
      parameters: how many numbers the cell holds.
    """

    steps: int
    horizon: np.ndarray
    exponent: np.ndarray
    by_lag: np.ndarray
    parameters: int


def measure(name: str, hidden: int, steps: int, seeds: int, seed: int) -> Reach:
    """Cells from several seeds, each along a sequence of its own."""
    task = rj.tasks.Adding(steps)
    cells = rj.ensemble(make_cell(name, task.in_features, hidden, "adding", steps), seeds)
    xs = task.sample(jax.random.key(seed), seeds).inputs
    horizon, exponent, curves = _measure(cells, xs)
    return Reach(
        steps=steps,
        horizon=np.asarray(horizon),
        exponent=np.asarray(exponent),
        by_lag=np.asarray(curves)[0],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(rj.member(cells, 0))),
    )


@jax.jit
@jax.vmap
def _measure(cell: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    lin = rj.linearize(cell, xs)
    flow = rj.GradientFlow(rj.jacobian_log_norms(lin))
    # All of them: where units do not mix, a single direction would stay that of the first unit.
    # And not from the first step on: that of an xLSTM leaves nothing of its initial state.
    spectrum = rj.lyapunov_exponents(lin, warmup=xs.shape[0] // 10)
    return flow.horizon(), jnp.max(spectrum.exponents), flow.by_lag()
