"""A cell as a map between vectors: carries and outputs flattened, one sequence at a time."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.structure import describes_itself, fused_form_for
from rnn_jax.gradients.assembled import assembled_jacobians
from rnn_jax.sequence.calling import Carry, abstract_step, describe, owner_of, resolve_carry


class FlatCell(NamedTuple):
    """A cell seen as (state, x) -> (state, y) on vectors.

    Attributes:
      step: one step, (S,), (I,) -> (S,), (O,).
      step_of: the same with the cell as first argument, to differentiate by its weights.
      initial: the initial state, (S,).
      unravel_output: back from (O,) to the cell's own output.
      output_size: O.
      parts: where each part of the carry stands in the state, (start, stop) by name.
      output_rows: where the output stands in the state, (start, stop), if a step returns a part of
        its carry as its output, as most recurrent cells do; None if the output is something else.
      assembled: where the cell has a fused form, its one-step Jacobians of many steps at once,
        (T, S), (T, I) -> (T, S, S), (T, S, I); None where it has none.
      diagonal_columns: where the parts of the carry stand, (start, stop), each unit of which acts
        on the next step's same unit alone, whatever the part; None if there are none.
    """

    step: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    step_of: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    initial: jax.Array
    unravel_output: Callable[[jax.Array], Any]
    output_size: int
    parts: dict[str, tuple[int, int]]
    output_rows: tuple[int, int] | None
    assembled: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]] | None
    diagonal_columns: tuple[int, int] | None

    @property
    def state_size(self) -> int:
        """S, the size of the flattened carry."""
        return self.initial.shape[0]


def flatten_cell(cell: Any, xs: jax.Array, carry: Carry | None) -> FlatCell:
    """Checks a cell against one sequence (T, I) and flattens it.

    Raises:
      ValueError, TypeError: as `resolve_carry`; or a carry or output that is not made of floats
        of one type, by which nothing can be differentiated.
    """
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    carry = resolve_carry(cell, x, carry)
    _, y = abstract_step(cell, carry, x)
    for what, tree in (("carry", carry), ("output", y)):
        _check_some(what, tree)
    _check_floats("carry", carry)
    _check_floats("output", y)
    initial, unravel = ravel_pytree(carry)
    _, unravel_output = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), y))

    def step_of(cell: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, y = cell(unravel(state), x)
        return ravel_pytree(after)[0], ravel_pytree(y)[0]

    def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return step_of(cell, state, x)

    size = sum(leaf.size for leaf in jax.tree.leaves(y))
    parts = _name_parts(cell, carry)
    rows = _find_output(cell, carry, x)
    form = fused_form_for(cell, x, carry) if rows else None
    return FlatCell(
        step,
        step_of,
        initial,
        unravel_output,
        size,
        parts,
        rows,
        None if form is None else partial(assembled_jacobians, form, unravel=unravel),
        _find_diagonal(cell, parts),
    )


def check_decomposable(flat: FlatCell, what: str) -> None:
    """Raises TypeError unless matrices of the carry's type can be decomposed."""
    dtype = flat.initial.dtype
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(
            f"{what} needs a carry of float32 or float64, which LAPACK can decompose; got {dtype}. "
            "Build the cell with carry_dtype=jnp.float32, or pass a carry of that type."
        )


def run(flat: FlatCell, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The trajectory: states (T+1, S) from the initial one on, and outputs (T, O)."""

    def body(state: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        after, y = flat.step(state, x)
        return after, (after, y)

    _, (states, ys) = lax.scan(body, flat.initial, xs)
    return jnp.concatenate([flat.initial[None], states]), ys


@jax.jit
def trajectory(cell: Any, xs: jax.Array, carry: Carry | None) -> jax.Array:
    """The states (T+1, S) of a cell along a sequence, compiled once for cells of one structure."""
    return run(flatten_cell(cell, xs, carry), xs)[0]


def flatten_outputs(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Outputs, or cotangents of outputs, with a leading axis T, as (T, O)."""
    return jax.vmap(lambda row: ravel_pytree(row)[0])(tree).astype(dtype)


def _name_parts(cell: Any, carry: Carry) -> dict[str, tuple[int, int]]:
    """Rows of the flattened carry by part: the cell's own names for them, else their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    names = tuple(getattr(owner_of(cell), "carry_parts", ()))
    if len(names) != len(leaves):
        paths = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
        names = tuple(path or "carry" for path in paths)
    parts, start = {}, 0
    for name, (_, leaf) in zip(names, leaves, strict=True):
        parts[name] = (start, start + leaf.size)
        start += leaf.size
    return parts


def _find_diagonal(cell: Any, parts: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Rows of the one part that this package's cell says acts unit by unit."""
    name = cell.diagonal_part if describes_itself(cell, "diagonal_part") else None
    return None if name is None else parts[name]


def _find_output(cell: Any, carry: Carry, x: jax.ShapeDtypeStruct) -> tuple[int, int] | None:
    """Rows of the flattened carry that a step returns as its output, read off the traced step.

    Two results of a traced function are one value when they are one variable of its jaxpr, so
    this never takes merely equal numbers for the same thing.
    """
    after, y = jax.eval_shape(cell, carry, x)
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(y)):
        return None
    jaxpr = jax.make_jaxpr(cell)(carry, x).jaxpr
    *parts, output = jaxpr.outvars
    start = 0
    for part, leaf in zip(parts, jax.tree.leaves(after), strict=True):
        if _is_same(jaxpr, part, output):
            return start, start + leaf.size
        start += leaf.size
    return None


def _is_same(jaxpr: Any, one: Any, other: Any) -> bool:
    """Whether two variables of a jaxpr are one value, also where a jitted call returned both."""
    if one is other:
        return True
    for equation in jaxpr.eqns:
        where = [
            [index for index, made in enumerate(equation.outvars) if made is variable]
            for variable in (one, other)
        ]
        if all(where) and equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"].jaxpr
            return _is_same(inner, *(inner.outvars[index] for (index,) in where))
    return False


def _check_some(what: str, tree: Any) -> None:
    if not sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"a cell's {what} must have at least one number to be differentiated; got "
            f"{describe(tree)}. A cell without state has no past: differentiate it as a function."
        )


def _check_floats(name: str, tree: Any) -> None:
    kinds = {jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)}
    if len(kinds) != 1 or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            f"the cell's {name} must be made of real floats of one type to be differentiated; got "
            f"{describe(tree)}. Keep counters and keys out of it, and write complex parts as two "
            "real ones."
        )
