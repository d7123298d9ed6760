"""How blocks that share a tile of rows hand one another their part of the state: tagged data.

Weights that are too large for the shared memory of one block are split by units over C blocks. Each
then computes H/C units of the new state and needs all H of them for the next step. They exchange
through the L2 cache with no fence and no atomic operation:

- The lowest bit of the mantissa of each float32 that is exchanged is a *tag*. What a block writes
  in step t carries the tag of that step, and the readers load the data itself, past the L1 cache
  (`volatile`), until every element that they load carries it. A 32-bit load is never torn, so an
  element with the right tag is the right element. The price is one bit of 23.
- There are two buffers, for even and odd steps. A block writes step t + 2 into the buffer of step t
  only after it has read all of step t + 1, which the others wrote after they had read all of t.
- A buffer's tag alternates from one use to the next: steps 0 and 1 have tag 1, steps 2 and 3 tag 0.
  Buffers are zeros at first, so that nothing in them looks like step 0 or 1.

What must hold, or there would be wrong numbers instead of an error:

- *All blocks that wait for one another run at the same time.* A launch therefore has no more blocks
  than the card has multiprocessors, and what is left goes in further launches (`launching.py`).
- *A polled tile has at least as many elements as the block has threads.* Otherwise several threads
  hold the same element, each with a load of its own, and they may have seen different steps; the
  compiler takes them for equal. `choose_tiles` sees to it.
- *Buffers are fresh for every launch*, because the tags of an earlier one are like
  this one's.
- A wait ends: after a number of tries that takes far longer than any step the block gives up. From
  then on it waits no more, and all that it computes and hands to the other blocks is NaN. It runs
  ahead of them, so that they may take values of later steps for those of theirs: *nothing that it
  hands out may be finite*, past the start of another sequence either.
- An infinity with the tag 1 is a NaN, and a NaN remains one. Either stays in its row.

Pallas' interpret mode runs one block after another, so that it can only run C = 1.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import triton as plgpu

# Tries of a wait, each about half a microsecond: a second in all. A step takes two, but the first
# may have to wait for multiprocessors that another kernel holds, such as a sum over several cards.
LIMIT = 2_000_000


def tag_of(step: jax.Array) -> jax.Array:
    """The tag of a step: 1 1 0 0 1 1 0 0 …."""
    return 1 - ((step >> 1) & 1)


def tagged(x: jax.Array, tag: jax.Array) -> jax.Array:
    """A float32 array with its lowest bit set to the tag."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return lax.bitcast_convert_type((bits & jnp.int32(-2)) | tag, jnp.float32)


def alive_or_nan(x: jax.Array, alive: jax.Array) -> jax.Array:
    """x, or NaN after a wait that has failed."""
    return jnp.where(alive != 0, x, jnp.nan)


def poll(
    refs: Sequence[Any], tag: jax.Array, alive: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """Loads tiles until every element of them carries the tag.

    Args:
      refs: the tiles.
      tag: of the step that is waited for.
      alive: int32, 0 if an earlier wait has failed: then there is one try, whatever it brings.

    Returns:
      (the tiles, whether this and all earlier waits have brought what they waited for).
    """

    def load() -> tuple[tuple[jax.Array, ...], jax.Array]:
        tiles = tuple(
            lax.bitcast_convert_type(plgpu.load(ref, volatile=True), jnp.int32) for ref in refs
        )
        wrong = functools.reduce(lambda a, b: a | b, [tile ^ tag for tile in tiles]) & 1
        return tiles, jnp.max(wrong.reshape(-1), axis=0)

    def waits(state: Any) -> jax.Array:
        _, wrong, tries = state
        return jnp.logical_and(wrong != 0, tries < LIMIT)

    def again(state: Any) -> Any:
        return (*load(), state[2] + 1)

    first = jnp.where(alive != 0, jnp.int32(0), jnp.int32(LIMIT))
    tiles, wrong, _ = lax.while_loop(waits, again, (*load(), first))
    alive = alive & (1 - wrong)
    return [lax.bitcast_convert_type(tile, jnp.float32) for tile in tiles], alive
