"""The multiplication problem."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_key, check_size
from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.marked import MarkedNumbers, draw_marked, hidden_share


@dataclass(frozen=True)
class Multiplication(MarkedNumbers):
    """The multiplication problem: remember two marked numbers and give their product.

    Each step shows a number u_t, uniform in [0, 1), and a marker. A sequence has L steps, L drawn
    from [`length`, 1.1 `length`]; a shorter one starts later, after zeros in both features, so that
    all end at the last step. The marker is 1 at two steps, one of the first ten and one of the
    first `length`/2 − 1 of the others; it is −1 at the first and the last step, and 0 elsewhere. If
    a mark is drawn for the first step it is not shown and its number counts as 1. The target is
    u_i u_j.

    That is the variant "hochreiter". In "martens" one mark is among the first L/10 steps and one
    from there up to L/2; no marker is −1 and no mark is hidden.

    Who remembers nothing says the mean of the product, and pays its variance: 1/9 − 1/16 = 7/144 if
    both marks are to be seen; with q = 1/10 + (9/10) / (`length`/2 − 1) the share of sequences in
    which one is not, (1 + 2q)/9 − (1 + q)²/16.

    Attributes:
      length: the fewest steps, at least 11 in "hochreiter" and 10 in "martens".
      solved_below: the mean squared error under which it counts as solved; 0.0016 is the first
        paper's own tolerance, an error of 0.04.
      variant: whose protocol of marks, "hochreiter" or "martens".

    Example:
      >>> task = rj.tasks.Multiplication(length=50, variant="martens")
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> batch.inputs.shape, batch.targets.shape  # up to 1.1 · length steps
      ((4, 55, 2), (4, 1))
      >>> round(task.chance_loss, 4)  # 7/144
      0.0486

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (the task, and the default);
      J. Martens and I. Sutskever, "Learning recurrent neural networks with Hessian-free
      optimization", 2011; R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training
      recurrent neural networks", 2013 (their form of it in published code).
    """

    length: int
    solved_below: float = 0.0016
    variant: Literal["hochreiter", "martens"] = "hochreiter"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("hochreiter", "martens"))
        super().__post_init__()

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: the product's variance."""
        q = hidden_share(self.length, self.variant)
        return (1 + 2 * q) / 9 - (1 + q) ** 2 / 16

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 2), the number first and its marker second; targets (B, 1); weights (B,).
        """
        size = check_size("batch_size", batch_size)
        drawn = draw_marked(check_key(key), size, self.length, self.variant)
        targets = jnp.prod(jnp.where(drawn.hidden, 1.0, drawn.numbers), axis=1, keepdims=True)
        return Batch(drawn.inputs, targets, jnp.ones_like(targets[:, 0]))
