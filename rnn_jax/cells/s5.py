"""The simplified state space layer S5 as a cell."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.arrays import at_least_float32, spread
from rnn_jax.cells.complex_state import ComplexStateCell
from rnn_jax.cells.linear import LinearForm, apply
from rnn_jax.checks import check_flag, check_number
from rnn_jax.initializers.hippo import hippo_eigenvectors


class S5Cell(ComplexStateCell):
    """Diagonal state space model, discretised by a zero-order hold, with HiPPO eigenvalues.

    λ = e^{ΛΔ}
    h' = λ ∘ h + Λ⁻¹ (λ − 1) ∘ (x B)
    y = 2 Re(h' C) + D ∘ x

    A real system of 2H states has H pairs of conjugate states; of each pair one is here, which is
    where the 2 comes from. Λ starts at the eigenvalues of positive phase of the normal part of
    HiPPO-LegS of 2H states, −½ + iω, V being their eigenvectors: B starts at V* B₀ and C at C₀ V
    for real B₀ and C₀, normal with variance 1/(their inputs). (In the authors' code C₀ is complex,
    each part so, and the variance of B₀ is 1/(2H).) D is there where output and input have the same
    size, as in the paper. The carry holds (real, imaginary), each (..., H).

    Claim about gradients: ∂h_t/∂h_s = λ^(t−s) whatever the inputs; |λ| = e^{−Δ/2} at the start, so
    a unit remembers for 2/Δ steps.

    Args:
      in_features: I.
      hidden_features: H, the number of complex units.
      out_features: O, the size of y; None is H.
      step_min, step_max: log Δ starts uniform between their logarithms, by unit.
      stable: False learns Re Λ as it is, as in the paper, which may so turn positive; True learns
        log(−Re Λ), so that |λ| < 1 whatever is learnt.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or steps that are not 0 < step_min < step_max.
      TypeError: a size that is no int, an `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> s5 = rj.S5Cell(2, 8, step_min=0.01, step_max=0.1, rngs=nnx.Rngs(0))
      >>> memory = -1 / jnp.log(jnp.hypot(*s5.eigenvalues()))  # in steps, 2/Δ
      >>> bool(((memory > 19) & (memory < 201)).all())
      True

    References:
      J. Smith, A. Warrington and S. Linderman, "Simplified state space layers for sequence
      modeling", 2023.
      A. Gu et al., "HiPPO: recurrent memory with optimal polynomial projections", 2020.
    """

    diagonal_part = "real"
    _output_scale = 2.0

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        out_features: int | None = None,
        step_min: float = 0.001,
        step_max: float = 0.1,
        stable: bool = False,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        low, high = check_number("step_min", step_min), check_number("step_max", step_max)
        if not 0 < low < high:
            raise ValueError(
                f"step_min and step_max must be 0 < step_min < step_max; got {low} and {high}. "
                "Pass for example step_min=0.001, step_max=0.1."
            )
        super().__init__(
            in_features,
            hidden_features,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.stable = check_flag("stable", stable)
        size, kind = self.hidden_features, self.param_dtype
        phases, vectors = hippo_eigenvectors(size)
        real = np.log(np.full(size, 0.5)) if self.stable else np.full(size, -0.5)
        self.rate = nnx.Param(jnp.asarray(np.stack([real, phases]), kind))
        wide = at_least_float32(kind)
        uniform = jax.random.uniform(rngs.params(), (size,), wide, np.log(low), np.log(high))
        self.log_step = nnx.Param(uniform.astype(kind))
        self._set_outputs(out_features, rngs)
        # Real maps of the whole system, seen from its eigenvectors.
        b = jax.random.normal(rngs.params(), (self.in_features, 2 * size), wide)
        c = jax.random.normal(rngs.params(), (2 * size, self.out_features), wide)
        b, c = b / self.in_features**0.5, c / (2 * size) ** 0.5
        v = jnp.asarray(np.stack([vectors.real, vectors.imag]), wide)
        self.kernel = nnx.Param(jnp.concatenate([b @ v[0], -(b @ v[1])], axis=1).astype(kind))
        self.output_kernel = nnx.Param(jnp.concatenate([v[0].T @ c, v[1].T @ c]).astype(kind))

    def eigenvalues(self) -> jax.Array:
        """λ as [real, imaginary], (2, H)."""
        real, phase, step = self._continuous()
        modulus = jnp.exp(real * step)
        return jnp.stack([modulus * jnp.cos(phase * step), modulus * jnp.sin(phase * step)])

    def linear_form(self) -> LinearForm:
        """Complex and diagonal, the same at every step; see `rnn_jax.cells.linear`."""
        return self._complex_form(contracts=self.stable)

    def _continuous(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Re Λ, Im Λ and Δ, each (H,)."""
        rate, log_step = self._kept(self.rate[...], self.log_step[...])
        return -jnp.exp(rate[0]) if self.stable else rate[0], rate[1], jnp.exp(log_step)

    def _drive(self, product: jax.Array) -> jax.Array:
        real, phase, step = self._continuous()
        # e^{ΛΔ} − 1, without the difference of two numbers near 1.
        x, y = real * step, phase * step
        above = jnp.expm1(x) * jnp.cos(y) - 2 * jnp.sin(y / 2) ** 2
        beside = jnp.exp(x) * jnp.sin(y)
        # Over Λ.
        square = real * real + phase * phase
        scale = jnp.stack(
            [
                (above * real + beside * phase) / square,
                (beside * real - above * phase) / square,
            ]
        )
        return apply("complex", spread(scale, product), product)
