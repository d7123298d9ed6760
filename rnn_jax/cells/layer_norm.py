"""LSTM and GRU with layer normalisation of what their products give."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import spread
from rnn_jax.cells.biases import offset_bias
from rnn_jax.cells.cell import RNNCell
from rnn_jax.checks import check_flag, check_positive
from rnn_jax.initializers import InitializerLike

LSTMCarry = tuple[jax.Array, jax.Array]


class _NormalisedCell(RNNCell):
    """What both cells share: the products with input and state, each normalised.

    Attributes:
      together: how many blocks share their statistics, side by side from the first.
    """

    together: tuple[int, ...]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        blocks: tuple[str, ...],
        together: tuple[int, ...],
        by_gate: bool,
        epsilon: float,
        **options: Any,
    ):
        self.together = (1,) * len(blocks) if check_flag("by_gate", by_gate) else together
        # At 0 a state of equal units would have no derivative.
        self.epsilon = check_positive("epsilon", epsilon)
        super().__init__(in_features, hidden_features, blocks=blocks, **options)
        size = len(blocks) * self.hidden_features
        for of in ("input", "recurrent"):
            self._add_norm(of, size)

    def _add_norm(self, of: str, size: int) -> None:
        setattr(self, f"{of}_scale", nnx.Param(jnp.ones((size,), self.param_dtype)))
        setattr(self, f"{of}_shift", nnx.Param(jnp.zeros((size,), self.param_dtype)))

    def project(self, x: jax.Array) -> jax.Array:
        """z = LN(x W_x) + b; see `RNNCell.project`."""
        z = self._normalised("input", self._input_product(x), self.together)
        return z if self.bias is None else z + spread(self.bias[...], z)

    def _recurrent(self, h_prev: jax.Array) -> jax.Array:
        """LN(h W_h)."""
        product = self._product(h_prev, self.recurrent_kernel[...])
        return self._normalised("recurrent", product, self.together)

    def _normalised(self, of: str, values: jax.Array, together: Sequence[int]) -> jax.Array:
        """Values (..., B·H) of B blocks, normalised over so many blocks at a time."""
        scale, shift = getattr(self, f"{of}_scale")[...], getattr(self, f"{of}_shift")[...]
        ends, size = [], 0
        for count in together:
            size += count * self.hidden_features
            ends.append(size)
        parts = [_standardised(part, self.epsilon) for part in jnp.split(values, ends[:-1], -1)]
        whole = jnp.concatenate(parts, axis=-1)
        return spread(scale, whole) * whole + spread(shift, whole)


def _standardised(values: jax.Array, epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 along the last axis, but for ε."""
    centred = values - jnp.mean(values, axis=-1, keepdims=True)
    # Scaled before it is squared, because squares of large numbers are infinite.
    most = jax.lax.stop_gradient(jnp.maximum(1, jnp.max(jnp.abs(centred), -1, keepdims=True)))
    scaled = centred / most
    variance = jnp.mean(jnp.square(scaled), axis=-1, keepdims=True) + epsilon / jnp.square(most)
    return scaled * jax.lax.rsqrt(variance)


class LayerNormLSTMCell(_NormalisedCell):
    """Long short-term memory with layer normalisation.

    [u_i, u_f, u_g, u_o] = LN(x W_x) + LN(h W_h) + b
    c' = σ(u_f) ∘ c + σ(u_i) ∘ tanh(u_g)
    h' = σ(u_o) ∘ tanh(LN(c'))

    LN(v) = γ ∘ (v − mean v) / √(var v + ε) + β with weights of its own at each place, over all the
    blocks of a product at once. The carry is (c, h), and gradients live along the path
    ∂c_t/∂c_{t−1} ⊇ diag(f_t), which no normalisation interrupts. What LN is given may be multiplied
    by any number without effect, so the gain of W_h has no say in how gradients vanish or explode.
    ∂LN(h W_h)/∂h falls as 1/‖h‖; at h = 0, where a sequence starts, it is W_hᵀ/√ε, centred: large.

    Args:
      in_features: I.
      hidden_features: H.
      forget_bias: added to the forget gate's initial bias, one finite number; without biases there
        is none, and only the default may stand here. A `bias_init` that sets the gate by itself,
        such as "chrono(1, 200)", takes the default's place.
      by_gate: whether each gate has a mean and a variance of its own.
      epsilon: ε, above 0.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable. γ starts at
        1 and β at 0 (`input_scale`, `input_shift`, `recurrent_…`, `cell_…`).
      use_bias: whether there is b; without it `bias` is None, and no forget bias. β is there in any
        case.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, or an ε not above 0.
      TypeError: a size that is no int, a number that is none, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> carry = jnp.zeros(8), jnp.linspace(-1, 1, 8)
      >>> one, ten = (
      ...     rj.LayerNormLSTMCell(2, 8, recurrent_kernel_init=init, rngs=nnx.Rngs(0))
      ...     for init in ("orthogonal(1)", "orthogonal(10)")
      ... )
      >>> bool(jnp.allclose(one(carry, xs[0])[1], ten(carry, xs[0])[1], atol=1e-4))
      True

    References:
      J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016.
    """

    carry_parts = ("c", "h")
    memory_gates = (("forget", 1), ("input", -1))

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        forget_bias: float = 1.0,
        by_gate: bool = False,
        epsilon: float = 1e-5,
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
            blocks=("input", "forget", "candidate", "output"),
            together=(4,),
            by_gate=by_gate,
            epsilon=epsilon,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        offset_bias(self, "forget_bias", forget_bias, "forget", bias_init, default=1.0)
        self._add_norm("cell", self.hidden_features)

    def step(self, carry: LSTMCarry, z: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        """One step of (c, h); see `RNNCell.step`."""
        c_prev, h_prev, z = self._kept(*carry, z)
        into, forget, candidate, output = self._gates(h_prev, z)
        c = forget * c_prev + into * candidate
        h = output * jnp.tanh(self._normalised("cell", c, (1,)))
        return (c, h), h

    def gates(self, carry: LSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`.

        Args:
          carry: (c, h) before the step, each (..., H).
          x: the input, (..., I).

        Returns:
          {"input", "forget", "output"}: each (..., H).
        """
        z = self.project(x)
        self._check_carry(carry, x)
        into, forget, _, output = self._gates(*self._kept(carry[1], z))
        return {"input": into, "forget": forget, "output": output}

    def memory_path(self, carry: LSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the cell state is handed on by itself: {"c": forget gate}.

        Args:
          carry: (c, h) before the step, each (..., H).
          x: the input, (..., I).

        Returns:
          {"c": (..., H)}.
        """
        return {"c": self.gates(carry, x)["forget"]}

    def _gates(self, h_prev: jax.Array, z: jax.Array) -> list[jax.Array]:
        """The blocks in their order, the candidate among the gates."""
        blocks = jnp.split(z + self._recurrent(h_prev), 4, axis=-1)
        return [jnp.tanh(u) if k == 2 else jax.nn.sigmoid(u) for k, u in enumerate(blocks)]


class LayerNormGRUCell(_NormalisedCell):
    """Gated recurrent unit with layer normalisation.

    [u_r, u_u] = LN(x W_x) + LN(h W_h) + b            r = σ(u_r), u = σ(u_u)
    n = tanh(LN(x W_xn) + b_n + r ∘ LN(h W_hn))       candidate
    h' = (1 − u) ∘ n + u ∘ h,                         y = h'

    LN(v) = γ ∘ (v − mean v) / √(var v + ε) + β with weights of its own at each place, over both
    gates at once and over the candidate. An update gate near 1 keeps the state, as in `GRUCell`
    (the authors write 1 − u for it), and gradients live along ∂h'/∂h ⊇ diag(u). What LN is given
    may be multiplied by any number without effect, so the gain of W_h has no say in how gradients
    vanish or explode. ∂LN(h W_h)/∂h falls as 1/‖h‖; at h = 0, where a sequence starts, it is
    W_hᵀ/√ε, centred: large.

    Args:
      in_features: I.
      hidden_features: H.
      by_gate: whether each gate has a mean and a variance of its own.
      epsilon: ε, above 0.
      kernel_init, recurrent_kernel_init, bias_init: initialisers, by name or callable. γ starts at
        1 and β at 0 (`input_scale`, `input_shift`, `recurrent_scale`, `recurrent_shift`).
      use_bias: whether there is b; without it `bias` is None. β is there in any case.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, an unknown name, or an ε not above 0.
      TypeError: a size that is no int, a number that is none, a flag that is no bool, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> normal = rj.LayerNormGRUCell(2, 8, rngs=nnx.Rngs(0))
      >>> h = jnp.linspace(-1, 1, 8)
      >>> bool(jnp.allclose(normal(h, 10 * xs[0])[1], normal(h, 1e3 * xs[0])[1], atol=1e-3))
      True

    References:
      J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", 2016.
    """

    memory_gates = (("update", 1),)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        by_gate: bool = False,
        epsilon: float = 1e-5,
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
            together=(2, 1),
            by_gate=by_gate,
            epsilon=epsilon,
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
        reset, update, recurrent = self._gates(h_prev, z)
        candidate = jnp.tanh(z[..., 2 * self.hidden_features :] + reset * recurrent)
        h = (1 - update) * candidate + update * h_prev
        return h, h

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"reset", "update"}: each (..., H).
        """
        z = self.project(x)
        self._check_carry(carry, x)
        reset, update, _ = self._gates(*self._kept(carry, z))
        return {"reset": reset, "update": update}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on by itself: {"h": update gate}.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"h": (..., H)}.
        """
        return {"h": self.gates(carry, x)["update"]}

    def _gates(self, h_prev: jax.Array, z: jax.Array) -> list[jax.Array]:
        """Reset gate, update gate and LN(h W_hn)."""
        blocks = jnp.split(self._recurrent(h_prev), 3, axis=-1)
        inputs = jnp.split(z, 3, axis=-1)
        gates = [jax.nn.sigmoid(u + v) for u, v in zip(inputs[:2], blocks[:2], strict=True)]
        return [*gates, blocks[2]]
