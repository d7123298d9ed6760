"""Small instances of every task, for the laws that all of them keep."""

import dataclasses

from rnn_jax.tasks.adding import Adding
from rnn_jax.tasks.associative_recall import AssociativeRecall
from rnn_jax.tasks.copy_memory import CopyMemory
from rnn_jax.tasks.delayed_recall import DelayedRecall
from rnn_jax.tasks.delayed_xor import DelayedXor
from rnn_jax.tasks.dyck import Dyck
from rnn_jax.tasks.flip_flop import FlipFlop
from rnn_jax.tasks.lorenz import LorenzForecast
from rnn_jax.tasks.mackey_glass import MackeyGlassForecast
from rnn_jax.tasks.multiplication import Multiplication
from rnn_jax.tasks.parity import Parity
from rnn_jax.tasks.selective_copy import SelectiveCopy
from rnn_jax.tasks.sine import SineForecast
from rnn_jax.tasks.teacher import TeacherRecall
from rnn_jax.tasks.temporal_order import TemporalOrder

# Equal lengths share compiled programs.
TASKS = [
    Adding(12),
    Adding(12, variant="hochreiter"),
    Adding(12, variant="martens"),
    Multiplication(12),
    Multiplication(12, variant="martens"),
    SineForecast(12),
    LorenzForecast(12),
    MackeyGlassForecast(12, tau=6),
    TeacherRecall(12),
    TeacherRecall(12, phase=0.0),
    DelayedRecall(4),
    TemporalOrder(12),
    TemporalOrder(12, symbols=3, markers=False),
    CopyMemory(6, symbols=3, alphabet=4),
    CopyMemory(1, symbols=3, alphabet=4, counted="recall"),
    SelectiveCopy(12, symbols=3, alphabet=4),
    SelectiveCopy(12, symbols=3, alphabet=4, cue="once", counted="all"),
    Parity(12),
    Parity(12, readout="all"),
    AssociativeRecall(12, pairs=3, keys=4, values=4),
    AssociativeRecall(12, pairs=3, queries=1, keys=4, values=4, filler="blank"),
    Dyck(12),
    DelayedXor(2),
    DelayedXor(1, length=12, bits=3),
    FlipFlop(12),
    FlipFlop(12, channels=1, probability=0.5),
]


def name(task):
    """The task and what of it is not as by default, as a test's id."""
    fields = dataclasses.fields(task)
    given = {field.name: getattr(task, field.name) for field in fields}
    told = [f"{f.name}={given[f.name]}" for f in fields if given[f.name] != f.default]
    return f"{type(task).__name__}-{'-'.join(told)}"
