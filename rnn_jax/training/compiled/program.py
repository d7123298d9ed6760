"""A run as compiled programs: one call for many steps of all members."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.training.compiled.program_cache import cached_program
from rnn_jax.training.data.batches import Data, data_of, holding
from rnn_jax.training.devices.layout import Layout, fetch
from rnn_jax.training.ensemble import key_of
from rnn_jax.training.model_call import run_model
from rnn_jax.training.parameters.variables import in_evaluation
from rnn_jax.training.plan import Plan
from rnn_jax.training.report import Findings, Report
from rnn_jax.training.step import (
    TrainState,
    init_train_state,
    run_probe,
    train_steps,
    unless_all_stopped,
)


class Call(NamedTuple):
    """A call of the loop that was started; a device may still be at it.

    Attributes:
      state: of all members after it.
      report: on its steps, not yet on the host.
      first: training steps done before it.
      length: training steps of it.
      position: the place in the data after it; None of none.
    """

    state: TrainState
    report: Report
    first: int
    length: int
    position: Any = None

    @property
    def done(self) -> int:
        """Training steps done after it."""
        return self.first + self.length


def keys_of(members: int | None, seed: int) -> tuple[jax.Array, jax.Array]:
    """(key of each member, key of the probes)."""
    data_key, probe_key = jax.random.split(key_of(seed))
    if members is None:
        return jax.random.fold_in(data_key, 0), probe_key
    numbers = jnp.arange(members, dtype=jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, data_key))(numbers), probe_key


def training_call(
    plan: Plan, layout: Layout, length: int
) -> Callable[..., tuple[TrainState, Report]]:
    """What a call of the loop runs: `length` steps of all members, and an evaluation.

    Returns:
      A function of the state, the members' keys, the probes' key, hyperparameters, data and the
      steps done before.
    """

    def train(
        state: TrainState,
        key: jax.Array,
        probe_key: jax.Array,
        hyperparameters: Any,
        data: Data,
        first: jax.Array,
    ) -> tuple[TrainState, Report]:
        def one(
            shared: tuple[Data, jax.Array, jax.Array], state: TrainState, key: jax.Array, own: Any
        ) -> tuple[TrainState, Report]:
            data, probe_key, first = shared
            return train_steps(
                holding(plan, data), layout.spread, length, state, key, probe_key, own, first
            )

        def all_members(state: TrainState) -> tuple[TrainState, Report]:
            of_all = layout.over_members(one, (data, probe_key, first))
            found: tuple[TrainState, Report] = of_all(state, key, hyperparameters)
            return found

        state, report = unless_all_stopped(plan, all_members, state)
        return layout.constrain(state), layout.replicate(report)

    return train


class Program:
    """Starts, advances and measures the members of a run.

    Each of its functions is traced once, and compiled if no run before has had the same program.

    Args:
      plan: how to train.
      layout: how many members, and where they lie.
      seed: of data and noise. Member i draws from stream i, so that the first member of an
        ensemble sees what a single model sees.
      hyperparameters: of the optimiser, with a leading axis for the members, or None.
    """

    def __init__(self, plan: Plan, layout: Layout, seed: int, hyperparameters: Any):
        self.plan, self.layout = plan, layout
        key, probe_key = keys_of(layout.members, seed)
        self.key, self._hyperparameters = layout.place((key, hyperparameters))
        self._probe_key = layout.place_everywhere(probe_key)
        self._data: Data = layout.place_everywhere(data_of(plan.task))
        self._train: dict[int, Callable[..., tuple[TrainState, Report]]] = {}
        self._measure: Callable[..., Findings] | None = None

    def start(self, model: Any) -> TrainState:
        """All members before their first step."""

        def one(_: None, model: Any, hyperparameters: Any) -> TrainState:
            return init_train_state(self.plan, model, hyperparameters)

        def start(model: Any, hyperparameters: Any) -> TrainState:
            return self.layout.constrain(self.layout.over_members(one)(model, hyperparameters))

        arguments = (self.layout.place(model), self._hyperparameters)
        state: TrainState = cached_program(start, *arguments)(*arguments)
        return state

    def check(self, state: TrainState, steps: int) -> None:
        """Traces the first call, so that what cannot be trained is said before anything is done.

        Raises:
          ValueError, TypeError: of what the task, the model, the optimiser and the probes return,
            and what they raise themselves.
        """
        if not steps:
            return
        try:
            self._trace(self.plan.next_length(0, steps), state)
        except (TypeError, ValueError) as error:
            members = self._members_of(state.model)
            if members is None:
                raise
            raise type(error)(
                f"{error}\nThe model of an ensemble must be said to be one where it does not know "
                f"it itself; got a model whose arrays all have a leading axis of {members}. Pass "
                f"members={members}."
            ) from error

    def _members_of(self, model: Any) -> int | None:
        """E of a model that was taken for a single one and is an ensemble; else None."""
        axes = {leaf.shape[:1] for leaf in jax.tree.leaves(model)}
        if self.layout.members is not None or len(axes) != 1 or axes == {()}:
            return None
        task, size = self.plan.task, self.plan.batch_size

        def loss(model: Any) -> jax.Array:
            batch = task.sample(self._probe_key, size)
            return task.loss(run_model(in_evaluation(model), batch, None), batch)

        try:
            jax.eval_shape(jax.vmap(loss), model)
        except Exception:  # What its members cannot do either is no matter of their number.
            return None
        return int(axes.pop()[0])

    def advance(self, state: TrainState, first: int, length: int) -> Call:
        """Starts `length` steps from `first` on, and does not wait for them."""
        train = self._trained_for(length, state)
        state, report = train(*self._arguments(state), np.int32(first))
        return Call(state, report, first, length)

    def ready(self, length: int) -> bool:
        """Whether `length` more steps could be started now without waiting for data."""
        return True

    def read(self, call: Call) -> Report:
        """Waits for a call; its report on the host, NaN for means of no steps."""
        return call.report.fetched()

    def begin(self, done: int, steps: int) -> None:
        """Steps from `done` to `steps` are about to be made."""

    @property
    def position(self) -> Any:
        """The place in the data after the last call that was read; None of none."""
        return None

    def go_to(self, position: Any) -> None:
        """Goes to the place in the data of a checkpoint."""

    def measure(self, state: TrainState) -> Findings:
        """What all probes find in the models as they are; numbers on the host."""
        if not self.plan.probes:
            return {}

        def measure(model: Any, probe_key: jax.Array, data: Data) -> Findings:
            def one(shared: tuple[Data, jax.Array], model: Any) -> Findings:
                plan, probe_key = holding(self.plan, shared[0]), shared[1]
                return {
                    probe.name: run_probe(plan, probe, probe_key, model) for probe in plan.probes
                }

            found = self.layout.over_members(one, (data, probe_key))(model)
            return self.layout.replicate(found)

        arguments = (state.model, self._probe_key, self._data)
        if self._measure is None:
            self._measure = cached_program(measure, *arguments)
        return fetch(self._measure(*arguments))

    def _trace(self, length: int, state: TrainState) -> None:
        """Traces what a call of `length` steps runs."""
        self._trained_for(length, state)

    def _trained_for(
        self, length: int, state: TrainState
    ) -> Callable[..., tuple[TrainState, Report]]:
        """The compiled function of `length` steps and an evaluation."""
        if length not in self._train:
            train = training_call(self.plan, self.layout, length)
            self._train[length] = cached_program(train, *self._arguments(state), np.int32(0))
        return self._train[length]

    def _arguments(self, state: TrainState) -> tuple[Any, ...]:
        return state, self.key, self._probe_key, self._hyperparameters, self._data
