"""Proof that a fixed point exists, how near it is, and how far around it there is no other.

Let G(z) = F(z) − z, z̄ a candidate, and A an approximate inverse of DG(z̄). In the maximum norm, let

Y ≥ ‖A G(z̄)‖,    Z ≥ ‖1 − A DG(z̄)‖,    K ≥ ‖A‖,    L ≥ ‖DG(z) − DG(z')‖ / ‖z − z'‖

for all z and z' within R of z̄. The map z ↦ z − A G(z) takes the ball of radius r ≤ R around z̄ into
itself if Y + Z r + K L r²/2 ≤ r, and contracts there if Z + K L r < 1. Then G has exactly one zero
in that ball, by Banach's theorem: this is the theorem of Newton and Kantorovich with an approximate
inverse. Everything is bounded from above, rounding included (`intervals`); the point is one of the
exact recurrence with the weights as they are stored. For an orbit of period n, z is all its points,
and what changes of DG are its blocks DF, so that L is that of F.

References:
  L. V. Kantorovich, "Functional analysis and applied mathematics", 1948.
  S. M. Rump, "Verification methods: rigorous results using floating-point arithmetic", 2010.
  J. B. van den Berg and J.-P. Lessard, "Rigorous numerics in dynamics", 2015.
"""

from typing import NamedTuple

import numpy as np

from rnn_jax.gradients.fixed_points.enclosures import Formula
from rnn_jax.gradients.fixed_points.intervals import Interval, gamma, point, upward

# Radii of the ball on which the second derivative is bounded, relative to max(1, ‖z̄‖).
_BALLS = (1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-7, 1e-9)
# Beyond, the a-priori bounds of rounding would not hold as they are stated.
_LARGEST = 20_000


class Certificate(NamedTuple):
    """What is proven of one orbit, each distance in the maximum norm over all its points.

    Attributes:
      radius: a true orbit lies within this distance.
      uniqueness: there is no other within this one.
    """

    radius: float
    uniqueness: float


def certify(formula: Formula, orbit: np.ndarray) -> Certificate | None:
    """The certificate of an orbit (n, S) that is one up to rounding; None if there is no proof."""
    count, size = orbit.shape
    if count * size > _LARGEST or not np.isfinite(orbit).all():
        return None
    with np.errstate(all="ignore"):
        if not np.isfinite(formula.lipschitz(orbit[0], 0.0)):
            return None
        residual, jacobian = _equations(formula, orbit)
        middle = jacobian.low + (jacobian.high - jacobian.low) / 2
        try:
            inverse = np.linalg.inv(middle)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(inverse).all():
            return None
        pull = np.abs(inverse)
        y = _norm(pull @ residual.magnitude[:, None])
        z = _distance_to_one(inverse, pull, jacobian, middle)
        k = _norm(pull)
        scale = max(1.0, float(np.abs(orbit).max()))
        for ball in _BALLS:
            reach = ball * scale
            bend = np.max([formula.lipschitz(h, reach) for h in orbit])
            found = _radii(y, z, float(upward(k * bend)), reach)
            if found is not None:
                return found
    return None


def _equations(formula: Formula, orbit: np.ndarray) -> tuple[Interval, Interval]:
    """G(z̄), (n·S,), and DG(z̄), (n·S, n·S)."""
    count, size = orbit.shape
    values, slopes = zip(*map(formula.enclose, orbit), strict=True)
    residuals = [
        value - point(onward) for value, onward in zip(values, np.roll(orbit, -1, 0), strict=True)
    ]
    low, high = np.zeros((2, count, size, count, size))
    for index, slope in enumerate(slopes):
        low[index, :, index], high[index, :, index] = slope
    whole = Interval(low.reshape(count * size, -1), high.reshape(count * size, -1))
    # Each point less the next one: ones that stand one block to the right.
    onward = point(np.roll(np.eye(count * size), size, axis=1))
    joined = Interval(*(np.concatenate(ends) for ends in zip(*residuals, strict=True)))
    return joined, whole - onward


def _distance_to_one(
    inverse: np.ndarray, pull: np.ndarray, jacobian: Interval, middle: np.ndarray
) -> float:
    """‖1 − A M‖ for every matrix M of an interval, from above."""
    size = len(middle)
    radius = upward(np.maximum(jacobian.high - middle, middle - jacobian.low))
    rounding = gamma(size) * (pull @ np.abs(middle) + np.eye(size))
    computed = np.abs(np.eye(size) - inverse @ middle)
    return _norm(computed + rounding + pull @ radius)


def _radii(y: float, z: float, kl: float, reach: float) -> Certificate | None:
    """The smallest ball that is taken into itself, and the largest in which the map contracts."""
    free = 1 - z
    if not (np.isfinite([y, z, kl]).all() and free > 0):
        return None
    root = free**2 - 2 * kl * y
    if root <= 0:
        return None
    # The formula is rounded, so the radius is a little larger, and what it must satisfy is checked.
    radius = 2 * y / (free + np.sqrt(root)) * (1 + 1e-6) + 1e-300
    if radius > reach or not _contracts(y, z, kl, radius):
        return None
    wide = reach if kl == 0 else min(reach, (free / kl) * (1 - 1e-6))
    if not float(upward(np.float64(z + kl * wide))) < 1:
        wide = radius
    return Certificate(float(radius), float(max(radius, wide)))


def _contracts(y: float, z: float, kl: float, radius: float) -> bool:
    into = float(upward(np.float64(y + z * radius + kl * radius**2 / 2)))
    return into <= radius and float(upward(np.float64(z + kl * radius))) < 1


def _norm(matrix: np.ndarray) -> float:
    """‖·‖ in the maximum norm of a matrix that is not negative, from above."""
    return float(upward(matrix.sum(axis=1)).max())
