"""A run on batches of the host as compiled programs: a call for each chunk, and one to evaluate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.training.compiled.program import Call, Program
from rnn_jax.training.compiled.program_cache import cached_program
from rnn_jax.training.data.batches import Data, holding
from rnn_jax.training.data.feeding import Feed
from rnn_jax.training.data.reading import Position
from rnn_jax.training.devices.layout import Layout
from rnn_jax.training.plan import Plan
from rnn_jax.training.report import Records, Report
from rnn_jax.training.step import TrainState, conclude, run_steps, unless_all_stopped


class FedProgram(Program):
    """As `Program`, of a `Loader`, whose batches are arguments of the compiled steps.

    Args:
      feed: of the batches.
      plan, layout, seed, hyperparameters: as for `Program`.
    """

    def __init__(self, feed: Feed, plan: Plan, layout: Layout, seed: int, hyperparameters: Any):
        super().__init__(plan, layout, seed, hyperparameters)
        self._feed = feed
        # All that an evaluation and a probe look at.
        self._validation = layout.place_everywhere(plan.task.validation)
        self._data = (None, self._validation)
        self._steps: dict[tuple[int, int], Callable[..., tuple[TrainState, Records]]] = {}
        self._conclusion: dict[tuple[int, ...], Callable[..., tuple[TrainState, Report]]] = {}

    def begin(self, done: int, steps: int) -> None:
        """Starts to read ahead."""
        self._feed.begin(self.plan, self.layout, done, steps)

    @property
    def position(self) -> Position | None:
        """The place in the data after the last call that was read."""
        return self._feed.position

    def go_to(self, position: Position) -> None:
        """Goes to the place in the data of a checkpoint."""
        self._feed.go_to(position)

    def advance(self, state: TrainState, first: int, length: int) -> Call:
        """Starts `length` steps from `first` on, and waits for nothing but their batches.

        Raises:
          ValueError, TypeError: a batch that cannot be trained on.
        """
        stride, done, parts, position = self._stride(length), first, [], None
        for _ in self._feed.lengths(self.plan, length):
            chunk = self._feed.next()
            arguments = (*self._with(state, chunk.batches), np.int32(done))
            state, records = self._steps_for(chunk.length, stride, arguments)(*arguments)
            parts.append(records)
            done, position = done + chunk.length, chunk.position
        arguments = (state, self.key, tuple(parts), self._data, np.int32(done))
        state, report = self._conclusion_for(arguments)(*arguments)
        return Call(state, report, first, length, position)

    def ready(self, length: int) -> bool:
        """Whether `length` more steps could be started now without waiting for data.

        Not of more batches than one chunk has: those of two calls would lie on the device at once.
        And never in one of several processes, which all must start it at the same moment.
        """
        one_chunk = len(self._feed.lengths(self.plan, length)) == 1
        return one_chunk and self._feed.is_ready() and jax.process_count() == 1

    def read(self, call: Call) -> Report:
        """Waits for a call; its report on the host."""
        report = super().read(call)
        self._feed.done(call.position)
        return report

    def _trace(self, length: int, state: TrainState) -> None:
        """Traces what a call of `length` steps runs."""
        size, stride = self._feed.lengths(self.plan, length)[0], self._stride(length)
        batches = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), self._feed.first
        )
        arguments = (*self._with(state, batches), np.int32(0))
        _, records = jax.eval_shape(self._steps_for(size, stride, arguments), *arguments)
        self._conclusion_for((state, self.key, (records,), self._data, np.int32(0)))

    def _stride(self, length: int) -> int | None:
        """Steps between two moments at which a probe may measure; None if there are no probes."""
        return self.plan.stride(length) if self.plan.probes else None

    def _with(self, state: TrainState, batches: Any) -> tuple[Any, ...]:
        data = (batches, self._validation)
        return state, self.key, self._probe_key, self._hyperparameters, data

    def _steps_for(
        self, length: int, stride: int | None, arguments: tuple[Any, ...]
    ) -> Callable[..., tuple[TrainState, Records]]:
        """The compiled function of the steps of one chunk."""
        name = (length, stride or length)
        if name not in self._steps:

            def train(
                state: TrainState,
                key: jax.Array,
                probe_key: jax.Array,
                hyperparameters: Any,
                data: Data,
                first: jax.Array,
            ) -> tuple[TrainState, Records]:
                def one(
                    shared: tuple[Data, jax.Array, jax.Array],
                    state: TrainState,
                    key: jax.Array,
                    own: Any,
                ) -> tuple[TrainState, Records]:
                    data, probe_key, first = shared
                    plan, spread = holding(self.plan, data), self.layout.spread
                    return run_steps(plan, spread, *name, state, key, probe_key, own, first)

                def all_members(state: TrainState) -> tuple[TrainState, Records]:
                    of_all = self.layout.over_members(one, (data, probe_key, first))
                    found: tuple[TrainState, Records] = of_all(state, key, hyperparameters)
                    return found

                state, records = unless_all_stopped(self.plan, all_members, state)
                return self.layout.constrain(state), self.layout.constrain(records)

            self._steps[name] = cached_program(train, *arguments)
        return self._steps[name]

    def _conclusion_for(
        self, arguments: tuple[Any, ...]
    ) -> Callable[..., tuple[TrainState, Report]]:
        """The compiled function of an evaluation after some chunks."""
        name = tuple(part.steps.loss.shape[-1] for part in arguments[2])
        if name not in self._conclusion:

            def evaluate(
                state: TrainState, key: jax.Array, parts: Any, data: Data, done: jax.Array
            ) -> tuple[TrainState, Report]:
                def one(
                    shared: tuple[Data, jax.Array], state: TrainState, key: jax.Array, parts: Any
                ) -> tuple[TrainState, Report]:
                    data, done = shared
                    records = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
                    plan, spread = holding(self.plan, data), self.layout.spread
                    return conclude(plan, spread, key, state, records, done)

                def all_members(state: TrainState) -> tuple[TrainState, Report]:
                    of_all = self.layout.over_members(one, (data, done))
                    found: tuple[TrainState, Report] = of_all(state, key, parts)
                    return found

                state, report = unless_all_stopped(self.plan, all_members, state)
                return self.layout.constrain(state), self.layout.replicate(report)

            self._conclusion[name] = cached_program(evaluate, *arguments)
        return self._conclusion[name]
