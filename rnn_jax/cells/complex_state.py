"""What cells share whose state is complex, diagonal and linear: the LRU and S5."""

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import spread
from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.linear import LinearForm, apply
from rnn_jax.checks import check_size

ComplexCarry = tuple[jax.Array, jax.Array]


class ComplexStateCell(RNNCell):
    """Base: h' = λ ∘ h + drive(x B), y = scale · Re(h' C) + D ∘ x, in real numbers throughout.

    A subclass has `eigenvalues` and `_drive`, and makes the claims of its own mathematics, for
    which `_complex_form` is here. The projected input is [drive(x B), D ∘ x], of sizes
    2H and, where there is a D, O.
    """

    carry_parts = ("real", "imaginary")
    _output_scale = 1.0

    def _make_maps(
        self,
        out_features: int | None,
        *,
        kernel_scale: float,
        output_scale: float,
        rngs: nnx.Rngs,
    ) -> None:
        """B (I, 2H) and C (2H, O), each [real, imaginary] and normal, and D (I,), normal."""
        size, kind = self.hidden_features, self.param_dtype
        outputs = size if out_features is None else out_features
        self.out_features = check_size("out_features", outputs)

        def normal(shape: tuple[int, ...], scale: float) -> jax.Array:
            return scale * jax.random.normal(rngs.params(), shape, kind)

        self.kernel = nnx.Param(normal((self.in_features, 2 * size), kernel_scale))
        self.output_kernel = nnx.Param(normal((2 * size, self.out_features), output_scale))
        same = self.out_features == self.in_features
        self.skip = nnx.Param(normal((self.in_features,), 1.0)) if same else None

    @property
    def output_features(self) -> int:
        """O, the size of y."""
        return self.out_features

    def eigenvalues(self) -> jax.Array:
        """λ as [real, imaginary], (2, H)."""
        raise NotImplementedError

    def _drive(self, product: jax.Array) -> jax.Array:
        """What (..., 2, H) of x B, [real, imaginary], adds to the state."""
        raise NotImplementedError

    def project(self, x: jax.Array) -> jax.Array:
        """[drive(x B), D ∘ x]; see `RNNCell.project`.

        Args:
          x: inputs, (..., I).

        Returns:
          (..., 2H) or, where there is a D, (..., 2H + O).
        """
        (product,) = self._kept(self._input_product(x))
        pair = product.reshape(*product.shape[:-1], 2, self.hidden_features)
        z = self._drive(pair).reshape(product.shape)
        if self.skip is None:
            return z
        passed = x.astype(z.dtype)
        return jnp.concatenate([z, spread(self.skip[...], passed) * passed], axis=-1)

    def step(self, carry: ComplexCarry, z: jax.Array) -> tuple[ComplexCarry, jax.Array]:
        """One step of (real, imaginary); see `RNNCell.step`."""
        real, imaginary, z = self._kept(*carry, z)
        factor, added = self._transition(z)
        after = self._unpack(apply("complex", factor, self._pack((real, imaginary))) + added)
        return after, self._read(after, z)

    def _complex_form(self, *, contracts: bool) -> LinearForm:
        return LinearForm(
            "complex", self._transition, self._read, self._pack, self._unpack, contracts
        )

    def _transition(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        (z,) = self._kept(z)
        size = self.hidden_features
        added = z[..., : 2 * size].reshape(*z.shape[:-1], 2, size)
        return _of_rank(self.eigenvalues().astype(z.dtype), added), added

    def _read(self, carry: ComplexCarry, z: jax.Array) -> jax.Array:
        real, imaginary, z = self._kept(*carry, z)
        states = jnp.concatenate([real, -imaginary], axis=-1)
        (y,) = self._kept(self._product(states, self.output_kernel[...]))
        if self._output_scale != 1:
            y = self._output_scale * y
        return y if self.skip is None else y + z[..., 2 * self.hidden_features :]

    def _pack(self, carry: ComplexCarry) -> jax.Array:
        return jnp.stack(carry, axis=-2)

    def _unpack(self, packed: jax.Array) -> ComplexCarry:
        return packed[..., 0, :], packed[..., 1, :]


def _of_rank(value: jax.Array, like: jax.Array) -> jax.Array:
    """A weight with leading axes of size 1, as many as what it meets has."""
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)
