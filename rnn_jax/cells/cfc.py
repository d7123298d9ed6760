"""Closed-form continuous-time networks: two targets, and a gate of time between them."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import spread
from rnn_jax.cells.biases import bias_initializer
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.checks import check_count, check_positive, check_size
from rnn_jax.initializers import (
    InitializerLike,
    get_initializer,
    init_by_gate,
    initialize,
    uniform_to,
)

_HEADS = ("first", "second", "time_slope", "time_offset")


class CfCCell(RNNCell):
    """Closed-form continuous-time cell: the solution of a liquid network without its solver.

    u = [x, h];    u = 1.7159 tanh(0.666 (u W_k + b_k)) for k = 1 … L       backbone
    f₁ = tanh(u W_1 + b_1),    f₂ = tanh(u W_2 + b_2)
    t = σ(Δ (u W_a + b_a) + u W_b + b_b)                                   gate of time
    h' = (1 − t) ∘ f₁ + t ∘ f₂,    y = h'

    Δ is the time between two inputs, the same for all. The first layer's matrix lies in `kernel`
    (rows of x) and `recurrent_kernel` (rows of h), further layers' in `backbone_kernels` and
    `backbone_biases`, stacked, and the four heads side by side in `head_kernel` and `head_bias`.
    With backbone_layers=0 the heads are the first layer, and there is a fused form.

    Gradients: the paper claims none. h' is a mean of two tanh, so states stay within ±1, and there
    is no path by which a state is handed on by itself: ∂h'/∂h passes through the weights.

    Args:
      in_features: I.
      hidden_features: H.
      backbone_features: U, units of each layer of the backbone.
      backbone_layers: L, how many layers it has.
      elapsed: Δ > 0.
      kernel_init, recurrent_kernel_init: initialisers of all kernels, the second that of the rows
        that meet h, by name or callable; None is the authors', uniform between ±√(6/(rows +
        columns)) of each whole matrix, where [x, h] meets one.
      bias_init: of all biases; None is the authors', uniform between ±1/√rows.
      use_bias: whether there are biases; without them all three are None.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not a matrix product; None is that of the
        products.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size or Δ out of its range, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, a Δ that is no number, an `rngs`
        that is no `nnx.Rngs`, a type that is no float.

    Example:
      >>> cfc = rj.CfCCell(2, 8, elapsed=0.5, rngs=nnx.Rngs(0))
      >>> t = cfc.gates(jnp.zeros(8), xs[0])["time"]
      >>> t.shape, bool(((t > 0) & (t < 1)).all())
      ((8,), True)

    References:
      R. Hasani et al., "Closed-form continuous-time neural networks", 2022.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        backbone_features: int = 128,
        backbone_layers: int = 1,
        elapsed: float = 1.0,
        kernel_init: InitializerLike | None = None,
        recurrent_kernel_init: InitializerLike | None = None,
        bias_init: InitializerLike | None = None,
        use_bias: bool = True,
        dtype: Any = None,
        carry_dtype: Any = None,
        param_dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        layers = self.backbone_layers = check_count("backbone_layers", backbone_layers)
        units = self.backbone_features = check_size("backbone_features", backbone_features)
        self.elapsed = check_positive("elapsed", elapsed)
        super().__init__(
            in_features,
            hidden_features,
            blocks=_HEADS,
            use_bias=False,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size_in, size = self.in_features, self.hidden_features
        heads = len(_HEADS)

        def kernel(
            name: str, given: InitializerLike | None, rows: int, of: int, columns: int, blocks: int
        ) -> jax.Array:
            """Rows of as many matrices as there are blocks, side by side, each with `of` rows."""
            papers = uniform_to(math.sqrt(6 / (of + columns)))
            init = get_initializer(name, papers if given is None else given)
            key = rngs.params()
            return init_by_gate(name, init, key, rows, columns, blocks, self.param_dtype)

        def bias(size: int, of: int) -> jax.Array | None:
            """Biases beside so many rows of weights."""
            init = bias_initializer(use_bias, bias_init, uniform_to(1 / math.sqrt(of)))
            key = rngs.params()
            if init is None:
                return None
            return initialize("bias_init", init, key, (size,), self.param_dtype)

        both, first = size_in + size, (units, 1) if layers else (size, heads)
        self.kernel = nnx.Param(kernel("kernel_init", kernel_init, size_in, both, *first))
        self.recurrent_kernel = nnx.Param(
            kernel("recurrent_kernel_init", recurrent_kernel_init, size, both, *first)
        )
        b = bias(math.prod(first), of=both)
        more = range(layers - 1)
        kernels = [kernel("kernel_init", kernel_init, units, units, units, 1) for _ in more]
        biases = [bias(units, of=units) for _ in more]
        head = kernel("kernel_init", kernel_init, units, units, size, heads) if layers else None
        b_head = bias(heads * size, of=units) if layers else None
        if b is not None:
            self.bias = nnx.Param(b)
        self.backbone_kernels = nnx.Param(jnp.stack(kernels)) if more else None
        of_layers = [one for one in biases if one is not None]
        self.backbone_biases = nnx.Param(jnp.stack(of_layers)) if of_layers else None
        self.head_kernel = None if head is None else nnx.Param(head)
        self.head_bias = None if b_head is None else nnx.Param(b_head)

    def transition_kernel(self) -> jax.Array | None:
        """The heads' rows that meet h, (H, 4H); None with a backbone, behind which h is mixed."""
        return None if self.backbone_layers else super().transition_kernel()

    def step(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One step of h with the projected input; see `RNNCell.step`."""
        first, second, t = self._targets(carry, z)
        h = (1 - t) * first + t * second
        return h, h

    def fused_form(self) -> FusedForm | None:
        """One kernel for all heads; None with a backbone, which mixes units behind the first."""
        if self.backbone_layers:
            return None
        return FusedForm(_UnitMathematics(self.elapsed), (self._whole_kernel(),))

    def gates(self, carry: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        """The gate of the step that takes `carry` and `x`.

        Args:
          carry: h before the step, (..., H).
          x: the input, (..., I).

        Returns:
          {"time": t}, (..., H), in (0, 1) as sigmoids are.
        """
        z = self.project(x)
        self._check_carry(carry, x)
        return {"time": self._targets(carry, z)[2]}

    def _targets(self, carry: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """f₁, f₂ and t."""
        h_prev, drive = self._kept(carry, z)
        pre = drive + self._product(h_prev, self.recurrent_kernel[...])
        if self.head_kernel is not None:
            u = _lecun_tanh(pre)
            if self.backbone_kernels is not None:
                biases = self.backbone_biases
                for k, w in enumerate(self.backbone_kernels[...]):
                    u = _lecun_tanh(self._affine(u, w, None if biases is None else biases[...][k]))
            b = None if self.head_bias is None else self.head_bias[...]
            pre = self._affine(u, self.head_kernel[...], b)
        first, second, slope, offset = jnp.split(pre, len(_HEADS), axis=-1)
        t = jax.nn.sigmoid(self.elapsed * slope + offset)
        return jnp.tanh(first), jnp.tanh(second), t

    def _affine(self, u: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        z = self._product(u, kernel)
        return z if bias is None else z + spread(bias, z)


@dataclass(frozen=True)
class _UnitMathematics:
    """The cell without a backbone, unit by unit; see `UnitMathematics`.

    ḣ' = (1 − t)(1 − f₁²) ∘ u̇_1 + t (1 − f₂²) ∘ u̇_2 + (f₂ − f₁) t (1 − t) ∘ (Δ u̇_a + u̇_b)
    """

    elapsed: float
    groups: ClassVar[Groups] = (Group(len(_HEADS), sees_state=True, sees_input=True),)

    def advance(self, carry: jax.Array, pre: Blocks) -> tuple[jax.Array, Blocks]:
        first, second, slope, offset = pre
        f_1, f_2 = jnp.tanh(first), jnp.tanh(second)
        t = jax.nn.sigmoid(self.elapsed * slope + offset)
        return (1 - t) * f_1 + t * f_2, (f_1, f_2, t)

    def coefficients(self, carry: jax.Array, saved: Blocks) -> Blocks:
        f_1, f_2, t = saved
        by_time = (f_2 - f_1) * t * (1 - t)
        return (1 - t) * (1 - f_1 * f_1), t * (1 - f_2 * f_2), self.elapsed * by_time, by_time

    def tangent(self, coefficients: Any, carry: jax.Array, pre: Blocks) -> jax.Array:
        terms = [slope * d for slope, d in zip(coefficients, pre, strict=True)]
        return sum(terms[1:], start=terms[0])

    def hidden(self, carry: jax.Array) -> jax.Array:
        return carry


def _lecun_tanh(z: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(0.666 * z)
