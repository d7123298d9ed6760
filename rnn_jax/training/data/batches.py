"""What a step trains on and what an evaluation looks at: drawn by a task, or the user's own."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.tasks.base import Batch
from rnn_jax.tasks.contract import check_batch
from rnn_jax.tasks.own_data import OwnData, count_of
from rnn_jax.training.plan import Plan

# (training, validation) of a task with data of the user's own; None of one that draws them.
Data = tuple[Batch | None, Batch | None] | None

# Each use of randomness has a stream of its own, so that a step's data depend on its number alone.
_TRAINING, _EVALUATION, _OBJECTIVE, _ORDER = range(4)


def data_of(task: Any) -> Data:
    """The arrays that a compiled loop takes as arguments: as constants they would be compiled."""
    return (task.training, task.validation) if isinstance(task, OwnData) else None


def holding(plan: Plan, data: Data) -> Plan:
    """The plan, with data in place of its task's."""
    return plan if data is None else dataclasses.replace(plan, task=plan.task.holding(*data))


def step_keys(key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(data key, noise key, key of the objective) of a step of the member with this key."""
    data_key, noise_key = jax.random.split(_fold(key, _TRAINING, step))
    return data_key, noise_key, _fold(key, _OBJECTIVE, step)


def entries_of(plan: Plan, key: jax.Array, first: jax.Array, length: int) -> Any:
    """What each of `length` steps takes of the user's own data; None where a task draws them."""
    if not isinstance(plan.task, OwnData):
        return None
    order_key = jax.random.fold_in(key, _ORDER)
    return plan.task.order(order_key, first, length, plan.batch_size)


def training_batch(plan: Plan, data_key: jax.Array, entry: Any) -> Any:
    """The batch of a step, from its key or its entry in `entries_of`."""
    size = plan.batch_size
    if isinstance(plan.task, OwnData):
        return check_batch(plan.task.take(entry), size, "take")
    return check_batch(plan.task.sample(data_key, size), size, "sample")


def batch_form(plan: Plan) -> Any:
    """The shapes and types of a training batch."""

    def draw() -> Any:
        key, first = jax.random.key(0), jnp.int32(0)
        entries = jax.tree.map(lambda leaf: leaf[0], entries_of(plan, key, first, 1))
        return training_batch(plan, key, entries)

    return jax.eval_shape(draw)


def probe_sequences(plan: Plan, size: int, probe_key: jax.Array) -> Any:
    """The sequences (B, T, I) that a probe looks at; of those of different lengths, what all have.

    Raises:
      ValueError: there is no step that is valid in all of them.
    """
    inputs = check_batch(plan.task.sample(probe_key, size), size, "sample").inputs
    if not isinstance(plan.task, OwnData):
        return inputs
    steps = plan.task.shortest
    if not steps:
        raise ValueError(
            "a probe needs sequences whose first step is valid, because it looks at no padding; "
            "got a mask that leaves it out of some. Move padding to the end, or pass no probes."
        )
    return jax.tree.map(lambda leaf: leaf[:, :steps], inputs)


def evaluated(
    plan: Plan,
    spread: Callable[[Any], Any],
    key: jax.Array,
    done: jax.Array,
    run: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """(outputs, batch) of an evaluation: fresh or held-out examples, or all for validation.

    Args:
      plan: how to train.
      spread: lays a batch over devices.
      key: the member's.
      done: training steps done.
      run: the model, from a batch to outputs.
    """
    task, size = plan.task, plan.evaluation_size
    if isinstance(task, OwnData) and task.validation is not None:
        outputs = _in_parts(plan, task.validation, lambda part: run(spread(task.prepare(part))))
        return outputs, task.prepare(task.validation)
    name = "sample_held_out" if hasattr(task, "sample_held_out") else "sample"
    drawn = getattr(task, name)(_fold(key, _EVALUATION, done), size)
    batch = spread(check_batch(drawn, size, name))
    return run(batch), batch


def _in_parts(plan: Plan, examples: Batch, run: Callable[[Any], Any]) -> Any:
    """The outputs for all examples, at most `evaluation_size` at a time.

    Loss and metrics are then computed of all outputs at once, so they are exact whatever they are.
    """
    count = count_of(examples)
    parts = -(-count // plan.evaluation_size)
    # What the devices that share the batch can share this, too.
    shared = math.gcd(plan.batch_size, plan.evaluation_size)
    size = shared * -(-count // (parts * shared))

    def in_rows(leaf: jax.Array) -> jax.Array:
        # The last part is filled up by the first examples, again and again if need be.
        index = jnp.arange(parts * size) % count
        return leaf[index].reshape(parts, size, *leaf.shape[1:])

    outputs = jax.lax.map(run, jax.tree.map(in_rows, examples))
    return jax.tree.map(lambda leaf: leaf.reshape(parts * size, *leaf.shape[2:])[:count], outputs)


def _fold(key: jax.Array, stream: int, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, stream), step)
