"""Recurrent networks whose matrix is orthogonal by construction: expRNN and scoRNN."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import at_least_float32, promote, spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm, rounds_products, row_matrix
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_count, check_size
from rnn_jax.initializers import InitializerLike, get_initializer, uniform_to

_near_zero = uniform_to(0.01)


class _OrthogonalCell(RNNCell):
    """h' = modReLU(x V + h Wᵀ) with an orthogonal W that is made from a skew matrix."""

    # W of a skew matrix. Each subclass has its own, and claims are about `transition_kernel`.
    _orthogonal: Any

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        kernel_init: InitializerLike,
        recurrent_kernel_init: InitializerLike,
        bias_init: InitializerLike | None,
        use_bias: bool,
        dtype: Any,
        carry_dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        init = get_initializer("recurrent_kernel_init", recurrent_kernel_init, "skew")
        super().__init__(
            in_features,
            hidden_features,
            blocks=("hidden",),
            kernel_init=kernel_init,
            recurrent_kernel_init=init,
            bias_init=bias_init,
            default_bias_init=_near_zero,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def transition_kernel(self) -> jax.Array:
        """Wᵀ, which multiplies the state, (H, H): orthogonal to rounding."""
        parameter = self.recurrent_kernel[...]
        # What is orthogonal to three digits only is none: no half types, no rounded products.
        upper = jnp.triu(parameter.astype(at_least_float32(parameter.dtype)), 1)
        with jax.default_matmul_precision("highest"):
            w: jax.Array = self._orthogonal(upper - upper.T)
            return w.T.astype(parameter.dtype)

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: z = x V; the biases are those of modReLU.

        Args, Returns and Raises: as `RNNCell.project`.
        """
        return self._input_product(x)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """modReLU(z + h Wᵀ); see `RNNCell.step`."""
        h_prev, drive = self._kept(carry, z)
        pre = drive + self._product(h_prev, self.transition_kernel())
        h = pre if self.bias is None else modrelu(pre, spread(self.bias[...], pre))
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel, with W made once for all steps, and one of the biases of modReLU alone."""
        w_h, w_x, b = promote(self.transition_kernel(), self.kernel[...], self._bias_row())
        kernels = (jnp.concatenate([w_h, w_x, jnp.zeros_like(b)]), b)
        return FusedForm(_UnitMathematics(), kernels)

    def linear_form(self) -> LinearForm | None:
        """Dense, Λ = W at every step, without biases: modReLU is then the identity. Else None."""
        if self.bias is not None or rounds_products(self):
            return None
        return LinearForm("dense", self._transition, contracts=True)

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        return row_matrix(self.transition_kernel(), z), z

    def jacobian_bound(self) -> tuple[float, jax.Array]:
        """The two factors of ‖∂h_t/∂h_{t−1}‖₂ ≤ sup|φ'| · σ₁(W_h), both 1.

        Returns:
          (1.0, Wᵀ): slopes of modReLU are 0 or 1.
        """
        return 1.0, self.transition_kernel()


class ExpRNNCell(_OrthogonalCell):
    """expRNN: a recurrent matrix that is the exponential of a skew-symmetric one.

    W = exp(A),  Aᵀ = −A
    h' = modReLU(x V + h Wᵀ),    modReLU(z) = sign(z) ∘ relu(|z| + b),    y = h'

    `recurrent_kernel` is a matrix of which A takes what is above the diagonal; Wᵀ is
    `transition_kernel()`. In the fused form it is made once for a sequence, in a plain step at each
    step. `bias` is b of modReLU, the only one; with bias_init="zeros" the cell is linear.

    Gradients: ‖W‖ = 1 whatever A, so ∂h'/∂h = diag(0 or 1) W has singular values of at most 1, and
    of 1 where no unit is cut off: nothing explodes, and nothing vanishes but by units cut off.

    Args:
      in_features: I.
      hidden_features: H.
      kernel_init: of V; the default is the authors', normal of variance 2/I.
      recurrent_kernel_init: of A: "henaff", blocks of 2×2 that turn by angles uniform in (−π, π);
        "cayley", by s = −√((1 − cos u)/(1 + cos u)) with u uniform in (0, π/2); or a callable.
      bias_init: of b; None is the paper's, uniform between ±0.01.
      use_bias: whether there is b; without it `bias` is None, and the cell linear.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> exprnn = rj.ExpRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> w = exprnn.transition_kernel()
      >>> bool(jnp.allclose(w @ w.T, jnp.eye(8), atol=1e-5))
      True

    References:
      M. Lezcano-Casado and D. Martínez-Rubio, "Cheap orthogonal constraints in neural networks: a
      simple parametrization of the orthogonal and unitary group", 2019.
      M. Henaff, A. Szlam and Y. LeCun, "Recurrent orthogonal networks and long-memory tasks", 2016.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        kernel_init: InitializerLike = "he_normal",
        recurrent_kernel_init: InitializerLike = "henaff",
        bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def _orthogonal(self, skew: jax.Array) -> jax.Array:
        return jax.scipy.linalg.expm(skew)


class ScoRNNCell(_OrthogonalCell):
    """scoRNN: a recurrent matrix that is the scaled Cayley transform of a skew-symmetric one.

    W = (I + A)⁻¹ (I − A) D,  Aᵀ = −A,  D diagonal of −1 (the first `negatives`) and 1
    h' = modReLU(x V + h Wᵀ),    modReLU(z) = sign(z) ∘ relu(|z| + b),    y = h'

    `recurrent_kernel` is a matrix of which A takes what is above the diagonal; Wᵀ is
    `transition_kernel()`. In the fused form it is made once for a sequence, in a plain step at each
    step. `bias` is b of modReLU, the only one; with bias_init="zeros" the cell is linear. D is
    fixed: without it no W with an eigenvalue −1 could be reached.

    Gradients: as those of `ExpRNNCell`, ‖W‖ = 1 whatever A.

    Args:
      in_features: I.
      hidden_features: H.
      negatives: how many entries of D are −1; None is half of them, as in the paper for the copy
        and adding problems.
      kernel_init: of V; in the authors' code it is uniform between ±0.01.
      recurrent_kernel_init: of A: "cayley", the paper's, "henaff" (see `ExpRNNCell`), or a
        callable.
      bias_init: of b; None is uniform between ±0.01, as in `ExpRNNCell`; "zeros" is the authors'.
      use_bias: whether there is b; without it `bias` is None, and the cell linear.
      dtype, carry_dtype, param_dtype, rngs: as in `ExpRNNCell`.

    Raises:
      ValueError: a size below 1, an unknown name, or more `negatives` than units.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> scornn = rj.ScoRNNCell(2, 8, negatives=3, rngs=nnx.Rngs(0))
      >>> w = scornn.transition_kernel()
      >>> bool(jnp.allclose(w @ w.T, jnp.eye(8), atol=1e-5)), round(float(jnp.linalg.det(w)), 3)
      (True, -1.0)

    References:
      K. Helfrich, D. Willmott and Q. Ye, "Orthogonal recurrent neural networks with scaled Cayley
      transform", 2018.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        negatives: int | None = None,
        kernel_init: InitializerLike = "glorot_uniform",
        recurrent_kernel_init: InitializerLike = "cayley",
        bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        size = check_size("hidden_features", hidden_features)
        self.negatives = (
            size // 2 if negatives is None else check_count("negatives", negatives, high=size)
        )
        super().__init__(
            in_features,
            hidden_features,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def _orthogonal(self, skew: jax.Array) -> jax.Array:
        eye = jnp.eye(self.hidden_features, dtype=skew.dtype)
        is_negative = jnp.arange(self.hidden_features) < self.negatives
        signs = jnp.where(is_negative, -1.0, 1.0).astype(skew.dtype)
        w = jnp.linalg.solve(eye + skew, eye - skew)
        return w * jnp.broadcast_to(signs, w.shape)


def modrelu(z: jax.Array, b: jax.Array) -> jax.Array:
    """sign(z) ∘ relu(|z| + b): z where b is 0. Arjovsky, Shah and Bengio (2016), of real numbers.

    Its slope is 1 where |z| + b ≥ 0 and 0 elsewhere, at z = 0 too, where for b > 0 it jumps.
    """
    return jnp.where(jnp.abs(z) + b >= 0, z + jnp.sign(z) * b, jnp.zeros_like(z))


@dataclass(frozen=True)
class _UnitMathematics:
    """modReLU unit by unit: ḣ' = m ∘ (u̇ + sign(u) ∘ ḃ), m = 0 or 1; see `UnitMathematics`."""

    groups: ClassVar[Groups] = (
        Group(1, sees_state=True, sees_input=True),
        Group(1, sees_state=False, sees_input=False),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        u, b = pre
        m = jnp.where(jnp.abs(u) + b >= 0, jnp.ones_like(u), jnp.zeros_like(u))
        return modrelu(u, b), (m, m * jnp.sign(u))

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Blocks:
        return saved

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        by_u, by_b = coefficients
        return by_u * pre[0] + by_b * pre[1]

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
