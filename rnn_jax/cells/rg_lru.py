"""The real-gated linear recurrent unit."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import at_least_float32, promote, spread
from rnn_jax.cells.biases import bias_initializer
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm
from rnn_jax.checks import check_divisor, check_flag, check_number
from rnn_jax.initializers import InitializerLike, get_initializer, initialize

# c of the paper.
_SHARPNESS = 8.0


class RGLRUCell(RNNCell):
    """Real-gated linear recurrent unit: a real decay by unit, gated by the input alone.

    u = x W                                 the input map
    r = σ(u W_a + b_a)                      recurrence gate, W_a block-diagonal
    i = σ(u W_i + b_i)                      input gate, W_i block-diagonal
    log a = −8 r ∘ softplus(Λ)
    h' = a ∘ h + √(1 − a²) ∘ (i ∘ u),       y = h'

    u is the paper's x_t: the linear layer that stands ahead of the unit in its block is part of
    this cell, so that I and H may differ. `input_map=False` is without it, and needs I = H. The
    authors' code scales a sequence's first input by 1 instead of √(1 − a²); here all steps are
    alike, as in the paper.

    Claim about gradients: ∂h_t/∂h_s = diag(∏ a), each a in (0, 1) and a function of inputs alone.
    At r = 1, where a unit forgets fastest, a starts uniform in [a_min, a_max]; in the authors' code
    that is a^(1/8), uniform in area, so that units forget about eight times faster.

    Args:
      in_features: I.
      hidden_features: H.
      num_blocks: into how many blocks the gates' matrices fall; it divides H.
      a_min, a_max: where a lies at r = 1 at the start, 0 < a_min < a_max < 1.
      input_map: whether u = x W; False is u = x.
      kernel_init: initialiser of W, by name or callable.
      gate_kernel_init: of each block of W_a and W_i, likewise.
      bias_init: of b_a and b_i, `gate_bias`, likewise.
      use_bias: whether there are these two; without them `gate_bias` is None.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, a number of blocks that does not divide H, decays out of range, or
        `input_map=False` with I other than H.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> rglru = rj.RGLRUCell(2, 8, num_blocks=2, rngs=nnx.Rngs(0))
      >>> kept = rglru.memory_path(jnp.zeros(8), xs[0])["h"]
      >>> bool(((kept > 0) & (kept < 1)).all())
      True

    References:
      S. De et al., "Griffin: mixing gated linear recurrences with local attention for efficient
      language models", 2024.
    """

    diagonal_part = "h"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_blocks: int = 1,
        a_min: float = 0.9,
        a_max: float = 0.999,
        input_map: bool = True,
        kernel_init: InitializerLike = "lecun_normal",
        gate_kernel_init: InitializerLike = "lecun_normal",
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
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size, kind = self.hidden_features, self.param_dtype
        self.num_blocks = check_divisor("num_blocks", num_blocks, "hidden_features", size)
        low, high = check_number("a_min", a_min), check_number("a_max", a_max)
        if not 0 < low < high < 1:
            raise ValueError(
                f"a_min and a_max must be 0 < a_min < a_max < 1; got {low} and {high}. Pass for "
                "example a_min=0.9, a_max=0.999."
            )
        if not check_flag("input_map", input_map) and self.in_features != size:
            raise ValueError(
                "input_map=False needs inputs of the size of the state; got "
                f"in_features={self.in_features} and hidden_features={size}. Pass input_map=True."
            )
        init = get_initializer("kernel_init", kernel_init)
        of_gates = get_initializer("gate_kernel_init", gate_kernel_init)
        if input_map:
            shape = (self.in_features, size)
            self.kernel = nnx.Param(initialize("kernel_init", init, rngs.params(), shape, kind))
        width = size // self.num_blocks
        blocks = [
            initialize("gate_kernel_init", of_gates, rngs.params(), (width, width), kind)
            for _ in range(2 * self.num_blocks)
        ]
        # (gate, block, from, to).
        self.gate_kernel = nnx.Param(jnp.stack(blocks).reshape(2, self.num_blocks, width, width))
        of_bias, key = bias_initializer(use_bias, bias_init), rngs.params()
        bias = None if of_bias is None else initialize("bias_init", of_bias, key, (2, size), kind)
        self.gate_bias = None if bias is None else nnx.Param(bias)
        wide = at_least_float32(kind)
        a = jax.random.uniform(rngs.params(), (size,), wide, low, high)
        # softplus(Λ) = −log(a) / 8.
        self.decay = nnx.Param(jnp.log(jnp.expm1(-jnp.log(a) / _SHARPNESS)).astype(kind))

    def project(self, x: jax.Array) -> jax.Array:
        """[log a, √(1 − a²) ∘ i ∘ u], all of a step but the carry; see `RNNCell.project`.

        Args:
          x: inputs, (..., I).

        Returns:
          (..., 2H).
        """
        u, recurrence, gated = self._gate_arguments(x)
        rate = _SHARPNESS * jax.nn.softplus(spread(self.decay[...], u))
        log_a = -rate * jax.nn.sigmoid(recurrence)
        added = _root_of_rest(rate, recurrence) * jax.nn.sigmoid(gated) * u
        return jnp.concatenate([log_a, added], axis=-1)

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h = a ∘ h_prev + added; see `RNNCell.step`."""
        h_prev, z = self._kept(carry, z)
        a, added = self._transition(z)
        h = a * h_prev + added
        return h, h

    def linear_form(self) -> LinearForm:
        """Real and diagonal; see `rnn_jax.cells.linear`."""
        return LinearForm("diagonal", self._transition, contracts=True)

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate activations of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H), which they do not depend on.
          x: the input, (..., I).

        Returns:
          {"recurrence", "input"}: each (..., H), in (0, 1) as sigmoids are.
        """
        _, recurrence, gated = self._gate_arguments(x)
        self._check_carry(carry, x)
        return {"recurrence": jax.nn.sigmoid(recurrence), "input": jax.nn.sigmoid(gated)}

    def memory_path(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The factor by which the state is handed on: {"h": a}, (..., H)."""
        z = self.project(x)
        self._check_carry(carry, x)
        return {"h": self._transition(z)[0]}

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_a, added = jnp.split(self._kept(z)[0], 2, axis=-1)
        return jnp.exp(log_a), added

    def _gate_arguments(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """u and what the sigmoids are taken of, each (..., H)."""
        self._check_input(x)
        (u,) = self._kept(x if self.kernel is None else self._product(x, self.kernel[...]))
        kernels = self.gate_kernel[...]
        in_blocks = u.reshape(*u.shape[:-1], self.num_blocks, -1)
        operands = promote(in_blocks, kernels, dtype=self.dtype)
        pre = jnp.einsum(
            "...nj,gnjk->g...nk", *operands, preferred_element_type=self.carry_dtype
        ).reshape(2, *u.shape)
        recurrence, gated = self._kept(pre[0], pre[1])
        if self.gate_bias is None:
            return u, recurrence, gated
        b_a, b_i = (spread(bias, u) for bias in self.gate_bias[...])
        return u, recurrence + b_a, gated + b_i


def _root_of_rest(rate: jax.Array, recurrence: jax.Array) -> jax.Array:
    """√(1 − a²) with −log a = rate ∘ σ(recurrence), with derivatives down to a = 1.

    The root alone has none there. With w = −2 log a it is √w √((1 − e^{−w})/w), where the second
    factor is smooth at w = 0, and the first as smooth as exp is: √σ(p) = exp(½ log σ(p)).
    """
    w = 2 * rate * jax.nn.sigmoid(recurrence)
    is_small = w < 1e-3
    safe = jnp.where(is_small, jnp.ones_like(w), w)
    ratio = jnp.where(is_small, 1 - w / 2 + w * w / 6 - w * w * w / 24, -jnp.expm1(-safe) / safe)
    return jnp.sqrt(2 * rate) * jnp.exp(0.5 * jax.nn.log_sigmoid(recurrence)) * jnp.sqrt(ratio)
