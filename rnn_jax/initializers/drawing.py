"""Drawing weights: one draw of the shape and type asked for, and the gate-by-gate rule."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.initializers.gate_biases import GateBias, MemoryGates

Initializer = Callable[..., jax.Array]
InitializerLike = str | Initializer


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


def init_bias(
    name: str,
    initializer: Initializer,
    key: jax.Array,
    size: int,
    blocks: Sequence[str],
    memory_gates: MemoryGates,
    dtype: Any,
) -> jax.Array:
    """Initialises the biases of all gates, in one draw.

    Args:
      name: the argument's name, for error messages.
      initializer: (key, shape, dtype) -> array, or one that sets gates by name, such as `chrono`.
      key: a random key.
      size: H.
      blocks: the names of the G gates and candidates, side by side.
      memory_gates: those among them that keep the state; see `MemoryGates`.
      dtype: type of the bias.

    Returns:
      An array of shape (G · H,).

    Raises:
      ValueError: as `initialize`, or a gate is to be set and there is none that keeps the state.
    """
    if isinstance(initializer, GateBias):
        initializer = functools.partial(initializer.fill, blocks=blocks, gates=memory_gates)
    return initialize(name, initializer, key, (len(blocks) * size,), dtype)
