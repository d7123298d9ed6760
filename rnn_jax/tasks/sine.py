"""Forecast of a sine."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_number
from rnn_jax.tasks.forecast import Forecast


@dataclass(frozen=True)
class SineForecast(Forecast):
    """Sine forecast: a sine of unknown frequency and phase, to be continued.

    Each step shows x_t = √2 sin(2π(f t + φ)), of variance 1, and the target is x_{t+horizon}. Each
    sequence has its own frequency f, uniform in `frequencies`, and phase φ, uniform over a cycle.
    Three steps fix the sine: x_{t+1} = 2 cos(2πf) x_t − x_{t−1}. The first `washout` steps weigh
    nothing.

    One step does not: it leaves open whether the sine rises or falls, and how fast. Its best guess
    is m x_t, with m = E cos(2πf · horizon), and costs 1 − m²; the mean over frequencies
    f_low … f_high is m = cos(2πh f̄) sin(πhΔ)/(πhΔ), with h the horizon, f̄ their middle and Δ
    their width.

    Attributes:
      length: T, in steps.
      horizon: how many steps ahead, at least 1.
      frequencies: the lowest and the highest, in cycles per step, between 0 and 1/2.
      washout: the first steps, which weigh nothing; None is a quarter of the length.
      solved_share: the share of the chance loss under which it counts as solved; 0.05 is about as
        strict as the adding problem, solved at 0.06 of its own.

    Example:
      >>> task = rj.tasks.SineForecast(length=40, horizon=2)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> bool(jnp.array_equal(batch.inputs[:, 2:], batch.targets[:, :-2]))
      True
      >>> batch.weights[0].tolist().index(1.0)  # the first step that counts
      10

    References:
      No paper's protocol: the smallest forecast that needs a memory. H. Jaeger, "The 'echo state'
      approach to analysing and training recurrent neural networks", 2001, generates sines.
    """

    length: int
    horizon: int = 5
    frequencies: tuple[float, float] = (0.02, 0.1)
    washout: int | None = None
    solved_share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.frequencies, tuple) or len(self.frequencies) != 2:
            raise TypeError(
                "frequencies must be a tuple of the lowest and the highest; got "
                f"{self.frequencies!r}. Pass for example frequencies=(0.02, 0.1)."
            )
        low, high = (check_number("frequencies", value) for value in self.frequencies)
        if not 0 < low <= high < 0.5:
            raise ValueError(
                "frequencies must rise and lie between 0 and 1/2 cycles per step; got "
                f"{self.frequencies}. Pass for example frequencies=(0.02, 0.1)."
            )

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: 1 − m²."""
        low, high = self.frequencies
        half_width = math.pi * self.horizon * (high - low)
        decay = math.sin(half_width) / half_width if half_width else 1.0
        return 1 - (math.cos(math.pi * self.horizon * (low + high)) * decay) ** 2

    def _series(self, key: jax.Array, size: int, steps: int) -> jax.Array:
        key_frequency, key_phase = jax.random.split(key)
        low, high = self.frequencies
        frequency = jax.random.uniform(key_frequency, (size, 1), minval=low, maxval=high)
        phase = jax.random.uniform(key_phase, (size, 1))
        cycles = phase + frequency * jnp.arange(steps, dtype=phase.dtype)[None, :]
        # Whole cycles go before the multiplication, which would round the phase of long sequences.
        return math.sqrt(2) * jnp.sin(2 * math.pi * (cycles - jnp.floor(cycles)))
