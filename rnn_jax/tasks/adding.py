"""The adding problem."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_size
from rnn_jax.tasks.base import Batch, SquaredError


@dataclass(frozen=True)
class Adding(SquaredError):
    """The adding problem: remember two marked numbers and give their sum.

    Each step shows a number u_t, uniform in [0, 1), and a marker. The marker is 1 at two steps, one
    drawn from each half of the sequence, and 0 elsewhere; the target is u_i + u_j. Predicting the
    mean, 1, without looking costs the variance of the sum, 2 · 1/12 = 1/6.

    Attributes:
      length: T, in steps; at least 2.
      solved_below: the mean squared error under which it counts as solved.

    References:
      S. Hochreiter and J. Schmidhuber, 1997 (the task); M. Arjovsky, A. Shah and Y. Bengio, 2016
      (this form of it).
    """

    length: int
    solved_below: float = 0.01

    readout: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        if check_size("length", self.length) < 2:
            raise ValueError(
                "length must be at least 2, one marked number in each half; got 1. Pass length=2 "
                "or more."
            )
        super().__post_init__()

    @property
    def in_features(self) -> int:
        """I: the number and its marker."""
        return 2

    @property
    def out_features(self) -> int:
        """O: the sum."""
        return 1

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: 1/6."""
        return 1 / 6

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 2), the number first and its marker second; targets (B, 1); weights (B,).
        """
        size = check_size("batch_size", batch_size)
        key_value, key_first, key_second = jax.random.split(check_key(key), 3)
        half = self.length // 2
        values = jax.random.uniform(key_value, (size, self.length))
        first = jax.random.randint(key_first, (size,), 0, half)
        second = jax.random.randint(key_second, (size,), half, self.length)
        marks = jax.nn.one_hot(first, self.length, dtype=values.dtype)
        marks = marks + jax.nn.one_hot(second, self.length, dtype=values.dtype)
        targets = jnp.sum(values * marks, axis=1, keepdims=True)
        return Batch(jnp.stack([values, marks], axis=-1), targets, jnp.ones_like(values[:, 0]))
