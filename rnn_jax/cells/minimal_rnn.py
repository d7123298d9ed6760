"""minimalRNN: the input, made a point of the state's space, and a gate that moves there."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote, spread
from rnn_jax.cells.biases import offset_bias
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups, Stages
from rnn_jax.checks import check_not_negative
from rnn_jax.initializers import InitializerLike, gaussian, get_initializer, initialize


class MinimalRNNCell(RNNCell):
    """minimalRNN: the input, made a point of the state's space, and a gate that moves there.

    z = tanh(x W_x)                     the input as the state sees it
    u = σ(h U + z V + b)                update gate
    h' = u ∘ h + (1 − u) ∘ z,           y = h'

    With U and V of variance σ_w²/H and σ_v²/H, and b = μ, there is a mean-field theory for wide
    cells: with E z² = R, the fixed point of Q = E h² has (1 − E u²) Q = E(1 − u)² R, and gradients
    shrink or grow by χ = E u² + σ_w² E[u²(1 − u)²] (Q + R) in the square, a step. χ is
    near 1, so that gradients neither vanish nor explode, at the defaults where R = .46.

    Args:
      in_features: I.
      hidden_features: H.
      recurrent_gain: σ_w, of U, `recurrent_kernel` (H, H). At 0 and above.
      input_gain: σ_v, of V, `input_kernel` (H, H). At 0 and above.
      update_bias: μ, added to the gate's initial bias; without one only 0 may stand here,
        and beside a `bias_init` that sets the gate by itself, such as "chrono(1, 200)".
      kernel_init: initialiser of W_x, by name or callable.
      recurrent_kernel_init, input_kernel_init: of U and V, by name or callable; None is Gaussian
        with the gains above. Another initialiser is multiplied by no gain.
      bias_init: of b, by name or callable.
      use_bias: whether there is b; without it `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, a gain below 0, an unknown name, or a number that is not finite.
      TypeError: a size that is no int, a gain or bias that is no number, a flag that is no bool, an
        `rngs` that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> minimal = rj.MinimalRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> _, z = jnp.split(minimal.project(xs), 2, axis=-1)  # z V + b, and z
      >>> z.shape, bool((abs(z) < 1).all())
      ((20, 8), True)

    References:
      M. Chen, "MinimalRNN: toward more interpretable and trainable recurrent neural networks",
      2017.
      M. Chen, J. Pennington and S. S. Schoenholz, "Dynamical isometry and a mean field theory of
      RNNs: gating enables signal propagation in recurrent neural networks", 2018.
    """

    memory_gates = (("update", 1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        recurrent_gain: float = 6.88,
        input_gain: float = 1.39,
        update_bias: float = 0.0,
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike | None = None,
        input_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        of_state = gaussian(check_not_negative("recurrent_gain", recurrent_gain))
        of_input = gaussian(check_not_negative("input_gain", input_gain))
        super().__init__(
            in_features,
            hidden_features,
            blocks=("update",),
            kernel_init=kernel_init,
            recurrent_kernel_init=(
                of_state if recurrent_kernel_init is None else recurrent_kernel_init
            ),
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        init = get_initializer(
            "input_kernel_init", of_input if input_kernel_init is None else input_kernel_init
        )
        shape = (self.hidden_features, self.hidden_features)
        self.input_kernel = nnx.Param(
            initialize("input_kernel_init", init, rngs.params(), shape, self.param_dtype)
        )
        offset_bias(self, "update_bias", update_bias, "update", bias_init, default=0.0)

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: what the gate sees of it, and z.

        Args:
          x: inputs, (..., I).

        Returns:
          [z V + b, z], (..., 2H).

        Raises:
          ValueError: x does not have `in_features` features.
          TypeError: x does not hold real numbers.
        """
        z = jnp.tanh(self._input_product(x))
        seen = self._product(z, self.input_kernel[...])
        gate = seen if self.bias is None else seen + spread(self.bias[...], seen)
        return jnp.concatenate([gate, z], axis=-1)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of h; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        update = self._gate(h_prev, z)
        h = update * h_prev + (1 - update) * z[..., self.hidden_features :]
        return h, h

    def fused_form(self) -> FusedForm | None:
        """Two kernels: of the stage that computes z, which has no biases, and of the gate's."""
        w_x, u, v, b = promote(
            self.kernel[...], self.recurrent_kernel[...], self.input_kernel[...], self._bias_row()
        )
        of_z = jnp.concatenate([w_x, jnp.zeros_like(w_x[:1])])
        return FusedForm(_MATHEMATICS, (of_z, jnp.concatenate([u, v, b])))

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate of the step that takes `carry` and `x`: {"update": u}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"update": (..., H)}.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return {"update": self._gate(*self._kept(carry, z))}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": u}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        return {"h": self.gates(carry, x)["update"]}

    def _gate(self, h_prev: jax.Array, z: jax.Array) -> jax.Array:
        product = self._product(h_prev, self.recurrent_kernel[...])
        return jax.nn.sigmoid(z[..., : self.hidden_features] + product)


@dataclass(frozen=True)
class _StageOfInput:
    """From h to (h, z), unit by unit; see `EarlyStage`."""

    groups: ClassVar[Groups] = (Group(1, sees_state=False, sees_input=True),)

    def advance(self, start: jax.Array, pre: Blocks) -> tuple[Blocks, Blocks]:
        saved = (jnp.tanh(pre[0]),)
        return self.after(start, saved), saved

    def after(self, start: jax.Array, saved: Blocks) -> Blocks:
        return start, saved[0]

    def coefficients(self, start: jax.Array, saved: Blocks) -> jax.Array:
        (z,) = saved
        return 1 - z * z

    def tangent(self, coefficients: Any, start: jax.Array, pre: Blocks) -> Blocks:
        return start, coefficients * pre[0]


@dataclass(frozen=True)
class _StageOfGate:
    """From (h, z) to h', unit by unit; see `Stage`.

    ḣ' = u ∘ ḣ + (1 − u) ∘ ż + ((h − z) ∘ u(1 − u)) ∘ v̇    with the gate's pre-activation v
    """

    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=False, parts=(0, 1)),)

    def advance(self, start: Blocks, pre: Blocks) -> tuple[jax.Array, Blocks]:
        h, z = start
        u = jax.nn.sigmoid(pre[0])
        return u * h + (1 - u) * z, (u,)

    def coefficients(self, start: Blocks, saved: Blocks) -> Blocks:
        (h, z), (u,) = start, saved
        return u, (h - z) * u * (1 - u)

    def tangent(self, coefficients: Any, start: Blocks, pre: Blocks) -> jax.Array:
        (d_h, d_z), (u, by_gate) = start, coefficients
        moved: jax.Array = u * d_h + (1 - u) * d_z + by_gate * pre[0]
        return moved


_MATHEMATICS = Stages((_StageOfInput(),), _StageOfGate())
