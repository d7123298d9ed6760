"""Small instances of every task, for the laws that all of them keep."""

import dataclasses

from rnn_jax.tasks.adding import Adding
from rnn_jax.tasks.associative_recall import AssociativeRecall
from rnn_jax.tasks.copy_memory import CopyMemory
from rnn_jax.tasks.delayed_recall import DelayedRecall
from rnn_jax.tasks.delayed_xor import DelayedXor
from rnn_jax.tasks.dyck import Dyck
from rnn_jax.tasks.parity import Parity
from rnn_jax.tasks.selective_copy import SelectiveCopy
from rnn_jax.tasks.temporal_order import TemporalOrder

TASKS = [
    Adding(6),
    DelayedRecall(2),
    TemporalOrder(12),
    TemporalOrder(10, symbols=3, markers=False),
    CopyMemory(3, symbols=2, alphabet=3),
    CopyMemory(1, symbols=2, alphabet=3, counted="recall"),
    SelectiveCopy(9, symbols=3, alphabet=4),
    SelectiveCopy(9, symbols=3, alphabet=4, cue="once", counted="all"),
    Parity(5),
    Parity(5, readout="all"),
    AssociativeRecall(12, pairs=2, keys=4, values=4),
    AssociativeRecall(9, pairs=4, queries=1, keys=5, values=5, filler="blank"),
    Dyck(8),
    DelayedXor(2),
    DelayedXor(1, length=5, bits=3),
]


def name(task):
    """The task and what of it is not as by default, as a test's id."""
    fields = dataclasses.fields(task)
    given = {field.name: getattr(task, field.name) for field in fields}
    told = [f"{f.name}={given[f.name]}" for f in fields if given[f.name] != f.default]
    return f"{type(task).__name__}-{'-'.join(told)}"
