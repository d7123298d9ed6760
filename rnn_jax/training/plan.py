"""What a run does, as plain checked values, and how its steps are cut."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from rnn_jax.checks import check_choice, check_size, kind_of
from rnn_jax.training.probes import Probe

ON_NONFINITE = ("stop", "skip", "raise")
# Sequences at least in each evaluation, where nothing else is said.
_EVALUATED = 256


@dataclass(frozen=True)
class Plan:
    """How to train; everything that the compiled program depends on but arrays.

    Attributes:
      task: what is learnt.
      optimizer: an optax transformation, or a function from hyperparameters to one.
      batch_size: B of each training step.
      evaluation_size: sequences in each evaluation.
      evaluate_every: training steps between evaluations: one call of the compiled loop.
      stop_when_solved: a member that has solved the task stays as it is.
      on_nonfinite: "stop", "skip" or "raise".
      probes: what is measured on the way.
    """

    task: Any
    optimizer: Any
    batch_size: int
    evaluation_size: int
    evaluate_every: int
    stop_when_solved: bool
    on_nonfinite: str
    probes: tuple[Probe, ...]

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
        chosen = self.optimizer if hyperparameters is None else self.optimizer(hyperparameters)
        if not isinstance(chosen, optax.GradientTransformation):
            raise TypeError(
                "optimizer must return an optax transformation for each member's hyperparameters; "
                f"got {kind_of(chosen)}. Pass for example optax.adam."
            )
        return optax.with_extra_args_support(chosen)


def make_plan(
    task: Any,
    optimizer: Any,
    *,
    batch_size: int,
    evaluation_size: int | None,
    evaluate_every: int,
    stop_when_solved: bool,
    on_nonfinite: str,
    probes: Probe | Sequence[Probe],
    hyperparameters: Any,
) -> Plan:
    """Checks what the user gave.

    Raises:
      ValueError, TypeError: with the rule, what arrived and the fix.
    """
    batch_size = check_size("batch_size", batch_size)
    # A multiple of the batch, so that devices that share the batch can share this one too.
    evaluated = batch_size * -(-_EVALUATED // batch_size)
    return Plan(
        task=_check_task(task),
        optimizer=_check_optimizer(optimizer, hyperparameters),
        batch_size=batch_size,
        evaluation_size=(
            evaluated if evaluation_size is None else check_size("evaluation_size", evaluation_size)
        ),
        evaluate_every=check_size("evaluate_every", evaluate_every),
        stop_when_solved=bool(stop_when_solved),
        on_nonfinite=check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE),
        probes=_check_probes(probes),
    )


def _check_task(task: Any) -> Any:
    missing = [name for name in ("sample", "loss", "metrics", "solved") if not hasattr(task, name)]
    if isinstance(task, type) or missing:
        raise TypeError(
            "task must have sample, loss, metrics and solved; got "
            f"{kind_of(task)}. Pass for example rnn_jax.tasks.Adding(100)."
        )
    _check_hashable("task", task)
    return task


def _check_hashable(name: str, value: Any) -> None:
    """Compiled programs are kept by task and probes."""
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"a {name} must be hashable; {kind_of(value)} is not. Make it a dataclass with "
            "frozen=True, with tuples instead of lists."
        ) from error


def _check_optimizer(optimizer: Any, hyperparameters: Any) -> Any:
    is_optax = isinstance(optimizer, optax.GradientTransformation)
    if hyperparameters is None and not is_optax:
        raise TypeError(
            f"optimizer must be an optax transformation; got {kind_of(optimizer)}. Pass for "
            "example optax.adam(1e-3), or with hyperparameters= a function of them."
        )
    if hyperparameters is not None and (is_optax or not callable(optimizer)):
        raise TypeError(
            "with hyperparameters, optimizer must be a function from one member's hyperparameters "
            f"to an optax transformation; got {kind_of(optimizer)}. Pass for example optax.adam "
            "and hyperparameters=[1e-3, 3e-3]."
        )
    return optimizer


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and bool(value > 0)


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
        _check_hashable("probe", probe)
    names = [probe.name for probe in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"probes must have different names; got {name!r} {names.count(name)} times. Pass "
                f'name="…" to one of them.'
            )
    return found
