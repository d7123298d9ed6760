"""Delayed recall of a random stream."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_size
from rnn_jax.tasks.base import Batch, SquaredError


@dataclass(frozen=True)
class DelayedRecall(SquaredError):
    """Delayed recall: at every step, say what was shown `delay` steps ago.

    Each step shows a new number x_t, uniform in [0, 1), and the target is x_{t−delay}; the first
    `delay` steps have none and weigh nothing. The stream never repeats, so the network must carry
    the last `delay` numbers at once. Predicting the mean, 1/2, costs the variance of a number,
    1/12, and nothing that the current step shows can make it less.

    Attributes:
      delay: how many steps back, at least 1.
      length: T, in steps, more than the delay; None is three times the delay.
      solved_below: the mean squared error under which it counts as solved.

    Example:
      >>> task = rj.tasks.DelayedRecall(delay=5)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> batch.inputs.shape
      (4, 15, 1)
      >>> bool(jnp.array_equal(batch.inputs[:, :-5], batch.targets[:, 5:]))
      True

    References:
      H. Jaeger, "Short term memory in echo state networks", 2001 (a uniform stream recalled);
      R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
      Jacobians", 2023 (as a test of training; the code published with it draws bits).
    """

    delay: int
    length: int | None = None
    solved_below: float = 0.01

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        delay = check_size("delay", self.delay)
        if self.length is not None and check_size("length", self.length) <= delay:
            raise ValueError(
                f"length must be more than the delay, {delay}, or no step has a target; got "
                f"{self.length}. Pass for example length={3 * delay}."
            )
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return 3 * self.delay if self.length is None else self.length

    @property
    def in_features(self) -> int:
        """I: the number."""
        return 1

    @property
    def out_features(self) -> int:
        """O: the number shown `delay` steps ago."""
        return 1

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: 1/12."""
        return 1 / 12

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1); targets (B, T, 1) and weights (B, T), both 0 before step `delay`.
        """
        size = check_size("batch_size", batch_size)
        values = jax.random.uniform(check_key(key), (size, self.steps, 1))
        targets = jnp.pad(values[:, : -self.delay], ((0, 0), (self.delay, 0), (0, 0)))
        asked = jnp.arange(self.steps) >= self.delay
        weights = jnp.broadcast_to(asked.astype(values.dtype), (size, self.steps))
        return Batch(values, targets, weights)
