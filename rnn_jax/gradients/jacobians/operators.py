"""The Jacobian between two steps as a linear map, never as a matrix."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rnn_jax.checks import check_choice, check_count
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, normalised
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell, trajectory
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_carry_leaves,
    resolve_carry,
)

Scaled = tuple[jax.Array, jax.Array]


@struct.dataclass
class JacobianOperator:
    """J = ∂carry_stop/∂carry_start or ∂y_stop/∂x_start, applied by products with vectors.

    Holds the states between the two steps, (n, S), and nothing that grows like S².

    Attributes:
      cell: the cell.
      carry: the carry before the first of the n steps.
      states: the carry before each step, flattened, (n, S).
      xs: the inputs, (n, I).
      wrt: "state" or "input".
      shape: (rows, columns) of J.
    """

    cell: Any
    carry: Carry
    states: jax.Array
    xs: jax.Array
    wrt: str = struct.field(pytree_node=False)
    shape: tuple[int, int] = struct.field(pytree_node=False)

    def matvec(self, v: ArrayLike) -> Scaled:
        """J v by one Jacobian-vector product a step, forward in time.

        Args:
          v: (columns,).

        Returns:
          (direction, log_scale): J v = direction · exp(log_scale), the largest entry of direction
          in [0.5, 1), so that nothing underflows; zeros and −inf if J v is exactly 0.

        Raises:
          ValueError, TypeError: v is no vector of that length, or not of floats.
        """
        return _matvec(self, _check_vector("v", v, self.shape[1], self.states.dtype))

    def rmatvec(self, u: ArrayLike) -> Scaled:
        """Jᵀ u by one vector-Jacobian product a step, backward in time.

        Args:
          u: (rows,).

        Returns:
          (direction, log_scale), as `matvec`.

        Raises:
          ValueError, TypeError: u is no vector of that length, or not of floats.
        """
        return _rmatvec(self, _check_vector("u", u, self.shape[0], self.states.dtype))


def jacobian_operator(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    start: int | None = None,
    stop: int | None = None,
    wrt: str = "state",
) -> JacobianOperator:
    """The Jacobian between two steps as an operator, for systems too large for matrices.

    J = A_stop ⋯ A_{start+1}    or, with wrt="input",    J = C_stop A_{stop−1} ⋯ A_{start+1} B_start

    Memory: the states on the way, (stop − start) · S numbers, and a few vectors. (H = 2048 and
    T = 10 000 in float32: 82 MB for a simple cell or a GRU, 164 MB for an LSTM.)

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I); step t takes xs[t − 1].
      carry: initial carry; None asks the cell.
      start, stop: for wrt="state" the two carries, 0 <= start <= stop <= T, carry_0 the initial
        one; for wrt="input" the step of the input and that of the output,
        1 <= start <= stop <= T. None is the first possible and T.
      wrt: "state" or "input".

    Returns:
      A `JacobianOperator` with `.matvec`, `.rmatvec` and `.shape`.

    Raises:
      ValueError: wrong shapes, steps out of range, unknown names, or an empty sequence.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    check_choice("wrt", wrt, ("input", "state"))
    cell, xs = as_pytree(cell), as_sequence(xs, batched=False)
    check_carry_leaves(carry)
    steps = xs.shape[0]
    first = 0 if wrt == "state" else 1
    stop = steps if stop is None else check_count("stop", stop, low=first, high=steps)
    start = first if start is None else check_count("start", start, low=first, high=stop)
    carry = resolve_carry(cell, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype), carry)
    states, sizes = _trajectory(cell, xs[:stop], carry)
    begin = start - first
    output, inputs = sizes
    size = states.shape[1]
    shape = (size, size) if wrt == "state" else (output, inputs)
    return JacobianOperator(cell, carry, states[begin:stop], xs[begin:stop], wrt, shape)


def _trajectory(cell: Any, xs: jax.Array, carry: Carry) -> tuple[jax.Array, tuple[int, int]]:
    """States before each step and after the last, and the sizes of an output and an input."""
    x = jnp.zeros((1, xs.shape[1]), xs.dtype)
    flat = flatten_cell(cell, x, carry)
    check_fits(
        "jacobian_operator",
        [(xs.shape[0] + 1, flat.state_size + flat.output_size)],
        flat.initial.dtype,
        "Use fewer steps.",
    )
    return trajectory(cell, xs, carry), (flat.output_size, xs.shape[1])


@jax.jit
def _matvec(operator: JacobianOperator, v: jax.Array) -> Scaled:
    flat = _flat(operator)
    states, xs = operator.states, operator.xs
    state, y = v, jnp.zeros(flat.output_size, states.dtype)
    if operator.wrt == "input":
        before = jnp.zeros_like(states[0])
        state, y = jax.jvp(flat.step, (states[0], xs[0]), (before, v))[1]
        states, xs = states[1:], xs[1:]

    def body(moving: Any, at: Any) -> tuple[Any, None]:
        tangent, _, exponent = moving
        tangent, shift = normalised(tangent, 0)
        after, y = jax.jvp(flat.step, at, (tangent, jnp.zeros_like(at[1])))[1]
        return (after, y, exponent + shift), None

    begin = (state, y, jnp.asarray(0, jnp.int32))
    (state, y, exponent), _ = lax.scan(body, begin, (states, xs))
    return _finish(state if operator.wrt == "state" else y, exponent)


@jax.jit
def _rmatvec(operator: JacobianOperator, u: jax.Array) -> Scaled:
    flat = _flat(operator)
    states, xs = operator.states, operator.xs
    state, by_input = u, jnp.zeros_like(xs, shape=xs.shape[1:])
    if operator.wrt == "input":
        _, pull = jax.vjp(flat.step, states[-1], xs[-1])
        state, by_input = pull((jnp.zeros_like(states[-1]), u))
        states, xs = states[:-1], xs[:-1]
    silent = jnp.zeros(flat.output_size, states.dtype)

    def body(moving: Any, at: Any) -> tuple[Any, None]:
        cotangent, _, exponent = moving
        cotangent, shift = normalised(cotangent, 0)
        _, pull = jax.vjp(flat.step, *at)
        before, by_input = pull((cotangent, silent))
        return (before, by_input, exponent + shift), None

    begin = (state, by_input, jnp.asarray(0, jnp.int32))
    (state, by_input, exponent), _ = lax.scan(body, begin, (states, xs), reverse=True)
    return _finish(state if operator.wrt == "state" else by_input, exponent)


def _flat(operator: JacobianOperator) -> FlatCell:
    # Any one input serves: flattening looks at shapes only, and there may be no step at all.
    x = jnp.zeros((1, operator.xs.shape[1]), operator.xs.dtype)
    return flatten_cell(operator.cell, x, operator.carry)


def _finish(vector: jax.Array, exponent: jax.Array) -> Scaled:
    direction, shift = normalised(vector, 0)
    log_scale = LN2 * (exponent + shift).astype(vector.dtype)
    zero = jnp.all(direction == 0)
    return direction, jnp.where(zero, jnp.full_like(log_scale, -jnp.inf), log_scale)


def _check_vector(name: str, value: ArrayLike, size: int, dtype: Any) -> jax.Array:
    try:
        vector = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be a vector of floats; got {type(value).__name__}. Pass a JAX or NumPy "
            "array."
        ) from error
    if not jnp.issubdtype(vector.dtype, jnp.floating):
        raise TypeError(f"{name} must hold floats; got dtype {vector.dtype}. Cast it.")
    if vector.shape != (size,):
        raise ValueError(
            f"{name} must have shape ({size},), one number for each "
            f"{'column' if name == 'v' else 'row'} of the Jacobian; got {vector.shape}. For "
            "several vectors use jax.vmap."
        )
    return vector.astype(dtype)
