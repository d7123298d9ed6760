"""Inputs as vectors: the numbers of a step's input by which there are derivatives.

An input is whatever the cell takes, an array of any rank or a pytree of arrays. Derivatives are by
its floating-point leaves, flattened one after another; whole numbers, booleans and random keys are
held constant.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.sequence.calling import describe
from rnn_jax.sequence.inputs import input_of_step, is_float


def is_vector(x: Any) -> bool:
    """Whether an input is one vector of floats already."""
    leaves = jax.tree.leaves(x)
    return len(leaves) == 1 and is_float(leaves[0]) and len(leaves[0].shape) == 1


def input_size(x: Any) -> int:
    """I, how many numbers of an input there are derivatives by."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(x) if is_float(leaf))


def ravel_input(x: Any, dtype: Any) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """(the floats of one input as a vector (I,), the input with other numbers in their place).

    Args:
      x: the input of one step, arrays.
      dtype: of the vector where there are none.
    """
    leaves, structure = jax.tree.flatten(x)
    if is_vector(x):
        return leaves[0], lambda vector: jax.tree.unflatten(structure, [vector])
    floats = [leaf for leaf in leaves if is_float(leaf)]
    ends = [sum(leaf.size for leaf in floats[: k + 1]) for k in range(len(floats) - 1)]
    vector = jnp.zeros(0, dtype)
    if floats:
        # What is wider holds all of them exactly, and strict promotion is for the user's own code.
        with jax.numpy_dtype_promotion("standard"):
            common = jnp.result_type(*floats)
        vector = jnp.concatenate([jnp.ravel(leaf).astype(common) for leaf in floats])

    def unravel(vector: jax.Array) -> Any:
        parts = iter(jnp.split(vector, ends))
        filled = [
            next(parts).reshape(leaf.shape).astype(leaf.dtype) if is_float(leaf) else leaf
            for leaf in leaves
        ]
        return jax.tree.unflatten(structure, filled)

    return vector, unravel


def check_by_input(wrt: str, xs: Any) -> None:
    """Raises TypeError if a measure is to be by inputs none of which is a float.

    Args:
      wrt: "input" or "state".
      xs: a sequence of inputs, checked.
    """
    if wrt == "state" or any(map(is_float, jax.tree.leaves(xs))):
        return
    raise TypeError(
        "a derivative by the input needs inputs that are real floating-point numbers; got xs "
        f"{describe(input_of_step(xs, 0))}. Tokens have no derivative: embed them first and pass "
        "the embedded sequence, embedding[xs]. Cast what is a quantity, xs.astype(jnp.float32). Or "
        'measure by earlier states: wrt="state", or state_jacobian.'
    )
