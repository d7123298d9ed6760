"""FastGRNN: one pair of matrices for gate and candidate, and a residual path with two scalars."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote, spread
from rnn_jax.cells.biases import bias_initializer
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_number
from rnn_jax.initializers import InitializerLike, init_bias


class FastGRNNCell(RNNCell):
    """FastGRNN: a gated cell whose gate and candidate share their matrices.

    v = x W + h U
    z = σ(v + b_z)                                  gate
    h̃ = tanh(v + b_h)                               candidate
    h' = z ∘ h + (σ(ζ)(1 − z) + σ(ν)) ∘ h̃,          y = h'

    so that ∂h'/∂h = diag(z) + diag((h − σ(ζ) h̃) z(1 − z) + (σ(ζ)(1 − z) + σ(ν))(1 − h̃²)) Uᵀ:
    the gate keeps gradients alive along diag(z), and ζ and ν, two numbers that are learnt, say how
    much of the candidate is taken where the gate is shut and where it is open. The matrices are
    of full rank here; the paper's low-rank, sparse and quantised ones are not.

    Args:
      in_features: I.
      hidden_features: H.
      zeta: initial value of ζ.
      nu: initial value of ν.
      kernel_init, recurrent_kernel_init: initialisers of W and U, by name or callable; None is
        0.1·N(0, 1).
      bias_init: of b_z, `gate_bias`, and of b_h, `bias`, likewise.
      use_bias: whether there are these two; without them both are None.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, or a number that is not finite.
      TypeError: a size that is no int, a number that is none, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> fast = rj.FastGRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> fast.recurrent_kernel.shape, cell.recurrent_kernel.shape  # beside a GRU's
      ((8, 8), (8, 24))

    References:
      A. Kusupati, M. Singh, K. Bhatia, A. Kumar, P. Jain and M. Varma, "FastGRNN: a fast, accurate,
      stable and tiny kilobyte sized gated recurrent neural network", 2018.
    """

    memory_gates = (("update", 1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        zeta: float = 1.0,
        nu: float = -4.0,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike = "ones",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        scalars = check_number("zeta", zeta), check_number("nu", nu)
        small = jax.nn.initializers.normal(0.1)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("shared",),
            kernel_init=small if kernel_init is None else kernel_init,
            recurrent_kernel_init=small if recurrent_kernel_init is None else recurrent_kernel_init,
            bias_init=bias_init,
            default_bias_init="ones",
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        init, key = bias_initializer(use_bias, bias_init, "ones"), rngs.params()
        size, gates = self.hidden_features, self.memory_gates
        b_z = (
            None
            if init is None
            else init_bias("bias_init", init, key, size, ("update",), gates, self.param_dtype)
        )
        self.gate_bias = None if b_z is None else nnx.Param(b_z)
        self.zeta, self.nu = (nnx.Param(jnp.asarray(a, self.param_dtype)) for a in scalars)

    def project(self, x: jax.Array) -> jax.Array:
        """x W, (..., H): the biases differ where it is used; see `RNNCell.project`."""
        return self._input_product(x)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of h; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        shared = z + self._product(h_prev, self.recurrent_kernel[...])
        gate = jax.nn.sigmoid(_biased(shared, self.gate_bias))
        candidate = jnp.tanh(_biased(shared, self.bias))
        shut, always = (spread(row, shared) for row in self._shares())
        h = gate * h_prev + (shut * (1 - gate) + always) * candidate
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel for what gate and candidate share, and rows for what they do not."""
        w, u, *scalars = promote(self.kernel[...], self.recurrent_kernel[...], *self._shares())
        nothing = jnp.zeros_like(w[0])
        shared = jnp.concatenate([u, w, nothing[None]])
        biases = [_biased(nothing, bias) for bias in (self.gate_bias, self.bias)]
        own = [*biases, *(jnp.broadcast_to(a, nothing.shape) for a in scalars)]
        return FusedForm(_UnitMathematics(), (shared, jnp.concatenate(own)[None]))

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate of the step that takes `carry` and `x`: {"update": z}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"update": (..., H)}.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        h_prev, z = self._kept(carry, z)
        shared = z + self._product(h_prev, self.recurrent_kernel[...])
        return {"update": jax.nn.sigmoid(_biased(shared, self.gate_bias))}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": z}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        return {"h": self.gates(carry, x)["update"]}

    def _shares(self) -> tuple[jax.Array, jax.Array]:
        """σ(ζ) and σ(ν)."""
        return jax.nn.sigmoid(self.zeta[...]), jax.nn.sigmoid(self.nu[...])


def _biased(values: jax.Array, bias: nnx.Param[jax.Array] | None) -> jax.Array:
    return values if bias is None else values + spread(bias[...], values)


@dataclass(frozen=True)
class _UnitMathematics:
    """FastGRNN, unit by unit, with s = σ(ζ) and n = σ(ν); see `UnitMathematics`.

    With p = (h − s ∘ h̃) ∘ z(1 − z) and q = (s ∘ (1 − z) + n) ∘ (1 − h̃²):

    ḣ' = z ∘ ḣ + (p + q) ∘ v̇ + p ∘ ḃ_z + q ∘ ḃ_h + ((1 − z) ∘ h̃) ∘ ṡ + h̃ ∘ ṅ

    Biases, s and n are blocks that see nothing: their kernel is one row, themselves.
    """

    groups: ClassVar[Groups] = (
        Group(1, sees_state=True, sees_input=True),
        Group(4, sees_state=False, sees_input=False),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        v, b_z, b_h, s, n = pre
        z, candidate = jax.nn.sigmoid(v + b_z), jnp.tanh(v + b_h)
        after = z * carry + (s * (1 - z) + n) * candidate
        return after, (z, candidate, s, n)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Any:
        z, candidate, s, n = saved
        p = (carry - s * candidate) * z * (1 - z)
        q = (s * (1 - z) + n) * (1 - candidate * candidate)
        return z, (p + q, p, q, (1 - z) * candidate, candidate)

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        z, slopes = coefficients
        return sum((slope * d for slope, d in zip(slopes, pre, strict=True)), start=z * carry)

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
