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

from rnn_jax.checks import check_size
from rnn_jax.initializers import InitializerLike, get_initializer, init_by_gate

Carry = Any


class Cell(Protocol):
    """Any callable that advances a carry by one input."""

    def __call__(self, carry: Any, x: Any, /) -> tuple[Any, Any]: ...


class RNNCell(nnx.RNNCellBase):
    """Base of this package's cells: h_t = step(h_{t−1}, project(x_t)).

    A subclass names its blocks (`blocks`, the gates and candidates whose pre-activations lie side
    by side in the fused kernels), its carry's parts (`carry_parts`), and writes `step`.

    Attributes:
      in_features: I, the features of one input.
      hidden_features: H, the features of one hidden state.
      kernel: W_x, shape (I, G·H) for G blocks.
      recurrent_kernel: W_h, shape (H, G·H).
      bias: b, shape (G·H,).
    """

    blocks: tuple[str, ...] = ("hidden",)
    carry_parts: tuple[str, ...] = ("h",)

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
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        size_in = self.in_features = check_size("in_features", in_features)
        size = self.hidden_features = check_size("hidden_features", hidden_features)
        self.blocks = blocks
        self.param_dtype = _float_dtype("param_dtype", param_dtype or float)
        self.dtype = None if dtype is None else _float_dtype("dtype", dtype)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(
                f"rngs must be a flax.nnx.Rngs; got {type(rngs).__name__}. Pass rngs=nnx.Rngs(0)."
            )
        init = {
            name: get_initializer(name, value)
            for name, value in (
                ("kernel_init", kernel_init),
                ("recurrent_kernel_init", recurrent_kernel_init),
                ("bias_init", bias_init),
            )
        }
        gates, dtype = len(blocks), self.param_dtype
        self.kernel = nnx.Param(
            init_by_gate(init["kernel_init"], rngs.params(), size_in, size, gates, dtype)
        )
        self.recurrent_kernel = nnx.Param(
            init_by_gate(init["recurrent_kernel_init"], rngs.params(), size, size, gates, dtype)
        )
        self.bias = nnx.Param(init["bias_init"](rngs.params(), (gates * size,), dtype))

    def __call__(self, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array]:
        """Advances the carry by one input: `step(carry, project(x))`.

        Args:
          carry: the state before the step; each part (..., H).
          x: the input, (..., I).

        Returns:
          (carry after the step, output h of shape (..., H)).
        """
        return self.step(carry, self.project(x))

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: z = x W_x + b.

        Over a whole sequence this is one matrix product, which `unroll` hoists out of its loop.

        Args:
          x: inputs, (..., I).

        Returns:
          Pre-activations, (..., G·H).

        Raises:
          ValueError: x does not have `in_features` features.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of x must hold the cell's in_features={self.in_features}; got "
                f"shape {x.shape}. Pass x of shape (..., {self.in_features}) or build the cell "
                f"with in_features={x.shape[-1] if x.ndim else 1}."
            )
        x, kernel, bias = promote(x, self.kernel[...], self.bias[...], dtype=self.dtype)
        return affine(x, kernel, bias)

    def step(self, carry: Carry, z: jax.Array) -> tuple[Carry, jax.Array]:
        """The recurrence: one step from the carry and a projected input.

        Args:
          carry: the state before the step; each part (..., H).
          z: `project(x)`, (..., G·H).

        Returns:
          (carry after the step, output of shape (..., H)).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(carry, z).")

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None) -> Carry:
        """The zero carry for inputs of a given shape.

        Args:
          input_shape: (..., I), the shape of one input.
          rngs: accepted for agreement with Flax; unused, because the carry is zero.

        Returns:
          One array of shape (..., H), or a tuple of them in the order of `carry_parts`.
        """
        del rngs
        dtype = self.param_dtype if self.dtype is None else self.dtype
        shape = (*input_shape[:-1], self.hidden_features)
        parts = tuple(jnp.zeros(shape, dtype) for _ in self.carry_parts)
        return parts if len(parts) > 1 else parts[0]

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing axes of an input that are features: 1."""
        return 1


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x W + b for x of any rank."""
    z = x @ kernel
    # Written out, because rank promotion is an error in the strict mode that the tests run in.
    return z + jnp.broadcast_to(bias, z.shape)


def promote(*arrays: jax.Array, dtype: Any = None) -> list[jax.Array]:
    """Casts arrays to `dtype`, or to the type that JAX's promotion gives them together."""
    common = jnp.result_type(*arrays) if dtype is None else dtype
    return [array.astype(common) for array in arrays]


def _float_dtype(name: str, dtype: Any) -> Any:
    try:
        resolved = jax.dtypes.canonicalize_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"{name} must be a floating-point type; got {dtype!r}.") from error
    if not jnp.issubdtype(resolved, jnp.floating):
        raise TypeError(
            f"{name} must be a floating-point type; got {resolved.name}. Use jnp.float32."
        )
    return resolved
