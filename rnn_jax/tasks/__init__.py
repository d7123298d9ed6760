"""Synthetic tasks, one per file, and own data; `base` says what a task is."""

from rnn_jax.tasks.adding import Adding
from rnn_jax.tasks.associative_recall import AssociativeRecall
from rnn_jax.tasks.base import Batch, CrossEntropy, SquaredError, Task
from rnn_jax.tasks.copy_memory import CopyMemory
from rnn_jax.tasks.delayed_recall import DelayedRecall
from rnn_jax.tasks.delayed_xor import DelayedXor
from rnn_jax.tasks.digits import SequentialDigits
from rnn_jax.tasks.dyck import Dyck
from rnn_jax.tasks.flip_flop import FlipFlop
from rnn_jax.tasks.loader import Loader
from rnn_jax.tasks.lorenz import LorenzForecast
from rnn_jax.tasks.mackey_glass import MackeyGlassForecast
from rnn_jax.tasks.mnist import SequentialMNIST
from rnn_jax.tasks.multiplication import Multiplication
from rnn_jax.tasks.own_data import Arrays
from rnn_jax.tasks.parity import Parity
from rnn_jax.tasks.selective_copy import SelectiveCopy
from rnn_jax.tasks.sine import SineForecast
from rnn_jax.tasks.teacher import TeacherRecall
from rnn_jax.tasks.temporal_order import TemporalOrder

__all__ = [
    "Adding",
    "Arrays",
    "AssociativeRecall",
    "Batch",
    "CopyMemory",
    "CrossEntropy",
    "DelayedRecall",
    "DelayedXor",
    "Dyck",
    "FlipFlop",
    "Loader",
    "LorenzForecast",
    "MackeyGlassForecast",
    "Multiplication",
    "Parity",
    "SelectiveCopy",
    "SequentialDigits",
    "SequentialMNIST",
    "SineForecast",
    "SquaredError",
    "Task",
    "TeacherRecall",
    "TemporalOrder",
]
