"""The antisymmetric recurrent network: small steps along a field that neither shrinks nor grows."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_flag, check_not_negative, check_positive
from rnn_jax.initializers import InitializerLike, gaussian, get_initializer, initialize

# Of variance 1/n for n rows.
_normal_by_rows = gaussian()


class AntisymmetricRNNCell(RNNCell):
    """Antisymmetric recurrent network: a step of Euler's along h' = tanh(M h + …), M + Mᵀ = −2γI.

    M = W − Wᵀ − γ I
    h' = h + ε tanh(x V + h M + b)
    h' = h + ε σ(x V_z + h M + b_z) ∘ tanh(x V + h M + b)        gated, of the same M

    y = h'. `recurrent_kernel` is W, and M is `transition_kernel()`. In the fused form M is made
    once for a sequence. The blocks lie in `kernel` in the order candidate, input.

    Gradients: ∂h'/∂h = I + ε D Mᵀ with a diagonal D of slopes in (0, 1]. Without γ the eigenvalues
    of D Mᵀ are imaginary, so those of a step are 1 + i ε ω: to first order in ε nothing vanishes
    and nothing explodes. γ > 0 moves them to the left, where steps of Euler's are stable.

    Args:
      in_features: I.
      hidden_features: H.
      gated: whether an input gate stands before the candidate.
      epsilon: ε > 0, the step.
      gamma: γ ≥ 0, the diffusion.
      kernel_init: of V; None is the paper's, normal of variance 1/I.
      recurrent_kernel_init: of W; None is the paper's, normal of variance 1/H.
      bias_init: of b.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, ε or γ out of its range.
      TypeError: a size that is no int, a coefficient that is no number, `gated` that is no bool, an
        `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> antisymmetric = rj.AntisymmetricRNNCell(2, 8, gamma=0.1, rngs=nnx.Rngs(0))
      >>> m = antisymmetric.transition_kernel()
      >>> bool(jnp.allclose(m + m.T, -2 * 0.1 * jnp.eye(8), atol=1e-6))
      True

    References:
      B. Chang, M. Chen, E. Haber and E. H. Chi, "AntisymmetricRNN: a dynamical system view on
      recurrent neural networks", 2019.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        gated: bool = False,
        epsilon: float = 0.01,
        gamma: float = 0.01,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.gated = check_flag("gated", gated)
        self.epsilon = check_positive("epsilon", epsilon)
        self.gamma = check_not_negative("gamma", gamma)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("candidate", "input") if self.gated else ("candidate",),
            kernel_init=_normal_by_rows if kernel_init is None else kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        name = "recurrent_kernel_init"
        init = _normal_by_rows if recurrent_kernel_init is None else recurrent_kernel_init
        shape = (self.hidden_features, self.hidden_features)
        self.recurrent_kernel = nnx.Param(
            initialize(name, get_initializer(name, init), rngs.params(), shape, self.param_dtype)
        )

    def transition_kernel(self) -> jax.Array:
        """M = W − Wᵀ − γ I, which multiplies the state, (H, H)."""
        w = self.recurrent_kernel[...]
        return w - w.T - self.gamma * jnp.eye(self.hidden_features, dtype=w.dtype)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h + ε tanh(z + h M), with the gate if there is one; see `RNNCell.step`."""
        h_prev, candidate, gate = self._pre_activations(carry, z)
        change = jnp.tanh(candidate)
        if gate is not None:
            change = jax.nn.sigmoid(gate) * change
        h = h_prev + self.epsilon * change
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel; gated two, because both blocks see the state by the same product."""
        w_x, m, b = promote(self.kernel[...], self.transition_kernel(), self._bias_row())
        if not self.gated:
            kernel = jnp.concatenate([m, w_x, b])
            return FusedForm(_UnitMathematics(self.epsilon), (kernel,))
        no_bias = jnp.zeros_like(m[:1])
        kernels = (jnp.concatenate([m, no_bias]), jnp.concatenate([w_x, b]))
        return FusedForm(_GatedUnitMathematics(self.epsilon), kernels)

    @property
    def gates(self) -> Any:
        """Of a gated cell gates(carry, x) -> {"input": (..., H)}; None of one without a gate."""
        return self._gates if self.gated else None

    def _gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        z = self.project(x)
        self._check_carry(carry, x)
        _, _, gate = self._pre_activations(carry, z)
        assert gate is not None
        return {"input": jax.nn.sigmoid(gate)}

    def _pre_activations(
        self, carry: jax.Array, z: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """The state, and the pre-activations of the candidate and of the gate."""
        h_prev, drive = self._kept(carry, z)
        seen = self._product(h_prev, self.transition_kernel())
        if not self.gated:
            return h_prev, drive + seen, None
        candidate, gate = jnp.split(drive, 2, axis=-1)
        return h_prev, candidate + seen, gate + seen


@dataclass(frozen=True)
class _UnitMathematics:
    """The cell without a gate, unit by unit: ḣ' = ḣ + ε (1 − t²) ∘ u̇; see `UnitMathematics`."""

    epsilon: float
    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True),)

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        t = jnp.tanh(pre[0])
        return carry + self.epsilon * t, (t,)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> jax.Array:
        (t,) = saved
        return self.epsilon * (1 - t * t)

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        return carry + coefficients * pre[0]

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry


@dataclass(frozen=True)
class _GatedUnitMathematics:
    """The gated cell, unit by unit; see `UnitMathematics`.

    With v = h M, t = tanh(v + u) and s = σ(v + u_z):

    ḣ' = ḣ + ε s (1 − t²) ∘ (v̇ + u̇) + ε t s (1 − s) ∘ (v̇ + u̇_z)
    """

    epsilon: float
    groups: ClassVar[Groups] = (
        Group(1, sees_state=True, sees_input=False),
        Group(2, sees_state=False, sees_input=True),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        v, u, u_z = pre
        t, s = jnp.tanh(u + v), jax.nn.sigmoid(u_z + v)
        return carry + self.epsilon * (s * t), (t, s)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Blocks:
        t, s = saved
        by_u, by_z = self.epsilon * s * (1 - t * t), self.epsilon * t * s * (1 - s)
        return by_u + by_z, by_u, by_z

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        return sum((slope * d for slope, d in zip(coefficients, pre, strict=True)), start=carry)

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
