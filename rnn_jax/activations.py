"""Activation functions that know the range of their slope."""

import functools
import math
import types
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax._functions import portable, restored, value_of
from rnn_jax.checks import check_choice, check_number


@dataclass(frozen=True, eq=False)
class Activation:
    """A pointwise function φ together with the closed range of its derivative φ'.

    Calling it applies φ. The slope range is what bounds a product of recurrent Jacobians, so an
    activation of your own needs one before `jacobian_log_bound` can use it.

    Two are equal if they have the same name and slope range, and functions that compute the same as
    far as can be told: the same object, or the same code closing over equal values. Cells that
    differ in nothing else share one compiled program, and can be members of one ensemble.

    Attributes:
      name: what error messages and pictures call it.
      function: φ, acting element by element.
      slope_range: (inf φ', sup φ'); None if nothing is known.

    Example:
      >>> softsign = rj.Activation("softsign", jax.nn.soft_sign, (0.0, 1.0))
      >>> softsign_cell = rj.SimpleRNNCell(2, 8, activation=softsign, rngs=nnx.Rngs(0))
      >>> bool((rj.jacobian_log_bound(softsign_cell, 3) < 1e-5).all())  # W_h is orthogonal
      True
    """

    name: str
    function: Callable[[jax.Array], jax.Array]
    slope_range: tuple[float, float] | None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"function must be callable, φ(x); got {self.function!r} of type "
                f"{type(self.function).__name__}. Pass for example jax.numpy.tanh."
            )
        if self.slope_range is not None:
            object.__setattr__(self, "slope_range", _check_range(self.slope_range))
        object.__setattr__(self, "_value", value_of(self.function))

    def __call__(self, x: jax.Array) -> jax.Array:
        """φ(x), element by element."""
        return self.function(x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Activation):
            return NotImplemented
        if self is other:
            return True
        if not type(self) is type(other) is Activation:
            return False  # A subclass may compute something else with the same function.
        # What has closed over something else since may stand in a program compiled before.
        return self._key() == other._key() and self._is_as_built() and other._is_as_built()

    def __hash__(self) -> int:
        return hash(self._key())

    def __copy__(self) -> "Activation":
        return self

    def __deepcopy__(self, memo: Any) -> "Activation":
        return self

    def __reduce__(self) -> Any:
        if ACTIVATIONS.get(self.name) == self:
            return get_activation, (self.name,)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _restored, (type(self), values | {"function": portable(self.function)})

    def _key(self) -> Any:
        return self.name, self.slope_range, self._built_with()

    def _built_with(self) -> Any:
        return vars(self)["_value"]

    def _is_as_built(self) -> bool:
        return bool(self._built_with() == value_of(self.function))


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """Leaky ReLU φ(x) = x for x > 0, α·x otherwise (Maas, Hannun and Ng, 2013).

    Args:
      negative_slope: α. Equal arguments return the same object, so that two cells that use it
        share one compiled program.

    Returns:
      An `Activation` whose slopes are α and 1.

    Raises:
      ValueError, TypeError: the slope is not one finite number.

    Example:
      >>> leaky = rj.leaky_relu(0.1)
      >>> leaky.slope_range, leaky is rj.leaky_relu(0.1)
      ((0.1, 1.0), True)
      >>> round(float(leaky(-2.0)), 2)
      -0.2
    """
    return _leaky_relu(check_number("negative_slope", negative_slope))


@functools.lru_cache
def _leaky_relu(alpha: float) -> Activation:
    function = functools.partial(jax.nn.leaky_relu, negative_slope=alpha)
    return Activation(f"leaky_relu({alpha:g})", function, (min(alpha, 1.0), max(alpha, 1.0)))


def _restored(kind: type[Activation], values: dict[str, Any]) -> Activation:
    return kind(**values | {"function": restored(values["function"])})


def _check_range(slope_range: Any) -> tuple[float, float]:
    try:
        low, high = map(float, slope_range)
        ordered = low <= high  # False for NaN too.
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        raise ValueError(
            "slope_range must be a pair (low, high) with low <= high; got "
            f"{slope_range!r}. Pass for example slope_range=(0.0, 1.0)."
        )
    return low, high


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

# What is a function alone; other callables may be pytrees.
_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    jax.custom_jvp,
    jax.custom_vjp,
    type(jnp.tanh),
)

ActivationLike = str | Activation | Callable[[jax.Array], jax.Array]


def get_activation(
    activation: ActivationLike, argument: str = "activation"
) -> Activation | Callable[[jax.Array], jax.Array]:
    """Returns the activation that a name or a function stands for; `argument` is for messages.

    A function becomes an `Activation` of which no slope range is known, and so is compared by what
    it computes. A callable of another kind, which may have weights, is returned as it is.

    Raises:
      ValueError: the name is not known.
      TypeError: the argument is neither a name nor callable.
    """
    if isinstance(activation, str):
        return ACTIVATIONS[check_choice(argument, activation, ACTIVATIONS)]
    if isinstance(activation, _FUNCTIONS) or type(activation) is functools.partial:
        return Activation(_name_of(activation), activation, None)
    if callable(activation):
        return activation
    raise TypeError(
        f"{argument} must be a name or a callable; "
        f"got {activation!r} of type {type(activation).__name__}. Known names: "
        f"{', '.join(ACTIVATIONS)}."
    )


def _name_of(function: Any) -> str:
    if type(function) is functools.partial:
        return f"partial of {_name_of(function.func)}"
    return str(getattr(function, "__name__", type(function).__name__))


def is_own(activation: object) -> TypeGuard[Activation]:
    """Whether an activation is one of this package's, whose function is known to act by element."""
    if type(activation) is not Activation:
        return False
    function = activation.function
    if isinstance(function, functools.partial) and function.func is jax.nn.leaky_relu:
        # Anyone may build this partial; a slope that is traced is a weight, not a constant.
        return set(function.keywords) == {"negative_slope"} and isinstance(
            function.keywords["negative_slope"], float
        )
    return ACTIVATIONS.get(activation.name) == activation


def computes(activation: object, name: str) -> bool:
    """Whether an activation is the one of this name, given by name or as the JAX function."""
    own = ACTIVATIONS[name]
    return activation == own or (
        type(activation) is Activation and activation.function is own.function
    )


def is_known_by_element(activation: object) -> bool:
    """Whether φ is known to act on each element alone, without trying it out."""
    if getattr(activation, "slope_range", None) is not None:
        return True
    return any(computes(activation, name) for name in ACTIVATIONS)


def acts_by_element(
    activation: Callable[[jax.Array], jax.Array], features: int, dtype: Any
) -> bool:
    """Whether each output of φ depends on the input at its own place alone.

    Stated for an `Activation` with a slope range; of another function it is tried out, by its
    Jacobian at a few points, and of one whose values are not at hand (weights of a model that is
    being traced) it is not known.

    Args:
      activation: φ.
      features: H, the length of what φ is given.
      dtype: its type.
    """
    if getattr(activation, "slope_range", None) is not None:
        return True
    points = np.random.default_rng(0).normal(size=(3, features)) * [[0.1], [1.0], [100.0]]
    try:
        with jax.ensure_compile_time_eval():
            jacobians = jax.vmap(jax.jacfwd(activation))(jnp.asarray(points, dtype))
            return not np.any(np.asarray(jacobians)[:, ~np.eye(features, dtype=bool)])
    except (TypeError, ValueError):  # Traced, or not for a vector of this length.
        return False


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

    Example:
      >>> rj.activation_slope_range("sigmoid")
      (0.0, 0.25)
      >>> rj.activation_slope_range("leaky_relu")
      (0.01, 1.0)
    """
    resolved = get_activation(activation)
    name, function = _name_of(resolved), resolved
    if isinstance(resolved, Activation):
        name, function = resolved.name, resolved.function
    named = (known.slope_range for known in ACTIVATIONS.values() if known.function is function)
    slope_range = getattr(resolved, "slope_range", None) or next(named, None)
    if slope_range is not None:
        return slope_range
    raise ValueError(
        "the slope range of an activation must be known analytically; got the callable "
        f"{name!r}, about which nothing is known. State it: "
        "rnn_jax.Activation('my_activation', function, slope_range=(low, high))."
    )
