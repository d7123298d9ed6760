"""A cell under a constant input as a map between vectors in float64: s' = F(s).

JAX computes in float32 unless it is told otherwise, and there ‖F(h) − h‖ ends near 1e-7, where slow
points and fixed points cannot be told apart. So the search runs inside `jax.enable_x64`, which is
local to the calling thread and leaves the user's setting alone, with a copy of the cell whose
floats are widened. Widening is exact: the map has the same weights. Results are NumPy arrays,
because outside that context JAX could not hold them.

A cell that insists on a type of its own (`dtype=jnp.float32`, constants of float32 in strict
promotion) is run in that type, and its points are then as good as that type allows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.asking import as_pytree
from rnn_jax.gradients.differentiation import step_jacobians
from rnn_jax.gradients.precision import FULL
from rnn_jax.sequence.calling import Carry, check_carry_leaves, describe, resolve_step

Step = Callable[[jax.Array, jax.Array], jax.Array]


class Map(NamedTuple):
    """A cell and where it is searched, checked; what compiled programs are made from.

    Attributes:
      cell: a pytree of arrays, its floats in the type that it is run in.
      like: a carry that says structure, shapes and type.
    """

    cell: Any
    like: Carry

    @property
    def dtype(self) -> Any:
        """The type that the cell is run in."""
        return jax.tree.leaves(self.like)[0].dtype

    @property
    def size(self) -> int:
        """S, the size of the flattened carry."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.like))


class Searched(NamedTuple):
    """What `fixed_points` and its kin were given, checked.

    Attributes:
      map: the cell.
      states: flattened carries to start from, float64, (N, S).
      carry: the first of them as it was given, for its structure.
    """

    map: Map
    states: np.ndarray
    carry: Carry


def double_precision() -> Any:
    """A context in which JAX computes in float64, and in which products are in full."""
    return _Contexts(jax.enable_x64(True), jax.default_matmul_precision(FULL))


class _Contexts:
    """Several contexts as one."""

    def __init__(self, *contexts: Any):
        self._contexts = contexts

    def __enter__(self) -> None:
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *raised: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*raised)


def check_search(
    call: str, cell: Any, x: np.ndarray, starts: Any, name: str = "starts"
) -> Searched:
    """Checks a cell with carries to start from, which lead with one axis.

    Args:
      call: the public call, for messages.
      cell: any cell.
      x: one input, checked by `check_input`.
      starts: carries with a leading axis N.
      name: of the argument that they came as.

    Raises:
      ValueError, TypeError: the starts are none, of another structure, shape or type than the cell
        takes, or not finite; the cell refuses the input; anything is traced.
    """
    refuse_tracers(call, (cell, x, starts))
    cell = as_pytree(cell)
    rows = _check_rows(starts, name)
    first = jax.tree.map(lambda rows: rows[0], rows)
    with double_precision():
        try:
            found = _trace(cell, x, first, np.float64, name)
        except (TypeError, ValueError) as error:
            # Perhaps the cell has a type of its own; if it fails there too, that is the error.
            kinds = {leaf.dtype for leaf in jax.tree.leaves(first)}
            if kinds == {np.dtype(np.float64)}:
                raise
            kind = kinds.pop()
            try:
                found = _trace(cell, x, first, kind, name)
            except (TypeError, ValueError):
                raise error from None
            if jnp.finfo(kind).bits < 32:
                raise TypeError(
                    f"{call} needs a cell that computes in float32 or float64, in which a fixed "
                    f"point can be told from a slow one; got one that insists on {kind}. Build it "
                    "with dtype=None, which takes the type of its carry."
                ) from None
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(rows)]
    states = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    return Searched(found, states, first)


def check_input(x: Any, name: str = "x") -> np.ndarray:
    """One input (I,) as float64; None is that of a map without inputs, (0,).

    Raises:
      TypeError: it holds no real numbers.
      ValueError: it is no vector, or not finite.
    """
    if x is None:
        return np.zeros(0)
    refuse_tracers("fixed_points", x)
    try:
        array = np.asarray(x)
        kind = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    except (TypeError, ValueError):
        kind = False
    if not kind:
        arrived = getattr(x, "dtype", type(x).__name__)
        raise TypeError(
            f"{name} must hold real numbers, the input that is held constant; got {arrived}. Pass "
            f"an array of floats of shape (I,), or None for a map without inputs."
        )
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one input of shape (I,), held constant; got shape {array.shape}. Call "
            "once for each input, or follow the points along a path with continue_fixed_points."
        )
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"{name} must be finite; got {values[bad]} at feature {bad}. Mend the input first."
        )
    return values


def refuse_tracers(call: str, tree: Any) -> None:
    """Raises TypeError if anything is traced."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError(
            f"{call} must be called with values, because how many points there are depends on "
            "them; got traced arrays, as inside jax.jit, jax.vmap or jax.grad. Call it outside: "
            "its own loop is compiled, and takes all starts at once."
        )


def map_of(where: Map) -> tuple[Step, Callable[[jax.Array, jax.Array], Any]]:
    """(F, its Jacobians by state and input), on vectors of float64; inside a compiled program.

    F: (state (S,), x (I,)) -> (S,);    Jacobians: the same -> (S, S), (S, I).
    """
    _, unravel = ravel_pytree(where.like)
    dtype = where.dtype

    def step(state: jax.Array, x: jax.Array) -> jax.Array:
        after, _ = where.cell(unravel(state.astype(dtype)), x.astype(dtype))
        return ravel_pytree(after)[0].astype(state.dtype)

    def jacobians(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        nothing = jnp.zeros(0, state.dtype)
        found = step_jacobians(lambda s, x: (step(s, x), nothing), state, x)
        return found.state_by_state, found.state_by_input

    return step, jacobians


def unflatten(states: np.ndarray, carry: Carry) -> Carry:
    """Flattened states (..., S) as carries of a structure, leaves (..., ·) in float64."""
    leaves, structure = jax.tree.flatten(carry)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = np.split(states, cuts, axis=-1)
    lead = states.shape[:-1]
    shaped = [p.reshape(*lead, *leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _trace(cell: Any, x: np.ndarray, first: Carry, dtype: Any, name: str) -> Map:
    """The cell's step traced once in a type; raises as `resolve_step`."""

    def widened(leaf: Any) -> Any:
        floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, np.float64) if floats and dtype == np.float64 else leaf

    cell = jax.tree.map(widened, cell)
    like = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), first)
    step = resolve_step(cell, jax.ShapeDtypeStruct(x.shape, dtype), like, name)
    return Map(cell, step.carry)


def _check_rows(starts: Any, name: str) -> Carry:
    """Carries with a leading axis N of at least 1, as NumPy arrays."""
    check_carry_leaves(starts, name)
    rows = jax.tree.map(np.asarray, starts)
    leaves = jax.tree.leaves(rows)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be carries of real floating-point numbers, between which there is a "
                f"nearest one; got {describe(starts)}. Cast them, and keep counters out of the "
                "carry."
            )
    if not leaves or not all(leaf.ndim for leaf in leaves) or len({len(a) for a in leaves}) > 1:
        raise ValueError(
            f"{name} must be carries with one leading axis N, the same in each leaf; got "
            f"{describe(starts)}. For a single one add it: jax.tree.map(lambda a: a[None], carry)."
        )
    if not leaves[0].shape[0]:
        raise ValueError(
            f"{name} must hold at least one carry to start from; got {describe(starts)}. Draw some "
            "with rnn_jax.sample_starts(cell, xs, count, key=key)."
        )
    if not sum(leaf[0].size for leaf in leaves):
        raise ValueError(
            f"{name} must be carries of at least one number; got {describe(starts)}. A cell "
            "without state has no fixed points."
        )
    for leaf in leaves:
        if not np.isfinite(leaf).all():
            row = int(np.argwhere(~np.isfinite(leaf))[0][0])
            raise ValueError(
                f"{name} must be finite; got a value that is not in row {row}. Leave such rows "
                "out, or find out where the trajectory diverged: rnn_jax.gradient_flow(cell, xs)."
            )
    return rows
