"""The base of cells whose weights are not one kernel for the input and one for the state."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.cells.cell import Carry, RNNCell, promote
from rnn_jax.checks import check_rngs, check_size
from rnn_jax.initializers import Initializer


class StateSpaceCell(RNNCell):
    """Base of cells with weights of their own; a subclass says what its carry consists of.

    A subclass calls `_begin` in place of the constructor of `RNNCell`, makes its own weights, and
    writes `project`, `step` and `_shapes`.
    """

    splits_call = True

    def _begin(
        self,
        in_features: int,
        hidden_features: int,
        *,
        dtype: Any,
        carry_dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        """Checks and keeps what every cell has: sizes and types."""
        self.in_features = check_size("in_features", in_features)
        self.hidden_features = check_size("hidden_features", hidden_features)
        self.blocks = ()
        self.param_dtype = float_dtype("param_dtype", float if param_dtype is None else param_dtype)
        self.dtype = None if dtype is None else float_dtype("dtype", dtype)
        self.carry_dtype = None if carry_dtype is None else float_dtype("carry_dtype", carry_dtype)
        check_rngs(rngs)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each part of the carry, in the order of `carry_parts`."""
        return dict.fromkeys(self.carry_parts, (self.hidden_features,))

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The initial carry for inputs of a given shape; see `RNNCell.initialize_carry`."""
        if not isinstance(input_shape, (tuple, list)):
            raise TypeError(
                "input_shape must be a tuple (..., I); got "
                f"{input_shape!r} of type {type(input_shape).__name__}. Pass x.shape."
            )
        dtype = self.carry_dtype or self.dtype or self.param_dtype
        batch = tuple(input_shape[:-1])
        if carry_init is None:
            shapes = self._shapes().items()
            parts = [self._start(part, (*batch, *own), dtype) for part, own in shapes]
        elif rngs is None:
            raise ValueError("carry_init needs a key; got rngs=None. Pass rngs=nnx.Rngs(0).")
        else:
            draw = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            parts = [carry_init(draw(), (*batch, *own), dtype) for own in self._shapes().values()]
        return tuple(parts) if len(parts) > 1 else parts[0]

    def _start(self, part: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Where a part of the carry starts: at 0."""
        del part
        return jnp.zeros(shape, dtype)

    def _kept(self, *parts: jax.Array) -> list[jax.Array]:
        """Parts of the carry and projected inputs in the type that a step keeps them in."""
        if self.carry_dtype is not None:
            return promote(*parts, dtype=self.carry_dtype)
        weights = jax.ShapeDtypeStruct((), self.param_dtype)
        common = jnp.result_type(*parts, weights) if self.dtype is None else self.dtype
        return promote(*parts, dtype=common)

    def _weight(self, param: nnx.Param[jax.Array], like: jax.Array) -> jax.Array:
        """A weight that multiplies no matrix, in the type of what it meets, and of its rank."""
        value = param[...].astype(like.dtype)
        return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)

    def _check_input(self, x: jax.Array) -> None:
        """Raises unless x is real numbers of I features."""
        dtype = getattr(x, "dtype", None)
        kinds = (jnp.floating, jnp.integer, jnp.bool_)
        if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
            arrived = type(x).__name__ if dtype is None else f"dtype {dtype}"
            raise TypeError(
                f"x must be an array of real numbers; got {arrived}. Cast it, for example "
                "jnp.asarray(value, jnp.float32)."
            )
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of x must hold the cell's in_features={self.in_features}; got "
                f"shape {x.shape}. Pass x of shape (..., {self.in_features}) or build the cell "
                f"with in_features={x.shape[-1] if x.ndim else 1}."
            )

    def _check_carry(self, carry: Carry, x: jax.Array) -> None:
        """Raises unless the carry has this cell's parts, with the batch axes of x."""
        expected = {part: (*x.shape[:-1], *own) for part, own in self._shapes().items()}
        parts = carry if len(expected) > 1 else (carry,)
        is_sequence = isinstance(parts, (tuple, list))
        shapes = [getattr(part, "shape", None) for part in parts] if is_sequence else []
        if shapes != list(expected.values()):
            arrived = jax.tree.map(lambda a: getattr(a, "shape", type(a).__name__), carry)
            rule = ", ".join(f"{part} of shape {shape}" for part, shape in expected.items())
            raise ValueError(
                f"carry must be {f'({rule})' if len(expected) > 1 else rule}; got {arrived}. Start "
                f"from cell.initialize_carry({x.shape})."
            )
        for name, part in zip(expected, parts, strict=True):
            if not jnp.issubdtype(part.dtype, jnp.floating):
                raise TypeError(
                    f"carry part {name} must be an array of real floating-point numbers; got dtype "
                    f"{part.dtype}. Cast it, for example jnp.asarray(value, jnp.float32)."
                )


def float_dtype(name: str, dtype: Any) -> Any:
    """The type that JAX computes in for a type that was asked for; raises unless it is a float."""
    from rnn_jax.cells.cell import _float_dtype

    return _float_dtype(name, dtype)


def drawing_dtype(dtype: Any) -> Any:
    """The type in which weights are drawn whose distribution half precision would spoil."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
