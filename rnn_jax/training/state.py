"""What a training run carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# The value of a step that has not come.
NEVER = -1


class Standing(NamedTuple):
    """How a member stands; whole numbers, `NEVER` where it has not happened.

    Attributes:
      solved_at: training steps done when an evaluation first said that the task is solved.
      failed_at: the first step, counted from 0, whose loss or update was not finite.
      skipped: steps whose update was left out because it was not finite.
    """

    solved_at: jax.Array
    failed_at: jax.Array
    skipped: jax.Array


class TrainState(NamedTuple):
    """One member's state, or with a leading axis that of an ensemble.

    Attributes:
      model: as it is now.
      optimizer_state: as it is now.
      best_model: the model of the best evaluation so far.
      best_loss: its loss on fresh data; inf before the first evaluation.
      standing: see `Standing`.
    """

    model: Any
    optimizer_state: Any
    best_model: Any
    best_loss: jax.Array
    standing: Standing


class Report(NamedTuple):
    """What one member did over some steps.

    Attributes:
      loss: mean loss of the steps whose update was made; NaN if there was none.
      gradient_norm: mean of the gradients' global norms, before the optimiser, over these steps.
      updates: how many these were.
      metrics: of the model after the last step, on fresh data.
      probes: by probe what it measured, with a leading axis for the moments it might have.
      standing: after the last step.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    updates: jax.Array
    metrics: dict[str, jax.Array]
    probes: dict[str, dict[str, jax.Array]]
    standing: Standing


def initial_standing() -> Standing:
    """Of a member that has not begun."""
    never = jnp.int32(NEVER)
    return Standing(solved_at=never, failed_at=never, skipped=jnp.int32(0))
