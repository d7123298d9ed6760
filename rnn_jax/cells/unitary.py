"""The recurrent network whose matrix is unitary by construction, a product of simple maps."""

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.arrays import at_least_float32, promote, spread
from rnn_jax.cells.biases import bias_initializer
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm, rounds_products, row_matrix
from rnn_jax.cells.structure import Blocks, FusedForm, Group, Groups
from rnn_jax.initializers import InitializerLike, get_initializer, initialize

ComplexCarry = tuple[jax.Array, jax.Array]

# Units up to which a product with W is faster than the simple maps that it is made of. Measured on
# x86-64, two cores, B = 64: with 256 units values and gradients are faster, with 512 as fast or
# slower.
_LARGEST_MATRIX = 256


class UnitaryRNNCell(RNNCell):
    """Unitary evolution: a complex state, turned by a product of simple unitary maps.

    W = D₃ R₂ F⁻¹ D₂ Π R₁ F D₁
    z = x V + W h,    h' = (z / |z|) ∘ relu(|z| + b),    y = [Re h', Im h'], of 2H features

    D_k = diag(exp(iω)), R_k the reflection I − 2 v v*/‖v‖², F the unitary discrete Fourier
    transform, Π a permutation drawn once for each H. The carry is (re, im), the two real parts of
    h. `recurrent_kernel`, of shape (7, H), holds the angles of D₁, D₂ and D₃, then Re v and Im v of
    R₁ and of R₂; `kernel`, (I, 2H), the real and the imaginary part of V; `bias` is b, (H,). A step
    takes O(H log H). Up to 256 units a sequence takes W as a matrix instead, made once.

    Gradients: ‖W‖ = 1 whatever the weights. Where b ≤ 0, singular values of ∂h'/∂h are at most 1;
    with b = 0 the cell is linear and all of them are 1. Where b > 0, z is turned faster than it
    moves, by up to 1 + b/|z|: so far the cell may explode.

    Args:
      in_features: I.
      hidden_features: H, complex.
      kernel_init: of both parts of V; the default is the paper's.
      recurrent_kernel_init: of all seven rows at once; None is the paper's, angles uniform in
        (−π, π) and v in (−1, 1).
      bias_init: of b.
      use_bias: whether there is b; without it `bias` is None, and the cell linear.
      dtype: type to compute in; None takes JAX's promotion of input and parameters.
      carry_dtype: type of the carry and of all that is not x V; None is that of the products.
        States turn in float32 at least.
      param_dtype: type of the parameters; None is JAX's default float.
      rngs: source of the initial weights.

    Raises:
      ValueError: a size below 1, or an unknown name.
      TypeError: a size that is no int, a flag that is no bool, an `rngs` that is no `nnx.Rngs`, a
        type that is no float.

    Example:
      >>> unitary = rj.UnitaryRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> carry, y = unitary((jnp.ones(8), jnp.zeros(8)), jnp.zeros(2))  # turned, no input, b = 0
      >>> y.shape, round(float((y**2).sum()), 3)
      ((16,), 8.0)

    References:
      M. Arjovsky, A. Shah and Y. Bengio, "Unitary evolution recurrent neural networks", 2016.
    """

    carry_parts = ("re", "im")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        kernel_init: InitializerLike = "glorot_uniform",
        recurrent_kernel_init: InitializerLike | None = None,
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
            blocks=("re", "im"),
            kernel_init=kernel_init,
            use_bias=False,
            dtype=dtype,
            carry_dtype=carry_dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

        def drawn(name: str, given: InitializerLike, shape: tuple[int, ...]) -> Any:
            init = get_initializer(name, given, "unit")
            return nnx.Param(initialize(name, init, rngs.params(), shape, self.param_dtype))

        size = self.hidden_features
        init = _angles_and_reflections if recurrent_kernel_init is None else recurrent_kernel_init
        self.recurrent_kernel = drawn("recurrent_kernel_init", init, (7, size))
        of_bias = bias_initializer(use_bias, bias_init)
        if of_bias is not None:
            self.bias = drawn("bias_init", of_bias, (size,))

    def project(self, x: jax.Array) -> jax.Array:
        """All that depends on the input alone: z = x V, its real part and then its imaginary one.

        Args, Returns and Raises: as `RNNCell.project`.
        """
        return self._input_product(x)

    def transition_kernel(self) -> None:
        """None: the state is complex; see `RNNCell.transition_kernel`."""

    def step(self, carry: ComplexCarry, z: jax.Array) -> tuple[ComplexCarry, jax.Array]:
        """modReLU(z + W h); see `RNNCell.step`."""
        re, im, drive = self._kept(*carry, z)
        turned_re, turned_im = self._turned(re, im)
        drive_re, drive_im = jnp.split(drive, 2, axis=-1)
        z_re, z_im = drive_re + turned_re, drive_im + turned_im
        if self.bias is None:
            re, im = z_re, z_im
        else:
            scale, *_ = _complex_modrelu(z_re, z_im, spread(self.bias[...], z_re))
            re, im = scale * z_re, scale * z_im
        return (re, im), jnp.concatenate([re, im], axis=-1)

    def linear_form(self) -> LinearForm | None:
        """Dense, over [re, im], without biases: modReLU is then the identity. Else None."""
        kept = self.carry_dtype or self.dtype or self.param_dtype
        # A step of half precision is computed in a wider type, which Λ is rounded from.
        if self.bias is not None or rounds_products(self) or at_least_float32(kept) != kept:
            return None
        return LinearForm(
            "dense", self._transition, _joined_output, _joined, _parted, contracts=True
        )

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        turned = self._turned(*_parted(jnp.eye(2 * self.hidden_features, dtype=z.dtype)))
        return row_matrix(_joined(turned), z), z

    def fused_form(self) -> FusedForm | None:
        """One kernel, with W made once for all steps as a matrix, and one of the biases alone.

        None for more units than those for which products with the matrix are faster; and where
        products are of another type than the carry, or of half its width: states turn in more
        digits than those would have.
        """
        multiplied, kept = self.dtype, self.carry_dtype
        types = (kind for kind in (multiplied, kept, self.param_dtype) if kind is not None)
        is_narrow = any(kind != at_least_float32(kind) for kind in types)
        is_mixed = multiplied is not None and kept is not None and multiplied != kept
        if is_narrow or is_mixed or self.hidden_features > _LARGEST_MATRIX:
            return None
        nothing = jnp.zeros((1, self.hidden_features), self.kernel[...].dtype)
        w_x, b = promote(self.kernel[...], nothing if self.bias is None else self.bias[...][None])
        eye = jnp.eye(self.hidden_features, dtype=w_x.dtype)
        of_re, of_im = self._turned(eye, jnp.zeros_like(eye))
        # i e_j is turned to i times what e_j is.
        rows = ([of_re, of_im], [-of_im, of_re])
        w_h = jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows])
        kernel = jnp.concatenate([w_h, w_x, jnp.zeros_like(w_x[:1])])
        return FusedForm(_UnitMathematics(), (kernel, b))

    @property
    def output_features(self) -> int:
        """The features of one output: 2H."""
        return 2 * self.hidden_features

    def _turned(self, re: jax.Array, im: jax.Array) -> tuple[jax.Array, jax.Array]:
        """W h, in its two parts."""
        wide = at_least_float32(re.dtype)
        root = math.sqrt(self.hidden_features)
        rows = self.recurrent_kernel[...].astype(wide)
        d_1, d_2, d_3 = (jnp.exp(jax.lax.complex(jnp.zeros_like(w), w)) for w in rows[:3])
        h = jax.lax.complex(re.astype(wide), im.astype(wide))
        h = _reflected(jnp.fft.fft(_scaled(h, d_1)) / root, *rows[3:5])
        h = jnp.take(h, jnp.asarray(permutation(self.hidden_features)), axis=-1)
        h = _reflected(jnp.fft.ifft(_scaled(h, d_2)) * root, *rows[5:])
        h = _scaled(h, d_3)
        return jnp.real(h).astype(re.dtype), jnp.imag(h).astype(im.dtype)


def _joined(carry: ComplexCarry) -> jax.Array:
    return jnp.concatenate(carry, axis=-1)


def _joined_output(carry: ComplexCarry, z: jax.Array) -> jax.Array:
    del z
    return _joined(carry)


def _parted(joined: jax.Array) -> ComplexCarry:
    re, im = jnp.split(joined, 2, axis=-1)
    return re, im


@functools.cache
def permutation(size: int) -> tuple[int, ...]:
    """Π of a unitary cell of this size, (Π a)_j = a_{Π(j)}: always the same."""
    return tuple(np.random.default_rng(size).permutation(size).tolist())


def _scaled(h: jax.Array, by: jax.Array) -> jax.Array:
    return h * jnp.broadcast_to(by, h.shape)


def _reflected(h: jax.Array, re: jax.Array, im: jax.Array) -> jax.Array:
    """h − 2 v (v* h)/‖v‖² for v of these parts."""
    shrink = jnp.sqrt(2 / jnp.sum(re * re + im * im))
    v = jax.lax.complex(re * shrink, im * shrink)
    along = jnp.sum(_scaled(h, jnp.conj(v)), axis=-1, keepdims=True)
    return h - _scaled(jnp.broadcast_to(along, h.shape), v)


def _complex_modrelu(
    re: jax.Array, im: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(relu(|z| + b)/|z|, 1 where that is not cut off and 0 elsewhere, 1/|z|).

    At z = 0, where b ≥ 0, the first is 1, as for a linear cell, and the last is 0.
    """
    square = re * re + im * im
    is_zero, zero, one = square == 0, jnp.zeros_like(square), jnp.ones_like(square)
    inverse = jnp.where(is_zero, zero, 1 / jnp.sqrt(jnp.where(is_zero, one, square)))
    is_cut = jnp.where(is_zero, b < 0, 1 + b * inverse < 0)
    return jnp.where(is_cut, zero, 1 + b * inverse), jnp.where(is_cut, zero, one), inverse


@dataclass(frozen=True)
class _UnitMathematics:
    """The unitary cell, unit by unit; see `UnitMathematics`.

    With n = z/|z|, m = 1 or 0 where modReLU is cut off, and s = m (1 + b/|z|):

    ḣ' = s ż + m n (ḃ − b/|z| (n_re ż_re + n_im ż_im)),    in both parts
    """

    groups: ClassVar[Groups] = (
        Group(2, sees_state=True, sees_input=True, parts=(0, 1)),
        Group(1, sees_state=False, sees_input=False),
    )

    def advance(self, carry: ComplexCarry, pre: Blocks) -> tuple[ComplexCarry, Blocks]:
        re, im, b = pre
        scale, passes, inverse = _complex_modrelu(re, im, b)
        toward = passes * inverse
        return (scale * re, scale * im), (scale, scale - passes, toward * re, toward * im)

    def coefficients(self, carry: ComplexCarry, saved: Blocks) -> Blocks:
        return saved

    def tangent(self, coefficients: Any, carry: ComplexCarry, pre: Blocks) -> ComplexCarry:
        scale, excess, n_re, n_im = coefficients
        re, im, b = pre
        along = b - excess * (n_re * re + n_im * im)
        return scale * re + n_re * along, scale * im + n_im * along

    def hidden(self, carry: ComplexCarry) -> jax.Array:
        return jnp.concatenate(carry, axis=-1)


def _angles_and_reflections(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = float
) -> jax.Array:
    uniform = jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)
    return uniform.at[:3].multiply(math.pi)
