"""Which claims are measured on which cells, with which options."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from claims import memory, orthogonal, oscillators, products
from claims.record import Claim, Trial

IN_FEATURES = 2

Judge = Callable[[Trial], Claim]


@dataclass(frozen=True)
class Case:
    """One cell, and what is said of it.

    Attributes:
      cell: its class's name in `rnn_jax.cells`.
      judges: functions of a `Trial`, one for each claim.
      setting: the options in words.
      options: of the cell, from the number of steps T.
    """

    cell: str
    judges: tuple[Judge, ...]
    setting: str = ""
    options: Callable[[int], dict[str, Any]] = lambda steps: {}

    def trial(self, hidden: int, steps: int, seed: int, kind: type[Any] | None = None) -> Trial:
        """The cell along T independent normal inputs.

        Args:
          hidden: H.
          steps: T.
          seed: of weights and inputs.
          kind: a class to build in place of the cell's own.
        """
        make = getattr(rj.cells, self.cell) if kind is None else kind
        cell = make(IN_FEATURES, hidden, rngs=nnx.Rngs(seed), **self.options(steps))
        xs = jax.random.normal(jax.random.key(seed + 1), (steps, IN_FEATURES))
        return Trial(cell, xs, self.setting, self.cell)


def _all_two(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.full(shape, 2, dtype)


CASES = (
    Case("ExpRNNCell", (orthogonal.isometry,), "bias 0", lambda steps: {"bias_init": "zeros"}),
    Case("ScoRNNCell", (orthogonal.isometry,), "bias 0", lambda steps: {"bias_init": "zeros"}),
    Case("UnitaryRNNCell", (orthogonal.isometry,), "bias 0"),
    Case("ExpRNNCell", (orthogonal.contraction, memory.does_not_vanish)),
    Case("ScoRNNCell", (orthogonal.contraction, memory.does_not_vanish)),
    Case("CoRNNCell", (oscillators.cornn_bound, memory.does_not_vanish)),
    Case(
        "CoRNNCell",
        (oscillators.cornn_small_step, memory.does_not_vanish),
        "γ = ε = 1, Δt = 1/T",
        lambda steps: {"gamma": 1.0, "epsilon": 1.0, "time_step": 1 / steps},
    ),
    Case(
        "UnICORNNCell",
        (oscillators.unicornn_bound, oscillators.unicornn_volume, memory.does_not_vanish),
    ),
    Case("LEMCell", (oscillators.lem_bound, memory.does_not_vanish), "Δt = 1"),
    Case(
        "LEMCell",
        (oscillators.lem_bound, memory.does_not_vanish),
        "Δt = 1/T",
        lambda steps: {"time_step": 1 / steps},
    ),
    Case(
        "AntisymmetricRNNCell",
        (oscillators.imaginary_eigenvalues, memory.does_not_vanish),
        "γ = 0",
        lambda steps: {"gamma": 0.0},
    ),
    Case("AntisymmetricRNNCell", (oscillators.stable_eigenvalues,), "γ = 0.01"),
    # With ReLU every unit is off at some step, and all products are 0.
    Case("IndRNNCell", (products.indrnn_product,), "tanh", lambda steps: {"activation": "tanh"}),
    # The other extreme: units that are always on, so that only the cap holds gradients.
    Case(
        "IndRNNCell",
        (products.indrnn_cap,),
        "ReLU, u at its cap",
        lambda steps: {"length": steps, "recurrent_init": _all_two, "bias_init": _all_two},
    ),
    Case("MinGRUCell", (products.min_gru_product,)),
    Case("MinLSTMCell", (products.min_lstm_product,)),
    Case("RGLRUCell", (products.rg_lru_product, products.rg_lru_slowest)),
    Case("LRUCell", (products.lru_powers, products.lru_gain)),
    Case("S5Cell", (products.s5_powers,)),
)


def judge(hidden: int, steps: int, seed: int) -> Iterator[Claim]:
    """Every claim, one after another, measured in float64."""
    for case in CASES:
        with jax.enable_x64(True):
            trial = case.trial(hidden, steps, seed)
            found = [of(trial) for of in case.judges]
        yield from found
