"""What a run does, as plain checked values, and how its steps are cut."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from rnn_jax.checks import check_choice, check_flag, check_size, kind_of
from rnn_jax.training.objective.terms import Objective, check_objective
from rnn_jax.training.parameters.optimizer import as_transformation, check_optimizer
from rnn_jax.training.probes import Probe
from rnn_jax.training.selection import Selection, make_selection

ON_NONFINITE = ("stop", "skip", "raise")
# Sequences at least in each evaluation, where nothing else is said.
_EVALUATED = 256


@dataclass(frozen=True, eq=False)
class Plan:
    """How to train; everything that the compiled program depends on but arrays.

    Attributes:
      task: what is learnt.
      optimizer: an optax transformation, or a function from hyperparameters to one.
      batch_size: B of each training step.
      evaluation_size: sequences in each evaluation, or at a time of a validation set.
      evaluate_every: training steps between evaluations: one call of the compiled loop.
      stop_when_solved: a member that has solved the task stays as it is.
      on_nonfinite: "stop", "skip" or "raise".
      probes: what is measured on the way.
      selection: which evaluation is the best, and when to stop for want of a better one.
      objective: what is minimised; None is the task's loss alone.
      trained: which leaves of a model are trained; None is all that are parameters.
    """

    task: Any
    optimizer: Any
    batch_size: int
    evaluation_size: int
    evaluate_every: int
    stop_when_solved: bool
    on_nonfinite: str
    probes: tuple[Probe, ...]
    selection: Selection
    objective: Objective | None = None
    trained: tuple[bool, ...] | None = None

    def stride(self, length: int) -> int:
        """Steps between two moments at which a probe may measure, in a call of `length` steps."""
        if not self.probes:
            return length
        return math.gcd(length, self.evaluate_every, *(probe.every for probe in self.probes))

    def next_length(self, done: int, steps: int) -> int:
        """Steps of the next call: up to the next multiple of `evaluate_every`, or to the end."""
        return min(steps - done, self.evaluate_every - done % self.evaluate_every)

    def optimizer_for(self, hyperparameters: Any) -> optax.GradientTransformationExtraArgs:
        """The transformation, of this member's hyperparameters if there are any."""
        if hyperparameters is None:
            return as_transformation(self.optimizer)
        return as_transformation(self.optimizer(hyperparameters), returned=True)


def make_plan(
    task: Any,
    optimizer: Any,
    *,
    batch_size: int | None,
    evaluation_size: int | None,
    evaluate_every: int,
    stop_when_solved: bool,
    on_nonfinite: str,
    probes: Probe | Sequence[Probe],
    hyperparameters: Any,
    best: Any = "loss",
    patience: int | None = None,
    min_delta: float = 0.0,
    objective: Any = None,
) -> Plan:
    """Checks what the user gave.

    Raises:
      ValueError, TypeError: with the rule, what arrived and the fix.
    """
    task = _check_task(task)
    # One with a finite number of examples is trained on each of them in turn.
    task = task.arrays() if hasattr(task, "arrays") else task
    batch_size = check_size("batch_size", batch_size)
    # A multiple of the batch, so that devices that share the batch can share this one too.
    evaluated = batch_size * -(-_EVALUATED // batch_size)
    checked_probes = _check_probes(probes)
    return Plan(
        task=task,
        optimizer=check_optimizer(optimizer, hyperparameters),
        batch_size=batch_size,
        evaluation_size=(
            evaluated if evaluation_size is None else check_size("evaluation_size", evaluation_size)
        ),
        evaluate_every=check_size("evaluate_every", evaluate_every),
        stop_when_solved=check_flag("stop_when_solved", stop_when_solved),
        on_nonfinite=check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE),
        probes=checked_probes,
        selection=make_selection(best, patience, min_delta),
        objective=check_objective(objective, tuple(probe.name for probe in checked_probes)),
    )


def _check_task(task: Any) -> Any:
    missing = [name for name in ("sample", "loss", "metrics", "solved") if not hasattr(task, name)]
    if isinstance(task, type) or missing:
        raise TypeError(
            "task must have sample, loss, metrics and solved; got "
            f"{kind_of(task)}. Pass for example rnn_jax.tasks.Adding(100), or data of your own as "
            "rnn_jax.tasks.Arrays or rnn_jax.tasks.Loader."
        )
    return task


def _is_positive(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and bool(value > 0)


def _check_probes(probes: Any) -> tuple[Probe, ...]:
    needed: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("name", lambda name: isinstance(name, str)),
        ("every", _is_positive),
        ("batch_size", _is_positive),
        ("measure", callable),
    )
    found = tuple(probes) if isinstance(probes, Sequence) else (probes,)
    for probe in found:
        if not all(hasattr(probe, name) and fits(getattr(probe, name)) for name, fits in needed):
            raise TypeError(
                "a probe must have a name, every, batch_size and measure(model, xs); got "
                f"{kind_of(probe)}. Pass for example rnn_jax.GradientFlowProbe(every=100)."
            )
    names = [probe.name for probe in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"probes must have different names; got {name!r} {names.count(name)} times. Pass "
                f'name="…" to one of them.'
            )
    return found
