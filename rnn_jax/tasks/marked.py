"""Sequences of numbers of which two are marked, as adding and multiplication show them."""

from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_size
from rnn_jax.tasks.base import SquaredError

Variant = Literal["arjovsky", "hochreiter", "martens"]

# The shortest length of each variant, and why.
_SHORTEST = {
    "arjovsky": (2, "one marked number in each half"),
    "hochreiter": (11, "ten steps for the first mark and one for the end"),
    "martens": (10, "one step in the first tenth"),
}


class Marked(NamedTuple):
    """Marked sequences.

    Attributes:
      inputs: (B, T, 2), the number first and its marker second.
      numbers: the two marked numbers, (B, 2).
      hidden: whether the mark is not to be seen, (B, 2).
    """

    inputs: jax.Array
    numbers: jax.Array
    hidden: jax.Array


class MarkedNumbers(SquaredError):
    """Shapes and checks of a task that asks for one number made of the two that are marked.

    A task that inherits it has fields `length`, `solved_below` and `variant`.
    """

    length: int
    variant: Variant

    readout: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, _SHORTEST)
        shortest, why = _SHORTEST[self.variant]
        if check_size("length", self.length) < shortest:
            raise ValueError(
                f"length must be at least {shortest}, {why}; got {self.length}. Pass "
                f"length={shortest} or more."
            )
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps, of the longest sequence."""
        return _steps(self.length, self.variant)

    @property
    def in_features(self) -> int:
        """I: the number and its marker."""
        return 2

    @property
    def out_features(self) -> int:
        """O: the sum or the product."""
        return 1


def _steps(length: int, variant: Variant) -> int:
    return length if variant == "arjovsky" else length + length // 10


def hidden_share(length: int, variant: Variant) -> float:
    """How many marks of a sequence are hidden, in the mean: P(the first) + P(the second)."""
    if variant != "hochreiter":
        return 0.0
    return 1 / 10 + 9 / 10 / (length // 2 - 1)


def draw_marked(
    key: jax.Array, size: int, length: int, variant: Variant, low: float = 0.0
) -> Marked:
    """Draws sequences of numbers uniform in [low, 1), two of each marked.

    "arjovsky": `length` steps, one mark in each half. The others have between `length` and
    1.1 `length` steps, ends included. A shorter one starts later, after zeros, so that all end at
    the last step. "martens": with L the steps of the sequence, a mark among the first L/10 and one
    among those up to L/2. "hochreiter": a mark among the first ten steps, and one among the first
    `length`/2 − 1 of the others; the first and the last step have the marker −1, which hides a mark
    on the first.
    """
    if variant == "arjovsky":
        key_value, key_first, key_second = jax.random.split(key, 3)
        half = length // 2
        values = jax.random.uniform(key_value, (size, length), minval=low)
        first = jax.random.randint(key_first, (size,), 0, half)
        second = jax.random.randint(key_second, (size,), half, length)
        return _mark(values, jnp.stack([first, second], axis=-1))
    key_value, key_length, key_place = jax.random.split(key, 3)
    steps = _steps(length, variant)
    values = jax.random.uniform(key_value, (size, steps), minval=low)
    lengths = jax.random.randint(key_length, (size,), length, steps + 1)
    if variant == "martens":
        tenth = lengths // 10
        edges = jnp.stack([jnp.zeros_like(tenth), tenth, lengths // 2], axis=-1)
        places = jax.random.randint(key_place, (size, 2), edges[:, :2], edges[:, 1:])
    else:
        counts = jnp.array([[10, length // 2 - 1]])
        places = jax.random.randint(key_place, (size, 2), 0, counts)
        # The second is one of those left: from the first mark on they lie one further.
        passed = (places[:, 1] >= places[:, 0]).astype(places.dtype)
        places = places.at[:, 1].add(passed)
    start = steps - lengths[:, None]
    index = jnp.arange(steps)[None, :]
    values = jnp.where(index >= start, values, 0.0)
    drawn = _mark(values, start + places)
    if variant == "martens":
        return drawn
    ends = (index == start) | (index == steps - 1)
    markers = jnp.where(ends, -1.0, drawn.inputs[..., 1])
    return Marked(jnp.stack([values, markers], axis=-1), drawn.numbers, places == 0)


def _mark(values: jax.Array, places: jax.Array) -> Marked:
    marks = jax.nn.one_hot(places, values.shape[1], dtype=values.dtype).sum(axis=1)
    numbers = jnp.take_along_axis(values, places, axis=1)
    return Marked(jnp.stack([values, marks], axis=-1), numbers, jnp.zeros(places.shape, bool))
