"""`fixed_points`: search, sort, prove."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_flag, check_number, check_size
from rnn_jax.gradients.fixed_points.certificate import certify as prove_orbit
from rnn_jax.gradients.fixed_points.enclosures import Formula, formula_of
from rnn_jax.gradients.fixed_points.orbits import distinct, has_lower_period
from rnn_jax.gradients.fixed_points.record import FixedPoints
from rnn_jax.gradients.fixed_points.search import Orbits, search
from rnn_jax.gradients.fixed_points.state_map import (
    Searched,
    check_input,
    check_search,
    unflatten,
)
from rnn_jax.gradients.memory import check_fits
from rnn_jax.sequence.calling import ArrayLike, Carry

# A minimum of the speed that is not 0: ‖JᵀG‖ against ‖J‖ ‖G‖.
_STATIONARY = 1e-4
# Where Newton's method takes over, and it converges in few steps.
_NEAR = 1e-8


def fixed_points(
    cell: Any,
    x: ArrayLike | None = None,
    *,
    starts: Carry,
    period: int = 1,
    tolerance: float | None = None,
    slow: float = 1e-2,
    distance: float = 1e-6,
    max_steps: int = 1000,
    between: bool = True,
    certify: bool = True,
) -> FixedPoints:
    """Fixed points, slow points and periodic orbits of a cell whose input is held constant.

    F(h) = h,    F(h) = cell(h, x)    over the whole carry (of an LSTM, c and h)

    From each start the nearest minimum of ½‖F(h) − h‖² is found by Levenberg and Marquardt's method
    and taken to rounding by Newton's, in float64 whatever `jax_enable_x64` says: all starts in one
    compiled loop, each stopping by itself. What ends at speed 0 up to rounding is a fixed point,
    what ends at a small other speed a slow point. For cells of this package (simple with sigmoid,
    tanh, softplus, identity, ReLU, leaky ReLU or hard tanh; GRU; LSTM) fixed points are then proven
    to exist, rounding included: `.radius`.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      x: the input, (I,); None for a map without inputs, whose x is then of shape (0,).
      starts: carries with a leading axis M, as `sample_starts` draws them.
      period: n: orbits of n points and no fewer, h = Fⁿ(h); 1 is fixed points.
      tolerance: the speed ‖F(h) − h‖₂, divided by max(1, ‖h‖₂), up to which a point counts as
        fixed. None is 1e-12, or 64 roundings of the type that the cell insists on.
      slow: the speed, likewise, up to which another minimum counts as a slow point.
      distance: points (orbits) nearer than this, times max(1, ‖h‖₂), are one.
      max_steps: iterations for each start.
      between: also search from halfway between every two fixed points found (as many as there are
        starts, at most), where saddles lie that starts near trajectories lead to rarely; of period
        1 alone.
      certify: prove existence where that can be done; False saves its time.

    Returns:
      A `FixedPoints`, possibly without rows.

    Raises:
      ValueError: no starts, starts or x of another structure or shape than the cell takes or not
        finite, a tolerance below rounding or above `slow`, a period or number of steps below 1, or
        matrices too large for memory.
      TypeError: a carry that is not made of floats of one type, or a call inside of `jit`, `vmap`
        or `grad`.

    Example:
      >>> starts = rj.sample_starts(cell, xs, 16, key=jax.random.key(0))
      >>> found = rj.fixed_points(cell, jnp.zeros(2), starts=starts)
      >>> found.points.shape, bool(found.stable.all())
      ((1, 8), True)

    References:
      D. Sussillo and O. Barak, "Opening the black box", 2013.
      M. Golub and D. Sussillo, "FixedPointFinder", 2018.
    """
    inputs = check_input(x)
    searched = check_search("fixed_points", cell, inputs, starts)
    period = check_size("period", period)
    max_steps = check_size("max_steps", max_steps)
    prove, halfway = check_flag("certify", certify), check_flag("between", between)
    slow, distance = _check_positive("slow", slow), _check_positive("distance", distance)
    tolerance = check_tolerance(tolerance, slow, searched)
    unknowns = period * searched.map.size
    check_fits(
        "fixed_points",
        [(len(searched.states), period, searched.map.size, searched.map.size), (3, unknowns**2)],
        np.float64,
        "Pass fewer starts.",
        of=(),
    )
    goal = max(_NEAR, tolerance)
    count = len(searched.states)
    seek = functools.partial(
        search, searched.map, inputs, period=period, goal=goal, max_steps=max_steps
    )
    limits = Limits(tolerance, slow, distance)
    found = seek(searched.states)
    if halfway and period == 1:
        more = _midpoints(found, limits)[:count]
        if len(more):
            other = seek(more, batch=count)
            found = Orbits(*map(np.concatenate, zip(found, other, strict=True)))
    formula = formula_of(cell, inputs) if prove else None
    return _sorted_out(found, searched, inputs, formula, limits)


def check_tolerance(tolerance: float | None, slow: float, searched: Searched) -> float:
    """The speed at which a point counts as fixed.

    Raises:
      ValueError: it is below what rounding allows, or not below `slow`.
      TypeError: it is no number.
    """
    own = searched.map.dtype
    eps = float(jnp.finfo(own).eps)
    if tolerance is None:
        return max(1e-12, 64 * eps)
    tolerance = check_number("tolerance", tolerance)
    if tolerance < eps:
        raise ValueError(
            f"tolerance must be at least {eps:.2g}, the rounding error of one step in {own}; got "
            f"{tolerance:g}. Pass 1e-12, or leave it out."
        )
    if tolerance > slow:
        raise ValueError(
            "tolerance must be at most slow=, the speed of slow points; got tolerance="
            f"{tolerance:g} and slow={slow:g}. Pass a smaller tolerance or a larger slow."
        )
    return tolerance


def _check_positive(name: str, value: float) -> float:
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0; got {number:g}. Leave it out for its default.")
    return number


class Limits(NamedTuple):
    """Speeds of fixed and of slow points and the distance of equal ones, by max(1, ‖h‖)."""

    tolerance: float
    slow: float
    distance: float


def _relative_speeds(found: Orbits) -> tuple[np.ndarray, np.ndarray]:
    """(speeds by max(1, ‖z‖), that scale), each (N,)."""
    with np.errstate(over="ignore", invalid="ignore"):  # of what has diverged
        flat = found.states.reshape(len(found.states), -1)
        scale = np.maximum(1.0, np.linalg.norm(flat, axis=1))
        relative = found.speeds / scale
    return np.where(np.isfinite(found.speeds) & np.isfinite(scale), relative, np.inf), scale


def _midpoints(found: Orbits, limits: Limits) -> np.ndarray:
    """Halfway between every two fixed points, those that most starts led to first, (N, S)."""
    relative, scale = _relative_speeds(found)
    fixed = np.flatnonzero(relative <= limits.tolerance)
    order = np.argsort(relative[fixed], kind="stable")
    one_of_each = distinct(found.states[fixed], order, limits.distance * scale[fixed])
    counts = np.bincount(one_of_each.labels, minlength=len(one_of_each.kept))
    often = fixed[one_of_each.kept][np.argsort(-counts, kind="stable")]
    points = found.states[often, 0]
    second, first = np.tril_indices(len(points), -1)
    return (points[first] + points[second]) / 2


def _sorted_out(
    found: Orbits, searched: Searched, x: np.ndarray, formula: Formula | None, limits: Limits
) -> FixedPoints:
    """One row for each orbit, with all there is to know of it."""
    starts, period, size = found.states.shape[:3]
    given = len(searched.states)  # The others come from halfway between, and are not counted.
    relative, scale = _relative_speeds(found)
    fixed = relative <= limits.tolerance
    settled = fixed | ((relative <= limits.slow) & (found.stationary <= _STATIONARY))
    near = limits.distance * scale
    shorter = np.zeros(starts, bool)
    if period > 1:
        for index in np.flatnonzero(settled):
            shorter[index] = has_lower_period(found.states[index], near[index])
    ours = np.flatnonzero(settled & ~shorter)
    order = np.lexsort((relative[ours], ~fixed[ours]))
    one_of_each = distinct(found.states[ours], order, near[ours])
    kept = ours[one_of_each.kept]

    jacobians = np.zeros((len(kept), size, size))
    for row, index in enumerate(kept):
        jacobians[row] = _over_a_period(found.jacobians[index])
    eigenvalues = np.linalg.eigvals(jacobians).astype(complex)
    by_modulus = np.argsort(-np.abs(eigenvalues), axis=1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, by_modulus, axis=1)
    unstable = (np.abs(eigenvalues) >= 1).sum(axis=1)
    counted = one_of_each.labels[ours < given]
    counts = np.bincount(counted, minlength=len(kept))
    rows = np.lexsort((-counts, unstable, ~fixed[kept]))
    place = np.empty_like(rows)
    place[rows] = np.arange(len(rows))
    labels = np.full(starts, -1)
    labels[ours] = place[one_of_each.labels]

    kept = kept[rows]
    radius, uniqueness = _proofs(formula, found.states[kept], fixed[kept])
    return FixedPoints(
        points=found.states[kept, 0],
        carries=unflatten(found.states[kept, 0], searched.carry),
        orbits=found.states[kept],
        speeds=found.speeds[kept],
        is_fixed=fixed[kept],
        jacobians=jacobians[rows],
        eigenvalues=eigenvalues[rows],
        radius=radius,
        uniqueness=uniqueness,
        counts=counts[rows],
        labels=labels[:given],
        x=x,
        period=period,
        lower_period=int(shorter[:given].sum()),
        unsettled=int((~settled[:given]).sum()),
    )


def _over_a_period(steps: np.ndarray) -> np.ndarray:
    """DF(h_{n−1}) … DF(h_0), from (n, S, S)."""
    return functools.reduce(lambda before, step: step @ before, steps)


def _proofs(
    formula: Formula | None, orbits: np.ndarray, fixed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Radii of existence and of uniqueness, NaN where nothing is proven."""
    radii = np.full((2, len(orbits)), np.nan)
    if formula is not None:
        for row in np.flatnonzero(fixed):
            proven = prove_orbit(formula, orbits[row])
            if proven is not None:
                radii[:, row] = proven
    return radii[0], radii[1]
