"""What is asked of a cell that no one here wrote: that it can be run, its carry, its features.

A cell is any callable pytree. What a layer or a wrapper needs to know of it beyond that stands in
the attributes that Flax's and Equinox' cells have too (`initialize_carry`, `in_features`,
`input_size`), or is seen by tracing its step.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.tree_util import Partial

from rnn_jax.cells.claims import owner_of
from rnn_jax.checks import kind_of

Carry = Any

# What `jit` takes as a leaf.
ARRAYS = (jax.Array, np.ndarray, np.generic, float, int, complex)


def as_pytree(cell: Any) -> Any:
    """Returns the cell as a pytree whose leaves are all arrays, so that `jit` can take it.

    A cell that is one already (an NNX module, a `Partial`) comes back as it is. A plain function
    becomes a `Partial` without leaves and is treated as `jax.jit` treats functions: what it closes
    over is read when it is first traced.

    Raises:
      TypeError: the cell is not callable, is a class, is a Linen module without its variables,
        sees the future or takes whole sequences, or has leaves that are no arrays.
    """
    if isinstance(cell, type):
        raise TypeError(
            f"a cell must be an instance, not a class; got the class {cell.__name__}. Build it "
            f"first, for example {cell.__name__}(2, 64, rngs=nnx.Rngs(0))."
        )
    if isinstance(cell, linen.Module) and cell.scope is None:
        raise TypeError(
            f"a Linen cell must come with its variables; got an unbound {type(cell).__name__}. "
            "Pass jax.tree_util.Partial(cell.apply, variables)."
        )
    if getattr(cell, "sees_future", False):
        raise TypeError(
            "a cell must go from the past to the future, one step at a time; got "
            f"{type(cell).__name__}, which is no cell: it sees the future. Call it on whole "
            "sequences, make it a layer of a SequenceModel, or pass one of its cells, "
            ".forward or .backward."
        )
    if getattr(cell, "takes_sequences", False):
        raise TypeError(
            f"a cell must take one step, cell(carry, x) -> (carry, y); got {type(cell).__name__}, "
            "which takes whole sequences. Pass its layers, .cells."
        )
    if not callable(cell):
        raise TypeError(
            "a cell must be callable, cell(carry, x) -> (carry, y); got an object of type "
            f"{type(cell).__name__}. Pass an NNX cell, a function, or "
            "jax.tree_util.Partial(linen_cell.apply, variables)."
        )
    leaves = jax.tree.leaves(cell)
    if len(leaves) == 1 and leaves[0] is cell:
        return Partial(cell)
    for path, leaf in jax.tree_util.tree_leaves_with_path(cell):
        if not isinstance(leaf, ARRAYS):
            raise TypeError(
                "all pytree leaves of a cell must be arrays; got a leaf of type "
                f"{type(leaf).__name__} at {jax.tree_util.keystr(path) or 'the root'}. Close over "
                "it in a function, or mark it static."
            )
    return cell


def check_cell(cell: Any, name: str) -> Any:
    """Returns a cell as a pytree if it has an initial carry of its own.

    Args:
      cell: whatever arrived.
      name: of the argument that it came as.

    Raises:
      TypeError: it is no cell, see `as_pytree`, or cannot say where a sequence starts.
    """
    try:
        cell = as_pytree(cell)
    except TypeError as error:
        raise TypeError(f"{name} is no cell: {error}") from error
    if carry_maker(cell) is None:
        raise TypeError(
            f"{name} must be a cell that knows where a sequence starts, by a method "
            f"initialize_carry(input_shape); got {kind_of(owner_of(cell))} without one. Give it "
            "one with rnn_jax.as_cell(cell, initial_carry=…)."
        )
    return cell


def carry_maker(cell: Any) -> Any:
    """The object whose `initialize_carry` makes this cell's carry; None if there is none."""
    owner = asked(cell)
    return owner if hasattr(owner, "initialize_carry") else None


def asked(cell: Any) -> Any:
    """The object that has a cell's attributes."""
    owner = owner_of(cell)
    of_method = getattr(owner, "__self__", None)
    # Partial(linen_cell.apply, variables)
    return of_method if isinstance(of_method, linen.Module) else owner


def kernel_of_state(cell: Any) -> Any:
    """The matrix that multiplies the state in a step, (H, G·H); None where a cell names none.

    It is what `transition_kernel()` makes of the weights, of a cell without that method
    `recurrent_kernel`.
    """
    owner = owner_of(cell)
    made = getattr(owner, "transition_kernel", None)
    return getattr(owner, "recurrent_kernel", None) if made is None else made()


def make_carry(cell: Any, input_shape: Any, rngs: Any = None, carry_init: Any = None) -> Carry:
    """The cell's own initial carry for inputs of a given shape; see `RNNCell.initialize_carry`."""
    owner = carry_maker(cell)
    options = {} if carry_init is None else {"carry_init": carry_init}
    # Flax's cells want a key even for a zero carry; nnx.RNN hands them the same fixed one.
    if isinstance(owner, nnx.RNNCellBase):
        key = nnx.Rngs(0) if rngs is None and carry_init is None else rngs
        return owner.initialize_carry(input_shape, key, **options)
    if carry_init is not None:
        raise TypeError(
            "carry_init needs a cell whose initialize_carry takes one, as this package's and "
            f"Flax's do; got {kind_of(owner)}. Leave it out, or draw a carry in the form of "
            "initialize_carry(input_shape)."
        )
    if isinstance(owner, linen.RNNCellBase):
        return owner.initialize_carry(jax.random.key(0), input_shape)
    return owner.initialize_carry(input_shape)


def features_taken(cell: Any) -> int | None:
    """I, as the cell says by `in_features` or `input_size`; None where it does not."""
    owner = owner_of(cell)
    for name in ("in_features", "input_size"):
        found = getattr(owner, name, None)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


def features_said_of_output(cell: Any) -> int:
    """The features of a cell's output, as it says: `output_features`, else `hidden_features`."""
    owner = owner_of(cell)
    return int(getattr(owner, "output_features", None) or owner.hidden_features)


def carry_features(cell: Any, name: str) -> int:
    """I, for what needs a carry before there is an input.

    Args:
      cell: a cell that `check_cell` has let pass.
      name: of what asks.

    Raises:
      TypeError: the cell does not say how many features it takes.
    """
    size = features_taken(cell)
    if size is None:
        raise TypeError(
            f"{name} needs a cell that says how many features it takes, for which it makes a "
            f"carry; got {kind_of(owner_of(cell))} without in_features. Say how many there are: "
            "rnn_jax.as_cell(cell, in_features=…)."
        )
    return size


def carry_form(cell: Any, name: str) -> Any:
    """Shapes and types of the initial carry for one input, (I,); see `carry_features`."""
    size = carry_features(cell, name)
    return jax.eval_shape(lambda cell: make_carry(cell, (size,)), cell)


def parameter_dtype(cell: Any) -> Any:
    """The real type of a cell's parameters together; JAX's default float if it has none."""
    found = getattr(owner_of(cell), "param_dtype", None)
    if found is not None:
        return jnp.dtype(found)
    kinds = [leaf.dtype for leaf in jax.tree.leaves(cell) if hasattr(leaf, "dtype")]
    # NumPy's float64 is float32 to JAX unless it is told otherwise.
    kinds = [jax.dtypes.canonicalize_dtype(k) for k in kinds if jnp.issubdtype(k, jnp.inexact)]
    if not kinds:
        return jax.dtypes.canonicalize_dtype(float)
    return jnp.finfo(functools.reduce(jnp.promote_types, kinds)).dtype


def part_names(cell: Any, carry: Carry) -> tuple[str, ...]:
    """A name for each leaf of a carry: the cell's own (`carry_parts`), else their paths.

    Cells made of cells, of which not all have names, hand the question on (`parts_of`).
    """
    owner = owner_of(cell)
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    names = tuple(getattr(owner, "carry_parts", ()))
    if len(names) == len(leaves):
        return names
    if hasattr(owner, "parts_of"):
        return owner.parts_of(carry)
    paths = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return tuple(path or "carry" for path in paths)


def part_that_is_output(program: Any, parts: int) -> int | None:
    """Which leaf of the carry a step returns as its output too, read off the traced step.

    Two results of a traced function are one value when they are one variable of its program, so
    this never takes merely equal numbers for the same thing.

    Args:
      program: the jaxpr of cell(carry, x), its results the leaves of (carry after, output).
      parts: how many of these are of the carry.

    Returns:
      The position of the leaf; None if the output is none of them, or is more than one array.
    """
    inner = program.jaxpr
    if len(inner.outvars) != parts + 1:
        return None
    *leaves, output = inner.outvars
    return next((k for k, leaf in enumerate(leaves) if _is_same(inner, leaf, output)), None)


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


@functools.cache
def _jitted_call() -> Any:
    """The primitive that a jitted function is in the program of its caller."""
    return jax.make_jaxpr(jax.jit(jnp.sin))(jax.ShapeDtypeStruct((), "float32")).eqns[0].primitive
