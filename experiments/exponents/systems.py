"""Systems whose Lyapunov exponents are known, measured beside what is known of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

import rnn_jax as rj

# J. C. Sprott, "Chaos and Time-Series Analysis", 2003, appendix A.
SPROTT = "Sprott 2003"
HENON = (0.41922, -1.62319)
LORENZ = (0.9056, 0.0, -14.5723)
# C. M. Newman, "The distribution of Lyapunov exponents", 1986.
NEWMAN = "Newman 1986"

Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Known:
    """One measured number beside its known value.

    Attributes:
      system, quantity: what was measured; the dimension is Kaplan and Yorke's.
      measured: the value.
      error: its standard error; nan for a dimension, which has none.
      known: from the literature or in closed form.
      source: which; Newman's is a closed form.
    """

    system: str
    quantity: str
    measured: float
    error: float
    known: float
    source: str

    @property
    def deviation(self) -> float:
        """How many standard errors lie between the two; nan without an error."""
        return abs(self.measured - self.known) / self.error


def known_systems(steps: int, seed: int) -> list[Known]:
    """Hénon's map, Lorenz's flow and products of Gaussian matrices, in float64."""
    with jax.enable_x64(True):
        return [*_henon(steps), *_lorenz(steps), *_gaussian(steps, seed)]


def _rows(
    system: str, spectrum: rj.LyapunovSpectrum, known: Sequence[float], source: str, unit: float
) -> list[Known]:
    """A row for each exponent, in units of `unit` steps."""
    values, errors = np.asarray(spectrum.exponents), np.asarray(spectrum.standard_errors)
    return [
        Known(system, f"λ_{i + 1}", float(v / unit), float(e / unit), k, source)
        for i, (v, e, k) in enumerate(zip(values, errors, known, strict=True))
    ]


def _dimension(system: str, spectrum: rj.LyapunovSpectrum, known: float) -> Known:
    measured = float(spectrum.kaplan_yorke_dimension)
    return Known(system, "dimension", measured, math.nan, known, SPROTT)


def henon(state: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, y) ← (1 − 1.4 x² + y, 0.3 x)."""
    x, y = state
    state = jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x])
    return state, state


def lorenz(width: float) -> Step:
    """A step of the classical Runge–Kutta method along the flow of σ, ρ, β = 10, 28, 8/3."""

    def velocity(state: jax.Array) -> jax.Array:
        x, y, z = state
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    def step(state: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = velocity(state)
        two = velocity(state + width / 2 * one)
        three = velocity(state + width / 2 * two)
        four = velocity(state + width * three)
        state = state + width / 6 * (one + 2 * two + 2 * three + four)
        return state, state

    return step


def _henon(steps: int) -> list[Known]:
    spectrum = rj.lyapunov_exponents(henon, jnp.zeros((steps, 1)), jnp.zeros(2), warmup=steps // 10)
    name = "Hénon map"
    rows = _rows(name, spectrum, HENON, SPROTT, 1.0)
    return [*rows, _dimension(name, spectrum, 1.25827)]


def _lorenz(steps: int) -> list[Known]:
    """Exponents in nats a unit of time."""
    width = 0.01
    spectrum = rj.lyapunov_exponents(
        lorenz(width),
        jnp.zeros((5 * steps, 1)),
        jnp.asarray([1.0, 1.0, 20.0]),
        warmup=steps // 2,
        interval=5,
    )
    name = "Lorenz flow"
    rows = _rows(name, spectrum, LORENZ, SPROTT, width)
    return [*rows, _dimension(name, spectrum, 2.06215)]


def _gaussian(steps: int, seed: int, size: int = 4) -> list[Known]:
    """Independent N(0, 1/S) matrices; the input of a step is its matrix."""

    def step(state: jax.Array, matrix: jax.Array) -> tuple[jax.Array, Any]:
        state = matrix.reshape(size, size) @ state
        return state, state

    matrices = jax.random.normal(jax.random.key(seed), (steps, size * size)) / math.sqrt(size)
    # The carry does not enter a linear step's Jacobian; from zero it stays there.
    spectrum = rj.lyapunov_exponents(step, matrices, jnp.zeros(size))
    freedoms = size - np.arange(size)
    known = (math.log(2 / size) + np.asarray(digamma(jnp.asarray(freedoms / 2)))) / 2
    return _rows(f"Gaussian {size} × {size}", spectrum, known.tolist(), NEWMAN, 1.0)
