"""Marks of a step: where a sequence starts, where a step is skipped."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

STARTS = 1
SKIPPED = 2


class Marks(NamedTuple):
    """The marks of some rows in one step, each (rows, 1), boolean."""

    starts: jax.Array
    skipped: jax.Array


def marks_in(bits: jax.Array) -> Marks:
    """What the bits say."""
    bits = bits[:, None]
    return Marks((bits & STARTS) != 0, (bits & SKIPPED) != 0)


def chosen(
    mark: jax.Array, there: tuple[jax.Array, ...], elsewhere: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """Part by part, the rows of `there` where marked: a choice, so that no NaN crosses over."""
    return tuple(jnp.where(mark, a, b) for a, b in zip(there, elsewhere, strict=True))
