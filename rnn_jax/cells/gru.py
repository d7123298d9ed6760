"""The gated recurrent unit, in both published variants."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.activations import ActivationLike, computes, get_activation, is_known_by_element
from rnn_jax.arrays import promote, spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups, Stages
from rnn_jax.checks import check_flag
from rnn_jax.initializers import InitializerLike


class GRUCell(RNNCell):
    """Gated recurrent unit: an update gate and a reset gate, no separate cell state.

    r = σ(x W_xr + h W_hr + b_r)                    reset gate
    u = σ(x W_xu + h W_hu + b_u)                    update gate
    n = tanh(x W_xn + b_n + r ∘ (h W_hn + b_hn))    candidate, reset_after=True
    n = tanh(x W_xn + b_n + (r ∘ h) W_hn)           candidate, reset_after=False
    h' = (1 − u) ∘ n + u ∘ h,                       y = h'

    An update gate near 1 keeps the state, as in Cho et al. and in PyTorch. (Chung et al., 2014,
    write 1 − u for the same gate.) The blocks lie in the fused kernels in the order reset, update,
    candidate, each initialised on its own. With another `gate_fn` it stands for σ, with another
    `activation_fn` for tanh.

    Args:
      in_features: I.
      hidden_features: H.
      reset_after: where the reset gate acts: True, on the candidate's recurrent product, with a
        bias of its own, `candidate_recurrent_bias` (cuDNN, PyTorch, Keras); False, on the state
        before the product (Cho et al., 2014).
      gate_fn: σ of the gates, by name, as an `Activation`, or any callable.
      activation_fn: of the candidate, likewise. With any other than sigmoid and tanh, sequences are
        scanned as they are, without the fused form.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name, as "orthogonal" or
        "gaussian(1.5)", or callable; see `rnn_jax.initializers`.
      use_bias: whether there are biases; without them `bias` and `candidate_recurrent_bias` are
        None.
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
      >>> gru = rj.GRUCell(2, 8, bias_init="chrono(1, 100)", rngs=nnx.Rngs(0))
      >>> kept = gru.memory_path(jnp.zeros(8), jnp.zeros(2))["h"]  # the update gate
      >>> steps = 1 / (1 - kept)  # for which a unit remembers
      >>> bool(((steps >= 2) & (steps <= 100)).all())
      True

    References:
      K. Cho et al., "Learning phrase representations using RNN encoder–decoder", 2014.
      J. Chung et al., "Empirical evaluation of gated recurrent neural networks", 2014.
    """

    memory_gates = (("update", 1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reset_after: bool = True,
        gate_fn: ActivationLike = "sigmoid",
        activation_fn: ActivationLike = "tanh",
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike = "orthogonal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            blocks=("reset", "update", "candidate"),
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.reset_after = check_flag("reset_after", reset_after)
        self.gate_fn = get_activation(gate_fn, "gate_fn")
        self.activation_fn = get_activation(activation_fn, "activation_fn")
        self.candidate_recurrent_bias = (
            nnx.Param(jnp.zeros((self.hidden_features,), self.param_dtype))
            if self.reset_after and self.bias is not None
            else None
        )

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of h; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        reset, update, recurrent = self._gates(h_prev, z)
        if self.reset_after:
            if self.candidate_recurrent_bias is not None:
                recurrent = recurrent + spread(self.candidate_recurrent_bias[...], recurrent)
            recurrent = reset * recurrent
        else:
            w_n = self.recurrent_kernel[...][:, 2 * self.hidden_features :]
            recurrent = self._product(reset * h_prev, w_n)
        n = self.activation_fn(z[..., 2 * self.hidden_features :] + recurrent)
        h = (1 - update) * n + update * h_prev
        return h, h

    def fused_form(self) -> FusedForm | None:
        """Kernels of gates and candidate; None with other activations than sigmoid and tanh.

        Of those two the slopes are known from their values. With `reset_after` the gates see state
        and input together, and the candidate's two terms are kept apart, because the reset gate
        multiplies one of them; without it the candidate has a stage of its own.
        """
        if not (computes(self.gate_fn, "sigmoid") and computes(self.activation_fn, "tanh")):
            return None
        gates, of_state = 2 * self.hidden_features, self.candidate_recurrent_bias
        if not self.reset_after:
            whole = self._whole_kernel()
            return FusedForm(_RESET_BEFORE, (whole[:, :gates], whole[:, gates:]))
        w_x, w_h, b = promote(self.kernel[...], self.recurrent_kernel[...], self._bias_row())
        b_n = jnp.zeros_like(b[:, gates:]) if of_state is None else of_state[...][None]
        kernels = (
            jnp.concatenate([w_h[:, :gates], w_x[:, :gates], b[:, :gates]]),
            jnp.concatenate([w_x[:, gates:], b[:, gates:]]),
            jnp.concatenate([w_h[:, gates:], b_n.astype(w_h.dtype)]),
        )
        return FusedForm(_UnitMathematics(), kernels)

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"reset", "update"}: each (..., H), in (0, 1) as sigmoids are.
        """
        reset, update = self._gates_of_call(carry, x)
        return {"reset": reset, "update": update}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": update gate}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        _, update = self._gates_of_call(carry, x)
        return {"h": update}

    def _gates_of_call(self, carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reset and update gate of the step that takes `carry` and `x`."""
        z = self.project(x)
        self._check_carry(carry, x)
        reset, update, _ = self._gates(*self._kept(carry, z))
        return reset, update

    def _gates(self, h_prev: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reset gate, update gate and h W_hn (empty unless the reset acts after the product)."""
        size = self.hidden_features
        # One product for all that multiplies h as it is.
        w_h = self.recurrent_kernel[...]
        product = self._product(h_prev, w_h if self.reset_after else w_h[:, : 2 * size])
        pre = z[..., : 2 * size] + product[..., : 2 * size]
        if is_known_by_element(self.gate_fn):
            reset, update = jnp.split(self.gate_fn(pre), 2, axis=-1)
        else:  # Each gate by itself, or one might see the other's units.
            reset, update = map(self.gate_fn, jnp.split(pre, 2, axis=-1))
        return reset, update, product[..., 2 * size :]


@dataclass(frozen=True)
class _UnitMathematics:
    """The GRU with `reset_after`, of sigmoid and tanh, unit by unit; see `UnitMathematics`.

    With n = tanh(u_n + r ∘ v) and k = (1 − u) ∘ (1 − n²), v being the candidate's recurrent term:

    ḣ' = u ∘ ḣ + ((h − n) ∘ u(1 − u)) ∘ u̇_u + k ∘ (u̇_n + r ∘ v̇ + v ∘ r(1 − r) ∘ u̇_r)
    """

    groups: ClassVar[Groups] = (
        Group(2, sees_state=True, sees_input=True),
        Group(1, sees_state=False, sees_input=True),
        Group(1, sees_state=True, sees_input=False),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        u_r, u_u, u_n, v = pre
        r, u = jax.nn.sigmoid(u_r), jax.nn.sigmoid(u_u)
        n = jnp.tanh(u_n + r * v)
        return (1 - u) * n + u * carry, (r, u, n, v)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Any:
        r, u, n, v = saved
        k = (1 - u) * (1 - n * n)
        return u, (k * v * r * (1 - r), (carry - n) * u * (1 - u), k, k * r)

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        u, slopes = coefficients
        return sum((slope * d for slope, d in zip(slopes, pre, strict=True)), start=u * carry)

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry


@dataclass(frozen=True)
class _StageOfGates:
    """Without `reset_after`, from h to (h, u, r ∘ h), unit by unit; see `EarlyStage`."""

    groups: ClassVar[Groups] = (Group(2, sees_state=True, sees_input=True),)

    def advance(self, start: jax.Array, pre: Blocks) -> tuple[Blocks, Blocks]:
        saved = (jax.nn.sigmoid(pre[0]), jax.nn.sigmoid(pre[1]))
        return self.after(start, saved), saved

    def after(self, start: jax.Array, saved: Blocks) -> Blocks:
        r, u = saved
        return start, u, r * start

    def coefficients(self, start: jax.Array, saved: Blocks) -> Blocks:
        r, u = saved
        return u * (1 - u), r, start * r * (1 - r)

    def tangent(self, coefficients: Any, start: jax.Array, pre: Blocks) -> Blocks:
        by_u, r, by_r = coefficients
        return start, by_u * pre[1], r * start + by_r * pre[0]


@dataclass(frozen=True)
class _StageOfCandidate:
    """From (h, u, r ∘ h) to h', unit by unit; see `Stage`. With n = tanh v:

    ḣ' = u ∘ ḣ + (h − n) ∘ u̇ + ((1 − u) ∘ (1 − n²)) ∘ v̇
    """

    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True, parts=(2,)),)

    def advance(self, start: Blocks, pre: Blocks) -> tuple[jax.Array, Blocks]:
        h, u, _ = start
        n = jnp.tanh(pre[0])
        return (1 - u) * n + u * h, (n,)

    def coefficients(self, start: Blocks, saved: Blocks) -> Blocks:
        (h, u, _), (n,) = start, saved
        return u, h - n, (1 - u) * (1 - n * n)

    def tangent(self, coefficients: Any, start: Blocks, pre: Blocks) -> jax.Array:
        d_h, d_u, _ = start
        u, by_u, by_v = coefficients
        moved: jax.Array = u * d_h + by_u * d_u + by_v * pre[0]
        return moved


_RESET_BEFORE = Stages((_StageOfGates(),), _StageOfCandidate())
