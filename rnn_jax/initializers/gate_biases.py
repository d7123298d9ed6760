"""Initialisers of biases that know which gates keep the state: forget bias and chrono."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arrays import at_least_float32
from rnn_jax.checks import check_number

#: The gates that decide how much of a cell's state is kept: a tuple of (block, sign), as
#: `(("forget", 1), ("input", -1))` of an LSTM. The sign is 1 for a gate that keeps the state where
#: it is near 1, −1 for one that overwrites it there; `forget_bias` and `chrono` set the biases with
#: these signs. The first gate is the one that a forget bias is for.
MemoryGates = tuple[tuple[str, int], ...]


def forget_bias(value: float = 1.0) -> "GateBias":
    """A bias with which the gate that keeps the state is open at first; the others start at 0.

    b_f = v

    for the forget gate of an LSTM or the update gate of a GRU. A gate that overwrites the state
    where it is near 1, as the forget gate of the MGU, gets −v.

    Args:
      value: v.

    Returns:
      An initialiser of the biases of all gates, for the `bias_init` of a cell.

    Raises:
      TypeError, ValueError: `value` is not one finite number.

    Example:
      >>> gru = rj.GRUCell(2, 4, bias_init="forget_bias(2)", rngs=nnx.Rngs(0))
      >>> dict(zip(gru.blocks, gru.bias[...].reshape(3, 4)[:, 0].tolist()))
      {'reset': 0.0, 'update': 2.0, 'candidate': 0.0}

    References:
      F. Gers, J. Schmidhuber and F. Cummins, "Learning to forget", 2000.
      R. Jozefowicz, W. Zaremba and I. Sutskever, "An empirical exploration of recurrent network
      architectures", 2015.
    """
    return _ForgetBias(check_number("value", value))


def chrono(t_min: float, t_max: float) -> "GateBias":
    """Gates that remember for between t_min and t_max steps; the other biases start at 0.

    b_f ~ log U(t_min, t_max − 1),    b_i = −b_f

    for the LSTM: with small pre-activations a unit keeps its state for about 1/(1 − f) = 1 + e^b_f
    steps. A cell with one gate for both, such as the GRU, gets the first of the two, with the other
    sign if it overwrites the state near 1.

    Args:
      t_min: the shortest memory in steps, above 0; 1 in the paper.
      t_max: the longest one, T_max, in steps, at least t_min + 1.

    Returns:
      An initialiser of the biases of all gates, for the `bias_init` of a cell.

    Raises:
      ValueError: the two are not 0 < t_min <= t_max − 1.
      TypeError: one of them is no number.

    Example:
      >>> lstm = rj.LSTMCell(2, 8, bias_init=rj.initializers.chrono(1, 100), rngs=nnx.Rngs(0))
      >>> kept = lstm.memory_path(lstm.initialize_carry((2,)), jnp.zeros(2))["c"]
      >>> steps = 1 / (1 - kept)  # for which a unit remembers
      >>> bool(((steps >= 2) & (steps <= 100)).all())
      True

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
