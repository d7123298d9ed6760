"""Networks of every cell in `rnn_jax.cells`, each as its paper has it."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj

Make = Callable[[nnx.Rngs], Any]

# Of a class: what differs from its own defaults, from the task's name and its number of steps T.
# A cell without an entry is taken as it is.
OPTIONS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    # The paper's oscillators for the adding problem; for copying it has none.
    "CoRNNCell": lambda task, steps: (
        {"time_step": 0.06, "gamma": 66.0, "epsilon": 15.0} if task == "adding" else {}
    ),
    # The paper's range where the last step alone is read: every unit keeps half of its state or
    # more over T steps, and grows to twice of it at most.
    "IndRNNCell": lambda task, steps: {"length": steps, "recurrent_init": _keeps_half(steps)},
    # The window of its memory is the sequence.
    "LMUCell": lambda task, steps: {"theta": float(steps), "memory_features": 32},
    # The paper's ring for long sequences.
    "LRUCell": lambda task, steps: {"r_min": 0.9, "r_max": 0.999},
    # A memory of 8 × 8 a head: one of H × H takes most of the time of the whole family.
    "MLSTMCell": lambda task, steps: {"num_heads": 4},
    # Gates without a bias cannot stay shut where an input is 0, as the adding problem's mark is.
    "MinGRUCell": lambda task, steps: {"use_bias": True},
    "MinLSTMCell": lambda task, steps: {"use_bias": True},
}

# By class and task, where the paper's learning rate is far from what the others are trained with.
LEARNING_RATES: dict[tuple[str, str], float] = {("CoRNNCell", "adding"): 2e-2}

# Linear in their inputs too, so that no linear readout of them can multiply a number by its mark:
# as in their papers, they stand between layers that are not linear.
IN_A_BLOCK = ("LRUCell", "S5Cell")


def cell_names() -> tuple[str, ...]:
    """Every cell of `rnn_jax.cells`, in its order; bases and wrappers are none."""
    return tuple(
        name
        for name in rj.cells.__all__
        if inspect.isclass(kind := getattr(rj.cells, name))
        and issubclass(kind, rj.RNNCell)
        and kind is not rj.RNNCell
    )


def make_cell(name: str, inputs: int, hidden: int, task: str, steps: int, **given: Any) -> Make:
    """A function that builds the cell for a task of T steps; options that are given win."""
    options = {**(OPTIONS[name](task, steps) if name in OPTIONS else {}), **given}

    def make(rngs: nnx.Rngs) -> Any:
        return getattr(rj.cells, name)(inputs, hidden, rngs=rngs, **options)

    return make


def make_network(name: str, hidden: int, task_name: str, task: Any, **given: Any) -> Make:
    """A function that builds one layer of the cell with a dense readout.

    Args:
      name: of the class.
      hidden: H.
      task_name, task: what it is for.
      given: options of the cell, before those of `OPTIONS`.
    """
    in_a_block = name in IN_A_BLOCK
    inputs = hidden if in_a_block else task.in_features
    cell = make_cell(name, inputs, hidden, task_name, task.steps, **given)

    def make(rngs: nnx.Rngs) -> Any:
        if in_a_block:
            return Block(cell(rngs), task, rngs)
        return rj.SequenceModel(cell(rngs), task.out_features, readout=task.readout, rngs=rngs)

    return make


class Block(nnx.Module):
    """A recurrence between two dense layers: o = W₂ gelu(unroll(cell, gelu(W₁ x)))."""

    def __init__(self, cell: Any, task: Any, rngs: nnx.Rngs):
        self.before = nnx.Linear(task.in_features, cell.in_features, rngs=rngs)
        self.recurrence = rj.SequenceModel(cell, readout=task.readout)
        self.after = nnx.Linear(cell.output_features, task.out_features, rngs=rngs)

    def __call__(self, xs: jax.Array) -> jax.Array:
        return self.after(jax.nn.gelu(self.recurrence(jax.nn.gelu(self.before(xs)))))


def parameter_count(network: Any) -> int:
    """How many numbers a network learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def _keeps_half(steps: int) -> Callable[..., jax.Array]:
    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        low, high = 0.5 ** (1 / steps), 2 ** (1 / steps)
        return jax.random.uniform(key, shape, dtype, minval=low, maxval=high)

    return draw
