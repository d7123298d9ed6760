"""Weight initialisers by name, and the gate-by-gate rule for fused kernels."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.arrays import at_least_float32
from rnn_jax.checks import check_choice, check_not_negative

Initializer = Callable[..., jax.Array]
InitializerLike = str | Initializer


def orthogonal(scale: float = 1.0) -> Initializer:
    """A random orthogonal matrix times `scale` (Saxe, McClelland and Ganguli, 2014)."""
    return _Orthogonal(scale)


def identity(scale: float = 1.0) -> Initializer:
    """The identity times `scale`: with ReLU the IRNN of Le, Jaitly and Hinton (2015)."""
    return _Identity(scale)


def uniform_to(bound: float) -> Initializer:
    """Uniform between ±bound."""
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


def gaussian(name: str, gain: float) -> InitializerLike:
    """Gaussian numbers of standard deviation gain/√rows; `name` is the gain's, for messages."""
    value = check_not_negative(name, gain)
    if value == 0:
        return "zeros"
    scaling: InitializerLike = jax.nn.initializers.variance_scaling(value**2, "fan_in", "normal")
    return scaling


# Classes, where closures would do, so that they can be compared and pickled.
@dataclass(frozen=True)
class _Orthogonal:
    scale: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
        # The QR behind it has no half-precision kernel: drawn in float32, then rounded.
        draw = jax.nn.initializers.orthogonal(self.scale)
        return draw(key, shape, at_least_float32(dtype)).astype(dtype)


@dataclass(frozen=True)
class _Identity:
    scale: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = None) -> jax.Array:
        del key
        if len(shape) != 2:
            raise ValueError(f"identity fills matrices only; got shape {tuple(shape)}")
        return self.scale * jnp.eye(shape[0], shape[1], dtype=dtype)


INITIALIZERS: dict[str, Initializer] = {
    "orthogonal": orthogonal(),
    "identity": identity(),
    "glorot_uniform": jax.nn.initializers.glorot_uniform(),
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "he_normal": jax.nn.initializers.he_normal(),
    "zeros": jax.nn.initializers.zeros,
    "ones": jax.nn.initializers.ones,
}


def get_initializer(name: str, initializer: InitializerLike) -> Initializer:
    """Returns the initialiser that a name stands for; a callable is returned as it is.

    Args:
      name: the argument's name, for the error message.
      initializer: a name, or a callable (key, shape, dtype) -> array.

    Raises:
      ValueError: the name is not known.
      TypeError: the argument is neither a name nor callable.
    """
    if isinstance(initializer, str):
        return INITIALIZERS[check_choice(name, initializer, INITIALIZERS)]
    if callable(initializer):
        return initializer
    raise TypeError(
        f"{name} must be a name or a callable (key, shape, dtype) -> array; got {initializer!r}. "
        f"Known names: {', '.join(INITIALIZERS)}."
    )


def initialize(
    name: str, initializer: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    """One draw, of the shape and type asked for.

    Args:
      name: the argument's name, for the error message.
      initializer, key, shape, dtype: what is called, and with what.

    Raises:
      ValueError: the initialiser fails on this shape, or returns something else.
    """
    fix = f'Pass a {name} that fills this shape, for example {name}="zeros".'
    try:
        values = jnp.asarray(initializer(key, shape, dtype), dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must give an array of shape {shape}; got an error: {error}. {fix}"
        ) from error
    if values.shape != shape:
        raise ValueError(
            f"{name} must give an array of shape {shape}; got shape {values.shape}. {fix}"
        )
    return values


def init_by_gate(
    name: str,
    initializer: Initializer,
    key: jax.Array,
    rows: int,
    columns: int,
    gates: int,
    dtype: Any,
) -> jax.Array:
    """Initialises a fused kernel gate by gate.

    One key and one (rows, columns) draw for each gate, laid side by side. Applied to the whole
    (H, 4H) block instead, an orthogonal initialiser makes the *rows* of the block orthonormal and
    leaves no single gate orthogonal, which confounds every study of gradients.

    Args:
      name: the argument's name, for error messages.
      initializer: (key, shape, dtype) -> array.
      key: a random key, split among the gates.
      rows, columns: the shape of one gate's block.
      gates: G, how many blocks.
      dtype: type of the kernel.

    Returns:
      An array of shape (rows, G · columns).

    Raises:
      ValueError: as `initialize`.
    """
    keys = jax.random.split(key, gates)
    blocks = [initialize(name, initializer, k, (rows, columns), dtype) for k in keys]
    return jnp.concatenate(blocks, axis=1)
