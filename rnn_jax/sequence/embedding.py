"""Tokens: whole numbers as inputs, each of which stands for a vector."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.arrays import nan_unless
from rnn_jax.checks import as_steps, check_size, read_whole_numbers
from rnn_jax.sequence.calling import ArrayLike
from rnn_jax.sequence.masks import Marks, read_marks, valid_steps


class Embedding(nnx.Module):
    """A table of vectors, one for each token.

    e_t = E[x_t]

    Args:
      size: V, how many tokens there are.
      features: I, of each vector.
      param_dtype: type of the table.
      rngs: source of its initial values, normal with standard deviation 1/√I (Flax's default).

    Attributes:
      table: E, (V, I).
    """

    def __init__(self, size: int, features: int, *, param_dtype: Any, rngs: nnx.Rngs):
        self.size = check_size("embedding", size)
        made = nnx.Embed(self.size, features, param_dtype=param_dtype, rngs=rngs)
        self.table = nnx.Param(made.embedding[...])

    def __call__(self, tokens: jax.Array, valid: jax.Array | None) -> jax.Array:
        """The vectors of tokens, (..., T, I).

        Args:
          tokens: whole numbers, (..., T); one outside [0, V) has the vector NaN.
          valid: whether each step belongs to a sequence; the others may hold any number.
        """
        if valid is not None:
            tokens = jnp.where(valid, tokens, jnp.zeros_like(tokens))
        known = (tokens >= 0) & (tokens < self.size)
        vectors = self.table[...][jnp.where(known, tokens, jnp.zeros_like(tokens))]
        return nan_unless(jnp.broadcast_to(known[..., None], vectors.shape), vectors)


def read_tokens(
    xs: ArrayLike,
    size: int,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    resets: ArrayLike | None,
) -> tuple[jax.Array, Marks]:
    """(tokens (..., T), what a call says of their steps), checked.

    Raises:
      TypeError: tokens that are no whole numbers; or as `read_marks`.
      ValueError: no time axis or no step, or a token outside [0, V) at a step that counts; or as
        `read_marks`.
    """
    tokens = read_whole_numbers(
        "xs",
        xs,
        rule="tokens, whole numbers (..., T), for a model with an embedding",
        fix="Pass an array of ints, or build the model without embedding= for inputs (..., T, I).",
        for_booleans="Cast them to ints, for example xs.astype(int).",
    )
    if tokens.ndim < 1 or tokens.shape[-1] == 0:
        raise ValueError(
            "xs must hold tokens (..., T), at least one step of them; got shape "
            f"{tokens.shape}. Pass for example xs[None] for one step."
        )
    marks = read_marks(tokens.shape, lengths, mask, resets)
    if isinstance(tokens, np.ndarray):
        outside = (tokens < 0) | (tokens >= size)
        valid = valid_steps(marks, tokens.shape[-1])
        if not isinstance(valid, jax.core.Tracer):
            wrong = outside if valid is None else outside & np.asarray(valid)
            if wrong.any():
                raise ValueError(
                    f"xs must hold tokens in [0, {size}), for embedding={size}; got "
                    f"{tokens[wrong][0]}. Build the model with as many as there are, or mask what "
                    "is padding."
                )
        # Into the type that JAX counts in, where a larger number would become another one.
        tokens = np.clip(tokens, -1, size)
    return as_steps(tokens, size), marks
