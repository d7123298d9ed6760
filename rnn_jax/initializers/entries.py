"""Initialisers whose entries are drawn each on its own, or are all the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rnn_jax.activations import ActivationLike
from rnn_jax.checks import check_not_negative, check_number
from rnn_jax.initializers.drawing import Initializer
from rnn_jax.initializers.mean_field import critical_gain

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]


def constant(value: float) -> Initializer:
    """All entries `value`."""
    return _Constant(check_number("value", value))


def uniform(low: float, high: float) -> Initializer:
    """Uniform in [low, high).

    Raises:
      ValueError: the two are not low <= high.
    """
    low, high = check_number("low", low), check_number("high", high)
    if low > high:
        raise ValueError(
            f"low and high must be low <= high; got {low:g} and {high:g}. Pass for example -0.1 "
            "and 0.1."
        )
    return _Uniform(low, high)


def uniform_to(bound: float) -> Initializer:
    """Uniform between ±bound."""
    return uniform(-bound, bound)


def normal(deviation: float) -> Initializer:
    """Gaussian entries of this standard deviation, whatever the shape."""
    return _Normal(check_not_negative("deviation", deviation))


def gaussian(gain: float = 1.0) -> Initializer:
    """Gaussian entries of standard deviation g/√rows; of wide kernels the spectral radius is g.

    Args:
      gain: g, at least 0. As the recurrent kernel of a tanh network it is chaotic above 1
        (Sompolinsky, Crisanti and Sommers, 1988).
    """
    return _Gaussian(check_not_negative("gain", gain))


def critical(
    activation: ActivationLike = "tanh", bias_variance: float = 0.0, input_variance: float = 0.0
) -> Initializer:
    """`gaussian` of the gain at which gradients of a wide network neither vanish nor explode.

    Args:
      activation, bias_variance, input_variance: see `critical_gain`.
    """
    return gaussian(critical_gain(activation, bias_variance, input_variance))


def variance_scaling(scale: float, mode: Mode, distribution: Distribution) -> Initializer:
    """That of JAX, `jax.nn.initializers.variance_scaling`, as a value that can be compared."""
    return _VarianceScaling(scale, mode, distribution)


# Classes, where closures would do, so that they can be compared and pickled.
@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        del key
        return jnp.full(shape, self.value, dtype)


@dataclass(frozen=True)
class _Uniform:
    low: float
    high: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, self.low, self.high)


@dataclass(frozen=True)
class _Normal:
    deviation: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        return self.deviation * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class _Gaussian:
    gain: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        rows, _ = matrix_shape("gaussian", shape)
        return _Normal(self.gain / rows**0.5)(key, shape, dtype)


@dataclass(frozen=True)
class _VarianceScaling:
    scale: float
    mode: Mode
    distribution: Distribution

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        draw = jax.nn.initializers.variance_scaling(self.scale, self.mode, self.distribution)
        return draw(key, shape, dtype)


def matrix_shape(name: str, shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns), if a shape is that of a matrix, else raises."""
    if len(shape) != 2:
        raise ValueError(f"{name} fills matrices only; got shape {tuple(shape)}")
    return shape[0], shape[1]
