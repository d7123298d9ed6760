"""The linear recurrent unit."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import at_least_float32, spread
from rnn_jax.cells.complex_state import ComplexStateCell
from rnn_jax.cells.linear import LinearForm
from rnn_jax.initializers.matrices import check_ring, draw_ring


class LRUCell(ComplexStateCell):
    """Linear recurrent unit: complex eigenvalues in a ring, and no nonlinearity in the recurrence.

    λ = exp(−e^ν + i e^θ),    |λ| < 1
    h' = λ ∘ h + e^{γ} ∘ (x B)
    y = Re(h' C) + D ∘ x

    h, λ, B and C are complex; the carry holds (real, imaginary), each (..., H). e^γ is learnt too,
    and starts at √(1 − |λ|²), with which inputs of variance 1 that are independent over time give
    states of variance 1 however long a unit remembers. D is there where output and input have the
    same size, as in the paper.

    Claim about gradients: ∂h_t/∂h_s = λ^(t−s) whatever the inputs, so the norm of a unit's
    derivative over k steps is |λ|^k with |λ| in [r_min, r_max] at the start, and below 1 always.

    Args:
      in_features: I.
      hidden_features: H, the number of complex units.
      out_features: O, the size of y; None is H.
      r_min, r_max: the ring of |λ|, uniform in its area, 0 ≤ r_min ≤ r_max ≤ 1.
      max_phase: phases are uniform in [0, max_phase], at most 2π.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or a ring or a phase out of range.
      TypeError: a size that is no int, an `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> lru = rj.LRUCell(2, 8, r_min=0.9, r_max=0.999, rngs=nnx.Rngs(0))
      >>> moduli = jnp.hypot(*lru.eigenvalues())  # by what a unit's derivative shrinks a step
      >>> bool(((moduli > 0.899) & (moduli < 1)).all())
      True

    References:
      A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", 2023.
    """

    diagonal_part = "real"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        out_features: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        low, high, most = check_ring(r_min, r_max, max_phase)
        super().__init__(
            in_features,
            hidden_features,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size, kind = self.hidden_features, self.param_dtype
        wide = at_least_float32(kind)
        of_area, of_turn = rngs.params(), rngs.params()
        decay, phase = draw_ring(of_area, of_turn, size, low, high, most, wide)
        self.nu = nnx.Param(jnp.log(decay).astype(kind))
        self.theta = nnx.Param(jnp.log(phase).astype(kind))
        self.gamma = nnx.Param((0.5 * jnp.log(-jnp.expm1(-2 * decay))).astype(kind))
        self._set_outputs(out_features, rngs)
        b = jax.random.normal(rngs.params(), (self.in_features, 2 * size), kind)
        c = jax.random.normal(rngs.params(), (2 * size, self.out_features), kind)
        self.kernel = nnx.Param(b / math.sqrt(2 * self.in_features))
        self.output_kernel = nnx.Param(c / math.sqrt(size))

    def eigenvalues(self) -> jax.Array:
        """λ as [real, imaginary], (2, H)."""
        (nu, theta) = self._kept(self.nu[...], self.theta[...])
        modulus, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        return jnp.stack([modulus * jnp.cos(phase), modulus * jnp.sin(phase)])

    def _drive(self, product: jax.Array) -> jax.Array:
        return spread(jnp.exp(self.gamma[...].astype(product.dtype)), product) * product

    def linear_form(self) -> LinearForm:
        """Complex and diagonal, the same at every step; see `rnn_jax.cells.linear`."""
        return self._complex_form(contracts=True)
