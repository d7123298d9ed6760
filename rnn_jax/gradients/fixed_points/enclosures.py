"""This package's cells in two readings of one formula: values with derivatives, and bounds.

`Enclosed` holds intervals around a value and its derivative by the carry. `Bounded` holds, for all
carries within a distance R (in the maximum norm) of one, upper bounds of a value's size and of its
first and second derivatives along directions of size 1, so that a Lipschitz constant of DF in the
maximum norm is the largest of the last. Products follow Leibniz's rule, (ab)¨ = äb + 2ȧḃ + ab̈, and
σ and tanh the chain rule, with

|σ'| ≤ 1/4,  |σ''| ≤ 1/(6√3),  |tanh'| ≤ 1,  |tanh''| ≤ 4/(3√3).

Who is described is decided by `formula_of`: the very classes of this package, with the steps that
they were written with, computing in the type that their weights are widened to.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rnn_jax.activations import computes, is_own
from rnn_jax.cells import GRUCell, LSTMCell, SimpleRNNCell
from rnn_jax.cells.claims import holds, owner_of
from rnn_jax.gradients.fixed_points import intervals
from rnn_jax.gradients.fixed_points.intervals import Interval, point, times, upward

# Upper bounds of sup|σ''| = 1/(6√3) = 0.09622504…, and of sup|tanh''| = 4/(3√3) = 0.76980036….
_SIGMOID_1, _SIGMOID_2 = 0.25, 0.0962251
_TANH_2 = 0.7698004

Array = Any


class Formula(NamedTuple):
    """A step of a cell for one input, as certificates need it.

    Attributes:
      enclose: h (S,) -> (F(h), DF(h)) as intervals, (S,) and (S, S).
      lipschitz: (h, R) -> an upper bound of the Lipschitz constant of DF, in the maximum norm, on
        the ball of radius R around h; inf where there is none.
    """

    enclose: Callable[[Array], tuple[Interval, Interval]]
    lipschitz: Callable[[Array, float], float]


class Enclosed(NamedTuple):
    """Intervals of m values and of their derivatives by the carry, (m,) and (m, S)."""

    value: Interval
    slope: Interval

    def linear(self, kernel: Array, bias: Interval) -> "Enclosed":
        """h W + b."""
        return Enclosed(times(kernel.T, self.value) + bias, times(kernel.T, self.slope))

    def part(self, where: slice) -> "Enclosed":
        return Enclosed(self.value.rows(where), self.slope.rows(where))

    def __add__(self, other: "Enclosed") -> "Enclosed":  # type: ignore[override]
        return Enclosed(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: "Enclosed") -> "Enclosed":  # type: ignore[override]
        left = self.slope * other.value.column()
        return Enclosed(self.value * other.value, left + other.slope * self.value.column())

    def shift(self, constant: Interval) -> "Enclosed":
        return Enclosed(self.value + constant, self.slope)

    def scale(self, factor: Array) -> "Enclosed":
        exact = point(factor)
        return Enclosed(self.value * exact, self.slope * exact.column())

    def complement(self) -> "Enclosed":
        """1 − a."""
        low, high = -self.slope.high, -self.slope.low
        return Enclosed(_one(self.value) - self.value, Interval(low, high))

    def sigmoid(self) -> "Enclosed":
        s = intervals.sigmoid(self.value)
        return Enclosed(s, self.slope * (s * (_one(s) - s)).column())

    def tanh(self) -> "Enclosed":
        t = intervals.tanh(self.value)
        return Enclosed(t, self.slope * (_one(t) - t * t).column())


class Bounded(NamedTuple):
    """Upper bounds of m values' sizes and of their first and second derivatives, each (m,)."""

    value: Array
    first: Array
    second: Array

    def linear(self, kernel: Array, bias: Interval) -> "Bounded":
        size = np.abs(kernel)
        value = upward(self.value @ size + bias.magnitude)
        return Bounded(value, upward(self.first @ size), upward(self.second @ size))

    def part(self, where: slice) -> "Bounded":
        return Bounded(*(bound[where] for bound in self))

    def __add__(self, other: "Bounded") -> "Bounded":  # type: ignore[override]
        return Bounded(*(upward(a + b) for a, b in zip(self, other, strict=True)))

    def __mul__(self, other: "Bounded") -> "Bounded":  # type: ignore[override]
        (a, da, dda), (b, db, ddb) = self, other
        return Bounded(
            upward(a * b), upward(da * b + a * db), upward(dda * b + 2 * da * db + a * ddb)
        )

    def shift(self, constant: Interval) -> "Bounded":
        return self._replace(value=upward(self.value + constant.magnitude))

    def scale(self, factor: Array) -> "Bounded":
        return Bounded(*(upward(bound * np.abs(factor)) for bound in self))

    def complement(self) -> "Bounded":
        """1 − a of a gate, which is in (0, 1) as a is."""
        return self._replace(value=np.ones_like(self.value))

    def sigmoid(self) -> "Bounded":
        return self._through(_SIGMOID_1, _SIGMOID_2)

    def tanh(self) -> "Bounded":
        return self._through(1.0, _TANH_2)

    def _through(self, first: float, second: float) -> "Bounded":
        """Through a function of size at most 1 with these bounds of its derivatives."""
        bent = upward(second * self.first**2 + first * self.second)
        return Bounded(np.ones_like(self.value), upward(first * self.first), bent)


def formula_of(cell: Any, x: Array) -> Formula | None:
    """The formula of one of this package's cells under an input; None for any other cell."""
    owner = owner_of(cell)
    makers: dict[Any, Any] = {SimpleRNNCell: _simple, GRUCell: _gru, LSTMCell: _lstm}
    maker = makers.get(type(owner))
    # Exactly the class, and nothing of its mathematics replaced since.
    if maker is None or owner is not cell or not holds(owner, "fused_form"):
        return None
    if owner.dtype is not None or owner.carry_dtype is not None:
        return None  # Weights may be rounded to another type before they are used.
    classical = {"gate_fn": "sigmoid", "activation_fn": "tanh"}
    if type(owner) is not SimpleRNNCell and not all(
        computes(getattr(owner, name), function) for name, function in classical.items()
    ):
        return None  # The formulas below are of these.
    formula: Formula | None = maker(owner, x)
    return formula


def _simple(cell: Any, x: Array) -> Formula | None:
    activation = cell.activation
    if not is_own(activation):
        return None
    kind = activation.name.partition("(")[0]
    if kind not in _ACTIVATIONS:
        return None
    leak = 0.0
    if kind == "leaky_relu":
        leak = float(activation.function.keywords["negative_slope"])  # type: ignore[attr-defined]
    kernel, bias = _array(cell.recurrent_kernel), _projected(cell, x)
    known = _ACTIVATIONS[kind]

    def enclose(h: Array) -> tuple[Interval, Interval]:
        pre = times(kernel.T, point(h)) + bias
        value, slope = known.enclose(pre, leak)
        return value, slope.column() * point(kernel.T)

    def lipschitz(h: Array, radius: float) -> float:
        pull = upward(np.abs(kernel).sum(axis=0))
        pre = times(kernel.T, point(h)) + bias
        reach = upward(pull * radius)
        around = intervals.outward(pre.low - reach, pre.high + reach)
        if not known.is_smooth(around):
            return np.inf
        return float(upward(known.bend * pull.max() ** 2))

    return Formula(enclose, lipschitz)


def _gru(cell: Any, x: Array) -> Formula | None:
    kernel, z, H = _array(cell.recurrent_kernel), _projected(cell, x), cell.hidden_features
    gates, candidate = slice(0, 2 * H), slice(2 * H, 3 * H)
    none = point(np.zeros(H))
    bias = cell.candidate_recurrent_bias
    of_state = none if bias is None else point(_array(bias))

    def step(parts: list[Any]) -> list[Any]:
        (h,) = parts
        pre = h.linear(kernel[:, gates], z.rows(gates)).sigmoid()
        r, u = pre.part(slice(0, H)), pre.part(slice(H, 2 * H))
        if cell.reset_after:
            inner = r * h.linear(kernel[:, candidate], of_state)
        else:
            inner = (r * h).linear(kernel[:, candidate], none)
        n = inner.shift(z.rows(candidate)).tanh()
        return [u.complement() * n + u * h]

    return _formula(step, [H])


def _lstm(cell: Any, x: Array) -> Formula | None:
    if cell.truncated:
        return None  # The cell's own derivative is another than that of its step.
    kernel, z, H = _array(cell.recurrent_kernel), _projected(cell, x), cell.hidden_features
    projection = None if cell.projection_kernel is None else _array(cell.projection_kernel)
    where = {name: slice(k * H, (k + 1) * H) for k, name in enumerate(cell.blocks)}
    gated = [name for name in cell.blocks if name != "candidate"]
    rows = {} if cell.peephole is None else dict(zip(gated, _array(cell.peephole), strict=True))

    def step(parts: list[Any]) -> list[Any]:
        c, h = parts
        pre = h.linear(kernel, z)

        def gate(name: str, state: Any) -> Any:
            inside = pre.part(where[name])
            return (inside + state.scale(rows[name]) if rows else inside).sigmoid()

        f = gate("forget", c) if "forget" in where else None
        i = gate("input", c) if "input" in where else f.complement()  # type: ignore[union-attr]
        c = (c if f is None else f * c) + i * pre.part(where["candidate"]).tanh()
        h = gate("output", c) * c.tanh()
        if projection is not None:
            h = h.linear(projection, point(np.zeros(cell.output_features)))
        return [c, h]

    return _formula(step, [H, cell.output_features])


def _formula(step: Callable[[list[Any]], list[Any]], sizes: list[int]) -> Formula:
    """Both readings of a step of the carry's parts."""
    total = sum(sizes)
    starts = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(starts)]

    def enclose(h: Array) -> tuple[Interval, Interval]:
        whole = Enclosed(point(h), point(np.eye(total)))
        after = step([whole.part(where) for where in parts])
        joined = [
            Interval(*(np.concatenate(ends) for ends in zip(*pieces, strict=True)))
            for pieces in zip(*after, strict=True)
        ]
        return joined[0], joined[1]

    def lipschitz(h: Array, radius: float) -> float:
        ones, zeros = np.ones(total), np.zeros(total)
        whole = Bounded(upward(np.abs(h) + radius), ones, zeros)
        after = step([whole.part(where) for where in parts])
        return float(np.max([part.second.max() for part in after]))

    return Formula(enclose, lipschitz)


class _Known(NamedTuple):
    """An activation φ of the simple cell.

    Attributes:
      enclose: (pre-activations, leak) -> φ and φ'.
      bend: an upper bound of |φ''|.
      is_smooth: whether φ is twice differentiable, almost everywhere and φ' without jumps, on
        intervals.
    """

    enclose: Callable[[Interval, float], tuple[Interval, Interval]]
    bend: float
    is_smooth: Callable[[Interval], bool] = lambda around: True


def _apart_from(*kinks: float) -> Callable[[Interval], bool]:
    def is_smooth(around: Interval) -> bool:
        return all(bool(((around.low > k) | (around.high < k)).all()) for k in kinks)

    return is_smooth


def _by_sigmoid(pre: Interval, _: float) -> tuple[Interval, Interval]:
    s = intervals.sigmoid(pre)
    return s, s * (_one(s) - s)


def _by_tanh(pre: Interval, _: float) -> tuple[Interval, Interval]:
    t = intervals.tanh(pre)
    return t, _one(t) - t * t


def _by_softplus(pre: Interval, _: float) -> tuple[Interval, Interval]:
    return intervals.softplus(pre), intervals.sigmoid(pre)


def _by_identity(pre: Interval, _: float) -> tuple[Interval, Interval]:
    return pre, _one(pre)


def _by_leaky_relu(pre: Interval, leak: float) -> tuple[Interval, Interval]:
    slope = point(np.where(pre.low > 0, 1.0, leak))  # Only asked away from 0, see `is_smooth`.
    return pre * slope, slope


def _by_hard_tanh(pre: Interval, _: float) -> tuple[Interval, Interval]:
    clipped = Interval(np.clip(pre.low, -1, 1), np.clip(pre.high, -1, 1))
    return clipped, point(np.where((pre.low > -1) & (pre.high < 1), 1.0, 0.0))


_ACTIVATIONS = {
    "sigmoid": _Known(_by_sigmoid, _SIGMOID_2),
    "tanh": _Known(_by_tanh, _TANH_2),
    "softplus": _Known(_by_softplus, _SIGMOID_1),
    "identity": _Known(_by_identity, 0.0),
    "relu": _Known(_by_leaky_relu, 0.0, _apart_from(0.0)),
    "leaky_relu": _Known(_by_leaky_relu, 0.0, _apart_from(0.0)),
    "hard_tanh": _Known(_by_hard_tanh, 0.0, _apart_from(-1.0, 1.0)),
}


def _projected(cell: Any, x: Array) -> Interval:
    """x W_x + b."""
    z = times(_array(cell.kernel).T, point(x))
    return z if cell.bias is None else z + point(_array(cell.bias))


def _array(param: Any) -> Array:
    return np.asarray(param[...], np.float64)


def _one(like: Interval) -> Interval:
    return point(np.ones_like(like.low))
