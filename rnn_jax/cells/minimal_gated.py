"""Cells with one gate: the minimal gated unit and the update gate RNN."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote
from rnn_jax.cells.biases import offset_bias
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups, Stages
from rnn_jax.checks import check_flag
from rnn_jax.initializers import InitializerLike


class MGUCell(RNNCell):
    """Minimal gated unit: a GRU whose one gate both forgets and resets.

    f = σ(x W_xf + h W_hf + b_f)                  forget gate
    h̃ = tanh(x W_xn + (f ∘ h) W_hn + b_n)         candidate, reset_after=False
    h̃ = tanh(x W_xn + f ∘ (h W_hn) + b_n)         candidate, reset_after=True
    h' = (1 − f) ∘ h + f ∘ h̃,                     y = h'

    Here f near 1 *replaces* the state, as the authors write it. The path that keeps gradients
    alive is ∂h'/∂h ⊇ diag(1 − f), as the GRU's; but a gate that keeps the state, f near 0, also
    hides it from the candidate. Blocks: forget, candidate, each initialised on its own.

    Args:
      in_features: I.
      hidden_features: H.
      reset_after: where the gate acts in the candidate: False, on the state before the product, as
        published; True, on the product, which takes one product a step and not two.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable.
      use_bias: whether there are biases; without, `bias` is None and `bias_init` must be left out.
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
      >>> mgu, h = rj.MGUCell(2, 8, rngs=nnx.Rngs(0)), jnp.zeros(8)
      >>> f, kept = mgu.gates(h, xs[0])["forget"], mgu.memory_path(h, xs[0])["h"]
      >>> bool(jnp.allclose(f + kept, 1))
      True

    References:
      G.-B. Zhou, J. Wu, C.-L. Zhang and Z.-H. Zhou, "Minimal gated unit for recurrent neural
      networks", 2016.
    """

    memory_gates = (("forget", -1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        reset_after: bool = False,
        kernel_init: InitializerLike = "lecun_normal",
        recurrent_kernel_init: InitializerLike = "orthogonal",
        bias_init: InitializerLike = "zeros",
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.reset_after = check_flag("reset_after", reset_after)
        super().__init__(
            in_features,
            hidden_features,
            blocks=("forget", "candidate"),
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
        """One step of h; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        forget, recurrent = self._gate(h_prev, z)
        size = self.hidden_features
        if self.reset_after:
            recurrent = forget * recurrent
        else:
            recurrent = self._product(forget * h_prev, self.recurrent_kernel[...][:, size:])
        candidate = jnp.tanh(z[..., size:] + recurrent)
        h = (1 - forget) * h_prev + forget * candidate
        return h, h

    def fused_form(self) -> FusedForm | None:
        """Kernels of gate and candidate, the latter in a stage of its own, or its terms apart.

        Apart with `reset_after`, because the gate multiplies one of them.
        """
        size = self.hidden_features
        if not self.reset_after:
            whole = self._whole_kernel()
            return FusedForm(_MGU_RESET_BEFORE, (whole[:, :size], whole[:, size:]))
        w_x, w_h, b = promote(self.kernel[...], self.recurrent_kernel[...], self._bias_row())
        kernels = (
            jnp.concatenate([w_h[:, :size], w_x[:, :size], b[:, :size]]),
            jnp.concatenate([w_x[:, size:], b[:, size:]]),
            jnp.concatenate([w_h[:, size:], jnp.zeros_like(b[:, size:])]),
        )
        return FusedForm(_MGUMathematics(), kernels)

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate of the step that takes `carry` and `x`: {"forget": f}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"forget": (..., H)}.
        """
        return {"forget": self._gate_of_call(carry, x)}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": 1 − f}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        return {"h": 1 - self._gate_of_call(carry, x)}

    def _gate_of_call(self, carry: jax.Array, x: jax.Array) -> jax.Array:
        z = self.project(x)
        self._check_carry(carry, x)
        return self._gate(*self._kept(carry, z))[0]

    def _gate(self, h_prev: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """f, and h W_hn (empty unless the gate acts after the product)."""
        size, w_h = self.hidden_features, self.recurrent_kernel[...]
        product = self._product(h_prev, w_h if self.reset_after else w_h[:, :size])
        return jax.nn.sigmoid(z[..., :size] + product[..., :size]), product[..., size:]


class UGRNNCell(RNNCell):
    """Update gate RNN: one gate decides between keeping the state and computing it anew.

    g = σ(x W_xg + h W_hg + b_g)        update gate
    c = tanh(x W_xc + h W_hc + b_c)     candidate
    h' = g ∘ h + (1 − g) ∘ c,           y = h'

    A gate near 1 keeps the state, along ∂h'/∂h ⊇ diag(g): with its bias of 1 at first, it keeps
    about .73 a step. Blocks: update, candidate, each initialised on its own.

    Args:
      in_features: I.
      hidden_features: H.
      update_bias: added to the gate's initial bias, one finite number. It is part of `bias` from
        then on and is trained with it; without biases there is none, and only the default may stand
        here. A `bias_init` that sets the gate by itself, such as "chrono(1, 200)", takes the
        default's place.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable.
      use_bias: whether there are biases; without, `bias` is None and `bias_init` must be left out.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, or a bias that is not finite.
      TypeError: a size that is no int, a bias that is no number, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> ugrnn = rj.UGRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> kept = ugrnn.memory_path(jnp.zeros(8), jnp.zeros(2))["h"]
      >>> round(float(kept.mean()), 3)  # σ(1)
      0.731

    References:
      J. Collins, J. Sohl-Dickstein and D. Sussillo, "Capacity and trainability in recurrent neural
      networks", 2017.
    """

    memory_gates = (("update", 1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        update_bias: float = 1.0,
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
            blocks=("update", "candidate"),
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        offset_bias(self, "update_bias", update_bias, "update", bias_init, default=1.0)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of h; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        update, candidate = self._gate_and_candidate(h_prev, z)
        h = update * h_prev + (1 - update) * candidate
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel for both blocks."""
        return FusedForm(_UGRNNMathematics(), (self._whole_kernel(),))

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate of the step that takes `carry` and `x`: {"update": g}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"update": (..., H)}.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return {"update": self._gate_and_candidate(*self._kept(carry, z))[0]}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": g}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        return {"h": self.gates(carry, x)["update"]}

    def _gate_and_candidate(self, h_prev: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        pre = z + self._product(h_prev, self.recurrent_kernel[...])
        update, candidate = jnp.split(pre, 2, axis=-1)
        return jax.nn.sigmoid(update), jnp.tanh(candidate)


@dataclass(frozen=True)
class _MGUMathematics:
    """The minimal gated unit with `reset_after`, unit by unit; see `UnitMathematics`.

    With n = tanh(u_n + f ∘ v) and k = f ∘ (1 − n²), v being the candidate's recurrent term:

    ḣ' = (1 − f) ∘ ḣ + ((n − h + k ∘ v) ∘ f(1 − f)) ∘ u̇_f + k ∘ (u̇_n + f ∘ v̇)
    """

    groups: ClassVar[Groups] = (
        Group(1, sees_state=True, sees_input=True),
        Group(1, sees_state=False, sees_input=True),
        Group(1, sees_state=True, sees_input=False),
    )

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        u_f, u_n, v = pre
        f = jax.nn.sigmoid(u_f)
        n = jnp.tanh(u_n + f * v)
        return (1 - f) * carry + f * n, (f, n, v)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Any:
        f, n, v = saved
        k = f * (1 - n * n)
        return 1 - f, ((n - carry + k * v) * f * (1 - f), k, k * f)

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        kept, slopes = coefficients
        return sum((slope * d for slope, d in zip(slopes, pre, strict=True)), start=kept * carry)

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry


@dataclass(frozen=True)
class _MGUStageOfGate:
    """Without `reset_after`, from h to (h, f, f ∘ h), unit by unit; see `EarlyStage`."""

    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True),)

    def advance(self, start: jax.Array, pre: Blocks) -> tuple[Blocks, Blocks]:
        saved = (jax.nn.sigmoid(pre[0]),)
        return self.after(start, saved), saved

    def after(self, start: jax.Array, saved: Blocks) -> Blocks:
        (f,) = saved
        return start, f, f * start

    def coefficients(self, start: jax.Array, saved: Blocks) -> Blocks:
        (f,) = saved
        slope = f * (1 - f)
        return slope, f, start * slope

    def tangent(self, coefficients: Any, start: jax.Array, pre: Blocks) -> Blocks:
        slope, f, by_f = coefficients
        return start, slope * pre[0], f * start + by_f * pre[0]


@dataclass(frozen=True)
class _MGUStageOfCandidate:
    """From (h, f, f ∘ h) to h', unit by unit; see `Stage`. With n = tanh v:

    ḣ' = (1 − f) ∘ ḣ + (n − h) ∘ ḟ + (f ∘ (1 − n²)) ∘ v̇
    """

    groups: ClassVar[Groups] = (Group(1, sees_state=True, sees_input=True, parts=(2,)),)

    def advance(self, start: Blocks, pre: Blocks) -> tuple[jax.Array, Blocks]:
        h, f, _ = start
        n = jnp.tanh(pre[0])
        return (1 - f) * h + f * n, (n,)

    def coefficients(self, start: Blocks, saved: Blocks) -> Blocks:
        (h, f, _), (n,) = start, saved
        return 1 - f, n - h, f * (1 - n * n)

    def tangent(self, coefficients: Any, start: Blocks, pre: Blocks) -> jax.Array:
        d_h, d_f, _ = start
        kept, by_f, by_v = coefficients
        moved: jax.Array = kept * d_h + by_f * d_f + by_v * pre[0]
        return moved


_MGU_RESET_BEFORE = Stages((_MGUStageOfGate(),), _MGUStageOfCandidate())


@dataclass(frozen=True)
class _UGRNNMathematics:
    """The update gate RNN, unit by unit; see `UnitMathematics`.

    ḣ' = g ∘ ḣ + ((h − c) ∘ g(1 − g)) ∘ u̇_g + ((1 − g) ∘ (1 − c²)) ∘ u̇_c
    """

    groups: ClassVar[Groups] = (Group(2, sees_state=True, sees_input=True),)

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        g, c = jax.nn.sigmoid(pre[0]), jnp.tanh(pre[1])
        return g * carry + (1 - g) * c, (g, c)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Any:
        g, c = saved
        return g, ((carry - c) * g * (1 - g), (1 - g) * (1 - c * c))

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        g, slopes = coefficients
        return sum((slope * d for slope, d in zip(slopes, pre, strict=True)), start=g * carry)

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry
