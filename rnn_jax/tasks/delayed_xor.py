"""The exclusive or of earlier bits."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy


@dataclass(frozen=True)
class DelayedXor(CrossEntropy):
    """Delayed exclusive or: at every step, whether two earlier bits differ.

    Each step shows a fair bit x_t, 0 or 1, and the answer is class x_{t−d} ⊕ x_{t−2d}, where d is
    the delay; the first 2d steps have none and weigh nothing. It asks for memory, as delayed recall
    does, and for a computation that no linear readout of the memory can do. Neither bit is shown
    when it counts, and their exclusive or is fair, so who remembers nothing pays ln 2.

    Attributes:
      delay: d, in steps, at least 1; the last `bits` · d bits must be carried at once.
      length: T, in steps, more than the longest lag, `bits` · d; None is three times that lag.
      bits: how many bits are combined, those of d, 2d, …, `bits` · d steps ago: 2 is the exclusive
        or, more is the parity of them all, 1 is the plain recall of a bit.
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> task = rj.tasks.DelayedXor(delay=3)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> bits = batch.inputs[..., 0].astype(int)
      >>> bool(jnp.array_equal(bits[:, :-6] ^ bits[:, 3:-3], batch.targets[:, 6:]))
      True
      >>> task.longest_lag
      6

    References:
      R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
      Jacobians", 2023; in the code published with it the bits are d apart, the answer is scored by
      cross-entropy, and 2, 4, 8, … bits are combined.
    """

    delay: int
    length: int | None = None
    bits: int = 2
    solved_above: float = 0.99

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        check_size("delay", self.delay)
        check_size("bits", self.bits)
        if self.length is not None and check_size("length", self.length) <= self.longest_lag:
            raise ValueError(
                f"length must be more than the longest lag, bits · delay = {self.longest_lag}, or "
                f"no step has a target; got {self.length}. Pass for example "
                f"length={3 * self.longest_lag}."
            )
        super().__post_init__()

    @property
    def longest_lag(self) -> int:
        """How many steps ago the farthest bit was shown."""
        return self.bits * self.delay

    @property
    def steps(self) -> int:
        """T, in steps."""
        return 3 * self.longest_lag if self.length is None else self.length

    @property
    def in_features(self) -> int:
        """I: the bit."""
        return 1

    @property
    def out_features(self) -> int:
        """O: equal and different."""
        return 2

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: ln 2."""
        return math.log(2)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1); targets (B, T) and weights (B, T), both 0 before the first answer.
        """
        size = check_size("batch_size", batch_size)
        bits = jax.random.randint(check_key(key), (size, self.steps), 0, 2)
        steps = jnp.arange(self.steps)
        asked = steps >= self.longest_lag
        lags = self.delay * jnp.arange(1, self.bits + 1)
        shown = bits[:, jnp.maximum(steps[:, None] - lags[None, :], 0)]
        targets = jnp.where(asked[None, :], jnp.sum(shown, axis=-1) % 2, 0)
        weights = jnp.broadcast_to(asked.astype(float), targets.shape)
        return Batch(bits.astype(float)[..., None], targets, weights)
