"""Multi-query associative recall."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_count, check_key, check_number, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy


@dataclass(frozen=True)
class AssociativeRecall(CrossEntropy):
    """Multi-query associative recall: give the value that stood beside a key.

    The sequence begins with `pairs` pairs, a key at one step and its value at the next; keys are
    all different, and so are values. The rest has slots at every second step, and a slot may ask
    for a key seen before: the answer at that step is the key's value, and all other steps weigh
    nothing. Which slots ask is drawn one after the other without replacement, slot n = 1, 2, … with
    probability ∝ n^(`power` − 1), and the pairs they ask for take them in their order: most queries
    come soon after the pairs and some much later, as repetitions do in language. The other steps
    show any token at random, keys and values too, or blanks.

    With one query, queries=1, it is the associative retrieval of Ba et al.; at the shortest length,
    2 · `pairs` + 1, the query is the last step.

    A key says nothing about its value, which is uniform over all values, so who remembers nothing
    pays ln(`values`).

    Attributes:
      length: T, in steps; at least 2 · pairs + 2 · queries − 1.
      pairs: how many pairs are to be remembered.
      queries: how many of them are asked for, a random set; None is all, each once.
      keys: how many different keys there are, at least `pairs`.
      values: how many different values there are, at least `pairs` and 2.
      power: how spread out the queries are: near 0 for a power law, 1 for all slots alike.
      filler: what the other steps show, "random" tokens or the "blank".
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> task = rj.tasks.AssociativeRecall(length=32, pairs=4)
      >>> batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(0), 2)
      >>> batch.weights.sum(1).tolist()  # each pair is asked for once
      [4.0, 4.0]
      >>> task.in_features == task.keys + task.values + 1
      True

    References:
      S. Arora et al., "Zoology: measuring and improving recall in efficient language models", 2023;
      J. Ba et al., "Using fast weights to attend to the recent past", 2016 (a single query).
    """

    length: int
    pairs: int = 4
    queries: int | None = None
    keys: int = 16
    values: int = 16
    power: float = 0.01
    filler: Literal["random", "blank"] = "random"
    solved_above: float = 0.99

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        pairs = check_size("pairs", self.pairs)
        if self.queries is not None:
            check_count("queries", self.queries, low=1, high=pairs)
        for name, size, low in (("keys", self.keys, pairs), ("values", self.values, max(2, pairs))):
            if check_size(name, size) < low:
                raise ValueError(
                    f"{name} must be at least {low}, so that {pairs} pairs can have different "
                    f"ones; got {size}. Pass {name}={low} or more, or fewer pairs."
                )
        if check_number("power", self.power) <= 0:
            raise ValueError(
                f"power must be positive; got {self.power}. Pass 0.01 for a power law, or 1 for "
                "queries that are spread evenly."
            )
        check_choice("filler", self.filler, ("random", "blank"))
        asked = pairs if self.queries is None else self.queries
        shortest = 2 * pairs + 2 * asked - 1
        if check_size("length", self.length) < shortest:
            raise ValueError(
                f"length must be at least {shortest} for {pairs} pairs and {asked} queries; got "
                f"{self.length}. Pass length={shortest} or more, or fewer pairs."
            )
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: one for each key, each value, and the blank."""
        return self.keys + self.values + 1

    @property
    def out_features(self) -> int:
        """O: one for each value."""
        return self.values

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: ln(values)."""
        return math.log(self.values)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, I), one of them 1: the keys, the values, the blank; targets (B, T), a value
          counted from 0, and weights (B, T), both 0 but at the queries.
        """
        size = check_size("batch_size", batch_size)
        key_keys, key_values, key_asked, key_slot, key_fill = jax.random.split(check_key(key), 5)
        keys = _distinct(key_keys, size, self.keys, self.pairs)
        values = _distinct(key_values, size, self.values, self.pairs)
        shown = 2 * self.pairs
        pairs = jnp.stack([keys, self.keys + values], axis=-1).reshape(size, shown)
        rest = (size, self.length - shown)
        if self.filler == "random":
            fill = jax.random.randint(key_fill, rest, 0, self.in_features)
        else:
            fill = jnp.full(rest, self.in_features - 1)

        queries = self.pairs if self.queries is None else self.queries
        asked = jnp.sort(_distinct(key_asked, size, self.pairs, queries), axis=1)
        slots = jnp.arange(1, (self.length - shown + 1) // 2 + 1, dtype=float)
        # Sorted by log p + Gumbel noise, slots come in the order of draws without replacement.
        noise = jax.random.gumbel(key_slot, (size, slots.size))
        ranks = (self.power - 1) * jnp.log(slots)[None, :] + noise
        places = shown + 2 * jax.lax.top_k(ranks, queries)[1]

        rows = jnp.arange(size)[:, None]
        tokens = jnp.concatenate([pairs, fill], axis=1)
        tokens = tokens.at[rows, places].set(jnp.take_along_axis(keys, asked, axis=1))
        answers = jnp.take_along_axis(values, asked, axis=1)
        targets = jnp.zeros_like(tokens).at[rows, places].set(answers)
        weights = jnp.zeros(tokens.shape).at[rows, places].set(1.0)
        return Batch(jax.nn.one_hot(tokens, self.in_features), targets, weights)


def _distinct(key: jax.Array, size: int, among: int, count: int) -> jax.Array:
    """(size, count): in each row, different whole numbers below `among`, in random order."""
    return jax.lax.top_k(jax.random.uniform(key, (size, among)), count)[1].astype(int)
