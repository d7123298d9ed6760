"""A cell under examination, and the few compiled programs that its laws share."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from rnn_jax.cells.asking import features_taken, parameter_dtype
from rnn_jax.cells.claims import owner_of
from rnn_jax.checks import kind_of
from rnn_jax.sequence.calling import describe, resolve_step
from rnn_jax.sequence.inputs import input_of_step, is_array, is_float
from rnn_jax.sequence.unroll import unroll
from rnn_jax.testing.law import Broken

Carry = Any
# Of a sequence, so many steps are used: enough for a carry to be handed on in pieces.
STEPS = 6


class Subject:
    """A cell with inputs and a carry, at which its laws are examined.

    The weights that the cell was built with are often special (a bias of 0, a gate at 1), and an
    error in what they multiply would not show. So laws are examined at weights moved a little.

    Attributes:
      given: the cell as it arrived.
      cell: the same with its weights moved.
      xs: one sequence, each leaf (T, ...).
      owns_start: whether that is the cell's own.
    """

    def __init__(self, cell: Any, xs: Any, carry: Carry | None, seed: int):
        self.given = cell
        self.seed = seed
        self.xs = on_host(xs)
        self.cell = moved_weights(cell, seed)
        self.owns_start = carry is None
        self._carry = carry

    @property
    def steps(self) -> int:
        """T."""
        return int(jax.tree.leaves(self.xs)[0].shape[0])

    @functools.cached_property
    def start(self) -> Carry:
        """The carry that sequences start from; raises if the cell breaks its contract."""
        return resolve_step(self.cell, input_of_step(self.xs), self._carry).carry

    @property
    def owner(self) -> Any:
        """The object that has the cell's attributes."""
        return owner_of(self.cell)

    @property
    def feature_axes(self) -> int:
        """How many axes of an input are features."""
        return max(leaf.ndim for leaf in jax.tree.leaves(self.xs)) - 1

    @functools.cached_property
    def eps(self) -> float:
        """The spacing of numbers in the coarsest type that the cell computes in."""
        named = [getattr(self.owner, name, None) for name in ("dtype", "carry_dtype")]
        leaves = jax.tree.leaves((self.cell, self.xs, self.start))
        kinds = [jnp.dtype(kind) for kind in (*named, *(leaf.dtype for leaf in leaves)) if kind]
        floats = [float(jnp.finfo(k).eps) for k in kinds if jnp.issubdtype(k, jnp.floating)]
        return max(floats, default=float(jnp.finfo(jnp.float32).eps))

    @property
    def tolerance(self) -> float:
        """Of two computations of one number."""
        return float(self.eps ** (2 / 3))

    def x(self, t: int) -> Any:
        """The input of one step."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[t]), self.xs)

    @functools.cached_property
    def path(self) -> tuple[Carry, Any]:
        """(carries, outputs) of a loop in Python that continues the sequence from its end.

        The carries are those before each step, and one more; they are of a state that the cell
        reaches, which holds what the cell wants of a carry.
        """
        middle = by_hand(self.cell, self.xs, self.start)[0]
        carry, carries, ys = middle, [middle], []
        for t in range(self.steps):
            carry, y = step(self.cell, carry, self.x(t))
            carries.append(carry)
            ys.append(y)
        return stacked(carries), stacked(ys)

    @property
    def carry(self) -> Carry:
        """A carry that the cell reaches, from which `path` goes on."""
        return self.at(0)[0]

    def at(self, t: int) -> tuple[Carry, Any]:
        """(carry before, input) of a step of the path."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[t]), self.path[0]), self.x(t)

    @property
    def points(self) -> tuple[Carry, Any]:
        """(carries before each step, inputs), with a leading axis T."""
        return jax.tree.map(lambda leaf: leaf[:-1], self.path[0]), self.xs

    @functools.cached_property
    def jacobians(self) -> np.ndarray:
        """∂carry'/∂carry of the cell's own call at each point, (T, S, S), by differentiation."""
        return np.asarray(own_jacobians(self.cell, *self.points))

    @functools.cached_property
    def rows(self) -> Any:
        """Two sequences: the given one, and it from the end to the start."""
        return stacked([self.xs, jax.tree.map(lambda leaf: leaf[::-1], self.xs)])

    def unrolled(self, cell: Any, xs: Any, carry: Carry | None, **options: Any) -> Any:
        """`unroll` with the carries; one compiled program for all sequences of this form."""
        return unroll(
            cell, xs, carry, feature_axes=self.feature_axes, return_carries=True, **options
        )

    def check_close(
        self, what: str, arrived: Any, expected: Any, *, allowed: float | None = None
    ) -> float:
        """Returns the largest difference; raises `Broken` if it is not allowed."""
        allowed = self.tolerance if allowed is None else allowed
        structures: list[Any] = [jax.tree.structure(tree) for tree in (arrived, expected)]
        shapes = [list(map(np.shape, jax.tree.leaves(tree))) for tree in (arrived, expected)]
        if structures[0] != structures[1] or shapes[0] != shapes[1]:
            raise Broken(f"{what} of form {describe(arrived)} against {describe(expected)}")
        size, where, pair = difference(arrived, expected)
        if not size <= allowed:
            raise Broken(f"{what}{where}: {pair[0]:.6g} against {pair[1]:.6g}", size, allowed)
        return size


@jax.jit
def step(cell: Any, carry: Carry, x: Any) -> tuple[Carry, Any]:
    """One compiled step."""
    return cell(carry, x)


@jax.jit
def own_jacobians(cell: Any, carries: Carry, xs: Any) -> jax.Array:
    """∂carry'/∂carry of the call at each of many points, (T, S, S)."""

    def at(carry: Carry, x: Any) -> jax.Array:
        state, unravel = ravel_pytree(carry)

        def after(state: jax.Array) -> jax.Array:
            return ravel_pytree(cell(unravel(state), x)[0])[0]

        try:
            return jax.jacfwd(after)(state)
        except TypeError:  # As of a custom_vjp, which is pulled back alone.
            return jax.jacrev(after)(state)

    return jax.vmap(at)(carries, xs)


def by_hand(
    cell: Any,
    xs: Any,
    start: Carry,
    *,
    length: int | None = None,
    reset: int | None = None,
    reverse: bool = False,
) -> tuple[Carry, Any]:
    """(last carry, outputs) of a loop in Python; outputs beyond the length are 0.

    Args:
      cell: any cell.
      xs: one sequence.
      length: where the sequence ends.
      reset: the step at which another one starts.
      reverse: from the last step to the first.
    """
    steps = jax.tree.leaves(xs)[0].shape[0]
    carry, ys = start, {}
    order = range(steps if length is None else length)
    for t in reversed(order) if reverse else order:
        if t == reset and not reverse:
            carry = start
        carry, ys[t] = step(cell, carry, jax.tree.map(lambda leaf, t=t: leaf[t], xs))
        if t == reset and reverse:
            carry = start
    nothing = jax.tree.map(np.zeros_like, on_host(ys[order[0]]))
    return carry, stacked([ys.get(t, nothing) for t in range(steps)])


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one, with a leading axis; on the host, see `on_host`."""

    def stack(*leaves: Any) -> Any:
        on_device = any(isinstance(leaf, jax.Array) for leaf in leaves)
        return jnp.stack(leaves) if on_device else np.stack(leaves)

    return jax.tree.map(stack, *map(on_host, trees))


def on_host(tree: Any) -> Any:
    """The same as arrays of NumPy, but for keys, which are JAX's alone.

    What is done to an array of JAX outside `jit`, be it a slice, is a program for each shape.
    """

    def read(leaf: Any) -> Any:
        is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return leaf if is_key else np.asarray(leaf)

    return jax.tree.map(read, tree)


def weight_mask(cell: Any) -> list[bool]:
    """Which leaves of a cell are weights: of a module of NNX its parameters, else all floats."""
    leaves = jax.tree.leaves(cell)
    is_weight = [True] * len(leaves)
    if isinstance(cell, nnx.Module):
        parts: Any = nnx.split(cell, nnx.Param, ...)
        graph, parameters, rest = parts
        ones, zeros = jax.tree.map(np.ones_like, parameters), jax.tree.map(np.zeros_like, rest)
        is_weight = [bool(np.all(leaf)) for leaf in jax.tree.leaves(nnx.merge(graph, ones, zeros))]
    floats = [hasattr(leaf, "dtype") and is_float(leaf) for leaf in leaves]
    return [a and b for a, b in zip(is_weight, floats, strict=True)]


def moved_weights(cell: Any, seed: int, scale: float = 0.1) -> Any:
    """The cell with noise on its weights."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(cell)
    moved = [
        jnp.asarray(leaf + np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype))
        if is_weight
        else given
        for given, leaf, is_weight in zip(leaves, on_host(leaves), weight_mask(cell), strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def difference(arrived: Any, expected: Any) -> tuple[float, str, tuple[float, float]]:
    """(largest difference by max(1, max |expected|) of a leaf, where, the two numbers there)."""
    worst: tuple[float, str, tuple[float, float]] = (0.0, "", (0.0, 0.0))
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, right), left in zip(leaves, jax.tree.leaves(arrived), strict=True):
        a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
        if not b.size:
            continue
        finite = np.abs(b[np.isfinite(b)])
        with np.errstate(all="ignore"):
            apart = np.abs(a - b) / max(1.0, finite.max(initial=0.0))
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, apart)
        apart = np.where(np.isnan(apart), np.inf, apart)
        index: Any = np.unravel_index(int(np.argmax(apart)), apart.shape)
        if apart[index] > worst[0]:
            place = jax.tree_util.keystr(path) + (str(list(map(int, index))) if index else "")
            worst = (float(apart[index]), place, (float(a[index]), float(b[index])))
    return worst


def default_inputs(cell: Any, seed: int) -> Any:
    """A standard normal sequence, (T, I), in the type of the cell's parameters.

    Raises:
      TypeError: the cell does not say how many features it takes.
    """
    size = features_taken(cell)
    if size is None:
        raise TypeError(
            "check_cell needs inputs for a cell that does not say by in_features how many features "
            f"it takes; got {kind_of(owner_of(cell))} and xs=None. Pass one sequence, "
            "xs of shape (T, ...), or a pytree of such arrays."
        )
    values = np.random.default_rng(seed).normal(size=(STEPS, size))
    return jnp.asarray(values, parameter_dtype(cell))


def is_one_float_array(xs: Any) -> bool:
    """Whether inputs are one array of floats, by which there are derivatives."""
    return is_array(xs) and is_float(xs)
