"""Fixed points followed along a path of inputs, around folds.

With x(s) running along the path, the branch is the curve (h, s) with F(h, x(s)) = h. It is followed
by its arc length (Keller, 1977), so that at a fold, where two points meet and s turns back, it goes
on along the other one instead of failing:

predict  (h, s) + ℓ (ḣ, ṡ),    (ḣ, ṡ) spanning the kernel of [F_h − 1, F_s]
correct  by Newton's method, at right angles to the tangent

References:
  H. B. Keller, "Numerical solution of bifurcation and nonlinear eigenvalue problems", 1977.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rnn_jax.checks import check_number, check_size
from rnn_jax.gradients.fixed_points.record import FixedPoints
from rnn_jax.gradients.fixed_points.state_map import (
    Map,
    check_search,
    double_precision,
    map_of,
    unflatten,
)
from rnn_jax.gradients.precision import compiled
from rnn_jax.sequence.calling import ArrayLike, Carry

_CORRECTIONS = 12
# Of ‖F(h) − h‖ / max(1, ‖h‖).
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A fixed point followed along a path of inputs: M points of a curve, NumPy arrays in float64.

    Attributes:
      places: s, where on the path each point lies, (M,): at the whole number k the input is
        `inputs[k]` of the path that was given, between two of them it is in between. It rises and,
        after each fold, falls, or the other way round.
      inputs: x(s), (M, I).
      points: flattened carries, (M, S).
      carries: the same in the cell's own structure, each leaf with a leading axis M.
      speeds: ‖F(h) − h‖₂, (M,).
      eigenvalues: of ∂h'/∂h, largest modulus first, (M, S).
      folds: rows at which the branch turns: there an eigenvalue is 1.
      ending: "end", the path's last input was reached; "start", the branch came back to its first;
        "max_points"; or "lost", where the branch could not be followed at the smallest step.

    Example:
      >>> def step(h, x):
      ...     return jnp.tanh(2 * h + x), h
      >>> path = jnp.array([[-1.0], [1.0]])  # Of inputs
      >>> low = rj.fixed_points(step, path[0], starts=-jnp.ones((1, 1)))
      >>> (branch,) = rj.continue_fixed_points(step, path, low)
      >>> [round(float(x), 2) for x in branch.inputs[branch.folds, 0]]  # Where it turns
      [0.53, -0.53]
    """

    places: np.ndarray
    inputs: np.ndarray
    points: np.ndarray
    carries: Any
    speeds: np.ndarray
    eigenvalues: np.ndarray
    folds: np.ndarray
    ending: str

    def __len__(self) -> int:
        return len(self.places)

    @property
    def stable(self) -> np.ndarray:
        """Whether all |λ| < 1, (M,)."""
        return np.abs(self.eigenvalues[:, 0]) < 1

    @property
    def stability_changes(self) -> np.ndarray:
        """Rows k such that stability differs between k and k + 1."""
        return np.flatnonzero(np.diff(self.stable))


class _Curve(NamedTuple):
    """G(h, s) = F(h, x(s)) − h, evaluated on the host.

    Attributes:
      evaluate: (h, s) -> (G (S,), DF (S, S), ∂G/∂s (S,)), from the right or left of a corner.
      length: K − 1, where the path ends.
    """

    evaluate: Callable[[np.ndarray, float, float], tuple[np.ndarray, ...]]
    input_at: Callable[[float], np.ndarray]
    length: int


def continue_fixed_points(
    cell: Any,
    inputs: ArrayLike,
    points: FixedPoints | Carry,
    *,
    step: float = 0.1,
    max_points: int = 1000,
) -> tuple[Branch, ...]:
    """Follows fixed points while the input moves along a path.

    F(h(s), x(s)) = h(s),    x(s) from inputs[0] straight on to inputs[1], … to inputs[K − 1]

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      inputs: the path, (K, I), K of at least 2; points of which no two in a row are equal.
      points: fixed points under inputs[0]: a `FixedPoints` of period 1 (its slow points are left
        out), or carries with a leading axis, near enough for Newton's method.
      step: longest step along a branch, in the length of (h, s); it is halved where the branch
        bends, and doubled again.
      max_points: where to give up on each branch.

    Returns:
      One `Branch` for each point.

    Raises:
      ValueError: a path of less than two inputs, of the wrong shape, not finite, or that stands
        still; carries of the wrong structure; orbits of a longer period; a start from which
        Newton's method finds no fixed point.
      TypeError: arguments of the wrong kind, or a call inside of `jit`, `vmap` or `grad`.

    Example:
      >>> found = rj.fixed_points(cell, jnp.zeros(2), starts=jnp.zeros((16, 8)))
      >>> path = jnp.array([[0.0, 0.0], [1.0, 0.0]])  # Of inputs
      >>> (branch,) = rj.continue_fixed_points(cell, path, found)
      >>> branch.ending, bool(branch.stable.all())
      ('end', True)
    """
    path = _check_path(inputs)
    step = check_number("step", step)
    if step <= 0:
        raise ValueError(f"step must be above 0; got {step:g}. Leave it out for 0.1.")
    max_points = check_size("max_points", max_points)
    if isinstance(points, FixedPoints):
        if points.period != 1:
            raise ValueError(
                f"points must be fixed points to be followed; got orbits of period {points.period}."
                " Find them with period=1."
            )
        if points.x.shape != path[0].shape or not np.allclose(points.x, path[0], atol=1e-6):
            raise ValueError(
                f"points must be of the path's first input, {path[0]}; got those of {points.x}. "
                "Find them with fixed_points(cell, inputs[0], starts=...)."
            )
        points = points.select(points.is_fixed).carries
    searched = check_search("continue_fixed_points", cell, path[0], points, "points")
    with double_precision():
        curve = _curve(searched.map, path)
        return tuple(
            _follow(curve, state, searched.carry, step=step, most=max_points, row=row)
            for row, state in enumerate(searched.states)
        )


def _check_path(inputs: ArrayLike) -> np.ndarray:
    """A path (K, I) as float64."""
    try:
        path = np.asarray(inputs, np.float64)
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError(
            "inputs must be an array of real numbers, a path of inputs of shape (K, I); got "
            f"{type(inputs).__name__}. Pass for example jnp.linspace(x_first, x_last, 11)."
        ) from error
    if path.ndim != 2 or len(path) < 2 or not path.shape[1]:
        raise ValueError(
            "inputs must be a path (K, I) of at least two inputs with features; got shape "
            f"{path.shape}. Pass for example jnp.linspace(x_first, x_last, 11)."
        )
    if not np.isfinite(path).all():
        row = int(np.argwhere(~np.isfinite(path))[0][0])
        raise ValueError(
            f"inputs must be finite; got a value that is not at inputs[{row}]. Mend the path."
        )
    still = np.flatnonzero((np.diff(path, axis=0) == 0).all(axis=1))
    if still.size:
        raise ValueError(
            f"inputs must move from each point of the path to the next; got inputs[{still[0]}] "
            f"equal to inputs[{still[0] + 1}]. Leave one of the two out."
        )
    return path


def _curve(where: Map, path: np.ndarray) -> _Curve:
    last = len(path) - 1

    def piece(s: float, ahead: float) -> int:
        """The straight piece of the path that s lies on; at a corner the one ahead."""
        return int(np.clip(_piece(s, ahead)[0], 0, last - 1))

    def input_at(s: float) -> np.ndarray:
        k = piece(s, 1.0)
        return path[k] + (s - k) * (path[k + 1] - path[k])

    def evaluate(h: np.ndarray, s: float, ahead: float) -> tuple[np.ndarray, ...]:
        k = piece(s, ahead)
        g, by_state, by_input = map(np.asarray, _evaluate(where, h, input_at(s)))
        return g, by_state, by_input @ (path[k + 1] - path[k])

    return _Curve(evaluate, input_at, last)


@compiled
def _evaluate(where: Map, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    step, jacobians = map_of(where)
    return (step(h, x) - h, *jacobians(h, x))


def _follow(
    curve: _Curve, state: np.ndarray, carry: Carry, *, step: float, most: int, row: int
) -> Branch:
    """One branch."""
    started = _correct_at(curve, state, 0.0)
    if started is None:
        raise ValueError(
            "points must be near fixed points under inputs[0]; Newton's method found none from "
            f"row {row}. Find them first: rnn_jax.fixed_points(cell, inputs[0], starts=...)."
        )
    rows, folds, ending = [started], [], "max_points"
    tangent = _tangent(curve, started, np.append(np.zeros(len(state)), 1.0), forwards=True)
    length = step
    while len(rows) < most:
        now = rows[-1]
        reach, corner = _within_piece(now[-1], tangent[-1], length)
        found, after = _advance(curve, now, tangent, reach, corner)
        if found is None or after is None:
            length /= 2
            if length < 1e-9 * step:
                ending = "lost"
                break
            continue
        if after[-1] * tangent[-1] < 0:
            fold = _fold(curve, now, tangent, reach)
            if fold is not None:
                folds.append(len(rows))
                rows.append(fold)
        rows.append(found)
        if corner in (0, curve.length):
            ending = "end" if corner else "start"
            break
        tangent, length = after, min(step, 2 * length)
    return _branch(curve, np.stack(rows), folds, ending, carry)


def _advance(
    curve: _Curve, now: np.ndarray, tangent: np.ndarray, reach: float, corner: int | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The next point and its tangent; None where the step was too long to be sure of the branch."""
    guess = now + reach * tangent
    if corner is None:
        found = _correct(curve, guess, tangent, tangent[-1])
    else:
        found = _correct_at(curve, guess[:-1], corner, tangent[-1])
    low, high = _piece(now[-1], tangent[-1])
    # A branch that bends may leave the piece although its tangent does not.
    if found is None or np.linalg.norm(found - guess) > reach or not low <= found[-1] <= high:
        return None, None
    after = _tangent(curve, found, tangent, forwards=corner is not None)
    # At a corner of the path the branch has one too; elsewhere a sharp turn may be another branch.
    return found, (after if corner is not None or after @ tangent > 0.9 else None)


def _piece(s: float, slope: float) -> tuple[int, int]:
    """The corners of the path between which a branch goes on."""
    low = int(np.floor(s)) if slope >= 0 else int(np.ceil(s)) - 1
    return low, low + 1


def _within_piece(s: float, slope: float, length: float) -> tuple[float, int | None]:
    """(length of a step that does not pass a corner of the path, the corner if it ends there)."""
    if slope == 0:
        return length, None
    corner = _piece(s, slope)[1 if slope > 0 else 0]
    to_corner = float((corner - s) / slope)
    return (to_corner, corner) if to_corner <= length else (length, None)


def _tangent(
    curve: _Curve, place: np.ndarray, before: np.ndarray, *, forwards: bool = False
) -> np.ndarray:
    """The direction of the curve, of length 1, that goes on from the one before.

    With `forwards` it goes on along the path, else where it makes the smaller angle.
    """
    _, by_state, by_place = curve.evaluate(place[:-1], place[-1], before[-1])
    system = np.column_stack([by_state - np.eye(len(by_state)), by_place])
    direction: np.ndarray = np.linalg.svd(system)[2][-1]
    same = direction[-1] * before[-1] if forwards else direction @ before
    return direction if same >= 0 else -direction


def _correct(
    curve: _Curve, guess: np.ndarray, tangent: np.ndarray, ahead: float
) -> np.ndarray | None:
    """The point of the curve in the plane through a guess at right angles to the tangent."""
    place = guess.copy()
    for _ in range(_CORRECTIONS):
        g, by_state, by_place = curve.evaluate(place[:-1], place[-1], ahead)
        if not np.isfinite(g).all():
            return None
        if np.linalg.norm(g) <= _TOLERANCE * max(1.0, float(np.linalg.norm(place[:-1]))):
            return place
        system = np.column_stack([by_state - np.eye(len(g)), by_place])
        system = np.vstack([system, tangent])
        try:
            place = place - np.linalg.solve(system, np.append(g, tangent @ (place - guess)))
        except np.linalg.LinAlgError:
            return None
    return None


def _correct_at(
    curve: _Curve, state: np.ndarray, s: float, ahead: float = 1.0
) -> np.ndarray | None:
    """The fixed point near a state at one place of the path."""
    here = np.append(np.zeros(len(state)), 1.0)
    found = _correct(curve, np.append(state, s), here, ahead)
    return None if found is None else np.append(found[:-1], s)


def _fold(curve: _Curve, start: np.ndarray, tangent: np.ndarray, reach: float) -> np.ndarray | None:
    """Where the branch turns between a point and the one that lies so far ahead, by bisection."""
    low, high = 0.0, reach
    middle: np.ndarray | None = None
    for _ in range(50):
        length = (low + high) / 2
        found = _correct(curve, start + length * tangent, tangent, float(np.sign(tangent[-1])))
        if found is None:
            return middle
        middle = found
        turned = bool(_tangent(curve, found, tangent)[-1] * tangent[-1] < 0)
        low, high = (low, length) if turned else (length, high)
    return middle


def _branch(curve: _Curve, rows: np.ndarray, folds: list[int], ending: str, carry: Carry) -> Branch:
    points, places = rows[:, :-1], rows[:, -1]
    evaluated = [curve.evaluate(h, s, 1.0) for h, s in zip(points, places, strict=True)]
    eigenvalues = np.linalg.eigvals(np.stack([e[1] for e in evaluated])).astype(complex)
    order = np.argsort(-np.abs(eigenvalues), axis=1, kind="stable")
    return Branch(
        places=places,
        inputs=np.stack([curve.input_at(s) for s in places]),
        points=points,
        carries=unflatten(points, carry),
        speeds=np.array([np.linalg.norm(e[0]) for e in evaluated]),
        eigenvalues=np.take_along_axis(eigenvalues, order, axis=1),
        folds=np.asarray(folds, int),
        ending=ending,
    )
