"""A run as compiled programs: one call for many steps of all members."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.training.devices.layout import Layout, fetch
from rnn_jax.training.plan import Plan
from rnn_jax.training.step import (
    Findings,
    Report,
    TrainState,
    init_train_state,
    run_probe,
    train_steps,
)


class Program:
    """Starts, advances and measures the members of a run.

    Args:
      plan: how to train.
      layout: how many members, and where they lie.
      seed: of data and noise. Member i draws from stream i, so that the first member of an
        ensemble sees what a single model sees.
      hyperparameters: of the optimiser, with a leading axis for the members, or None.
    """

    def __init__(self, plan: Plan, layout: Layout, seed: int, hyperparameters: Any):
        self.plan, self.layout = plan, layout
        data_key, probe_key = jax.random.split(jax.random.key(seed))
        if layout.members is None:
            key = jax.random.fold_in(data_key, 0)
        else:
            members = jnp.arange(layout.members, dtype=jnp.uint32)
            key = jax.vmap(functools.partial(jax.random.fold_in, data_key))(members)
        self.key, self._hyperparameters = layout.place((key, hyperparameters))
        self._probe_key = layout.place_everywhere(probe_key)

    def start(self, model: Any) -> TrainState:
        """All members before their first step."""
        return _start(self.plan, self.layout, self.layout.place(model), self._hyperparameters)

    def check(self, state: TrainState, steps: int) -> None:
        """Traces the first call, so that what cannot be trained is said before anything is done.

        Raises:
          ValueError: metrics or probes that give no numbers by name; and what the task, the model
            and the probes raise themselves.
        """
        if not steps:
            return
        length = self.plan.next_length(0, steps)
        keys = (self.key, self._probe_key, self._hyperparameters)
        _, report = _advance.eval_shape(self.plan, self.layout, length, state, *keys, np.int32(0))
        check_report(report, self.layout.members)

    def advance(self, state: TrainState, first: int, length: int) -> tuple[TrainState, Report]:
        """`length` steps from `first` on; the report's numbers are on the host."""
        state, report = _advance(
            self.plan,
            self.layout,
            length,
            state,
            self.key,
            self._probe_key,
            self._hyperparameters,
            np.int32(first),
        )
        return state, fetch(report)

    def measure(self, state: TrainState) -> Findings:
        """What all probes find in the models as they are; numbers on the host."""
        if not self.plan.probes:
            return {}
        return fetch(_measure(self.plan, self.layout, state.model, self._probe_key))


def check_report(report: Report, members: int | None) -> None:
    """Whether metrics and probes are what the records can hold.

    Raises:
      ValueError: they are not.
    """
    single = () if members is None else (members,)
    for name, metric in report.metrics.items():
        if metric.shape != single:
            raise ValueError(
                f"each of the task's metrics must be a scalar; got shape "
                f"{metric.shape[len(single) :]} for {name!r}. Take a mean."
            )
        if name in ("step", "gradient_norm", "updates"):
            raise ValueError(
                f"a metric must not be named {name!r}, which the history has already. Rename it."
            )
    for probe, found in report.probes.items():
        if not isinstance(found, dict) or not all(hasattr(v, "shape") for v in found.values()):
            raise ValueError(
                f"measure of the probe {probe!r} must return a dict of arrays by name; got "
                f"{found!r}. Flatten what is nested."
            )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(plan: Plan, layout: Layout, model: Any, hyperparameters: Any) -> TrainState:
    initialize = layout.over_members(functools.partial(init_train_state, plan))
    return layout.constrain(initialize(model, hyperparameters))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance(
    plan: Plan,
    layout: Layout,
    length: int,
    state: TrainState,
    key: jax.Array,
    probe_key: jax.Array,
    hyperparameters: Any,
    first: jax.Array,
) -> tuple[TrainState, Report]:
    def one(state: TrainState, key: jax.Array, hyperparameters: Any) -> tuple[TrainState, Report]:
        return train_steps(
            plan, layout.spread, length, state, key, probe_key, hyperparameters, first
        )

    state, report = layout.over_members(one)(state, key, hyperparameters)
    return layout.constrain(state), layout.replicate(report)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(plan: Plan, layout: Layout, model: Any, probe_key: jax.Array) -> Findings:
    def one(model: Any) -> Findings:
        return {probe.name: run_probe(plan, probe, probe_key, model) for probe in plan.probes}

    return layout.replicate(layout.over_members(one)(model))
