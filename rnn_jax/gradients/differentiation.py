"""Derivatives of a step that can be differentiated in one direction only.

Most functions can be pushed forward (ẏ = J ẋ, `jax.jvp`) and pulled back (x̄ = Jᵀ ȳ, `jax.vjp`).
Some can do one of the two: what carries a `jax.custom_vjp`, as the surrogate gradient of a spiking
neuron does, is pulled back alone, and a `lax.while_loop` is pushed forward alone. Both give the
whole Jacobian, row by row or column by column, and with it what the other direction would give.

The derivative is always that which JAX defines for the function: that of a `custom_vjp` is its
surrogate, whichever way it is asked for.

Which direction there is is found out while tracing, by trying: the one that is natural to a call
costs nothing more where it exists.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

# What JAX raises where a function has no derivative in one direction.
_UNDIFFERENTIABLE = (TypeError, ValueError, NotImplementedError)

Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class Jacobians(NamedTuple):
    """The derivatives of one step (s', y) = step(s, x); of several steps with a leading axis T.

    Attributes:
      state_by_state: A = ∂s'/∂s, (S, S).
      state_by_input: B = ∂s'/∂x, (S, I).
      output_by_state: C = ∂y/∂s, (O, S).
      output_by_input: D = ∂y/∂x, (O, I).
    """

    state_by_state: jax.Array
    state_by_input: jax.Array
    output_by_state: jax.Array
    output_by_input: jax.Array


def step_jacobians(step: Step, state: jax.Array, x: jax.Array) -> Jacobians:
    """All derivatives of one step, by forward mode or else by reverse mode.

    Args:
      step: (s, x) -> (s', y) on vectors.
      state: s, (S,).
      x: the input, (I,).

    Returns:
      A, B, C and D.

    Raises:
      TypeError: the step can be differentiated in neither direction.
      Exception: whatever the step itself raises.
    """
    # Of both arguments at once, as if they were of one type.
    common = np.promote_types(state.dtype, x.dtype)

    def of_one_type(s: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        return step(s.astype(state.dtype), u.astype(x.dtype))

    def by(transformation: Callable[..., Any]) -> Callable[[], Jacobians]:
        def jacobians() -> Jacobians:
            by_both = transformation(of_one_type, (0, 1))
            (a, b), (c, d) = by_both(state.astype(common), x.astype(common))
            return Jacobians(a, b, c, d)

        return jacobians

    return _first_that_exists(by(jax.jacfwd), by(jax.jacrev), step, (state, x))


def pushforward(
    function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    """(f(x), J ẋ) as `jax.jvp` gives them; row by row, by reverse mode, where there is no forward.

    Args:
      function: f, of pytrees of arrays.
      primals: x, one for each argument of f.
      tangents: ẋ, likewise; each leaf like its primal, or float0 for one that is no float.

    Returns:
      (f(x), J ẋ), the second of the structure of the first.

    Raises:
      TypeError: the function can be differentiated in neither direction.
      Exception: whatever the function itself raises.
    """

    def forward() -> tuple[Any, Any]:
        def along(floats: list[jax.Array]) -> tuple[Any, list[jax.Array]]:
            out, pushed = jax.jvp(function, primals, _with_float0(primals, floats))
            return out, _floats(pushed)

        # As a batch of one: inside `jit`, a `custom_vjp` is refused as soon as it is mapped, and
        # otherwise when all is compiled, where nothing can be done about it.
        batch = [floats[None] for floats in _floats(tangents)]
        out, pushed = jax.vmap(along, out_axes=(None, 0))(batch)
        return out, _with_float0(out, [floats[0] for floats in pushed])

    def by_rows() -> tuple[Any, Any]:
        out, pull = jax.vjp(function, *primals)
        flat, unravel = _raveled(_floats(out))

        def row(unit: jax.Array) -> list[jax.Array]:
            return _floats(pull(_with_float0(out, unravel(unit))))

        rows = jax.vmap(row)(jnp.eye(flat.size, dtype=flat.dtype))
        return out, _with_float0(out, unravel(_combined(rows, _floats(tangents), flat)))

    return _first_that_exists(forward, by_rows, function, primals)


def pullback(
    function: Callable[..., Any], *primals: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """(f(x), ȳ ↦ Jᵀ ȳ) as `jax.vjp` gives them; from columns, by forward mode, where needed.

    Args:
      function: f, of pytrees of arrays.
      primals: x, one for each argument of f.

    Returns:
      (f(x), pull); pull(ȳ) is one cotangent for each argument, of its structure.

    Raises:
      TypeError: the function can be differentiated in neither direction.
      Exception: whatever the function itself raises.
    """

    def reverse() -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        out, pull = jax.vjp(function, *primals)
        # Whether the transpose exists shows when it is taken.
        jax.eval_shape(pull, _with_float0(out, jax.tree.map(jnp.zeros_like, _floats(out))))
        return out, pull

    def by_columns() -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        flat, unravel = _raveled(_floats(primals))

        def column(unit: jax.Array) -> tuple[Any, list[jax.Array]]:
            out, along = jax.jvp(function, primals, _with_float0(primals, unravel(unit)))
            return out, _floats(along)

        units = jnp.eye(flat.size, dtype=flat.dtype)
        out, columns = jax.vmap(column, out_axes=(None, 0))(units)

        def pull(cotangent: Any) -> tuple[Any, ...]:
            along = unravel(_combined(columns, _floats(cotangent), flat))
            found: tuple[Any, ...] = _with_float0(primals, along)
            return found

        return out, pull

    return _first_that_exists(reverse, by_columns, function, primals)


def _first_that_exists(
    natural: Callable[[], Any],
    other: Callable[[], Any],
    function: Callable[..., Any],
    primals: tuple[Any, ...],
) -> Any:
    """What the natural direction gives, or else the other one."""
    try:
        return natural()
    except _UNDIFFERENTIABLE as first:
        # What the function raises by itself is no matter of directions.
        jax.eval_shape(function, *primals)
        try:
            return other()
        except _UNDIFFERENTIABLE:
            raise TypeError(
                "a step must be differentiable, forward (jax.jvp) or in reverse (jax.vjp); got one "
                f"that is neither: {first} Give what stands in the way, such as a callback to the "
                "host, a jax.custom_jvp; and where a jax.custom_vjp meets a lax.while_loop, write "
                "the loop as a lax.scan, whose length is fixed."
            ) from first


def _combined(parts: list[jax.Array], weights: list[jax.Array], like: jax.Array) -> jax.Array:
    """Σ parts · weights over all leaves: parts (N, …), weights (…), of the shape (N,) of `like`."""
    total = jnp.zeros_like(like)
    for part, weight in zip(parts, weights, strict=True):
        term = jnp.matmul(part.reshape(like.size, -1), jnp.ravel(weight), precision="highest")
        total = total + term.astype(like.dtype)
    return total


def _raveled(floats: list[jax.Array]) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """`ravel_pytree`, also of several types where the user has forbidden promotion."""
    with jax.numpy_dtype_promotion("standard"):
        flat, unravel = ravel_pytree(floats)
    return flat, unravel


def _floats(tree: Any) -> list[jax.Array]:
    """The leaves by which, or of which, there are derivatives."""
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]


def _with_float0(like: Any, floats: list[jax.Array]) -> Any:
    """Tangents or cotangents of a pytree from those of its floats."""
    remaining = iter(floats)

    def fill(leaf: Any) -> Any:
        if _is_inexact(leaf):
            return next(remaining)
        return np.zeros(jnp.shape(leaf), jax.dtypes.float0)

    return jax.tree.map(fill, like)


def _is_inexact(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return bool(jnp.issubdtype(jnp.result_type(leaf) if dtype is None else dtype, jnp.inexact))
