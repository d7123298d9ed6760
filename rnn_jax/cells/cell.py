"""What a cell is, and the base class of the cells that this package brings.

Everywhere in the package a *cell* is any callable `cell(carry, x) -> (carry, y)` whose arrays, if
it has any, are its pytree leaves. Nothing else is required; `Cell` writes that down as a type. The
cells defined here are Flax NNX modules (so they are pytrees) and split a step in two: `project`,
all that depends on the input alone, and `step`, the recurrence.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.claims import SelfDescribing
from rnn_jax.cells.structure import FusedForm
from rnn_jax.checks import check_rngs, check_size
from rnn_jax.initializers import (
    Initializer,
    InitializerLike,
    MemoryGates,
    get_initializer,
    init_bias,
    init_by_gate,
)

Carry = Any


class Cell(Protocol):
    """Any callable that advances a carry by one input."""

    def __call__(self, carry: Any, x: Any, /) -> tuple[Any, Any]: ...


class RNNCell(nnx.RNNCellBase, SelfDescribing):
    """Base of this package's cells: h_t = step(h_{t−1}, project(x_t)).

    A subclass names its blocks (`blocks`, the gates and candidates whose pre-activations lie side
    by side in the fused kernels), its carry's parts (`carry_parts`), and writes `step`.

    Attributes:
      diagonal_part: the part of the carry each unit of which acts on the next step's same unit
        alone, in every part (a cell state behind gates that see it not, or by peepholes).
      memory_gates: the blocks that decide how much of the state is kept, each with 1 if it keeps
        the state where it is near 1 and −1 if it overwrites it there. The initialisers
        `forget_bias` and `chrono` set their biases.
      splits_call: whether a call is `step(carry, project(x))`, so that `unroll` may project a whole
        sequence at once. What a cell may tell of itself, and when it counts, is said in
        `rnn_jax.cells.claims`.
      in_features: I, the features of one input.
      hidden_features: H, the features of one hidden state.
      kernel: W_x, shape (I, G·H) for G blocks.
      recurrent_kernel: W_h, shape (H, G·H); of the output's features, where these are others.
      bias: b, shape (G·H,).
      dtype: the type that products are computed in; None takes JAX's promotion.
      carry_dtype: the type that carries are kept and gates computed in; None is that of products.
    """

    blocks: tuple[str, ...]
    carry_parts: tuple[str, ...] = ("h",)
    diagonal_part: str | None = None
    memory_gates: MemoryGates = ()
    splits_call: bool = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        blocks: tuple[str, ...],
        kernel_init: InitializerLike,
        recurrent_kernel_init: InitializerLike,
        bias_init: InitializerLike,
        dtype: Any,
        carry_dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        size_in = self.in_features = check_size("in_features", in_features)
        size = self.hidden_features = check_size("hidden_features", hidden_features)
        self.blocks = blocks
        self.param_dtype = _float_dtype(
            "param_dtype", float if param_dtype is None else param_dtype
        )
        self.dtype = None if dtype is None else _float_dtype("dtype", dtype)
        self.carry_dtype = None if carry_dtype is None else _float_dtype("carry_dtype", carry_dtype)
        check_rngs(rngs)
        init = {
            "kernel_init": get_initializer("kernel_init", kernel_init),
            "recurrent_kernel_init": get_initializer(
                "recurrent_kernel_init", recurrent_kernel_init
            ),
        }
        of_bias = get_initializer("bias_init", bias_init, "bias")
        gates, dtype = len(blocks), self.param_dtype

        def kernel(name: str, rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(
                init_by_gate(name, init[name], rngs.params(), rows, size, gates, dtype)
            )

        self.kernel = kernel("kernel_init", size_in)
        self.recurrent_kernel = kernel("recurrent_kernel_init", self.output_features)
        gates_of_memory = self.memory_gates
        self.bias = nnx.Param(
            init_bias("bias_init", of_bias, rngs.params(), size, blocks, gates_of_memory, dtype)
        )

    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advances the carry by one input: `step(carry, project(x))`.

        Args:
          carry: the state before the step; each part (..., H).
          x: the input, (..., I); whole numbers and booleans are promoted to the type of the
            parameters.

        Returns:
          (carry after the step, output h of shape (..., H), of `output_features` in general).

        Raises:
          ValueError: x or a part of the carry has another shape.
          TypeError: x does not hold real numbers, or the carry no floating-point numbers.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return self.step(carry, z)

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: z = x W_x + b.

        Over a whole sequence this is one matrix product, which `unroll` hoists out of its loop.

        Args:
          x: inputs, (..., I).

        Returns:
          Pre-activations, (..., G·H).

        Raises:
          ValueError: x does not have `in_features` features.
          TypeError: x does not hold real numbers.
        """
        _check_real("x", x)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of x must hold the cell's in_features={self.in_features}; got "
                f"shape {x.shape}. Pass x of shape (..., {self.in_features}) or build the cell "
                f"with in_features={x.shape[-1] if x.ndim else 1}."
            )
        kernel, bias = self.kernel[...], self.bias[...]
        if self.carry_dtype is None:
            return affine(*promote(x, kernel, bias, dtype=self.dtype))
        z = self._product(x, kernel)
        return z + jnp.broadcast_to(bias.astype(z.dtype), z.shape)

    def step(self, carry: Carry, z: jax.Array) -> tuple[Carry, jax.Array]:
        """The recurrence: one step from the carry and a projected input.

        Args:
          carry: the state before the step; each part (..., H).
          z: `project(x)`, (..., G·H).

        Returns:
          (carry after the step, output of shape (..., H)).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(carry, z).")

    def fused_form(self) -> FusedForm | None:
        """The cell in the form that `unroll` runs and differentiates fastest; None if it has none.

        It must say the same as `step`, which stays the definition.
        """
        return None

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The initial carry for inputs of a given shape: zero, unless told otherwise.

        Args:
          input_shape: (..., I), the shape of one input.
          rngs: source of randomness for `carry_init`; unused without it.
          carry_init: (key, shape, dtype) -> array, one call for each part of the carry.

        Returns:
          One array of shape (..., H), or a tuple of them in the order of `carry_parts`.

        Raises:
          ValueError: a `carry_init` without `rngs`.
          TypeError: `input_shape` is no tuple.
        """
        if not _is_sequence(input_shape):
            raise TypeError(
                "input_shape must be a tuple (..., I); got "
                f"{input_shape!r} of type {type(input_shape).__name__}. Pass x.shape."
            )
        dtype = self.carry_dtype or self.dtype or self.param_dtype
        shapes = _part_shapes(self, tuple(input_shape[:-1]))
        if carry_init is None:
            parts = [jnp.zeros(shape, dtype) for shape in shapes]
        elif rngs is None:
            raise ValueError("carry_init needs a key; got rngs=None. Pass rngs=nnx.Rngs(0).")
        else:
            draw = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            parts = [carry_init(draw(), shape, dtype) for shape in shapes]
        return tuple(parts) if len(parts) > 1 else parts[0]

    def _kept(self, *parts: jax.Array) -> list[jax.Array]:
        """Parts of the carry and pre-activations in the type that a step keeps them in."""
        if self.carry_dtype is not None:
            return promote(*parts, dtype=self.carry_dtype)
        weights = jax.ShapeDtypeStruct((), self.recurrent_kernel[...].dtype)
        common = jnp.result_type(*parts, weights) if self.dtype is None else self.dtype
        return promote(*parts, dtype=common)

    def _product(self, values: jax.Array, kernel: jax.Array) -> jax.Array:
        """values · kernel: multiplied in `dtype`, and added up in `carry_dtype` if there is one."""
        operands = promote(values, kernel, dtype=self.dtype)
        if self.carry_dtype is None:
            return jnp.matmul(*operands)
        return jnp.matmul(*operands, preferred_element_type=self.carry_dtype)

    def _check_carry(self, carry: Carry, x: jax.Array) -> None:
        """Raises unless the carry has this cell's parts, each (..., H) with the axes of x."""
        expected = _part_shapes(self, x.shape[:-1])
        parts = carry if len(self.carry_parts) > 1 else (carry,)
        shapes = [getattr(part, "shape", None) for part in parts] if _is_sequence(parts) else []
        if shapes != expected:
            names = ", ".join(self.carry_parts)
            arrived = jax.tree.map(lambda a: getattr(a, "shape", type(a).__name__), carry)
            equal = len(set(expected)) == 1
            rule = f"each part of shape {expected[0]}" if equal else f"of shapes {expected}"
            raise ValueError(
                f"carry must be {f'({names})' if len(self.carry_parts) > 1 else names}, {rule}; "
                f"got {arrived}. Start from cell.initialize_carry({x.shape})."
            )
        for name, part in zip(self.carry_parts, parts, strict=True):
            _check_floats(f"carry part {name}", part)

    @property
    def output_features(self) -> int:
        """The features of one output h, which the recurrent kernel sees: H if nothing is between.

        An `LSTMCell` with a projection has fewer.
        """
        return self.hidden_features

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features: 1."""
        return 1


def _part_shapes(cell: RNNCell, batch: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shape of each part of a cell's carry."""
    sizes = {"h": cell.output_features}
    return [(*batch, sizes.get(part, cell.hidden_features)) for part in cell.carry_parts]


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x W + b for x of any rank."""
    z = x @ kernel
    # Written out, because rank promotion is an error in the strict mode that the tests run in.
    return z + jnp.broadcast_to(bias, z.shape)


def promote(*arrays: jax.Array, dtype: Any = None) -> list[jax.Array]:
    """Casts arrays to `dtype`, or to the type that JAX's promotion gives them together.

    Beside a float, whole numbers and booleans have no say in that.
    """
    floats = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]
    common = jnp.result_type(*(floats or arrays)) if dtype is None else dtype
    return [array.astype(common) for array in arrays]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _check_floats(name: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        arrived = type(value).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"{name} must be an array of real floating-point numbers; got {arrived}. Cast it, "
            "for example jnp.asarray(value, jnp.float32)."
        )


def _check_real(name: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in real):
        arrived = type(value).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"{name} must be an array of real numbers; got {arrived}. Cast it, for example "
            "jnp.asarray(value, jnp.float32); of several inputs pass the one that this cell takes."
        )


def _float_dtype(name: str, dtype: Any) -> Any:
    try:
        resolved = jax.dtypes.canonicalize_dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a floating-point type; got {dtype!r}. Use jnp.float32."
        ) from error
    if not jnp.issubdtype(resolved, jnp.floating):
        raise TypeError(
            f"{name} must be a floating-point type; got {resolved.name}. Use jnp.float32."
        )
    if dtype is not float and jnp.dtype(dtype).itemsize > resolved.itemsize:
        raise ValueError(
            f"{name} must be a type that JAX is set to compute in; got {jnp.dtype(dtype).name}, "
            f"which would become {resolved.name} without notice. Enable it first: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return resolved
