"""Random tanh networks x ← J tanh(x), J_ij ~ N(0, g²/N): the transition to chaos at g = 1."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import rnn_jax as rj

# Steps between two QR decompositions of a single vector, which only has to be kept from overflow.
INTERVAL = 10


@dataclass(frozen=True)
class Transition:
    """Leading exponents of networks of every gain.

    Attributes:
      size: N.
      gains: g, (G,).
      exponents: λ_1, (G, draws); one draw of J, scaled, serves all gains.
      errors: their standard errors as time averages, (G, draws).
      radii: ln of the spectral radius of J, (G, draws).
      theory: λ_1 for N → ∞, (G,).
    """

    size: int
    gains: np.ndarray
    exponents: np.ndarray
    errors: np.ndarray
    radii: np.ndarray
    theory: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """λ_1, the mean over the draws, (G,)."""
        return self.exponents.mean(axis=1)

    @property
    def mean_error(self) -> np.ndarray:
        """Standard error of that mean for the draws at hand: time averages only, (G,)."""
        return np.sqrt((self.errors**2).mean(axis=1) / self.errors.shape[1])

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over the draws, (G,); nan for a single draw."""
        draws = self.exponents.shape[1]
        spread: np.ndarray = np.std(self.exponents, axis=1, ddof=min(1, draws - 1))
        return spread if draws > 1 else np.full_like(spread, np.nan)


@dataclass(frozen=True)
class Spectrum:
    """All exponents of one network.

    Attributes:
      gain: g.
      exponents: descending, (N,).
      dimension: Kaplan and Yorke's, for each unit.
      entropy: sum of the positive exponents, nats a step for each unit.
    """

    gain: float
    exponents: np.ndarray
    dimension: float
    entropy: float


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    """tanh with the slope 1/cosh²; as 1 − tanh² it is all rounding in float32 from |x| = 9 on."""
    return jnp.tanh(x)


@tanh.defjvp
def _slope(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return tanh(x), dx * (1 / jnp.cosh(x)) ** 2


def _local_field(weights: jax.Array, x: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x ← J tanh(x)."""
    x = weights @ tanh(x)
    return x, x


def _activity(weights: jax.Array, h: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h ← tanh(J h): the same system in other coordinates, with the same exponents."""
    h = tanh(weights @ h)
    return h, h


def _draw(size: int, seed: int) -> tuple[jax.Array, jax.Array]:
    """J of gain 1 and a state."""
    key_weights, key_state = jax.random.split(jax.random.key(seed))
    weights = jax.random.normal(key_weights, (size, size)) / np.sqrt(size)
    return weights, jax.random.normal(key_state, (size,))


def transition(
    gains: tuple[float, ...],
    size: int,
    draws: int,
    steps: int,
    seed: int,
    on_run: Callable[[], None],
) -> Transition:
    """Measures λ_1; `on_run` is called after every network."""
    shape = (len(gains), draws)
    exponents, errors, radii = np.empty(shape), np.empty(shape), np.empty(shape)
    nothing = jnp.zeros((steps + steps // 4, 1))
    for draw in range(draws):
        weights, state = _draw(size, seed + draw)
        radius = np.abs(np.linalg.eigvals(np.asarray(weights))).max()
        for row, gain in enumerate(gains):
            spectrum = rj.lyapunov_exponents(
                Partial(_local_field, gain * weights),
                nothing,
                state,
                k=1,
                warmup=steps // 4,
                interval=INTERVAL,
            )
            exponents[row, draw] = spectrum.exponents[0]
            errors[row, draw] = spectrum.standard_errors[0]
            radii[row, draw] = np.log(gain * radius)
            on_run()
    theory = np.asarray([mean_field(gain) for gain in gains])
    return Transition(size, np.asarray(gains), exponents, errors, radii, theory)


def spectra(
    gains: tuple[float, ...], size: int, steps: int, seed: int, on_run: Callable[[], None]
) -> list[Spectrum]:
    """Measures all exponents of one network for each gain."""
    weights, state = _draw(size, seed)
    nothing = jnp.zeros((steps + steps // 4, 1))
    found = []
    for gain in gains:
        # In these coordinates saturation scales the rows of A_t, which the QR keeps apart; as
        # columns, of the local field, they would be added up, and the small ones lost.
        step = Partial(_activity, gain * weights)
        spectrum = rj.lyapunov_exponents(step, nothing, jnp.tanh(state), warmup=steps // 4)
        found.append(
            Spectrum(
                gain,
                np.asarray(spectrum.exponents),
                float(spectrum.kaplan_yorke_dimension) / size,
                float(spectrum.entropy_rate) / size,
            )
        )
        on_run()
    return found


@functools.cache
def mean_field(gain: float) -> float:
    """λ_1 for N → ∞: ln g below the transition, ½ ln(g² ⟨φ′²⟩) above it.

    ⟨·⟩ is over x ~ N(0, v) with v = g² ⟨φ²⟩.

    References:
      L. Molgedey, J. Schuchhardt and H. G. Schuster, "Suppressing chaos in neural networks by
      noise", 1992.
    """
    if gain <= 1:
        return float(np.log(gain))
    # A sum over an even grid, because tanh′ is narrow beside a Gaussian of a large gain.
    points = np.linspace(-8, 8, 2001)
    weights = np.exp(-(points**2) / 2)
    weights /= weights.sum()
    low, high = 0.0, gain**2
    for _ in range(50):
        variance = (low + high) / 2
        grows = gain**2 * (weights @ np.tanh(np.sqrt(variance) * points) ** 2) > variance
        low, high = (variance, high) if grows else (low, variance)
    slopes = 1 / np.cosh(np.sqrt(variance) * points) ** 2
    return float(np.log(gain**2 * (weights @ slopes**2)) / 2)
