"""Activation functions that know the range of their slope."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_number


@dataclass(frozen=True)
class Activation:
    """A pointwise function φ together with the closed range of its derivative φ'.

    Calling it applies φ. The slope range is what bounds a product of recurrent Jacobians, so an
    activation of your own needs one before `jacobian_log_bound` can use it.

    Attributes:
      name: what error messages and pictures call it.
      function: φ, acting element by element.
      slope_range: (inf φ', sup φ').
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    slope_range: tuple[float, float]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"function must be callable, φ(x); got {self.function!r} of type "
                f"{type(self.function).__name__}. Pass for example jax.numpy.tanh."
            )
        try:
            low, high = self.slope_range
            ordered = low <= high  # False for NaN too.
        except (TypeError, ValueError):
            ordered = False
        if not ordered:
            raise ValueError(
                "slope_range must be a pair (low, high) with low <= high; got "
                f"{self.slope_range!r}. Pass for example slope_range=(0.0, 1.0)."
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Leaky ReLU φ(x) = x for x > 0, α·x otherwise (Maas, Hannun and Ng, 2013).

    Args:
      negative_slope: α. Equal arguments return the same object, so that two cells that use it
        share one compiled program.

    Returns:
      An `Activation` whose slopes are α and 1.

    Raises:
      ValueError, TypeError: the slope is not one finite number.
    """
    return _leaky_relu(check_number("negative_slope", negative_slope))


@functools.lru_cache
def _leaky_relu(alpha: float) -> Activation:
    function = functools.partial(jax.nn.leaky_relu, negative_slope=alpha)
    return Activation(f"leaky_relu({alpha:g})", function, (min(alpha, 1.0), max(alpha, 1.0)))


def _identity(x: jax.Array) -> jax.Array:
    return x


# sup of the slope of GELU (the erf form) is Φ(√2) + √2·φ(√2), at x = √2; the inf mirrors it.
_GELU_SUP = 0.5 * (1 + math.erf(1.0)) + math.sqrt(2) * math.exp(-1.0) / math.sqrt(2 * math.pi)


@functools.cache
def _gelu() -> Activation:
    function = functools.partial(jax.nn.gelu, approximate=False)
    return Activation("gelu", function, (1 - _GELU_SUP, _GELU_SUP))


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": Activation("sigmoid", jax.nn.sigmoid, (0.0, 0.25)),
    "tanh": Activation("tanh", jnp.tanh, (0.0, 1.0)),
    "relu": Activation("relu", jax.nn.relu, (0.0, 1.0)),
    "leaky_relu": leaky_relu(),
    "identity": Activation("identity", _identity, (1.0, 1.0)),
    "elu": Activation("elu", jax.nn.elu, (0.0, 1.0)),
    "gelu": _gelu(),
    "softplus": Activation("softplus", jax.nn.softplus, (0.0, 1.0)),
    "softsign": Activation("softsign", jax.nn.soft_sign, (0.0, 1.0)),
    "hard_tanh": Activation("hard_tanh", jax.nn.hard_tanh, (0.0, 1.0)),
    "sin": Activation("sin", jnp.sin, (-1.0, 1.0)),
}

ActivationLike = str | Activation | Callable[[jax.Array], jax.Array]


def get_activation(activation: ActivationLike) -> Activation | Callable[[jax.Array], jax.Array]:
    """Returns the callable that a name stands for; a callable is returned as it is.

    Raises:
      ValueError: the name is not known.
      TypeError: the argument is neither a name nor callable.
    """
    if isinstance(activation, str):
        return ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]
    if callable(activation):
        return activation
    raise TypeError(
        "activation must be a name or a callable; "
        f"got {activation!r} of type {type(activation).__name__}. Known names: "
        f"{', '.join(ACTIVATIONS)}."
    )


def is_own(activation: object) -> TypeGuard[Activation]:
    """Whether an activation is one of this package's, whose function is known to act by element."""
    if not isinstance(activation, Activation):
        return False
    function = activation.function
    if isinstance(function, functools.partial) and function.func is jax.nn.leaky_relu:
        # Anyone may build this partial; a slope that is traced is a weight, not a constant.
        return set(function.keywords) == {"negative_slope"} and isinstance(
            function.keywords["negative_slope"], float
        )
    return activation in ACTIVATIONS.values()


def activation_slope_range(activation: ActivationLike) -> tuple[float, float]:
    """The range of an activation's derivative, (inf φ', sup φ').

    Known analytically, never sampled: sigmoid (0, 0.25], tanh (0, 1], ReLU {0, 1},
    leaky ReLU {α, 1}, identity {1}. A bound that is not attained (the 0 of sigmoid and tanh) is
    returned as the limit that it is.

    Args:
      activation: a name, an `Activation`, or one of the JAX functions that a name stands for.

    Returns:
      (min, max) as Python floats.

    Raises:
      ValueError: the name is unknown, or nothing is known about this callable.
    """
    resolved = get_activation(activation)
    if isinstance(resolved, Activation):
        return resolved.slope_range
    for known in ACTIVATIONS.values():
        if known.function is resolved:
            return known.slope_range
    raise ValueError(
        "the slope range of an activation must be known analytically; got the callable "
        f"{getattr(resolved, '__name__', resolved)!r}, about which nothing is known. State it: "
        "rnn_jax.Activation('my_activation', function, slope_range=(low, high))."
    )
