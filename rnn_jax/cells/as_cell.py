"""A cell of whatever can take a step, told what it does not say of itself."""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from rnn_jax._functions import portable, restored, value_of
from rnn_jax.cells.asking import ARRAYS, as_pytree, carry_maker, make_carry
from rnn_jax.cells.cell import Carry
from rnn_jax.cells.claims import owner_of
from rnn_jax.cells.wrappers.wrapper import CellWrapper
from rnn_jax.checks import check_count, check_size, kind_of
from rnn_jax.initializers import Initializer


def as_cell(
    function: Any,
    *,
    initial_carry: Any = None,
    in_features: int | None = None,
    feature_axes: int | None = None,
) -> "AdaptedCell":
    """A cell of a function, or of any callable pytree, told what it does not say of itself.

    carry_0 = initial_carry,    carry_t, y_t = function(carry_{t−1}, x_t)

    Everything that takes cells takes the result: `SequenceModel`, `StackedCell`, `Bidirectional`,
    the wrappers, `fit`. What `fit` trains are the pytree leaves of the callable, but of an NNX
    module its `nnx.Param`. (Flax's own `nnx.Optimizer` trains `nnx.Param` alone, which leaves of
    other libraries are not.) A function has none: what it closes over is constant. So hand
    parameters over, as in

      as_cell(jax.tree_util.Partial(step, parameters), initial_carry=jnp.zeros(64))

    for step(parameters, carry, x), where the parameters may be a dict, or a module of Equinox.

    Args:
      function: (carry, x) -> (carry, y) for one step of one sequence: a function, a `Partial`, or
        an object that is a pytree.
      initial_carry: where a sequence starts: a pytree of arrays for one sequence, without batch
        axes, which is not trained (`LearnedCarry` makes it a parameter), or a function of the shape
        of one input that returns one. None is the callable's own (`initialize_carry`).
      in_features: I, what the callable does not say itself and wrappers may need. None leaves it
        at what it says.
      feature_axes: how many trailing axes of an input are features, as for `unroll`, which asks the
        cell; None is what the callable says, or 1.

    Raises:
      TypeError: no callable, leaves or an initial carry that are no arrays, or an initial carry
        neither given nor known.
      ValueError: `in_features` below 1, or `feature_axes` below 0.

    Example:
      >>> def step(parameters, h, x):
      ...     h = jnp.tanh(x @ parameters["in"] + h @ parameters["recurrent"])
      ...     return h, h
      ...
      >>> parameters = {"in": jnp.ones((2, 8)), "recurrent": 0.5 * jnp.eye(8)}
      >>> function = jax.tree_util.Partial(step, parameters)
      >>> own = rj.as_cell(function, initial_carry=jnp.zeros(8), in_features=2)
      >>> rj.unroll(own, xs)[1].shape
      (20, 8)
      >>> [leaf.shape for leaf in jax.tree.leaves(nnx.state(rj.LearnedCarry(own), nnx.Param))]
      [(8,)]
    """
    return AdaptedCell(function, initial_carry, in_features, feature_axes)


class InitialCarry(nnx.Variable[jax.Array]):
    """A part of an initial carry that was given: kept with the cell, and not trained."""


class AdaptedCell(CellWrapper):
    """What `as_cell` makes: the cell inside, from another carry and told its features."""

    def __init__(
        self,
        cell: Any,
        initial_carry: Any,
        in_features: int | None,
        feature_axes: int | None = None,
    ):
        cell = as_pytree(cell)
        start: Any = None
        if initial_carry is None:
            if carry_maker(cell) is None:
                raise TypeError(
                    "as_cell needs to know where a sequence starts; got "
                    f"{kind_of(owner_of(cell))}, which has no initialize_carry(input_shape), and "
                    "initial_carry=None. Pass initial_carry=, for example jnp.zeros(64)."
                )
        elif callable(initial_carry):
            start = _Function(initial_carry)
        else:
            start = nnx.data(jax.tree_util.tree_map_with_path(_as_variable, initial_carry))
        # Not by way of the base, which wants the cell itself to know its carry.
        self.cell = nnx.data(_comparable(cell))
        self.initial = start
        if in_features is not None:
            self._features = check_size("in_features", in_features)
        self._axes = None if feature_axes is None else check_count("feature_axes", feature_axes)

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features."""
        return super().num_feature_axes if self._axes is None else self._axes

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The carry that was given, for every input of a batch; without one the cell's own.

        Args:
          input_shape: (..., I), the shape of one input; of several, which have no batch axes, a
            pytree of shapes.
          rngs, carry_init: as for `RNNCell.initialize_carry`; a given carry takes no initialiser.

        Raises:
          TypeError: a `carry_init` beside a given carry.
        """
        if self.initial is None:
            return make_carry(self.cell, input_shape, rngs, carry_init)
        if carry_init is not None:
            raise TypeError(
                "carry_init cannot be given to a cell whose initial carry was given to as_cell; "
                "got both. Leave carry_init out, or draw a carry in the form of "
                "initialize_carry(input_shape)."
            )
        if isinstance(self.initial, _Function):
            return self.initial(input_shape)
        batch: tuple[int, ...] = ()
        if all(isinstance(size, int) for size in input_shape):
            batch = tuple(input_shape[: len(input_shape) - self.num_feature_axes])

        def repeat(part: InitialCarry) -> jax.Array:
            value = part[...]
            return jnp.broadcast_to(value, (*batch, *value.shape))

        return jax.tree.map(
            repeat, self.initial, is_leaf=lambda node: isinstance(node, InitialCarry)
        )


class _Function:
    """A function that is equal to one that computes the same; see `rnn_jax._functions`.

    Functions are part of a pytree's structure. Two members of an ensemble that each make theirs by
    the same line would not be of one structure otherwise.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._value = value_of(function)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Function):
            return NotImplemented
        if self.function is other.function:
            return True
        # What has closed over something else since may stand in a program compiled before.
        now = value_of(self.function), value_of(other.function)
        return bool(self._value == other._value and now == (self._value, other._value))

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> "_Function":
        return self

    def __deepcopy__(self, memo: Any) -> "_Function":
        return self

    def __reduce__(self) -> Any:
        return _function, (portable(self.function),)


def _function(function: Any) -> _Function:
    return _Function(restored(function))


def _comparable(cell: Any) -> Any:
    """A `Partial` whose function is compared by what it computes, if it is nothing but that."""
    if type(cell) is not Partial or not isinstance(cell.func, types.FunctionType):
        return cell
    if vars(cell.func):  # Such as an `initialize_carry` of its own.
        return cell
    return Partial(_Function(cell.func), *cell.args, **cell.keywords)


def _as_variable(path: Any, leaf: Any) -> InitialCarry:
    if not isinstance(leaf, ARRAYS):
        raise TypeError(
            "initial_carry must be a pytree of arrays, or a function of the shape of one input; "
            f"got a leaf of type {type(leaf).__name__} at "
            f"initial_carry{jax.tree_util.keystr(path)}. "
            "Pass for example jnp.zeros(64)."
        )
    return InitialCarry(jnp.asarray(leaf))
