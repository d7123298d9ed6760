"""Long expressive memory: two states on time scales of their own, each a gate of the other."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups, Stages
from rnn_jax.checks import check_positive, check_size
from rnn_jax.initializers import InitializerLike, uniform_to

LEMCarry = tuple[jax.Array, jax.Array]


class LEMCell(RNNCell):
    """Long expressive memory: a system on many time scales, by implicit and explicit steps.

    Δ₁ = Δt σ(x V_1 + y W_1 + b_1)                      step of y
    Δ₂ = Δt σ(x V_2 + y W_2 + b_2)                      step of z
    z' = (1 − Δ₂) ∘ z + Δ₂ ∘ tanh(x V_z + y W_z + b_z)
    y' = (1 − Δ₁) ∘ y + Δ₁ ∘ tanh(x V_y + z' W_y + b_y)         the output

    The carry is (y, z). It is the new z' that y' sees: two products with the state, one after the
    other. The blocks lie in the kernels in the order step_y, step_z, z, y; the last block of
    `recurrent_kernel` is the one that meets z'.

    Gradients: with Δt ≤ 1 states that start within ±1 stay there, and a step is the identity and
    terms of order Δt, ‖∂(y', z')/∂(y, z)‖_∞ ≤ max(r, 1 + Δt (½‖W_1‖ + r ‖W_y‖)) with r = 1 +
    Δt (½‖W_2‖ + ‖W_z‖), ‖·‖ being the largest sum over |entries| of a column. The paper bounds
    gradients over a sequence, and says that they do not vanish exponentially.

    Args:
      in_features: I.
      hidden_features: H.
      time_step: Δt > 0, the longest that a step may be.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable; None is the
        authors', uniform between ±1/√H.
      use_bias: whether there are biases; without, `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, a step that is not positive.
      TypeError: a size that is no int, a step that is no number, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> lem = rj.LEMCell(2, 8, time_step=0.5, rngs=nnx.Rngs(0))
      >>> carry = lem.initialize_carry((2,))
      >>> steps = lem.gates(carry, xs[0])  # of time, by unit
      >>> {name: bool(((step > 0) & (step < 0.5)).all()) for name, step in steps.items()}
      {'step_y': True, 'step_z': True}

    References:
      T. K. Rusch, S. Mishra, N. B. Erichson and M. W. Mahoney, "Long expressive memory for sequence
      modeling", 2022.
    """

    carry_parts = ("y", "z")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        time_step: float = 1.0,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.time_step = check_positive("time_step", time_step)
        papers = uniform_to(1 / math.sqrt(check_size("hidden_features", hidden_features)))
        super().__init__(
            in_features,
            hidden_features,
            blocks=("step_y", "step_z", "z", "y"),
            kernel_init=papers if kernel_init is None else kernel_init,
            recurrent_kernel_init=(
                papers if recurrent_kernel_init is None else recurrent_kernel_init
            ),
            bias_init=bias_init,
            default_bias_init=papers,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def step(self, carry: LEMCarry, z: jax.Array) -> tuple[LEMCarry, jax.Array]:
        """One step of (y, z) with the projected input; see `RNNCell.step`."""
        y_prev, z_prev, drive = self._kept(*carry, z)
        step_y, step_z, pre_z, drive_y = self._seen_by_y(y_prev, drive)
        z_next = (1 - step_z) * z_prev + step_z * jnp.tanh(pre_z)
        w_y = self.recurrent_kernel[...][:, 3 * self.hidden_features :]
        y = (1 - step_y) * y_prev + step_y * jnp.tanh(drive_y + self._product(z_next, w_y))
        return (y, z_next), y

    def fused_form(self) -> FusedForm | None:
        """Two kernels, of the stage that computes z' and of the one that y' is computed in."""
        whole, seen = self._whole_kernel(), 3 * self.hidden_features
        stages = Stages((_StageOfZ(self.time_step),), _StageOfY(), output=0)
        return FusedForm(stages, (whole[:, :seen], whole[:, seen:]))

    def gates(self, carry: LEMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The steps of time that the step with `carry` and `x` takes.

        Args:
          carry: (y, z) before the step, each (..., H).
          x: the input, (..., I).

        Returns:
          {"step_y": Δ₁, "step_z": Δ₂}: each (..., H), in (0, Δt).
        """
        z = self.project(x)
        self._check_carry(carry, x)
        y_prev, _, drive = self._kept(*carry, z)
        step_y, step_z, *_ = self._seen_by_y(y_prev, drive)
        return {"step_y": step_y, "step_z": step_z}

    def memory_path(self, carry: LEMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The factors by which the states are handed on by themselves: 1 − Δ₁ and 1 − Δ₂.

        Args:
          carry: (y, z) before the step, each (..., H).
          x: the input, (..., I).

        Returns:
          {"y", "z"}: each (..., H).
        """
        steps = self.gates(carry, x)
        return {"y": 1 - steps["step_y"], "z": 1 - steps["step_z"]}

    def _seen_by_y(self, y_prev: jax.Array, drive: jax.Array) -> list[jax.Array]:
        """Both steps, the pre-activation of z', and what the input adds to that of y'."""
        seen = 3 * self.hidden_features
        product = self._product(y_prev, self.recurrent_kernel[...][:, :seen])
        step_y, step_z, pre_z = jnp.split(drive[..., :seen] + product, 3, axis=-1)
        steps = [self.time_step * jax.nn.sigmoid(u) for u in (step_y, step_z)]
        return [*steps, pre_z, drive[..., seen:]]


@dataclass(frozen=True)
class _StageOfZ:
    """From (y, z) to (y, z', Δ₁), unit by unit; see `EarlyStage`. With Δ₂ = Δt s and t = tanh u_z:

    ż' = (1 − Δ₂) ∘ ż + (Δt (t − z) ∘ s(1 − s)) ∘ u̇₂ + (Δ₂ ∘ (1 − t²)) ∘ u̇_z
    """

    time_step: float
    groups: ClassVar[Groups] = (Group(3, sees_state=True, sees_input=True),)

    def advance(self, start: LEMCarry, pre: Blocks) -> tuple[Blocks, Blocks]:
        u_1, u_2, u_z = pre
        saved = (jax.nn.sigmoid(u_1), jax.nn.sigmoid(u_2), jnp.tanh(u_z))
        return self.after(start, saved), saved

    def after(self, start: LEMCarry, saved: Blocks) -> Blocks:
        (y, z), (s_1, s_2, t) = start, saved
        step_z = self.time_step * s_2
        return y, (1 - step_z) * z + step_z * t, self.time_step * s_1

    def coefficients(self, start: LEMCarry, saved: Blocks) -> Blocks:
        (_, z), (s_1, s_2, t) = start, saved
        by_1, by_2 = (self.time_step * s * (1 - s) for s in (s_1, s_2))
        step_z = self.time_step * s_2
        return by_1, 1 - step_z, (t - z) * by_2, step_z * (1 - t * t)

    def tangent(self, coefficients: Any, start: LEMCarry, pre: Blocks) -> Blocks:
        (d_y, d_z), (u_1, u_2, u_z) = start, pre
        by_1, kept, by_2, by_z = coefficients
        return d_y, kept * d_z + by_2 * u_2 + by_z * u_z, by_1 * u_1


@dataclass(frozen=True)
class _StageOfY:
    """From (y, z', Δ₁) to (y', z'), unit by unit; see `Stage`. With t = tanh u:

    ẏ' = (1 − Δ₁) ∘ ẏ + (t − y) ∘ Δ̇₁ + (Δ₁ ∘ (1 − t²)) ∘ u̇
    """

    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True, parts=(1,)),)

    def advance(self, start: Blocks, pre: Blocks) -> tuple[LEMCarry, Blocks]:
        y, z, step_y = start
        t = jnp.tanh(pre[0])
        return ((1 - step_y) * y + step_y * t, z), (t,)

    def coefficients(self, start: Blocks, saved: Blocks) -> Blocks:
        (y, _, step_y), (t,) = start, saved
        return 1 - step_y, t - y, step_y * (1 - t * t)

    def tangent(self, coefficients: Any, start: Blocks, pre: Blocks) -> LEMCarry:
        d_y, d_z, d_step = start
        kept, by_step, by_u = coefficients
        return kept * d_y + by_step * d_step + by_u * pre[0], d_z
