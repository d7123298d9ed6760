"""How members stand, and what steps report of themselves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.training.devices.layout import fetch
from rnn_jax.training.objective.terms import TermValue
from rnn_jax.training.plan import Plan
from rnn_jax.training.probes import Finding

# The value of a step that has not come.
NEVER = -1

# By probe.
Findings = dict[str, Finding]


class MemberStatus(NamedTuple):
    """How a member stands; whole numbers, `NEVER` where it has not happened.

    Attributes:
      solved_at: training steps done when an evaluation first said that the task is solved.
      failed_at: the first step, counted from 0, whose loss or update was not finite.
      skipped: steps whose update was left out because it was not finite.
      best_at: training steps done at the best evaluation so far.
      stopped_at: training steps done when there had been no improvement for too long.
      waited: evaluations since the last improvement.
    """

    solved_at: jax.Array
    failed_at: jax.Array
    skipped: jax.Array
    best_at: jax.Array
    stopped_at: jax.Array
    waited: jax.Array


def initial_status() -> MemberStatus:
    """Of a member that has not begun."""
    never = jnp.int32(NEVER)
    none = jnp.int32(0)
    return MemberStatus(
        solved_at=never, failed_at=never, skipped=none, best_at=never, stopped_at=never, waited=none
    )


def has_stopped(plan: Plan, status: MemberStatus) -> Any:
    """Whether a member's steps no longer change it."""
    by_failure = (status.failed_at != NEVER) & (plan.on_nonfinite != "skip")
    by_success = (status.solved_at != NEVER) & plan.stop_when_solved
    return by_failure | by_success | (status.stopped_at != NEVER)


class Mean(NamedTuple):
    """A mean over steps, 0 where `over` says that there were none.

    A NaN instead would be an alarm to `jax.debug_nans`, so it is said on the host alone.
    """

    value: jax.Array
    over: jax.Array


class Report(NamedTuple):
    """What one member did over some steps.

    Attributes:
      loss: mean of what was minimised at the steps whose update was made.
      gradient_norm: mean of the gradients' global norms, before the optimiser, over these steps.
      updates: how many these were.
      metrics: of the model after the last step, on fresh data.
      probes: by probe what it measured, with a leading axis for the moments it might have.
      status: after the last step.
      terms: by name, mean of each term of an objective over those of the steps at which its weight
        was not 0.
      broken: by name, whether a term was not finite at the step at which the member failed.
    """

    loss: Mean
    gradient_norm: Mean
    updates: jax.Array
    metrics: dict[str, jax.Array]
    probes: dict[str, dict[str, jax.Array]]
    status: MemberStatus
    terms: dict[str, Mean]
    broken: dict[str, jax.Array]

    def fetched(self) -> "Report":
        """On the host; there a mean over no steps is NaN."""
        return jax.tree.map(_read, fetch(self), is_leaf=lambda node: isinstance(node, Mean))


class StepReport(NamedTuple):
    """What one training step did.

    Attributes:
      loss: what was minimised, before the update.
      gradient_norm: of its gradient.
      updated: whether the update was made.
      terms: of the objective, by name.
      broken: by name, whether a term was not finite where the member failed for the first time.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    updated: jax.Array
    terms: dict[str, TermValue]
    broken: dict[str, jax.Array]


class Records(NamedTuple):
    """What some steps left, before anything is averaged.

    Attributes:
      found: by probe what it measured, with a leading axis for the moments it might have.
      steps: of each step.
    """

    found: Findings
    steps: StepReport


def mean_over(values: jax.Array, counted: jax.Array) -> Mean:
    """Mean over the steps that are counted."""
    none = jnp.all(~counted)
    values = jnp.where(none, jnp.zeros_like(values), values)
    return Mean(jnp.mean(values, where=counted | none), jnp.sum(counted, dtype=jnp.int32))


def _read(node: Any) -> Any:
    """A mean, or anything else, on the host."""
    if not isinstance(node, Mean):
        return node
    value = np.asarray(node.value)
    return np.where(np.equal(node.over, 0), value.dtype.type(np.nan), value)
