"""An expRNN that learns the copy problem, as two results have it."""

import math
from typing import Any, Protocol

import optax
from flax import nnx

import rnn_jax as rj
from published import record
from published.learning import Learnt, learn


class CopySizes(Protocol):
    """What the protocols of both have."""

    @property
    def delay(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def seeds(self) -> int: ...


def learn_to_copy(
    sizes: CopySizes,
    optimizer: optax.GradientTransformation,
    progress: record.Progress,
    **options: Any,
) -> Learnt:
    """Trains all seeds; `options` are further ones of `rnn_jax.fit`."""
    task = rj.tasks.CopyMemory(sizes.delay)

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        cell = rj.ExpRNNCell(task.in_features, sizes.hidden, rngs=rngs)
        return rj.SequenceModel(cell, task.out_features, readout=task.readout, rngs=rngs)

    return learn(
        rj.ensemble(make, sizes.seeds),
        task,
        optimizer,
        steps=sizes.steps,
        batch_size=sizes.batch_size,
        on_share=lambda share: progress("expRNN", share),
        **options,
    )


def without_memory(delay: int) -> record.Finding:
    """The loss of guessing, by the formula and as the task has it, in nats a symbol."""
    formula = 10 * math.log(8) / (delay + 20)
    loss = rj.tasks.CopyMemory(delay).chance_loss
    return record.Finding("loss without memory", formula, loss, tolerance=1e-6)
