"""The simple (Elman) recurrent network."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.activations import (
    Activation,
    ActivationLike,
    activation_slope_range,
    acts_by_element,
    get_activation,
    is_own,
)
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm, rounds_products, row_matrix
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.initializers import InitializerLike


class SimpleRNNCell(RNNCell):
    """A simple recurrent cell with any activation.

    h_t = φ(x_t W_x + h_{t−1} W_h + b),    y_t = h_t

    so that ∂h_t/∂h_{t−1} = diag(φ'(·)) W_hᵀ: a product of T such factors is what vanishes or
    explodes.

    Args:
      in_features: I.
      hidden_features: H.
      activation: φ, by name (`sigmoid tanh relu leaky_relu identity` …), as an `Activation`, or
        any callable.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name, as "orthogonal" or
        "gaussian(1.5)", or callable; see `rnn_jax.initializers`.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products. With dtype=bfloat16 and carry_dtype=float32, products of bfloat16 are added up in
        float32, and the carry forgets nothing to rounding.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> relu = rj.SimpleRNNCell(
      ...     2, 8, activation="relu", recurrent_kernel_init="identity", rngs=nnx.Rngs(0)
      ... )
      >>> sorted(set(relu.slopes(jnp.zeros(8), xs[0]).tolist()))  # φ' of the units
      [0.0, 1.0]
      >>> rj.jacobian_log_bound(relu, 3).tolist()  # by lag: no product of Jacobians grows
      [0.0, 0.0, 0.0]

    References:
      J. L. Elman, "Finding structure in time", 1990.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        activation: ActivationLike = "tanh",
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike = "orthogonal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.activation = get_activation(activation)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("hidden",),
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h = φ(z + h_prev W_h); see `RNNCell.step`."""
        h = self.activation(self._pre_activation(carry, z))
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel; None for an activation that is not this package's own.

        Another one may mix units, or close over weights of its own.
        """
        if not is_own(self.activation):
            return None
        return FusedForm(_UnitMathematics(self.activation), (self._whole_kernel(),))

    def linear_form(self) -> LinearForm | None:
        """Dense, Λ = W_hᵀ at every step, for the activation "identity"; else None."""
        if self.activation != get_activation("identity") or rounds_products(self):
            return None
        return LinearForm("dense", self._transition)

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        return row_matrix(self.recurrent_kernel[...], z), z

    def slopes(self, carry: jax.Array, x: jax.Array) -> jax.Array | None:
        """φ'(x W_x + h W_h + b), the slopes of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          (..., H); None for an activation that mixes units, as softmax does, or of which that is
          not known, because it is an object with weights of its own.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        pre = self._pre_activation(carry, z)
        if not acts_by_element(self.activation, self.hidden_features, pre.dtype):
            return None
        return jax.jvp(self.activation, (pre,), (jnp.ones_like(pre),))[1]

    def _pre_activation(self, carry: jax.Array, z: jax.Array) -> jax.Array:
        h_prev, z = self._kept(carry, z)
        return z + self._product(h_prev, self.recurrent_kernel[...])

    def jacobian_bound(self) -> tuple[float, jax.Array]:
        """The two factors of ‖∂h_t/∂h_{t−1}‖₂ ≤ sup|φ'| · σ₁(W_h).

        Returns:
          (sup|φ'|, the recurrent kernel W_h).

        Raises:
          ValueError: the slope range of the activation is not known.
        """
        low, high = activation_slope_range(self.activation)
        return max(abs(low), abs(high)), self.recurrent_kernel[...]


@dataclass(frozen=True)
class _UnitMathematics:
    """The simple recurrent cell, unit by unit: ḣ' = φ'(u) ∘ u̇; see `UnitMathematics`."""

    activation: Activation
    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True),)

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        # The activation acts element by element, so its slopes are its derivative along ones.
        h, slopes = jax.jvp(self.activation, pre, (jnp.ones_like(pre[0]),))
        return h, (slopes,)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> jax.Array:
        return saved[0]

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        return coefficients * pre[0]

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
