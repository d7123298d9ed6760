"""The temporal order problem."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count, check_key, check_size
from rnn_jax.tasks.base import Batch, CrossEntropy

# Where each relevant symbol may stand, in per cent of the length, both ends included.
_WINDOWS = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}

_DISTRACTORS = 4


@dataclass(frozen=True)
class TemporalOrder(CrossEntropy):
    """The temporal order problem: in which order two relevant symbols came.

    The sequence consists of distractors drawn from a, b, c, d, except for two (or three) widely
    separated steps that show a relevant symbol, X or Y, each as likely. After the last step the
    sequence is to be named by them, in their order: XX, XY, YX, YY are classes 0 to 3 (and XXX to
    YYY classes 0 to 7). The sequence starts with the marker E and ends with B, the trigger.

    The first symbol stands at a step in [T/10, 2T/10], the second in [5T/10, 6T/10], all steps of
    a window as likely; with three symbols the windows are [0.1 T, 0.2 T], [0.33 T, 0.43 T] and
    [0.66 T, 0.76 T], all rounded down, steps counted from 0. (The source draws T between 100 and
    110, with the windows of T = 100; here T is fixed.) The last step shows no relevant symbol and
    all classes are as likely, so who remembers nothing pays ln 4 (ln 8).

    Attributes:
      length: T, in steps, at least 10, so that the windows lie apart.
      symbols: how many relevant symbols, 2 or 3.
      markers: whether E and B mark the ends; if not, distractors stand there.
      solved_above: the share of right classes over which it counts as solved.

    Example:
      >>> task = rj.tasks.TemporalOrder(length=20)
      >>> batch = task.sample(jax.random.key(0), 1)
      >>> shown = "".join("abcdXYEB"[i] for i in batch.inputs[0].argmax(-1))
      >>> relevant = [symbol for symbol in shown if symbol in "XY"]
      >>> ("XX", "XY", "YX", "YY").index("".join(relevant)) == int(batch.targets[0])
      True

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (experiments 6a and 6b);
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013 (the windows for any length, and no markers).
    """

    length: int
    symbols: int = 2
    markers: bool = True
    solved_above: float = 0.99

    readout: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        if check_size("length", self.length) < 10:
            raise ValueError(
                "length must be at least 10, or the places of the relevant symbols fall together; "
                f"got {self.length}. Pass length=10 or more."
            )
        check_count("symbols", self.symbols, low=min(_WINDOWS), high=max(_WINDOWS))
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: one for each of a, b, c, d, X, Y and, with markers, E and B."""
        return _DISTRACTORS + (4 if self.markers else 2)

    @property
    def out_features(self) -> int:
        """O: one for each order."""
        return 2**self.symbols

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of the predictor that remembers nothing: ln 2 for each symbol."""
        return self.symbols * math.log(2)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, I), one of them 1, in the order a, b, c, d, X, Y, E, B; targets (B,), the
          relevant symbols read as digits of a binary number, X for 0 and Y for 1; weights (B,).
        """
        size = check_size("batch_size", batch_size)
        key_distractor, key_place, key_symbol = jax.random.split(check_key(key), 3)
        tokens = jax.random.randint(key_distractor, (size, self.length), 0, _DISTRACTORS)
        symbols = jax.random.randint(key_symbol, (size, self.symbols), 0, 2)
        windows = np.array(_WINDOWS[self.symbols]) * self.length // 100
        places = jax.random.randint(
            key_place, symbols.shape, windows[None, :, 0], windows[None, :, 1] + 1
        )
        tokens = tokens.at[jnp.arange(size)[:, None], places].set(_DISTRACTORS + symbols)
        if self.markers:
            tokens = tokens.at[:, 0].set(_DISTRACTORS + 2).at[:, -1].set(_DISTRACTORS + 3)
        digits = 2 ** jnp.arange(self.symbols)[::-1]
        targets = jnp.sum(symbols * digits[None, :], axis=1)
        return Batch(jax.nn.one_hot(tokens, self.in_features), targets, jnp.ones(size))
