"""Synthetic tasks, one per file; `base` says what a task is."""

from rnn_jax.tasks.adding import Adding
from rnn_jax.tasks.base import Batch, Task
from rnn_jax.tasks.delayed_recall import DelayedRecall

__all__ = ["Adding", "Batch", "DelayedRecall", "Task"]
