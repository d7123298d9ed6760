"""The flip-flop memory."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_number, check_size
from rnn_jax.tasks.base import Batch, Metrics, SquaredError, weighted_mean


@dataclass(frozen=True)
class FlipFlop(SquaredError):
    """Flip-flops: hold, in each channel, the sign of the last pulse.

    At each step a channel shows a pulse, +1 or −1 at even odds, with probability p, and 0
    otherwise; channels are independent, and each has a pulse at the first step. The target of a
    channel is the sign of its last pulse, that of the step at hand included. A network that has
    learnt three channels holds 2³ states, as a rule each near a stable fixed point.

    A step with a pulse gives its own answer away. Of the others nothing is known without a memory,
    and 0, the mean, costs 1 a channel: `channels` · (1 − p) (T − 1)/T.

    Attributes:
      length: T, in steps, at least 2.
      channels: how many flip-flops there are; each is an input and an output.
      probability: p, of a pulse at a step, in (0, 1); the last pulse is 1/p steps ago on average.
      solved_below: the squared error, summed over channels, under which it counts as solved; 0.03
        is an error of 0.1 in each of three.

    Example:
      >>> task = rj.tasks.FlipFlop(length=20, channels=3)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> answer_shown = batch.inputs == batch.targets
      >>> bool((answer_shown == (batch.inputs != 0)).all())  # by each pulse, and by nothing else
      True
      >>> round(task.chance_loss, 3)
      2.565

    References:
      D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional
      recurrent neural networks", 2013 (three channels); M. Golub and D. Sussillo,
      "FixedPointFinder: a Tensorflow toolbox for identifying and characterizing fixed points in
      recurrent neural networks", 2018 (a pulse in every channel at the first step).
    """

    length: int
    channels: int = 3
    probability: float = 0.1
    solved_below: float = 0.03

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        if check_size("length", self.length) < 2:
            raise ValueError(
                "length must be at least 2, because the first step shows every answer; got "
                f"{self.length}. Pass length=2 or more."
            )
        check_size("channels", self.channels)
        if not 0 < check_number("probability", self.probability) < 1:
            raise ValueError(
                f"probability must lie between 0 and 1, without them; got {self.probability}. Pass "
                "for example probability=0.1."
            )
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: one for each channel."""
        return self.channels

    @property
    def out_features(self) -> int:
        """O: one for each channel."""
        return self.channels

    @property
    def chance_loss(self) -> float:
        """Squared error of the predictor that remembers nothing: channels · (1 − p) (T − 1)/T."""
        return self.channels * (1 - self.probability) * (self.length - 1) / self.length

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"mse", "accuracy"}: the loss, and the share of signs that are right."""
        loss = self.loss(outputs, batch)
        right = (outputs * batch.targets > 0).astype(outputs.dtype)
        return {"mse": loss, "accuracy": weighted_mean(jnp.mean(right, axis=-1), batch.weights)}

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, channels), each −1, 0 or +1; targets of the same shape, −1 or +1; weights
          (B, T), all 1.
        """
        shape = (check_size("batch_size", batch_size), self.length, self.channels)
        key_pulses, key_signs = jax.random.split(check_key(key))
        pulses = jax.random.bernoulli(key_pulses, self.probability, shape).at[:, 0].set(True)
        signs = jax.random.rademacher(key_signs, shape, dtype=float)
        steps = jnp.arange(self.length)[None, :, None]
        last = jax.lax.cummax(jnp.where(pulses, steps, 0), axis=1)
        targets = jnp.take_along_axis(signs, last, axis=1)
        return Batch(jnp.where(pulses, signs, 0.0), targets, jnp.ones_like(signs[..., 0]))
