"""The Dyck language of bounded depth."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_count, check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy


@dataclass(frozen=True)
class Dyck(CrossEntropy):
    """The Dyck language of k kinds of brackets, at most m deep: which bracket may close next.

    A sequence is one whole well-nested word, such as ( [ ] [ ( ) ] ) for k = 2 and m = 3, whose
    first bracket closes last, so that a bracket is open at every step but the last. While the depth
    lies in between, a fair coin says whether the next bracket opens or closes; at depth 1 it opens,
    at depth m it closes, and so it does when all the steps left are needed for closing. The kinds
    of opening brackets are drawn independently, all as likely.

    After every closing bracket but the last, the answer is the kind of the innermost bracket that
    is still open, the only one that may close next; that is T/2 − 1 answers. After an opening
    bracket it would be the bracket just shown, which asks for no memory, so that step weighs
    nothing. (The next symbol itself, as in a language model, is not determined by the past; the
    kind of the bracket that may close is.)

    The innermost open bracket was drawn independently of the one that just closed, so who remembers
    nothing pays ln k.

    Attributes:
      length: T, in steps, even and at least 4.
      kinds: k, at least 2.
      depth: m, at least 2, the brackets that must be remembered at once.
      solved_above: the share of right answers over which it counts as solved.

    Example:
      >>> task = rj.tasks.Dyck(length=12, kinds=2, depth=3)
      >>> batch = task.sample(jax.random.key(0), 1)
      >>> word = "".join("([)]"[i] for i in batch.inputs[0].argmax(-1))
      >>> word.count("(") == word.count(")"), word.count("[") == word.count("]")
      (True, True)
      >>> int(batch.weights.sum())  # answers, T/2 − 1
      5

    References:
      J. Hewitt et al., "RNNs can generate bounded hierarchical languages with optimal memory", 2020
      (the language, and scoring by the brackets that close); M. Suzgun et al., "LSTM networks can
      perform dynamic counting", 2019 (which symbols may come next, as the answer at every step).
    """

    length: int
    kinds: int = 2
    depth: int = 3
    solved_above: float = 0.99

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        length = check_size("length", self.length)
        if length < 4 or length % 2:
            raise ValueError(
                "length must be even and at least 4, as every bracket closes and one of them "
                f"inside another; got {length}. Pass length={max(4, length + 1)}."
            )
        check_count("kinds", self.kinds, low=2)
        check_count("depth", self.depth, low=2)
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: one for each kind that opens, and one for each that closes."""
        return 2 * self.kinds

    @property
    def out_features(self) -> int:
        """O: one for each kind."""
        return self.kinds

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: ln k."""
        return math.log(self.kinds)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 2 k), one of them 1, first the kinds that open, then those that close;
          targets (B, T), the kind of the innermost open bracket, 0 after the last step; weights
          (B, T), 1 after closing brackets but the last.
        """
        size = check_size("batch_size", batch_size)
        key_coin, key_kind = jax.random.split(check_key(key))
        coins = jax.random.bernoulli(key_coin, shape=(size, self.length))
        kinds = jax.random.randint(key_kind, (size, self.length), 0, self.kinds)
        word = functools.partial(_word, kinds=self.kinds, depth=self.depth)
        tokens, targets = jax.vmap(word)(coins, kinds)
        asked = (tokens >= self.kinds).at[:, -1].set(False)
        return Batch(jax.nn.one_hot(tokens, self.in_features), targets, asked.astype(float))


def _word(
    coins: jax.Array, drawn: jax.Array, *, kinds: int, depth: int
) -> tuple[jax.Array, jax.Array]:
    """One word, and the innermost open kind after each of its brackets.

    Args:
      coins: (T,), whether a bracket opens where both is allowed.
      drawn: (T,), its kind if it opens.
      kinds: k.
      depth: m.

    Returns:
      tokens (T,), a kind that opens or k more for one that closes; innermost kinds (T,).
    """
    level = jnp.arange(depth)

    def step(
        carry: tuple[jax.Array, jax.Array], given: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        # stack[n] is the kind of the open bracket with n others around it, for n < height.
        stack, height = carry
        coin, kind, left = given
        opens = (height < left) & ((height <= 1) | (coin & (height < depth)))
        token = jnp.where(opens, kind, kinds + stack[height - 1])
        stack = jnp.where(opens & (level == height), kind, stack)
        height = jnp.where(opens, height + 1, height - 1)
        innermost = jnp.where(height > 0, stack[height - 1], 0)
        return (stack, height), (token, innermost)

    left = jnp.arange(drawn.size, 0, -1)
    empty = jnp.zeros(depth, drawn.dtype), jnp.zeros((), left.dtype)
    return jax.lax.scan(step, empty, (coins, drawn, left))[1]
