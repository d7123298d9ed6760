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
    """All entries equal: w = v.

    Args:
      value: v.

    Returns:
      An initialiser of arrays of any shape.

    Raises:
      TypeError, ValueError: `value` is not one finite number.

    Example:
      >>> rj.initializers.constant(0.5)(jax.random.key(0), (3,), jnp.float32).tolist()
      [0.5, 0.5, 0.5]
    """
    return _Constant(check_number("value", value))


def uniform(low: float, high: float) -> Initializer:
    """Entries uniform between two numbers: w ~ U[low, high).

    Args:
      low, high: the two ends, low ≤ high.

    Returns:
      An initialiser of arrays of any shape.

    Raises:
      ValueError: the two are not low <= high, or not finite.
      TypeError: one of them is no number.

    Example:
      >>> w = rj.initializers.uniform(-0.1, 0.3)(jax.random.key(0), (8, 8), jnp.float32)
      >>> w.shape, bool(((w >= -0.1) & (w < 0.3)).all())
      ((8, 8), True)
    """
    low, high = check_number("low", low), check_number("high", high)
    if low > high:
        raise ValueError(
            f"low and high must be low <= high; got {low:g} and {high:g}. Pass for example -0.1 "
            "and 0.1."
        )
    return _Uniform(low, high)


def uniform_to(bound: float) -> Initializer:
    """Entries uniform about 0: w ~ U[−bound, bound).

    Args:
      bound: at least 0.

    Returns:
      An initialiser of arrays of any shape, equal to uniform(−bound, bound).

    Raises:
      ValueError: a bound below 0.

    Example:
      >>> rj.initializers.uniform_to(0.1) == rj.initializers.uniform(-0.1, 0.1)
      True
    """
    return uniform(-bound, bound)


def normal(deviation: float) -> Initializer:
    """Gaussian entries of one standard deviation, whatever the shape: w ~ N(0, σ²).

    Args:
      deviation: σ, at least 0.

    Returns:
      An initialiser of arrays of any shape.

    Raises:
      ValueError: a deviation below 0 or not finite.
      TypeError: a deviation that is no number.

    Example:
      >>> w = rj.initializers.normal(0.1)(jax.random.key(0), (100, 100), jnp.float32)
      >>> round(float(w.std()), 2)
      0.1
    """
    return _Normal(check_not_negative("deviation", deviation))


def gaussian(gain: float = 1.0) -> Initializer:
    """Gaussian entries scaled by the number of rows, with a gain.

    W_ij ~ N(0, g²/rows)

    Of a wide square matrix the spectral radius is g. As the recurrent kernel of an autonomous tanh
    network it is chaotic above g = 1.

    Args:
      gain: g, at least 0.

    Returns:
      An initialiser of matrices.

    Raises:
      ValueError: a gain below 0 or not finite.
      TypeError: a gain that is no number.

    Example:
      >>> w = rj.initializers.gaussian(1.5)(jax.random.key(0), (200, 200), jnp.float32)
      >>> round(float(w.std() * 200**0.5), 1)
      1.5

    References:
      H. Sompolinsky, A. Crisanti and H. J. Sommers, "Chaos in random neural networks", 1988.
    """
    return _Gaussian(check_not_negative("gain", gain))


def critical(
    activation: ActivationLike = "tanh", bias_variance: float = 0.0, input_variance: float = 0.0
) -> Initializer:
    """`gaussian` of the gain at which gradients of a wide network neither vanish nor explode.

    W_ij ~ N(0, σ_w²/rows),    σ_w = critical_gain(activation, bias_variance, input_variance)

    Args:
      activation: φ, by name, as an `Activation`, or any callable that acts element by element.
      bias_variance: σ_b², of the biases.
      input_variance: σ_x², of x W_x, which the inputs add to a unit's pre-activation.

    Returns:
      An initialiser of matrices.

    Raises:
      ValueError, TypeError: as `critical_gain`.

    Example:
      >>> init = rj.initializers.critical("relu")  # of gain √2
      >>> w = init(jax.random.key(0), (200, 200), jnp.float32)
      >>> round(float(w.std() * 200**0.5), 1)
      1.4

    References:
      M. Chen, J. Pennington and S. S. Schoenholz, "Dynamical isometry and a mean field theory of
      RNNs: gating enables signal propagation in recurrent neural networks", 2018.
    """
    return gaussian(critical_gain(activation, bias_variance, input_variance))


def variance_scaling(scale: float, mode: Mode, distribution: Distribution) -> Initializer:
    """Entries of a variance that goes with the shape, as JAX's initialiser of this name draws them.

    Var W_ij = scale / n,    n = rows, columns, or their mean

    It wraps `jax.nn.initializers.variance_scaling` in a value that can be compared and pickled. The
    names "lecun_normal", "glorot_uniform", "he_normal" and their like are this one with arguments.

    Args:
      scale: of the variance, above 0.
      mode: what n is: "fan_in" the rows, "fan_out" the columns, "fan_avg" their mean.
      distribution: "truncated_normal", "normal" or "uniform".

    Returns:
      An initialiser of matrices.

    Raises:
      ValueError: when it draws, of a mode or a distribution that JAX does not know.

    Example:
      >>> lecun = rj.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
      >>> w = lecun(jax.random.key(0), (400, 100), jnp.float32)
      >>> round(float(w.std() * 400**0.5), 1)
      1.0
    """
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


def square_size(name: str, shape: Sequence[int]) -> int:
    """The rows of a square matrix, else raises."""
    rows, columns = matrix_shape(name, shape)
    if rows != columns:
        raise ValueError(f"{name} fills square matrices only; got shape {tuple(shape)}")
    return rows
