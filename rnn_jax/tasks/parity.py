"""The parity of a stream of bits."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy


@dataclass(frozen=True)
class Parity(CrossEntropy):
    """Parity: whether the number of ones so far is odd.

    Each step shows a fair bit, 0 or 1. The answer, class 0 for even and class 1 for odd, is asked
    for after the last bit or after every bit. One bit of memory suffices, but every single bit
    counts: with any one of them unknown, both answers are as likely. So who remembers nothing pays
    ln 2 for an answer, except at the first step, where the parity is the bit itself: with an answer
    at every step that is (T − 1)/T · ln 2.

    Attributes:
      length: T, in steps; at least 2.
      readout: "last", one answer after the last bit, or "all", one after every bit.
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> task = rj.tasks.Parity(length=10)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> bool(jnp.array_equal(batch.inputs.sum((1, 2)) % 2, batch.targets))
      True
      >>> round(task.chance_loss, 3)  # ln 2
      0.693

    References:
      Y. Bengio, P. Simard and P. Frasconi, "Learning long-term dependencies with gradient descent
      is difficult", 1994; S. Hochreiter and J. Schmidhuber, "LSTM can solve hard long time lag
      problems", 1996 (one answer at the end).
    """

    length: int
    readout: Literal["last", "all"] = "last"
    solved_above: float = 0.99

    def __post_init__(self) -> None:
        if check_size("length", self.length) < 2:
            raise ValueError(
                "length must be at least 2: the parity of one bit is that bit; got 1. Pass "
                "length=2 or more."
            )
        check_choice("readout", self.readout, ("last", "all"))
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: the bit."""
        return 1

    @property
    def out_features(self) -> int:
        """O: even and odd."""
        return 2

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: ln 2, at the first step 0."""
        share = 1.0 if self.readout == "last" else (self.length - 1) / self.length
        return share * math.log(2)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1); targets (B,) or (B, T), 1 for odd; weights of the shape of the targets.
        """
        size = check_size("batch_size", batch_size)
        bits = jax.random.randint(check_key(key), (size, self.length), 0, 2)
        if self.readout == "last":
            targets = jnp.sum(bits, axis=1) % 2
        else:
            targets = jnp.cumsum(bits, axis=1) % 2
        return Batch(bits.astype(float)[..., None], targets, jnp.ones(targets.shape))
