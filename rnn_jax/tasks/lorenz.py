"""Forecast of the Lorenz system."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_number
from rnn_jax.tasks.forecast import Forecast, conditional_variance

# A step of Runge-Kutta is at most this long, in units of time: after one unit it is off by some
# 6e-6 of x. What only has to stay on the attractor takes longer ones.
_STEP = 0.01
_LONG_STEP = 0.02
# The standard deviation of x on the attractor.
_DEVIATION = 7.925

State = tuple[Any, Any, Any]


@dataclass(frozen=True)
class LorenzForecast(Forecast):
    """Lorenz forecast: one coordinate of a chaotic system, to be continued.

    The system ẋ = 10 (y − x), ẏ = x (28 − z) − y, ż = x y − (8/3) z runs on its attractor from a
    random state. Each step, `dt` units of time after the last, shows x divided by its standard
    deviation, 7.925, and the target is what the step `horizon` later shows. One x leaves y and z
    open; a few in a row fix them. Nearby states part as exp(0.906 t), so a horizon of much more
    than one unit of time asks for more digits than are to be had. The first `washout` steps weigh
    nothing.

    Who remembers nothing pays Var(x_{t+horizon} | x_t), which depends on the horizon in time alone:
    0.19 after 0.1 units, 0.74 after 0.5, 0.84 after 1. It has no closed form and is computed, once
    for each horizon, from 327,680 pairs in 4096 runs, by lines fitted in 200 parts of the range of
    |x| (the system is the same under x, y → −x, −y). Its error is below one percent.

    Attributes:
      length: T, in steps.
      horizon: how many steps ahead, at least 1.
      dt: units of time for each step; fourth-order Runge-Kutta takes it in equal parts of at most
        0.01.
      washout: the first steps, which weigh nothing; None is a quarter of the length.
      solved_share: the share of the chance loss under which it counts as solved; 0.05 is about as
        strict as the adding problem, solved at 0.06 of its own.

    Example:
      >>> task = rj.tasks.LorenzForecast(length=40, horizon=5)
      >>> batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(0), 4)
      >>> batch.inputs.shape, int(batch.weights[0].sum())  # steps after the washout
      ((4, 40, 1), 30)
      >>> bool(jnp.array_equal(batch.inputs[:, 5:], batch.targets[:, :-5]))
      True

    References:
      E. Lorenz, "Deterministic nonperiodic flow", 1963; J. Pathak, Z. Lu, B. Hunt, M. Girvan and
      E. Ott, "Using machine learning to replicate chaotic attractors and calculate Lyapunov
      exponents from data", 2017 (as a test of recurrent networks, with this dt).
    """

    length: int
    horizon: int = 25
    dt: float = 0.02
    washout: int | None = None
    solved_share: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_number("dt", self.dt) <= 0:
            raise ValueError(
                f"dt must be a positive time; got {self.dt}. Pass for example dt=0.02."
            )

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing, within one percent."""
        return _chance(round(self.horizon * self.dt, 12))

    def _series(self, key: jax.Array, size: int, steps: int) -> jax.Array:
        key_index, key_sign, key_noise, key_time = jax.random.split(key, 4)
        noise = 0.1 * jax.random.normal(key_noise, (3, size))
        known = jnp.asarray(_attractor(), noise.dtype)
        index = jax.random.randint(key_index, (size,), 0, known.shape[1])
        x, y, z = known[:, index] + noise
        # The system is the same under x, y → −x, −y.
        sign = jax.random.rademacher(key_sign, (size,), noise.dtype)
        # A state off the attractor by the noise is on it after one unit, 1e-7 off, and not where it
        # would have been without.
        turns = int(5 / _LONG_STEP)
        step = jax.random.uniform(key_time, (size,), minval=1.0, maxval=5.0) / turns
        state = jax.lax.fori_loop(
            0, turns, lambda _, now: runge_kutta(now, step), (sign * x, sign * y, z)
        )
        parts = max(1, math.ceil(self.dt / _STEP - 1e-9))

        def advance(state: State, _: None) -> tuple[State, jax.Array]:
            moved = jax.lax.fori_loop(
                0, parts, lambda _, now: runge_kutta(now, self.dt / parts), state
            )
            return moved, state[0]

        _, series = jax.lax.scan(advance, state, length=steps)
        return series.T / _DEVIATION


def velocity(state: State) -> State:
    """(ẋ, ẏ, ż), of arrays of any kind."""
    x, y, z = state
    return 10 * (y - x), x * (28 - z) - y, x * y - (8 / 3) * z


def runge_kutta(state: State, step: Any) -> State:
    """The state `step` later, to fourth order."""

    def moved(slope: State, by: Any) -> State:
        x, y, z = (now + by * rate for now, rate in zip(state, slope, strict=True))
        return x, y, z

    first = velocity(state)
    second = velocity(moved(first, step / 2))
    third = velocity(moved(second, step / 2))
    fourth = velocity(moved(third, step))
    slopes = zip(first, second, third, fourth, strict=True)
    x, y, z = ((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in slopes)
    return moved((x, y, z), step)


@functools.lru_cache(maxsize=1)
def _attractor() -> np.ndarray:
    """States on the attractor, (3, 4096), as likely as there."""
    random = np.random.RandomState(0)
    x, y, z = 8 * random.normal(size=(3, 4096))
    state: State = (x, y, z + 24)
    # They begin at like phases of a turn, and stay so for long. Thus 36 units and then, each by
    # itself, up to 4 more.
    for step in [_LONG_STEP] * 1800 + [_LONG_STEP * random.uniform(size=4096)] * 200:
        state = runge_kutta(state, step)
    return np.stack(state)


@functools.lru_cache(maxsize=64)
def _chance(lead: float) -> float:
    """Var(x(t + lead) | x(t)) on the attractor, of x divided by its standard deviation."""
    x, y, z = _attractor()
    state: State = (x, y, z)
    every, count = 25, 80
    whole = int(lead / _STEP)
    present, future = [], []
    for index in range(every * (count - 1) + whole + 1):
        if index % every == 0 and index < every * count:
            present.append(state[0])
        if index >= whole and (index - whole) % every == 0:
            future.append(runge_kutta(state, lead - whole * _STEP)[0])
        state = runge_kutta(state, _STEP)
    now, later = np.stack(present), np.stack(future)
    return conditional_variance(np.abs(now), later * np.sign(now)) / _DEVIATION**2
