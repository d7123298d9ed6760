"""A cell as a map between vectors, and the path that it takes along one sequence."""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax.arrays import varying_like
from rnn_jax.cells.claims import claim, owner_of
from rnn_jax.cells.structure import fused_form_for
from rnn_jax.gradients.assembled import assembled_jacobians
from rnn_jax.sequence.calling import Carry, Step, describe, resolve_carry, resolve_step


class FlatCell(NamedTuple):
    """A cell seen as (state, x) -> (state, y) on vectors.

    Attributes:
      step: one step, (S,), (I,) -> (S,), (O,), to be differentiated: all in the carry's type.
      step_of: the same with the cell as first argument, to differentiate by its weights.
      advance: the same as `step`, its output in its own type.
      initial: the initial state, (S,).
      initial_of: the initial state that another cell of this structure makes for itself; None
        where the carry was given.
      unravel: back from (S,) to the cell's own carry.
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
    advance: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    initial: jax.Array
    initial_of: Callable[[Any], jax.Array] | None
    unravel: Callable[[jax.Array], Carry]
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
    """Checks a cell against one sequence (T, I) and flattens it; its step is traced once.

    Raises:
      ValueError, TypeError: as `resolve_step`; or a carry or output that is not made of floats
        of one type, by which nothing can be differentiated.
    """
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    first = resolve_step(cell, x, carry)
    for what, tree in (("carry", first.carry), ("output", first.output)):
        _check_some(what, tree)
    _check_floats("carry", first.carry)
    _check_floats("output", first.output)
    initial, unravel = ravel_pytree(varying_like(first.carry, cell, xs, carry))
    _, unravel_output = ravel_pytree(
        jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first.output)
    )

    def advance(cell: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, y = cell(unravel(state), x)
        return ravel_pytree(after)[0], ravel_pytree(y)[0]

    def step_of(cell: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, y = advance(cell, state, x)
        return after, y.astype(initial.dtype)

    def initial_of(cell: Any) -> jax.Array:
        return ravel_pytree(resolve_carry(cell, x, None))[0].astype(initial.dtype)

    parts = _name_parts(cell, first.carry)
    rows = _find_output(first)
    form = fused_form_for(cell, x, first.carry) if rows else None
    return FlatCell(
        step=partial(step_of, cell),
        step_of=step_of,
        advance=partial(advance, cell),
        initial=initial,
        initial_of=initial_of if carry is None else None,
        unravel=unravel,
        unravel_output=unravel_output,
        output_size=sum(leaf.size for leaf in jax.tree.leaves(first.output)),
        parts=parts,
        output_rows=rows,
        assembled=None if form is None else partial(assembled_jacobians, form, unravel=unravel),
        diagonal_columns=_find_diagonal(cell, parts),
    )


def run(flat: FlatCell, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The trajectory: states (T+1, S) from the initial one on, and outputs (T, O)."""

    def body(state: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        after, y = flat.advance(state, x)
        return after, (after, y)

    _, (states, ys) = lax.scan(body, flat.initial, xs)
    return jnp.concatenate([flat.initial[None], states]), ys


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
    """Rows of the one part that the cell says acts unit by unit."""
    name = claim(cell, "diagonal_part")
    if name is not None and name not in parts:
        raise ValueError(
            "diagonal_part must name a part of the carry, one of "
            f"{', '.join(map(repr, parts))}; got {name!r}. Name the parts in the cell's "
            "carry_parts, in the order of the carry's leaves."
        )
    return None if name is None else parts[name]


def _find_output(step: Step) -> tuple[int, int] | None:
    """Rows of the flattened carry that a step returns as its output, read off the traced step.

    Two results of a traced function are one value when they are one variable of its program, so
    this never takes merely equal numbers for the same thing.
    """
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(step.output)):
        return None
    program = step.program.jaxpr
    *parts, output = program.outvars
    start = 0
    for part, leaf in zip(parts, jax.tree.leaves(step.after), strict=True):
        if _is_same(program, part, output):
            return start, start + leaf.size
        start += leaf.size
    return None


def _is_same(program: Any, one: Any, other: Any) -> bool:
    """Whether two variables of a program are one value, also where a jitted call returned both."""
    if one is other:
        return True
    for equation in program.eqns:
        where = [
            [index for index, result in enumerate(equation.outvars) if result is variable]
            for variable in (one, other)
        ]
        if all(where) and equation.primitive is _jitted_call():
            inner = equation.params["jaxpr"].jaxpr
            return _is_same(inner, *(inner.outvars[index] for (index,) in where))
    return False


def _check_some(what: str, tree: Any) -> None:
    if not sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"a cell's {what} must have at least one number to be differentiated; got "
            f"{describe(tree)}. A cell without state has no past: differentiate it as a function."
        )


@functools.cache
def _jitted_call() -> Any:
    """The primitive that a jitted function is in the program of its caller."""
    return jax.make_jaxpr(jax.jit(jnp.sin))(jax.ShapeDtypeStruct((), "float32")).eqns[0].primitive


def _check_floats(name: str, tree: Any) -> None:
    kinds = {jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)}
    if len(kinds) != 1 or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            f"the cell's {name} must be made of real floats of one type to be differentiated; got "
            f"{describe(tree)}. Keep counters and keys out of it, and write complex parts as two "
            "real ones."
        )
    if not any(leaf.size for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"the cell's {name} must hold at least one number; got {describe(tree)}. Build the "
            "cell with at least one unit."
        )
