"""How the package calls a cell it has never seen: normalise, check once per trace, then trust."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells.asking import ARRAYS, carry_maker, make_carry
from rnn_jax.sequence.inputs import is_array, shape_of_input

Carry = Any
ArrayLike = Any


def check_carry_leaves(carry: Carry, name: str = "carry") -> Carry:
    """Returns a carry if all its leaves are arrays or numbers, which `jit` can take.

    Raises:
      TypeError: a leaf is something else.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if not isinstance(leaf, ARRAYS):
            raise TypeError(
                f"{name} must be a pytree of arrays; got a leaf of type {type(leaf).__name__} at "
                f"{name}{jax.tree_util.keystr(path)}. Leave {name} out to start from the cell's "
                "own, or pass arrays."
            )
    return carry


class Step(NamedTuple):
    """One step of a cell as it was traced: what goes in, and shapes and types of what comes out.

    Attributes:
      carry: before the step, arrays.
      after: the carry after it, shapes and types.
      output: y, shapes and types.
      program: the jaxpr of cell(carry, x), its results the leaves of (after, output).
    """

    carry: Carry
    after: Any
    output: Any
    program: Any


def resolve_carry(cell: Any, x: Any, carry: Carry | None, name: str = "carry") -> Carry:
    """The carry to start from; see `resolve_step`."""
    return resolve_step(cell, x, carry, name).carry


def resolve_step(cell: Any, x: Any, carry: Carry | None, name: str = "carry") -> Step:
    """The first step, traced once, after which the cell is known to keep the contract.

    A carry that the cell made itself is widened (never narrowed) to the type its step returns, so
    that float64 inputs to float32 parameters follow JAX's own promotion.

    Args:
      cell: a callable pytree.
      x: shape and type of one input, or a pytree of them.
      carry: where to start; None asks `cell.initialize_carry`.
      name: of the argument that it came as.

    Raises:
      TypeError: the cell needs a carry, or changes its type.
      ValueError: the cell refuses the input, does not return (carry, y), or changes its carry's
        structure or shape.
    """
    own = carry is None
    if own:
        if carry_maker(cell) is None:
            raise TypeError(
                "this cell cannot make its own carry: it has no initialize_carry(input_shape). "
                "Pass the initial state as carry=, or give it one with "
                "rnn_jax.as_cell(cell, initial_carry=…)."
            )
        carry = _own_carry(cell, x)
    start = jax.tree.map(jnp.asarray, carry)
    if not own:
        _check_given_carry(cell, x, start, name)
    step = _trace_step(cell, start, x)
    if own and _same_shapes(start, step.after):
        wider = jax.tree.map(_widen, start, step.after)
        if _types(wider) != _types(start):
            step = _trace_step(cell, wider, x)
    _check_kept(step.carry, step.after)
    return step


def resolve_starts(
    cell: Any,
    x: Any,
    carry: Carry | None,
    initial: Carry | None,
    *,
    resets: bool,
    skips: bool,
) -> tuple[Carry, Carry | None]:
    """(the carry to go on from, the one that sequences start from if it is wanted and another).

    Args:
      cell, x: as for `resolve_carry`.
      carry: where to go on; None starts a sequence.
      initial: where sequences start; None asks `cell.initialize_carry`.
      resets: whether sequences start within the row.
      skips: whether steps are skipped, which are computed from where a sequence may start.

    Raises:
      TypeError, ValueError: as `resolve_carry`; or sequences start within the row and nothing says
        from which carry, or from one of another form.
    """
    if carry is None:
        return resolve_carry(cell, x, initial, "initial"), None
    start = resolve_carry(cell, x, carry)
    if initial is not None:
        return start, _in_the_form_of(start, resolve_carry(cell, x, initial, "initial"))
    if not (resets or skips):
        return start, None
    if carry_maker(cell) is not None:
        return start, _in_the_form_of(start, resolve_carry(cell, x, None))
    if resets:
        raise TypeError(
            "resets need to know where a sequence starts, and this cell cannot make its own carry: "
            "it has no initialize_carry(input_shape); got carry=, which says where to go on. Pass "
            "the carry that sequences start from as initial=."
        )
    return start, None


def _trace_step(cell: Any, carry: Carry, x: Any) -> Step:
    """One step, without computing it.

    Raises:
      ValueError: the cell raises on these shapes, or does not return a pair.
      TypeError: it writes into its own variables.
    """
    written: list[str] = []

    def step(cell: Any, carry: Carry, x: Any) -> Any:
        before = _named_leaves(cell)
        result = cell(carry, x)
        written.extend(_written(before, _named_leaves(cell)))
        return result

    try:
        program, result = jax.make_jaxpr(step, return_shape=True)(cell, carry, x)
    except Exception as error:
        _check_features(cell, x)
        raise ValueError(
            "the cell could not take one step cell(carry, x) with carry "
            f"{describe(carry)} and x {describe(x)}: {error}"
        ) from error
    check_pure(written)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ValueError(
            "a cell must return a pair (carry, y); got "
            f"{describe(result)}. If the state is the output, return (state, state)."
        )
    return Step(carry, result[0], result[1], program)


def check_pure(written: list[str]) -> None:
    """Raises TypeError if a cell's step has written into variables of its own, named by path."""
    if written:
        raise TypeError(
            "a cell must not write into its variables in its step, because steps run in a compiled "
            f"scan; got a cell that writes {', '.join(written)}. Let what changes from step to "
            "step be part of the carry; let noise come from a key, as in rnn_jax.RecurrentDropout; "
            "and normalise or count outside of the cell, on whole sequences."
        )


def check_batch_axes(carry: Carry, batch: tuple[int, ...], name: str = "carry") -> None:
    """Raises ValueError unless every leaf of a carry leads with the batch axes of xs."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if jnp.shape(leaf)[: len(batch)] != batch:
            raise ValueError(
                f"each leaf of {name} must lead with the batch axes of xs, {batch}; got shape "
                f"{jnp.shape(leaf)} at {name}{jax.tree_util.keystr(path)}. Repeat it for each "
                "sequence, for example with jnp.broadcast_to."
            )


def describe(tree: Any) -> str:
    """A pytree's structure with each leaf as dtype[shape], for messages."""

    def leaf(value: Any) -> str:
        if not hasattr(value, "shape"):
            return type(value).__name__
        return f"{value.dtype}{list(value.shape)}"  # A random key's dtype has no other name.

    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) == 1 and jax.tree_util.treedef_is_leaf(structure):
        return leaf(leaves[0])
    return str(jax.tree.unflatten(structure, [_Shown(leaf(value)) for value in leaves]))


class _Shown(str):
    """A string that prints without quotes inside containers."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _named_leaves(cell: Any) -> dict[str, Any]:
    """Leaves by path, such as "dropout.rngs.count"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(cell)
    }


def _written(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names under which other values stand than before."""
    names = dict.fromkeys([*before, *after])
    return [name for name in names if before.get(name) is not after.get(name)]


def _check_features(cell: Any, x: Any) -> None:
    expected = getattr(cell, "in_features", None)
    if not is_array(x) or not x.shape:
        return
    if isinstance(expected, int) and x.shape[-1] != expected:
        raise ValueError(
            f"xs must have the cell's in_features={expected} as its last axis; got "
            f"{x.shape[-1]} features. Pass xs of shape (T, {expected}) or build the cell with "
            f"in_features={x.shape[-1]}."
        )


def _own_carry(cell: Any, x: Any) -> Carry:
    try:
        return make_carry(cell, shape_of_input(x))
    except Exception as error:
        if is_array(x):
            raise
        raise ValueError(
            "the cell could not make its own carry, initialize_carry(input_shape), for several "
            f"inputs x {describe(x)}, input_shape {shape_of_input(x)}: {error} Pass the one input "
            "that the cell takes, or the initial state as carry=."
        ) from error


def _check_given_carry(cell: Any, x: Any, carry: Carry, name: str) -> None:
    if carry_maker(cell) is None:
        return
    try:
        expected = jax.eval_shape(lambda k: _own_carry(k, x), cell)
    except ValueError:
        if is_array(x):
            raise
        return  # It makes none for several inputs, and need not.
    if not _same_shapes(expected, carry):
        raise ValueError(
            f"{name} must have the structure and shapes that the cell initialises, "
            f"{describe(expected)}; got {describe(carry)}. Leave {name} out to start from the "
            "cell's own, or pass one of that form."
        )


def _in_the_form_of(start: Carry, initial: Carry) -> Carry:
    """`initial` in the types of `start`, which it may be widened to."""
    if _same_shapes(start, initial):
        widened = jax.tree.map(_widen, initial, start)
        if [a.dtype for a in jax.tree.leaves(widened)] == [a.dtype for a in jax.tree.leaves(start)]:
            return widened
    raise ValueError(
        "carry must have the form of the carry that sequences start from, "
        f"{describe(initial)}; got {describe(start)}. Pass carry= and initial= of one structure, "
        "shape and type."
    )


def _check_kept(before: Carry, after: Carry) -> None:
    if not _same_shapes(before, after):
        raise ValueError(
            "a step must return a carry of the structure and shapes that it took; took "
            f"{describe(before)} and returned {describe(after)}. Pass a carry= of the form that "
            "the cell returns, or mend the cell."
        )
    if _types(before) != _types(after):
        raise TypeError(
            "a step must return a carry of the type that it took; took "
            f"{describe(before)} and returned {describe(after)}. Cast the carry or xs so that "
            "the types agree, or build the cell with that param_dtype."
        )


def _types(tree: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def _same_shapes(one: Any, other: Any) -> bool:
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    if structures[0] != structures[1]:
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(jnp.shape(a) == jnp.shape(b) for a, b in pairs)


def _widen(value: jax.Array, after: jax.ShapeDtypeStruct) -> jax.Array:
    if value.dtype == after.dtype:
        return value
    wider = np.promote_types(value.dtype, after.dtype) == after.dtype
    return value.astype(after.dtype) if wider else value
