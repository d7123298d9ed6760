"""Drawing weights: one draw of the shape and type asked for, and the gate-by-gate rule."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.initializers.gate_biases import GateBias, MemoryGates

#: An initialiser: any callable (key, shape, dtype) -> array of that shape and type, as those of
#: `jax.nn.initializers` are. The factories here return ones that can be compared, hashed and
#: pickled, so that cells of equal initialisers share one compiled program.
Initializer = Callable[..., jax.Array]

#: What constructors take where weights are drawn: an `Initializer`, or a name with arguments or
#: without, such as `"orthogonal"` or `"gaussian(1.5)"`; see `get_initializer` and `names`.
InitializerLike = str | Initializer


def initialize(
    name: str, initializer: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
    """One draw from an initialiser, of the shape and type asked for.

    Args:
      name: the argument's name, for the error message.
      initializer: (key, shape, dtype) -> array.
      key: a JAX random key.
      shape: of the array.
      dtype: type of the array.

    Returns:
      An array of `shape` and `dtype`.

    Raises:
      ValueError: the initialiser fails on this shape, or returns something else.

    Example:
      >>> init, key = rj.initializers.ring(), jax.random.key(0)
      >>> rj.initializers.initialize("kernel_init", init, key, (8, 8), jnp.float32).shape
      (8, 8)
      >>> rj.initializers.initialize("kernel_init", init, key, (8, 4), jnp.float32)
      Traceback (most recent call last):
      ...
      ValueError: kernel_init must give an array of shape (8, 4); got an error: ...
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
    """A fused kernel, initialised gate by gate.

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

    Example:
      >>> init, key = rj.initializers.orthogonal(), jax.random.key(0)
      >>> kernel = rj.initializers.init_by_gate("kernel_init", init, key, 8, 8, 4, jnp.float32)
      >>> kernel.shape
      (8, 32)
      >>> blocks = jnp.split(kernel, 4, axis=1)
      >>> all(jnp.allclose(w.T @ w, jnp.eye(8), atol=1e-5) for w in blocks)
      True
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
    """The biases of all gates of a cell, in one draw.

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

    Example:
      >>> bias = rj.initializers.init_bias(
      ...     "bias_init", rj.initializers.forget_bias(2), jax.random.key(0), 3,
      ...     blocks=("update", "candidate"), memory_gates=(("update", 1),), dtype=jnp.float32,
      ... )
      >>> bias.tolist()
      [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    """
    if isinstance(initializer, GateBias):
        initializer = functools.partial(initializer.fill, blocks=blocks, gates=memory_gates)
    return initialize(name, initializer, key, (len(blocks) * size,), dtype)
