"""Laws of derivatives: causal, right to first and second order, the same in every mode."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.gradients.jacobians.dense import input_jacobian
from rnn_jax.gradients.linearize import linearize
from rnn_jax.sequence.inputs import is_float
from rnn_jax.sequence.unroll import unroll
from rnn_jax.testing.law import Broken, Law, NotApplicable
from rnn_jax.testing.subject import Subject, is_one_float_array, on_host, weight_mask

# A kink spoils a difference along the directions that cross it, not along all.
DIRECTIONS = 3


class Point(NamedTuple):
    """Where a sequence is differentiated."""

    cell: Any
    xs: Any
    carry: Any


class Derivatives(NamedTuple):
    """Of a number that the outputs and the last carry of a sequence give.

    Attributes:
      value: L.
      gradient: by each leaf of a `Point` that is moved.
      slope: the directional derivative of L, forward; None if there is no forward mode.
      curvature: the directional derivative of the gradient; None likewise.
    """

    value: jax.Array
    gradient: list[jax.Array]
    slope: jax.Array | None = None
    curvature: list[jax.Array] | None = None


def _floats(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def _number(point: Point, weights: jax.Array, feature_axes: int) -> jax.Array:
    """L = Σ_t w_t Σ sin y_t + w_end Σ cos(carry_T)."""
    last, ys = unroll(point.cell, point.xs, point.carry, feature_axes=feature_axes)
    total = jnp.zeros((), weights.dtype)
    for leaf in _floats(ys):
        by_step = jnp.sum(jnp.sin(leaf).reshape(leaf.shape[0], -1), axis=1)
        total = total + jnp.sum(weights[:-1] * by_step.astype(weights.dtype))
    for leaf in _floats(last):
        total = total + weights[-1] * jnp.sum(jnp.cos(leaf)).astype(weights.dtype)
    return total


class _How(NamedTuple):
    """What is fixed when derivatives are compiled; `moves` says which leaves of a point do."""

    moves: tuple[bool, ...]
    feature_axes: int
    forward: bool = True


@functools.partial(jax.jit, static_argnames="how")
def _derivatives(
    point: Point, weights: jax.Array, along: list[jax.Array], *, how: _How
) -> Derivatives:
    def number(moving: list[jax.Array]) -> jax.Array:
        return _number(_with_moving(point, moving, how.moves), weights, how.feature_axes)

    here, with_gradient = _moving(point, how.moves), jax.value_and_grad(number)
    if not how.forward:
        return Derivatives(*with_gradient(here))
    (value, gradient), (slope, curvature) = jax.jvp(with_gradient, (here,), (along,))
    return Derivatives(value, gradient, slope, curvature)


def _moving(point: Point, moves: tuple[bool, ...]) -> list[jax.Array]:
    pairs = zip(jax.tree.leaves(point), moves, strict=True)
    return [jnp.asarray(leaf) for leaf, does in pairs if does]


def _with_moving(point: Point, moving: list[jax.Array], moves: tuple[bool, ...]) -> Point:
    leaves, structure = jax.tree.flatten(point)
    rest = iter(moving)
    pairs = zip(leaves, moves, strict=True)
    found: Point = jax.tree.unflatten(structure, [next(rest) if m else leaf for leaf, m in pairs])
    return found


def _what_moves(subject: Subject) -> tuple[bool, ...]:
    """Weights, and floats of inputs and carry; of the latter no counters, which hold integers."""
    xs = [is_float(leaf) for leaf in jax.tree.leaves(subject.xs)]
    carry = [
        is_float(leaf) and not np.array_equal(leaf, np.round(leaf))
        for leaf in jax.tree.leaves(subject.path[0])
    ]
    return (*weight_mask(subject.cell), *xs, *carry)


class Differentiated:
    """The derivatives of a subject, by one compiled program."""

    def __init__(self, subject: Subject):
        if subject.eps > 1e-4:
            raise NotApplicable("differences need float32 or float64")
        self.subject = subject
        self.point = Point(subject.cell, subject.xs, subject.carry)
        kind = jnp.float32 if subject.eps > 1e-10 else jnp.float64
        self.weights = jnp.linspace(0.5, 1.5, subject.steps + 1, dtype=kind)
        self._how = _How(_what_moves(subject), subject.feature_axes)
        if not any(self._how.moves):
            raise NotApplicable("weights, inputs and carry hold no floats to differentiate by")
        try:
            self.at(self.point)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            self._how = self._how._replace(forward=False)
            self.at(self.point)

    @property
    def forward(self) -> bool:
        """Whether there is a forward mode."""
        return self._how.forward

    def at(
        self, point: Point, along: list[jax.Array] | None = None, weights: Any = None
    ) -> Derivatives:
        """Derivatives at a point, along a direction."""
        moving = _moving(point, self._how.moves)
        return _derivatives(
            point,
            self.weights if weights is None else weights,
            list(map(np.ones_like, on_host(moving))) if along is None else along,
            how=self._how,
        )

    def by_inputs(self, weights: Any) -> Any:
        """The gradient by the inputs, in their form."""
        moved = self.at(self.point, weights=weights).gradient
        return _with_moving(self.point, moved, self._how.moves).xs

    def direction(self, seed: int) -> list[jax.Array]:
        """A random direction of length 1."""
        rng, moving = np.random.default_rng(seed), _moving(self.point, self._how.moves)
        drawn = [rng.normal(size=leaf.shape) for leaf in moving]
        length = np.sqrt(sum(np.sum(leaf**2) for leaf in drawn))
        return [jnp.asarray(v / length, a.dtype) for v, a in zip(drawn, moving, strict=True)]

    def moved(self, along: list[jax.Array], by: float) -> Derivatives:
        """Derivatives a little further along a direction."""
        moving, along_host = on_host((_moving(self.point, self._how.moves), along))
        pairs = zip(moving, along_host, strict=True)
        there = [a + np.asarray(by, a.dtype) * v for a, v in pairs]
        return self.at(_with_moving(self.point, there, self._how.moves), along)


def differentiated(subject: Subject) -> Differentiated:
    """The derivatives of a subject, of which there is one program."""
    found = vars(subject).get("_differentiated")
    if found is None:
        found = vars(subject)["_differentiated"] = Differentiated(subject)
    return found


def _inner(one: list[jax.Array], other: list[jax.Array]) -> float:
    pairs = zip(one, other, strict=True)
    return sum(float(np.sum(np.asarray(a, float) * np.asarray(b, float))) for a, b in pairs)


def _check_by_differences(subject: Subject, second: bool) -> float:
    of = differentiated(subject)
    width, allowed = subject.eps ** (1 / 3), 30 * subject.eps**0.5
    found: list[tuple[float, float, float]] = []
    for seed in range(DIRECTIONS):
        along = of.direction(subject.seed + seed)
        here, ahead, behind = (
            of.at(of.point, along),
            of.moved(along, width),
            of.moved(along, -width),
        )
        size = max(1.0, *(float(np.max(np.abs(g), initial=0)) for g in on_host(here.gradient)))
        if second:
            assert here.curvature is not None
            pairs = zip(ahead.gradient, behind.gradient, strict=True)
            known = [(np.asarray(a, float) - np.asarray(b, float)) / (2 * width) for a, b in pairs]
            flat = np.concatenate([np.ravel(k) for k in known])
            ours = np.concatenate([np.ravel(np.asarray(k, float)) for k in here.curvature])
            worst = int(np.argmax(np.abs(ours - flat)))
            arrived, expected = float(ours[worst]), float(flat[worst])
            size = max(size, float(np.max(np.abs(flat))))
        else:
            arrived = _inner(here.gradient, along)
            expected = (float(ahead.value) - float(behind.value)) / (2 * width)
        found.append((abs(arrived - expected) / size, arrived, expected))
    apart, arrived, expected = min(found)
    if not apart <= allowed:
        what = "an entry of the second derivative" if second else "the gradient along a direction"
        raise Broken(f"{what}: {arrived:.6g} against {expected:.6g} by differences", apart, allowed)
    return apart


def _has_its_gradient(subject: Subject) -> float:
    return _check_by_differences(subject, second=False)


def _has_one_derivative(subject: Subject) -> float:
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩, u being the derivative of L by outputs and last carry."""
    of = differentiated(subject)
    if not of.forward:
        raise NotApplicable("the step has a custom_vjp, and so no forward mode")
    worst = 0.0
    for seed in range(DIRECTIONS):
        along = of.direction(subject.seed + seed)
        here = of.at(of.point, along)
        worst = max(
            worst,
            subject.check_close(
                "⟨u, J v⟩ forward and ⟨Jᵀu, v⟩ in reverse",
                np.asarray(here.slope),
                np.asarray(_inner(here.gradient, along)),
            ),
        )
    return worst


def _has_its_second_derivative(subject: Subject) -> float:
    if not differentiated(subject).forward:
        raise NotApplicable("the step has a custom_vjp, and so no second derivative forward")
    return _check_by_differences(subject, second=True)


def _is_causal(subject: Subject) -> float | None:
    """Neither outputs nor gradients know of what comes later: exact zeros."""
    half = subject.steps // 2
    later = jax.tree.map(lambda leaf: np.concatenate([leaf[:half], leaf[half:][::-1]]), subject.xs)
    before, after = (
        jax.tree.map(
            lambda leaf: leaf[:half], on_host(subject.unrolled(subject.cell, xs, subject.carry)[1])
        )
        for xs in (subject.xs, later)
    )
    subject.check_close(f"outputs 0 to {half - 1}, with later inputs changed", after, before)
    if not _floats(subject.xs):
        return None
    of = differentiated(subject)
    weights = of.weights.at[half:].set(0)
    by_later = [leaf[half:] for leaf in _floats(on_host(of.by_inputs(weights)))]
    zeros = jax.tree.map(np.zeros_like, by_later)
    subject.check_close(
        f"gradient of outputs 0 to {half - 1} by later inputs", by_later, zeros, allowed=0.0
    )
    if _why_not_linearized(subject) is None:
        found = _instrument(subject)[1]
        future = [found[t, :, t + 1 :] for t in range(subject.steps)]
        subject.check_close(
            "input_jacobian above its diagonal",
            future,
            [np.zeros(part.shape) for part in future],
            allowed=0.0,
        )
    return None


def _why_not_linearized(subject: Subject) -> str | None:
    kinds = {leaf.dtype for leaf in jax.tree.leaves(subject.carry)}
    if len(kinds) != 1 or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        return "the instrument takes carries of floats of one type"
    if not is_one_float_array(subject.xs):
        return "the instrument's input_jacobian takes inputs of one array of floats"
    leaves = jax.tree.leaves(subject.path[1])
    if len(leaves) != 1 or not is_float(leaves[0]):
        return "the instrument takes an output of one array of floats"
    return None


@jax.jit
def _jacobians(cell: Any, xs: Any, carry: Any) -> tuple[jax.Array, jax.Array]:
    lin = linearize(cell, xs, carry)
    return lin.state_jacobians, input_jacobian(lin)


def _instrument(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(state_jacobians, input_jacobian) of a subject, by one program."""
    found = vars(subject).get("_instrument")
    if found is None:
        found = on_host(_jacobians(subject.cell, subject.xs, subject.carry))
        vars(subject)["_instrument"] = found
    return found


def _has_its_jacobians(subject: Subject) -> float:
    """The instrument's against those of the cell's own call, and against the gradient."""
    reason = _why_not_linearized(subject)
    if reason is not None:
        raise NotApplicable(reason)
    state_jacobians, jacobian = _instrument(subject)
    size = subject.check_close("state_jacobians", state_jacobians, subject.jacobians)
    of = differentiated(subject)
    weights = of.weights.at[-1].set(0)
    by_xs = of.by_inputs(weights)
    ys = np.asarray(subject.path[1], float).reshape(subject.steps, -1)
    cotangents = np.asarray(weights[:-1], float)[:, None] * np.cos(ys)
    jacobian = np.asarray(jacobian, float).reshape(*ys.shape, subject.steps, -1)
    found = np.einsum("to,tosi->si", cotangents, jacobian).reshape(by_xs.shape)
    return max(size, subject.check_close("Σ ∂L/∂y_t ∂y_t/∂x_s", found, by_xs))


LAWS = (
    Law(
        "causality",
        _is_causal,
        "what comes later changes neither outputs nor their gradients",
        "linear_form's output or transition mixes steps when it is given many, or something is "
        "normalised over time.",
    ),
    Law(
        "gradient",
        _has_its_gradient,
        "the gradient by weights, inputs and carry is the limit of differences",
        "a rule of custom_jvp or custom_vjp, or the tangent of a fused form, is wrong; a surrogate "
        "gradient is meant to be: leave this law out.",
    ),
    Law(
        "forward and reverse",
        _has_one_derivative,
        "forward and reverse mode are one derivative: ⟨u, J v⟩ = ⟨Jᵀu, v⟩",
        "a custom rule of derivatives that is not linear in its tangent, or stop_gradient in one "
        "mode alone.",
    ),
    Law(
        "second derivative",
        _has_its_second_derivative,
        "the second derivative is the limit of differences of the gradient",
        "a custom rule of derivatives that is itself not differentiable, or stops gradients.",
    ),
    Law(
        "Jacobian",
        _has_its_jacobians,
        "the instrument's Jacobians are those of automatic differentiation",
        "linear_form, diagonal_part or project and step say something else than __call__.",
    ),
)
