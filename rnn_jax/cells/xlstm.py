"""The two cells of xLSTM: exponential gates, with a scalar memory and with a matrix memory."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import promote, spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_divisor, check_flag, check_number
from rnn_jax.initializers import InitializerLike, gaussian, get_initializer, init_by_gate

SLSTMCarry = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
MLSTMCarry = tuple[jax.Array, jax.Array, jax.Array]

# To the normaliser of the matrix memory.
_EPSILON = 1e-6


# Normal with variance 2/(5 I) (Nguyen and Salazar, 2019).
_small = gaussian(math.sqrt(2 / 5))


class _ExponentialCell(RNNCell):
    """Base: heads, and a stabiliser m that starts at the lowest number, element by element."""

    def _check_heads(self, num_heads: int) -> None:
        size = self.hidden_features
        self.num_heads = check_divisor("num_heads", num_heads, "hidden_features", size)

    @property
    def head_features(self) -> int:
        """d, the units of one head."""
        return self.hidden_features // self.num_heads

    def _initial_part(self, part: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        # e^m stands for 0. Half of the lowest number, to which log σ(f) can still be added.
        return jnp.full(shape, float(jnp.finfo(dtype).min) / 2 if part == "m" else 0.0, dtype)


class SLSTMCell(_ExponentialCell):
    """sLSTM: an LSTM with an exponential input gate, a normaliser n and a stabiliser m.

    [ĩ, f̃, z̃, õ] = x W + h R + b         R block-diagonal, one block a head
    m' = max(ĩ, m + log σ(f̃))
    i = e^{ĩ − m'},    f = e^{m + log σ(f̃) − m'}
    c' = f ∘ c + i ∘ tanh(z̃)
    n' = f ∘ n + i
    h' = σ(õ) ∘ c'/n',                    y = h'

    c e^m and n e^m are what the equations without m have; m keeps both gates at 1 or below, and one
    of them at 1, so n ≥ 1 after the first step and nothing overflows. The carry is (c, n, m, h), of
    which m starts at half the lowest number, whose exponential is 0. The blocks lie in the order
    input, forget, candidate, output.

    Claim about gradients: ∂c_t/∂c_{t−1} ⊇ diag(f), and with the recurrent kernel at 0, where it
    starts, gates are functions of inputs alone; ∂h/∂(c, n, m) is 0 along (c, n, −1), because only
    the ratio c/n is read.

    Args:
      in_features: I.
      hidden_features: H.
      num_heads: into how many blocks R falls; it divides H.
      depth: r in [0, 1], where the layer stands in its stack: forget biases start at
        5 − 12 (k/(d − 1))^{0.3 + 1.3 r} for unit k of the d of a head; without biases only 0 may
        stand here.
      kernel_init: initialiser of W, by name or callable, gate by gate; None is normal with variance
        2/(5 I). R starts at 0, and so do the other biases.
      use_bias: whether there is b; without it `bias` is None.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, a number of heads that does not divide H, a depth outside [0, 1].
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> slstm = rj.SLSTMCell(2, 8, num_heads=2, rngs=nnx.Rngs(0))
      >>> list(slstm.carry_shapes)
      ['c', 'n', 'm', 'h']
      >>> carry, y = slstm(slstm.initialize_carry((2,)), 1e4 * xs[0])  # exponents of thousands
      >>> bool(jnp.isfinite(y).all())
      True

    References:
      M. Beck et al., "xLSTM: extended long short-term memory", 2024.
    """

    carry_parts = ("c", "n", "m", "h")
    diagonal_part = "c"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_heads: int = 1,
        depth: float = 0.0,
        kernel_init: InitializerLike | None = None,
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
            kernel_init=_small if kernel_init is None else kernel_init,
            use_bias=use_bias,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self._check_heads(num_heads)
        place = check_number("depth", depth)
        if not 0 <= place <= 1:
            raise ValueError(
                f"depth must lie in [0, 1]; got {place}. Pass 0 for the first layer of a stack, 1 "
                "for the last."
            )
        size, kind, width = self.hidden_features, self.param_dtype, self.head_features
        # (head, from, gate and to).
        self.recurrent_kernel = nnx.Param(jnp.zeros((self.num_heads, width, 4 * width), kind))
        if self.bias is not None:
            along = jnp.arange(width, dtype=kind) / max(1, width - 1)
            forget = jnp.tile(5 - 12 * along ** (0.3 + 1.3 * place), self.num_heads)
            self.bias[...] = self.bias[...].at[size : 2 * size].set(forget.astype(kind))
        elif place:
            raise ValueError(
                f"depth is where forget biases start, so there must be some; got depth={place:g} "
                "with use_bias=False. Leave depth out, or pass use_bias=True."
            )

    def project(self, x: jax.Array) -> jax.Array:
        """x W + b, (..., 4H); see `RNNCell.project`."""
        (z,) = self._kept(self._input_product(x))
        return z if self.bias is None else z + spread(self.bias[...], z)

    def step(self, carry: SLSTMCarry, z: jax.Array) -> tuple[SLSTMCarry, jax.Array]:
        """One step of (c, n, m, h); see `RNNCell.step`."""
        after, _ = self._advance(carry, z)
        return after, after[3]

    def transition_kernel(self) -> jax.Array:
        """R as one matrix, (H, 4H): its blocks, with 0 between the heads."""
        heads, width = self.num_heads, self.head_features
        by_gate = self.recurrent_kernel[...].reshape(heads, width, 4, width)
        own = jnp.eye(heads, dtype=by_gate.dtype)
        # Row (head, from), column (gate, head, to).
        whole = jnp.einsum("hagb,hk->hagkb", by_gate, own)
        return whole.reshape(heads * width, 4 * heads * width)

    def fused_form(self) -> FusedForm | None:
        """One kernel for all blocks, with 0 between the heads."""
        rows = (self.transition_kernel(), self.kernel[...], self._bias_row())
        return FusedForm(_UnitMathematics(), (jnp.concatenate(promote(*rows)),))

    def gates(self, carry: SLSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`, as m leaves them.

        Args:
          carry: (c, n, m, h) before the step, each (..., H).
          x: the input, (..., I).

        Returns:
          {"input", "forget", "output"}: each (..., H), in [0, 1]; one of the first two is 1.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        i, f, _, o, *_ = self._advance(carry, z)[1]
        return {"input": i, "forget": f, "output": o}

    def memory_path(self, carry: SLSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which cell state and normaliser are handed on: {"c": f, "n": f}."""
        forget = self.gates(carry, x)["forget"]
        return {"c": forget, "n": forget}

    def _advance(self, carry: SLSTMCarry, z: jax.Array) -> tuple[SLSTMCarry, Blocks]:
        c_prev, n_prev, m_prev, h_prev, z = self._kept(*carry, z)
        h = h_prev.reshape(*h_prev.shape[:-1], self.num_heads, self.head_features)
        operands = promote(h, self.recurrent_kernel[...], dtype=self.dtype)
        by_head = jnp.einsum("...ha,hab->...hb", *operands, preferred_element_type=self.carry_dtype)
        by_gate = by_head.reshape(*h.shape[:-1], 4, self.head_features)
        (product,) = self._kept(jnp.swapaxes(by_gate, -3, -2).reshape(z.shape))
        pre = jnp.split(z + product, 4, axis=-1)
        parts = (c_prev, n_prev, m_prev, h_prev)
        return _UnitMathematics().advance(parts, tuple(pre))


@dataclass(frozen=True)
class _UnitMathematics:
    """The sLSTM unit by unit; see `UnitMathematics`. With a = m + log σ(f̃) and w = [ĩ > a]:

    ȧ = ṁ + (1 − σ(f̃)) ∘ u̇_f,    ṁ' = w ∘ u̇_i + (1 − w) ∘ ȧ
    ċ' = f ∘ (ċ + c ∘ (ȧ − ṁ')) + i ∘ (z ∘ (u̇_i − ṁ') + (1 − z²) ∘ u̇_z),    ṅ' likewise
    ḣ' = o(1 − o) ∘ c'/n' ∘ u̇_o + o ∘ (ċ' − c'/n' ∘ ṅ')/n'
    """

    groups: ClassVar[Groups] = (Group(4, sees_state=True, sees_input=True),)

    def advance(self, carry: SLSTMCarry, pre: Blocks) -> tuple[SLSTMCarry, Blocks]:
        c_prev, n_prev, m_prev, _ = carry
        u_i, u_f, u_z, u_o = pre
        from_past = m_prev + jax.nn.log_sigmoid(u_f)
        m = jnp.maximum(u_i, from_past)
        i, f = jnp.exp(u_i - m), jnp.exp(from_past - m)
        z, o = jnp.tanh(u_z), jax.nn.sigmoid(u_o)
        c, n = f * c_prev + i * z, f * n_prev + i
        rest = jax.nn.sigmoid(-u_f)
        half = jnp.full_like(m, 0.5)
        # As the derivative of a maximum is, of two that are equal half of each.
        is_input = jnp.where(u_i == from_past, half, (u_i > from_past).astype(m.dtype))
        return (c, n, m, o * c / n), (i, f, z, o, rest, is_input)

    def coefficients(self, carry: SLSTMCarry, saved: Blocks) -> Any:
        c_prev, n_prev, *_ = carry
        i, f, z, *_ = saved
        c, n = f * c_prev + i * z, f * n_prev + i
        return (c_prev, n_prev, c / n, 1 / n, *saved)

    def tangent(self, coefficients: Any, carry: SLSTMCarry, pre: Blocks) -> SLSTMCarry:
        c_prev, n_prev, ratio, inverse, i, f, z, o, rest, is_input = coefficients
        d_c, d_n, d_m, _ = carry
        u_i, u_f, u_z, u_o = pre
        from_past = d_m + rest * u_f
        m = is_input * u_i + (1 - is_input) * from_past
        by_input, by_past = i * (u_i - m), f * (from_past - m)
        c = f * d_c + c_prev * by_past + z * by_input + i * (1 - z * z) * u_z
        n = f * d_n + n_prev * by_past + by_input
        h = o * (1 - o) * ratio * u_o + o * inverse * (c - ratio * n)
        return c, n, m, h

    def hidden(self, carry: SLSTMCarry) -> jax.Array:
        return carry[3]


class MLSTMCell(_ExponentialCell):
    """mLSTM: a matrix memory a head, written with keys and read with queries.

    q = x W_q + b_q,  k = (x W_k + b_k)/√d,  v = x W_v + b_v,  o = σ(x W_o + b_o)
    ĩ = x w_i + b_i,  f̃ = x w_f + b_f                   one number a head
    m' = max(ĩ, m + log σ(f̃)),  i = e^{ĩ − m'},  f = e^{m + log σ(f̃) − m'}
    C' = f C + i k vᵀ
    n' = f n + i k
    h' = o ∘ C'ᵀq / (max(|n'ᵀq|, e^{−m'}) + 10⁻⁶),      y = h'

    The carry is (C, n, m): (..., heads, d, d), (..., heads, d) and (..., heads). m keeps both gates
    at 1 or below, and starts at half the lowest number, whose exponential is 0.

    Claim about gradients: no gate sees the carry, so C e^m and n e^m are linear in themselves,
    with the factor ∏ σ(f̃) over any number of steps, whatever the inputs between were read as.

    It has no `linear_form` all the same. The carry (C, n, m) is not linear in itself: m' is a
    maximum, and f and i hang on m. Without m, in C e^m and n e^m, it would be, but these overflow
    where ĩ is large, which is what m is there for. And an associative scan would write down d²
    numbers a head at every step; the authors' parallel form, chunks of queries against keys, is
    another algorithm.

    Args:
      in_features: I.
      hidden_features: H, over all heads.
      num_heads: how many; it divides H.
      kernel_init: initialiser of W_q, W_k, W_v and W_o, by name or callable, each on its own; None
        is normal with variance 2/(5 I). w_i and w_f start at 0, b_i ~ N(0, 0.1²), b_f from 3 to 6
        over the heads, other biases at 0.
      use_bias: whether there are biases; without them `bias` is None.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, a number of heads that does not divide H, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> mlstm = rj.MLSTMCell(2, 8, num_heads=2, rngs=nnx.Rngs(0))
      >>> mlstm.carry_shapes
      {'C': (2, 4, 4), 'n': (2, 4), 'm': (2,)}

    References:
      M. Beck et al., "xLSTM: extended long short-term memory", 2024.
    """

    carry_parts = ("C", "n", "m")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_heads: int = 1,
        kernel_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            hidden_features,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self._check_heads(num_heads)
        size, kind, heads = self.hidden_features, self.param_dtype, self.num_heads
        init = get_initializer("kernel_init", _small if kernel_init is None else kernel_init)
        # Columns: queries, keys, values, output gate; then input and forget gates by head.
        whole = init_by_gate("kernel_init", init, rngs.params(), self.in_features, size, 4, kind)
        gates = jnp.zeros((self.in_features, 2 * heads), kind)
        self.kernel = nnx.Param(jnp.concatenate([whole, gates], axis=1))
        if check_flag("use_bias", use_bias):
            b_i = 0.1 * jax.random.normal(rngs.params(), (heads,), kind)
            b_f = jnp.linspace(3.0, 6.0, heads, dtype=kind)
            self.bias = nnx.Param(jnp.concatenate([jnp.zeros((4 * size,), kind), b_i, b_f]))

    @property
    def carry_shapes(self) -> dict[str, tuple[int, ...]]:
        """{"C": (heads, d, d), "n": (heads, d), "m": (heads,)}; see `RNNCell.carry_shapes`."""
        heads, width = self.num_heads, self.head_features
        return {"C": (heads, width, width), "n": (heads, width), "m": (heads,)}

    def project(self, x: jax.Array) -> jax.Array:
        """[q, k √d, v, õ, ĩ, f̃], (..., 4H + 2 heads); see `RNNCell.project`."""
        (z,) = self._kept(self._input_product(x))
        return z if self.bias is None else z + spread(self.bias[...], z)

    def step(self, carry: MLSTMCarry, z: jax.Array) -> tuple[MLSTMCarry, jax.Array]:
        """One step of (C, n, m); see `RNNCell.step`."""
        c_prev, n_prev, m_prev, z = self._kept(*carry, z)
        q, k, v, o, u_i, u_f = self._split(z)
        m, i, f = self._stabilised(m_prev, u_i, u_f)
        i_k = i[..., None] * k
        c = f[..., None, None] * c_prev + i_k[..., :, None] * v[..., None, :]
        n = f[..., None] * n_prev + i_k
        # Above and below times e^{min(m, 0)}, or e^{−m} could overflow.
        low = jnp.minimum(m, jnp.zeros_like(m))
        scale = jnp.exp(low)
        above = jnp.einsum("...ab,...a->...b", c, q) * scale[..., None]
        weight = jnp.abs(jnp.sum(n * q, axis=-1)) * scale
        below = jnp.maximum(weight, jnp.exp(low - m)) + _EPSILON * scale
        read = (above / below[..., None]).reshape(o.shape)
        return (c, n, m), jax.nn.sigmoid(o) * read

    def gates(self, carry: MLSTMCarry, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`, as m leaves them.

        Args:
          carry: (C, n, m) before the step.
          x: the input, (..., I).

        Returns:
          {"input", "forget"}: each (..., heads), in [0, 1], one of them 1; "output": (..., H).
        """
        z = self.project(x)
        self._check_carry(carry, x)
        m_prev, z = self._kept(carry[2], z)
        *_, o, u_i, u_f = self._split(z)
        _, i, f = self._stabilised(m_prev, u_i, u_f)
        return {"input": i, "forget": f, "output": jax.nn.sigmoid(o)}

    def _stabilised(
        self, m_prev: jax.Array, u_i: jax.Array, u_f: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        from_past = m_prev + jax.nn.log_sigmoid(u_f)
        m = jnp.maximum(u_i, from_past)
        return m, jnp.exp(u_i - m), jnp.exp(from_past - m)

    def _split(self, z: jax.Array) -> tuple[jax.Array, ...]:
        """q, k, v (..., heads, d), õ (..., H), ĩ, f̃ (..., heads)."""
        size, heads, width = self.hidden_features, self.num_heads, self.head_features
        *blocks, u_i, u_f = jnp.split(
            z, [size, 2 * size, 3 * size, 4 * size, 4 * size + heads], axis=-1
        )
        q, k, v = (block.reshape(*z.shape[:-1], heads, width) for block in blocks[:3])
        return q, k / width**0.5, v, blocks[3], u_i, u_f
