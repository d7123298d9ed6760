"""Selective copying."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_key, check_size
from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.copy_memory import RecalledSymbols


@dataclass(frozen=True)
class SelectiveCopy(RecalledSymbols):
    """Selective copying: repeat the symbols that were scattered among blanks.

    S = `symbols` symbols, each drawn from an alphabet of A, all as likely, stand at steps drawn
    from those before the recall, all sets of steps as likely; the other steps are blank. The last S
    steps ask for them, in the order in which they came. Unlike in the copy memory problem the
    spacing varies, so that time alone does not tell what to keep.

    Every step of the recall shows the marker (`cue` "every", as in Gu and Dao's code), or one
    marker stands right before the recall, whose steps are blank ("once", as in the denoising task
    of Jing et al.). What is shown then says nothing about the symbols, so who remembers nothing
    pays ln A for each, and S ln A / T if the steps before, whose answer is blank, count too.
    Solved is judged by the symbols recalled, not by the blanks.

    Attributes:
      length: T, in steps, the recall included; at least 2 S, and one more with a single marker.
      symbols: S, how many symbols are to be copied.
      alphabet: A, at least 2; 14 makes 16 inputs, with the blank and the marker.
      cue: "every" step of the recall is marked, or its beginning, "once".
      counted: the steps that weigh: those of the "recall", or "all".
      solved_above: the share of symbols recalled right over which it counts as solved.

    Example:
      >>> task = rj.tasks.SelectiveCopy(length=12, symbols=3, alphabet=4)
      >>> batch = task.sample(jax.random.key(0), 1)
      >>> shown = batch.inputs[0].argmax(-1)  # symbols 0 to 3, the blank 4, the marker 5
      >>> shown[shown < 4].tolist() == batch.targets[0, -3:].tolist()
      True
      >>> shown[-3:].tolist()
      [5, 5, 5]

    References:
      A. Gu and T. Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023;
      L. Jing et al., "Gated orthogonal recurrent units: on learning to forget", 2019 (denoising:
      symbols=10, alphabet=9, cue="once", counted="all").
    """

    length: int
    symbols: int = 16
    alphabet: int = 14
    cue: Literal["every", "once"] = "every"
    counted: Literal["all", "recall"] = "recall"
    solved_above: float = 0.99

    def __post_init__(self) -> None:
        check_size("length", self.length)
        check_choice("cue", self.cue, ("every", "once"))
        super().__post_init__()
        if self._places < self.symbols:
            shortest = self.length + self.symbols - self._places
            raise ValueError(
                f"length must be at least {shortest} to show {self.symbols} symbols, then the "
                f'marker (cue="{self.cue}"), and recall them; got {self.length}. Pass '
                f"length={shortest} or more, or fewer symbols."
            )

    @property
    def _places(self) -> int:
        """The steps at which a symbol may stand."""
        return self.length - self.symbols - (self.cue == "once")

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

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
        key_symbol, key_place = jax.random.split(check_key(key))
        symbols = jax.random.randint(key_symbol, (size, self.symbols), 0, self.alphabet)
        # The places of the largest of independent numbers are a set drawn without replacement.
        ranks = jax.random.uniform(key_place, (size, self._places))
        places = jnp.sort(jax.lax.top_k(ranks, self.symbols)[1], axis=1)
        tokens = jnp.full((size, self.length), self.blank)
        tokens = tokens.at[jnp.arange(size)[:, None], places].set(symbols)
        if self.cue == "every":
            tokens = tokens.at[:, -self.symbols :].set(self.marker)
        else:
            tokens = tokens.at[:, -self.symbols - 1].set(self.marker)
        return self.batch(tokens, symbols)
