"""The copy memory problem."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_count, check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy, Metrics


class RecalledSymbols(CrossEntropy):
    """What copying tasks have in common: their last `symbols` steps ask for symbols shown before.

    The alphabet is 0, 1, …; `blank` follows it and `marker` follows that. The answer is blank until
    the recall. A task that inherits it has the fields below, `solved_above`, and a property
    `steps`.

    Attributes:
      symbols: how many symbols are recalled.
      alphabet: how many different symbols there are.
      counted: the steps that weigh: "all", or those of the "recall" alone.
    """

    symbols: int
    alphabet: int
    counted: Literal["all", "recall"]

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        check_size("symbols", self.symbols)
        check_count("alphabet", self.alphabet, low=2)
        check_choice("counted", self.counted, ("all", "recall"))
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        raise NotImplementedError

    @property
    def blank(self) -> int:
        """The class that stands for no symbol."""
        return self.alphabet

    @property
    def marker(self) -> int:
        """What an input shows that asks for the recall."""
        return self.alphabet + 1

    @property
    def in_features(self) -> int:
        """I: one for each symbol, the blank, the marker."""
        return self.alphabet + 2

    @property
    def out_features(self) -> int:
        """O: one for each symbol, and the blank."""
        return self.alphabet + 1

    @property
    def chance_loss(self) -> float:
        """Cross-entropy without memory: ln(alphabet) a symbol, as a mean over what counts."""
        counted = self.steps if self.counted == "all" else self.symbols
        return self.symbols * math.log(self.alphabet) / counted

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"cross_entropy", "accuracy"}: the loss in nats, and the share of symbols recalled right.

        The accuracy leaves the blanks out, whatever is counted: saying blank is right nearly
        everywhere.
        """
        loss = self.loss(outputs, batch)
        recall: Batch = jax.tree.map(lambda leaf: leaf[:, -self.symbols :], batch)
        accuracy = super().metrics(outputs[:, -self.symbols :], recall)["accuracy"]
        return {"cross_entropy": loss, "accuracy": accuracy}

    def batch(self, tokens: jax.Array, symbols: jax.Array) -> Batch:
        """The batch that shows `tokens`, (B, T), and asks for `symbols`, (B, S), at the end."""
        before = ((0, 0), (self.steps - self.symbols, 0))
        targets = jnp.pad(symbols, before, constant_values=self.blank)
        elsewhere = 1.0 if self.counted == "all" else 0.0
        weights = jnp.pad(jnp.ones(symbols.shape), before, constant_values=elsewhere)
        return Batch(jax.nn.one_hot(tokens, self.in_features), targets, weights)


@dataclass(frozen=True)
class CopyMemory(RecalledSymbols):
    """The copy memory problem: repeat a list of symbols after a delay.

    The first S = `symbols` steps show the list, each symbol drawn from an alphabet of A, all as
    likely. The next `delay` steps are blank, but for the last of them, which shows a marker; then S
    blank steps follow, at which the list is to be given in its order. Until then the answer is
    blank. T = `delay` + 2 S.

    Who remembers nothing but knows the step says blank until the recall, which costs nothing, and
    guesses then: S ln A / (`delay` + 2 S), the mean over all steps, or ln A over the recall alone.
    Solved is judged by the symbols recalled, not by the blanks.

    Attributes:
      delay: steps between the end of the list and the recall, the marker's included; at least 1.
      symbols: S, the length of the list.
      alphabet: A, at least 2.
      counted: the steps that weigh: "all", as in the sources, or those of the "recall" alone.
      solved_above: the share of symbols recalled right over which it counts as solved.

    Example:
      >>> task = rj.tasks.CopyMemory(delay=4, symbols=3, alphabet=4)
      >>> batch = task.sample(jax.random.key(0), 1)
      >>> shown = batch.inputs[0].argmax(-1)  # symbols 0 to 3, the blank 4, the marker 5
      >>> shown[:3].tolist() == batch.targets[0, -3:].tolist()
      True
      >>> task.steps, round(task.chance_loss, 3)  # 3 ln 4 / 10
      (10, 0.416)

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (the origin); M. Arjovsky,
      A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", 2016 (this form).
    """

    delay: int
    symbols: int = 10
    alphabet: int = 8
    counted: Literal["all", "recall"] = "all"
    solved_above: float = 0.99

    def __post_init__(self) -> None:
        check_size("delay", self.delay)
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.delay + 2 * self.symbols

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, A + 2), one of them 1: the symbols, the blank, the marker; targets (B, T),
          a symbol or the blank, A; weights (B, T).
        """
        size = check_size("batch_size", batch_size)
        symbols = jax.random.randint(check_key(key), (size, self.symbols), 0, self.alphabet)
        after = ((0, 0), (0, self.steps - self.symbols))
        tokens = jnp.pad(symbols, after, constant_values=self.blank)
        tokens = tokens.at[:, -self.symbols - 1].set(self.marker)
        return self.batch(tokens, symbols)
