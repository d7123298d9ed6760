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

    A subclass makes B, `kernel` (I, 2H), and C, `output_kernel` (2H, O), each [real, imaginary],
    has `eigenvalues` and `_drive`, and makes the claims of its own mathematics, for which
    `_complex_form` is here. The projected input is [drive(x B), D ∘ x], of sizes 2H and, where
    there is a D, O.
    """

    carry_parts = ("real", "imaginary")
    output_kernel: nnx.Param[jax.Array]
    _output_scale = 1.0

    def _set_outputs(self, out_features: int | None, rngs: nnx.Rngs) -> None:
        """O, and D (I,), normal, where output and input have the same size."""
        outputs = self.hidden_features if out_features is None else out_features
        self.out_features = check_size("out_features", outputs)
        shape, key = (self.in_features,), rngs.params()
        same = self.out_features == self.in_features
        skip = jax.random.normal(key, shape, self.param_dtype) if same else None
        self.skip = None if skip is None else nnx.Param(skip)

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
