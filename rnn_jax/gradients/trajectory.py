"""A cell as a map between vectors, and the path that it takes along one sequence."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax.arrays import varying_like
from rnn_jax.cells.asking import part_names, part_that_is_output
from rnn_jax.cells.claims import claim
from rnn_jax.cells.linear import LinearForm, linear_form_for, rounds_products
from rnn_jax.cells.structure import FusedForm, Mathematics, fused_form_for
from rnn_jax.gradients.assembled import assembled_jacobians
from rnn_jax.gradients.by_platform import by_platform
from rnn_jax.gradients.input_vectors import input_size, is_vector, ravel_input
from rnn_jax.gradients.linear_jacobians import linear_jacobians
from rnn_jax.gradients.precision import FULL
from rnn_jax.sequence.calling import Carry, Step, describe, resolve_carry, resolve_step
from rnn_jax.sequence.inputs import input_of_step
from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.fused_scan import fused_scan
from rnn_jax.sequence.running.scanned import Settings

StepOfVectors = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class FlatCell(NamedTuple):
    """A cell seen as (state, x) -> (state, y) on vectors; x is in the cell's own form.

    Attributes:
      cell: the cell itself.
      step: one step, (S,), x -> (S,), (O,), to be differentiated: all in the carry's type.
      step_of: the same with the cell as first argument, to differentiate by its weights.
      advance_of: the same as `step_of`, its output in its own type.
      initial: the initial state, (S,).
      initial_of: the initial state that another cell of this structure makes for itself; None
        where the carry was given.
      unravel: back from (S,) to the cell's own carry.
      unravel_output: back from (O,) to the cell's own output.
      output_size: O.
      input_size: I, the floats of one input.
      parts: where each part of the carry stands in the state, (start, stop) by name.
      output_rows: where the output stands in the state, (start, stop), if a step returns a part of
        its carry as its output, as most recurrent cells do; None if the output is something else.
      form: the cell's fused form; None where it has none.
      linear: the cell as a linear recurrence; None where it is none, or has a fused form.
      diagonal_columns: where the parts of the carry stand, (start, stop), each unit of which acts
        on the next step's same unit alone, whatever the part; None if there are none.
      diagonal_width: the units of one of these parts; None if there is but one part.
    """

    cell: Any
    step: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]
    step_of: Callable[[Any, jax.Array, Any], tuple[jax.Array, jax.Array]]
    advance_of: Callable[[Any, jax.Array, Any], tuple[jax.Array, jax.Array]]
    initial: jax.Array
    initial_of: Callable[[Any], jax.Array] | None
    unravel: Callable[[jax.Array], Carry]
    unravel_output: Callable[[jax.Array], Any]
    output_size: int
    input_size: int
    parts: dict[str, tuple[int, int]]
    output_rows: tuple[int, int] | None
    form: FusedForm | None
    linear: LinearForm | None
    diagonal_columns: tuple[int, int] | None
    diagonal_width: int | None

    @property
    def state_size(self) -> int:
        """S, the size of the flattened carry."""
        return self.initial.shape[0]

    @property
    def assembled(self) -> Callable[[jax.Array, Any], tuple[jax.Array, ...]] | None:
        """One-step Jacobians of many steps from what the cell tells of itself.

        From (T, S) and inputs to (T, S, S) and (T, S, I), and those of the output unless it is a
        part of the carry. None where the cell has neither a fused nor a linear form.
        """
        if self.form is not None:
            return partial(assembled_jacobians, self.form, unravel=self.unravel)
        if self.linear is not None:
            return partial(
                linear_jacobians,
                self.linear,
                self.cell,
                self.unravel,
                output_is_part=self.output_rows is not None,
            )
        return None

    def step_from(self, x: Any) -> tuple[StepOfVectors, jax.Array]:
        """(one step as a function of the state (S,) and the input's floats (I,), these floats)."""
        vector, unravel = ravel_input(x, self.initial.dtype)
        return lambda state, numbers: self.step(state, unravel(numbers)), vector


def flatten_cell(cell: Any, xs: Any, carry: Carry | None) -> FlatCell:
    """Checks a cell against one sequence and flattens it; its step is traced once.

    Raises:
      ValueError, TypeError: as `resolve_step`; or a carry or output that is not made of floats
        of one type, by which nothing can be differentiated.
    """
    x = input_of_step(xs)
    first = resolve_step(cell, x, carry)
    for what, tree in (("carry", first.carry), ("output", first.output)):
        _check_some(what, tree)
    _check_floats("carry", first.carry)
    _check_floats("output", first.output)
    initial, unravel = ravel_pytree(varying_like(first.carry, cell, xs, carry))
    _, unravel_output = ravel_pytree(
        jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first.output)
    )

    def advance(cell: Any, state: jax.Array, x: Any) -> tuple[jax.Array, jax.Array]:
        after, y = cell(unravel(state), x)
        return ravel_pytree(after)[0], ravel_pytree(y)[0]

    def step_of(cell: Any, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        after, y = advance(cell, state, x)
        return after, y.astype(initial.dtype)

    def initial_of(cell: Any) -> jax.Array:
        return ravel_pytree(resolve_carry(cell, x, None))[0].astype(initial.dtype)

    parts = _name_parts(cell, first.carry)
    rows = _find_output(first)
    form = fused_form_for(cell, x, first.carry) if rows and is_vector(x) else None
    if form is not None and form.product_type is not None:
        form = None  # Rows of weights would have to be rounded as a step rounds them.
    linear: LinearForm | str | None = None
    if form is None and not rounds_products(cell):
        linear = linear_form_for(cell, x, first.carry)
    form_of_all = linear if isinstance(linear, LinearForm) else None
    width = None if form_of_all is None else _width_of_diagonals(form_of_all, initial, unravel)
    columns = _find_diagonal(cell, parts) if width is None else (0, initial.size)
    return FlatCell(
        cell=cell,
        step=partial(step_of, cell),
        step_of=step_of,
        advance_of=advance,
        initial=initial,
        initial_of=initial_of if carry is None else None,
        unravel=unravel,
        unravel_output=unravel_output,
        output_size=sum(leaf.size for leaf in jax.tree.leaves(first.output)),
        input_size=input_size(x),
        parts=parts,
        output_rows=rows,
        form=form,
        linear=form_of_all,
        diagonal_columns=columns,
        diagonal_width=width,
    )


def run(flat: FlatCell, xs: Any) -> tuple[jax.Array, jax.Array]:
    """The trajectory: states (T+1, S) from the initial one on, and outputs (T, O).

    Step by step as the cell defines it; on a GPU in fused form, by the kernel of the recurrence.
    """

    def by_step(cell: Any, kernels: Any, initial: jax.Array, xs: Any) -> Any:
        def body(state: jax.Array, x: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            after, y = flat.advance_of(cell, state, x)
            return after, (after, y)

        return lax.scan(body, initial, xs)[1]

    form = flat.form
    if form is None:
        states, ys = by_step(flat.cell, None, flat.initial, xs)
    else:
        fused = partial(run_fused, form.mathematics, flat.unravel)
        choose = by_platform(by_step, cuda=fused)
        states, ys = choose(flat.cell, form.kernels, flat.initial, xs)
    return jnp.concatenate([flat.initial[None], states]), ys


def run_fused(
    mathematics: Mathematics,
    unravel: Callable[[jax.Array], Carry],
    cell: Any,
    kernels: tuple[jax.Array, ...],
    initial: jax.Array,
    xs: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The states after each step, (T, S), and outputs, of a cell in fused form."""
    settings = Settings(mathematics, reverse=False, return_carries=True, precision=FULL)
    carry, whole = unravel(initial), Boundaries(None, None)
    done = fused_scan(settings, kernels, xs.astype(initial.dtype), whole, carry, carry)
    return jax.vmap(lambda after: ravel_pytree(after)[0])(done.carries), done.ys


def flatten_outputs(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Outputs, or cotangents of outputs, with a leading axis T, as (T, O)."""
    return jax.vmap(lambda row: ravel_pytree(row)[0])(tree).astype(dtype)


def _name_parts(cell: Any, carry: Carry) -> dict[str, tuple[int, int]]:
    """Rows of the flattened carry by part: the cell's own names for them, else their paths."""
    parts, start = {}, 0
    for name, leaf in zip(part_names(cell, carry), jax.tree.leaves(carry), strict=True):
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


def _width_of_diagonals(form: LinearForm, initial: jax.Array, unravel: Any) -> int | None:
    """Units of one part, where Λ is nothing but diagonal blocks of the flattened carry."""
    size, kind = initial.size, initial.dtype
    if form.kind not in ("diagonal", "complex") or jnp.finfo(kind).bits < 32:
        return None
    places = np.arange(size, dtype=kind)
    with jax.ensure_compile_time_eval():
        packed = form.pack(unravel(jnp.asarray(places)))
    # Packed in another order, or with what is not known yet: nothing is said of the columns.
    if isinstance(packed, jax.core.Tracer) or not np.array_equal(np.ravel(packed), places):
        return None
    return size if form.kind == "diagonal" else size // 2


def _find_output(step: Step) -> tuple[int, int] | None:
    """Rows of the flattened carry that a step returns as its output."""
    sizes = [leaf.size for leaf in jax.tree.leaves(step.after)]
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(step.output)):
        return None
    part = part_that_is_output(step.program, len(sizes))
    return None if part is None else (sum(sizes[:part]), sum(sizes[: part + 1]))


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
    if not any(leaf.size for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"the cell's {name} must hold at least one number; got {describe(tree)}. Build the "
            "cell with at least one unit."
        )
