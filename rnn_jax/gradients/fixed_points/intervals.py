"""Interval arithmetic in NumPy that is rigorous: a result holds every value that its inputs allow.

Sums and products of float64 are rounded to nearest, so one step outward holds them. A matrix
product of n terms is off by at most γ_n |A||B|, γ_n = n u / (1 − n u) with u = 2⁻⁵³, in whatever
order (or with fused operations) the library adds it up. exp and ln are Python's `decimal`, which
rounds them correctly; what the processor's or NumPy's own are off by is nowhere promised.

References:
  N. J. Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.
  S. M. Rump, "Verification methods: rigorous results using floating-point arithmetic", 2010.
"""

import decimal
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# 2⁻⁵³ and the smallest subnormal number, which a product may lose to underflow.
_UNIT, _TINY = 2.0**-53, 5e-324
# Forty digits: relative errors of 1e-39 in a few operations, and ranges no float64 leaves.
_DIGITS = decimal.Context(prec=40, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
# What is added for them where a difference of two numbers of size 1 may cancel.
_SLACK = 1e-37
# Beyond, 1 / (1 + e^x) is below the smallest normal number.
_FAR = 720.0

Array = Any


class Interval(NamedTuple):
    """Arrays of lower and of upper bounds, float64."""

    low: Array
    high: Array

    def __add__(self, other: "Interval") -> "Interval":  # type: ignore[override]
        return outward(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Interval") -> "Interval":
        return outward(self.low - other.high, self.high - other.low)

    def __mul__(self, other: "Interval") -> "Interval":  # type: ignore[override]
        ends = [a * b for a in self for b in other]
        return outward(np.minimum.reduce(ends), np.maximum.reduce(ends))

    @property
    def magnitude(self) -> Array:
        """An upper bound of the absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def column(self) -> "Interval":
        """A vector as a matrix of one column."""
        return Interval(self.low[:, None], self.high[:, None])

    def rows(self, where: slice) -> "Interval":
        """Some rows."""
        return Interval(self.low[where], self.high[where])


def point(values: Array) -> Interval:
    """Numbers that are known exactly."""
    values = np.asarray(values, np.float64)
    return Interval(values, values)


def outward(low: Array, high: Array) -> Interval:
    """Bounds one step further out."""
    return Interval(np.nextafter(low, -np.inf), np.nextafter(high, np.inf))


def times(matrix: Array, values: Interval) -> Interval:
    """matrix @ values, for a matrix of floats and a vector or matrix of intervals."""
    middle = values.low + (values.high - values.low) / 2
    radius = upward(np.maximum(values.high - middle, middle - values.low) + _TINY)
    size = np.abs(matrix)
    error = upward(gamma(matrix.shape[1]) * (size @ np.abs(middle)) + size @ radius)
    product = matrix @ middle
    return outward(product - error, product + error)


def gamma(terms: int) -> float:
    """An upper bound of γ for a sum of so many products and a few operations more."""
    count = terms + 8
    return 1.0001 * count * _UNIT


def upward(bound: Array) -> Array:
    """An upper bound of what was computed from numbers that are not negative.

    Of at most 10⁶ operations, each off by 2⁻⁵³ relatively or, below the normal numbers, by 10⁻³²³.
    """
    return bound * (1 + 1e-9) + 1e-300


def sigmoid(values: Interval) -> Interval:
    """1 / (1 + e^{−x}), which rises."""
    return _clipped(_rising(_sigmoid, values), 0.0, 1.0)


def tanh(values: Interval) -> Interval:
    """tanh x, which rises."""
    return _clipped(_rising(_tanh, values), -1.0, 1.0)


def softplus(values: Interval) -> Interval:
    """ln(1 + e^x), which rises."""
    return _rising(_softplus, values)


def _clipped(values: Interval, low: float, high: float) -> Interval:
    return Interval(np.maximum(values.low, low), np.minimum(values.high, high))


def _rising(function: Callable[[float], Interval], values: Interval) -> Interval:
    """Of a function that rises, from its enclosures at both ends."""
    low = [function(x).low for x in values.low.ravel()]
    high = [function(x).high for x in values.high.ravel()]
    shape = values.low.shape
    return Interval(np.reshape(low, shape), np.reshape(high, shape))


def _enclosed(value: decimal.Decimal) -> Interval:
    nearest = float(value)
    low, high = np.nextafter(nearest, -np.inf), np.nextafter(nearest, np.inf)
    return outward(low - _SLACK, high + _SLACK)


def _sigmoid(x: float) -> Interval:
    if not abs(x) < _FAR:
        return _saturated(x, 0.0)
    one = decimal.Decimal(1)
    return _enclosed(_DIGITS.divide(one, _DIGITS.add(one, _exp(-x))))


def _tanh(x: float) -> Interval:
    if not abs(x) < _FAR:
        return _saturated(x, -1.0)
    one, two = decimal.Decimal(1), decimal.Decimal(2)
    lost = _DIGITS.divide(two, _DIGITS.add(one, _exp(2 * x)))  # 2x is exact
    return _enclosed(_DIGITS.subtract(one, lost))


def _softplus(x: float) -> Interval:
    if not abs(x) < _FAR:
        far = Interval(np.float64(max(x, 0.0)), np.float64(max(x, 0.0) + 1e-300))
        return outward(*far) if x == x else Interval(np.float64(-np.inf), np.float64(np.inf))
    inner = _DIGITS.add(decimal.Decimal(1), _exp(x))
    return _enclosed(_DIGITS.ln(inner))


def _saturated(x: float, floor: float) -> Interval:
    """Near `floor` far on the left, near 1 far on the right; anything for what is no number."""
    low, high = np.float64(floor), np.float64(1.0)
    if x > 0:
        return Interval(np.nextafter(high, 0.0), high)
    if x < 0:
        return Interval(low, np.nextafter(low, 1.0) if floor else np.float64(1e-300))
    return Interval(low, high)


def _exp(x: float) -> decimal.Decimal:
    return _DIGITS.exp(decimal.Decimal(x))
