"""Initialisers of biases that know which gates keep the state: forget bias and chrono."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arrays import at_least_float32
from rnn_jax.checks import check_number

# Blocks and the sign of the bias with which each keeps the state: 1 for a gate that keeps it near
# 1, −1 for one that overwrites it there. The first is the one that a forget bias is for.
MemoryGates = tuple[tuple[str, int], ...]


def forget_bias(value: float = 1.0) -> "GateBias":
    """The bias with which the gate that keeps the state is open at first; the others start at 0.

    LSTM: b_f = v (Gers et al., 2000; Jozefowicz et al., 2015). A gate that overwrites the state
    where it is near 1, as the forget gate of the MGU, gets −v.

    Args:
      value: v.
    """
    return _ForgetBias(check_number("value", value))


def chrono(t_min: float, t_max: float) -> "GateBias":
    """Gates that remember for between t_min and t_max steps; the other biases start at 0.

    b_f ~ log U(t_min, t_max − 1),    b_i = −b_f

    for the LSTM: with small pre-activations a unit keeps its state for about 1/(1 − f) = 1 + e^b_f
    steps. A cell with one gate for both, such as the GRU, gets the first of the two, with the other
    sign if it overwrites the state near 1.

    Args:
      t_min: the shortest memory, above 0; 1 in the paper.
      t_max: the longest one, T_max, at least t_min + 1.

    References:
      C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", 2018.
    """
    low, high = check_number("t_min", t_min), check_number("t_max", t_max)
    if not 0 < low <= high - 1:
        raise ValueError(
            f"t_min and t_max must be 0 < t_min <= t_max - 1; got {low:g} and {high:g}. Pass how "
            "many steps the shortest and the longest dependency take, for example 1 and 200."
        )
    return _Chrono(low, high)


class GateBias(ABC):
    """An initialiser that needs the names of the blocks that a bias consists of."""

    name: str

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        """Refuses: a bias whose gates are not known."""
        raise ValueError(
            f"{self.name} sets the bias of the gate that keeps a cell's state; this bias has none"
        )

    @abstractmethod
    def _values(self, key: jax.Array, size: int, dtype: Any) -> list[jax.Array]:
        """Biases with which the first gate, the second … keep the state, each (H,)."""

    def fill(
        self,
        key: jax.Array,
        shape: Sequence[int],
        dtype: Any,
        blocks: Sequence[str],
        gates: MemoryGates,
    ) -> jax.Array:
        """Biases (G·H,) of `blocks`, side by side, of which `gates` keep the state."""
        if not gates:
            return self(key, shape, dtype)
        size = shape[0] // len(blocks)
        values = dict.fromkeys(blocks, jnp.zeros((size,), dtype))
        # A forget bias is for the first gate alone.
        for (block, sign), value in zip(gates, self._values(key, size, dtype), strict=False):
            if block in values:
                values[block] = sign * value
        return jnp.concatenate(list(values.values()))


@dataclass(frozen=True)
class _ForgetBias(GateBias):
    value: float
    name = "forget_bias"

    def _values(self, key: jax.Array, size: int, dtype: Any) -> list[jax.Array]:
        del key
        return [jnp.full((size,), self.value, dtype)]


@dataclass(frozen=True)
class _Chrono(GateBias):
    t_min: float
    t_max: float
    name = "chrono"

    def _values(self, key: jax.Array, size: int, dtype: Any) -> list[jax.Array]:
        # Uniform numbers of a half type have few values, and their logarithms few more.
        wide = at_least_float32(dtype)
        steps = jax.random.uniform(key, (size,), wide, self.t_min, self.t_max - 1)
        bias = jnp.log(steps).astype(dtype)
        return [bias, bias]
