"""Forecast of the Mackey-Glass equation."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count
from rnn_jax.tasks.forecast import Forecast, conditional_variance

# Grid points in a unit of time: after a hundred units x is off by some 1e-8.
_GRID = 10


@dataclass(frozen=True)
class MackeyGlassForecast(Forecast):
    """Mackey-Glass forecast: a series that depends on its own past, to be continued.

    The equation ẋ = 0.2 x(t − τ) / (1 + x(t − τ)¹⁰) − 0.1 x(t) runs on its attractor from a random
    past. Each step, one unit of time after the last, shows tanh(x − 1), and the target is what the
    step `horizon` later shows. The state is all of x from t − τ to t, so a network must remember τ
    steps to continue it exactly. The first `washout` steps weigh nothing.

    Who remembers nothing pays Var(x_{t+horizon} | x_t): at τ = 17, where the variance of what is
    shown is 0.0467, 0.0010 one step ahead, 0.025 at 6 and 0.034 at 84. It has no closed form and
    is computed, once for each τ and horizon, from 1024 runs over thirty delays, by lines fitted in
    200 parts of the range of x. Its error is below one percent.

    Attributes:
      length: T, in steps.
      horizon: how many steps ahead, at least 1; 84 is a common test.
      tau: τ, in steps, at least 5: below 4.7 the series comes to rest. 17 is weakly chaotic, 30
        strongly.
      washout: the first steps, which weigh nothing, best at least τ; None is a quarter of the
        length.
      solved_share: the share of the chance loss under which it counts as solved; 0.05 is about as
        strict as the adding problem, solved at 0.06 of its own.

    Example:
      >>> task = rj.tasks.MackeyGlassForecast(length=40, horizon=6)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> bool(jnp.array_equal(batch.inputs[:, 6:], batch.targets[:, :-6]))
      True
      >>> int(batch.weights[0].sum())  # steps after the washout
      30

    References:
      M. Mackey and L. Glass, "Oscillation and chaos in physiological control systems", 1977;
      H. Jaeger and H. Haas, "Harnessing nonlinearity: predicting chaotic systems and saving energy
      in wireless communication", 2004 (tanh(x − 1), τ = 17, 84 steps).
    """

    length: int
    horizon: int = 6
    tau: int = 17
    washout: int | None = None
    solved_share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tau", self.tau, low=5)

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing, within one percent."""
        return _chance(self.tau, self.horizon)

    def _series(self, key: jax.Array, size: int, steps: int) -> jax.Array:
        key_index, key_noise, key_start = jax.random.split(key, 3)
        noise = 0.01 * jax.random.normal(key_noise, (size, 1))
        known = jnp.asarray(_attractor(self.tau), noise.dtype)
        past = known[jax.random.randint(key_index, (size,), 0, len(known))] + noise
        # Off by the noise no past is met twice. It starts at any grid point of the second to the
        # twelfth delay from there.
        delay = _GRID * self.tau
        start = jax.random.randint(key_start, (size, 1), 2 * delay, 12 * delay)
        blocks = _blocks(12 * delay + _GRID * steps, delay)
        _, shown = jax.lax.scan(lambda now, _: _next(now), past, length=blocks)
        fine = jnp.moveaxis(shown, 0, 1).reshape(size, -1)
        index = start + _GRID * jnp.arange(steps)[None, :]
        return jnp.tanh(jnp.take_along_axis(fine, index, axis=1) - 1)


def _blocks(points: int, delay: int) -> int:
    """How many blocks hold so many grid points."""
    return math.ceil(points / (delay - 1))


@functools.lru_cache(maxsize=8)
def _weights(delay: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the four productions around a step, (4,); of the last point, (M,); of the inflows, (M, M).

    x(t + h) = e^{−γh} x(t) + ∫ e^{−γ(h−s)} p(t + s) ds over s in [0, h], where the production p is
    known for a delay ahead. The integral is that of the cubic through the grid points at s = −h, 0,
    h and 2h: h (−1, 13, 13, −1)/24, which is of fourth order.
    """
    h = 1 / _GRID
    decay = math.exp(-0.1 * h)
    near = h / 24 * np.array([-1, 13, 13, -1]) * decay ** np.array([2, 1, 0, -1])
    index = np.arange(delay - 1)
    since = index[None, :] - index[:, None]
    return near, decay ** (index + 1), np.where(since >= 0, decay ** np.maximum(since, 0), 0.0)


def _next(past: Any, xp: Any = jnp) -> tuple[Any, Any]:
    """(the past one block on, the block), of arrays of NumPy or JAX.

    Args:
      past: (B, N + 2), the last grid points, with N a delay.
      xp: the module that the arrays belong to.

    Returns:
      the past N − 1 points on, (B, N + 2), and the new points, (B, N − 1).
    """
    block = past.shape[1] - 3
    near, fading, gain = (part.astype(past.dtype) for part in _weights(block + 1))
    square = past * past
    tenth = square * square * square * square * square
    produced = 0.2 * past / (1 + tenth)
    inflow = sum(near[i] * produced[:, i : i + block] for i in range(4))
    # Rounded as elsewhere: accelerators would multiply matrices with fewer digits.
    with jax.default_matmul_precision("highest"):
        new = past[:, -1:] * fading[None, :] + inflow @ gain
    return xp.concatenate([past, new], axis=1)[:, block:], new


def _run(past: np.ndarray, points: int) -> np.ndarray:
    """At least so many grid points from the past on, (B, points)."""
    blocks = []
    for _ in range(_blocks(points, past.shape[1] - 2)):
        past, new = _next(past, np)
        blocks.append(new)
    return np.concatenate(blocks, axis=1)


@functools.lru_cache(maxsize=8)
def _attractor(tau: int) -> np.ndarray:
    """Pasts on the attractor, (1024, N + 2), as likely as there, with N a delay."""
    random = np.random.RandomState(0)
    delay = _GRID * tau
    past = np.repeat(random.uniform(0.5, 1.4, size=(1024, 1)), delay + 2, axis=1)
    # All begin at once, and turn at like phases for long. So each is taken at a time of its own.
    points = _run(past, 90 * delay + 2)
    first = random.randint(60 * delay, 89 * delay, size=(1024, 1))
    return np.take_along_axis(points, first + np.arange(delay + 2), axis=1)


@functools.lru_cache(maxsize=64)
def _chance(tau: int, horizon: int) -> float:
    """Var(x(t + horizon) | x(t)) on the attractor, of x as it is shown."""
    points = _run(_attractor(tau), _GRID * (30 * tau + horizon))
    shown = np.tanh(points[:, ::_GRID] - 1)
    return conditional_variance(shown[:, :-horizon], shown[:, horizon:])
