"""What the smaller cells share: the bare product with the input, weights by unit, gains.

`InputDrivenCell` is the base of cells without a recurrent matrix: each unit keeps its own state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import RNNCell, _check_real, promote
from rnn_jax.checks import check_flag, check_number
from rnn_jax.initializers import InitializerLike


def input_product(cell: RNNCell, x: jax.Array) -> jax.Array:
    """x W_x, without a bias, in the type that the cell's `project` computes in.

    Args:
      cell: whose kernel it is.
      x: inputs, (..., I).

    Returns:
      (..., G·H).

    Raises:
      ValueError: x does not have `in_features` features.
      TypeError: x does not hold real numbers.
    """
    _check_real("x", x)
    if x.ndim < 1 or x.shape[-1] != cell.in_features:
        raise ValueError(
            f"the last axis of x must hold the cell's in_features={cell.in_features}; got "
            f"shape {x.shape}. Pass x of shape (..., {cell.in_features}) or build the cell "
            f"with in_features={x.shape[-1] if x.ndim else 1}."
        )
    kernel = cell.kernel[...]
    if cell.carry_dtype is None:
        return jnp.matmul(*promote(x, kernel, dtype=cell.dtype))
    return cell._product(x, kernel)


def spread(weights: jax.Array, like: jax.Array) -> jax.Array:
    """Weights of units, (H,), for each of the rows of an array (..., H), in its type."""
    return jnp.broadcast_to(weights.astype(like.dtype), like.shape)


def gaussian(name: str, gain: float) -> InitializerLike:
    """Gaussian numbers of standard deviation gain/√rows; `name` is the gain's, for messages."""
    value = check_number(name, gain)
    if value < 0:
        raise ValueError(f"{name} must be at least 0; got {value:g}. Pass a positive float.")
    if value == 0:
        return "zeros"
    scaling: InitializerLike = jax.nn.initializers.variance_scaling(value**2, "fan_in", "normal")
    return scaling


class InputDrivenCell(RNNCell):
    """Base of cells without a recurrent matrix: units meet the input alone, or themselves.

    Args:
      in_features, hidden_features: I and H.
      blocks: see `RNNCell`.
      kernel_init, bias_init: initialisers, by name or callable.
      use_bias: whether there is a bias; without one `bias` is None.
      dtype, carry_dtype, param_dtype, rngs: see `RNNCell`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        blocks: tuple[str, ...],
        kernel_init: InitializerLike,
        bias_init: InitializerLike,
        use_bias: bool,
        dtype: Any,
        carry_dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        has_bias = check_flag("use_bias", use_bias)
        super().__init__(
            in_features,
            hidden_features,
            blocks=blocks,
            kernel_init=kernel_init,
            recurrent_kernel_init="zeros",
            bias_init=bias_init,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        del self.recurrent_kernel
        if not has_bias:
            del self.bias
            self.bias = None  # type: ignore[assignment]

    def project(self, x: jax.Array) -> jax.Array:
        """z = x W_x + b; see `RNNCell.project`."""
        z = input_product(self, x)
        return z if self.bias is None else z + spread(self.bias[...], z)

    def _kept(self, *parts: jax.Array) -> list[jax.Array]:
        """As that of `RNNCell`, whose recurrent kernel is not here."""
        if self.carry_dtype is not None:
            return promote(*parts, dtype=self.carry_dtype)
        weights = jax.ShapeDtypeStruct((), self.kernel[...].dtype)
        common = jnp.result_type(*parts, weights) if self.dtype is None else self.dtype
        return promote(*parts, dtype=common)
