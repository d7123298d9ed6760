"""The adding problem."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_key, check_size
from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.marked import MarkedNumbers, Variant, draw_marked, hidden_share


@dataclass(frozen=True)
class Adding(MarkedNumbers):
    """The adding problem: remember two marked numbers and give their sum.

    Each step shows a number u_t, uniform in [0, 1), and a marker. The marker is 1 at two steps, one
    drawn from each half of the sequence, and 0 elsewhere; the target is u_i + u_j. Predicting the
    mean, 1, without looking costs the variance of the sum, 2 · 1/12 = 1/6. (Looking would save half
    of it if the last step is marked, once in T/2 sequences.)

    That is the variant "arjovsky". In the two older ones a sequence has L steps, L drawn from
    [`length`, 1.1 `length`]; a shorter one starts later, after zeros in both features, so that all
    end at the last step:

    - "martens": the first mark is among the first L/10 steps, the second among those from there up
      to L/2, and the target is (u_i + u_j) / 2. The mean, 1/2, costs 1/24.
    - "hochreiter": the numbers X are uniform in [−1, 1); the first mark is among the first ten
      steps, the second among the first `length`/2 − 1 of the others. The first and the last step
      have the marker −1, and if a mark is drawn for the first it is not shown and its number counts
      as 0. The target is 1/2 + (X_i + X_j) / 4. The mean, 1/2, costs (2 − q) / 48, with
      q = 1/10 + (9/10) / (`length`/2 − 1) the marks that a sequence loses in the mean.

    Attributes:
      length: T, in steps, at least 2; in "martens" the fewest, at least 10, and in "hochreiter" the
        fewest, at least 11.
      solved_below: the mean squared error under which it counts as solved. In the two older
        variants, whose targets are the halved sum, pass 0.0016 for their papers' own tolerance, an
        error of 0.04.
      variant: whose protocol, "arjovsky", "hochreiter" or "martens".

    Example:
      >>> task = rj.tasks.Adding(length=50)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> number, marker = batch.inputs[..., 0], batch.inputs[..., 1]
      >>> bool(jnp.allclose((number * marker).sum(1, keepdims=True), batch.targets))
      True
      >>> round(task.chance_loss, 4)
      0.1667

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (the task); J. Martens and
      I. Sutskever, "Learning recurrent neural networks with Hessian-free optimization", 2011;
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013 (their form of it in published code); Q. Le, N. Jaitly and G. Hinton, "A
      simple way to initialize recurrent networks of rectified linear units", 2015; M. Arjovsky,
      A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", 2016 (the default).
    """

    length: int
    solved_below: float = 0.01
    variant: Variant = "arjovsky"

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: 1/6 by default."""
        if self.variant == "arjovsky":
            return 1 / 6
        if self.variant == "martens":
            return 1 / 24
        return (2 - hidden_share(self.length, self.variant)) / 48

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 2), the number first and its marker second; targets (B, 1); weights (B,).
        """
        size = check_size("batch_size", batch_size)
        low = -1.0 if self.variant == "hochreiter" else 0.0
        drawn = draw_marked(check_key(key), size, self.length, self.variant, low)
        targets = jnp.sum(jnp.where(drawn.hidden, 0.0, drawn.numbers), axis=1, keepdims=True)
        if self.variant == "martens":
            targets = targets / 2
        elif self.variant == "hochreiter":
            targets = 0.5 + targets / 4
        return Batch(drawn.inputs, targets, jnp.ones_like(targets[:, 0]))
