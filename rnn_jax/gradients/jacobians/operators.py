"""The Jacobian between two steps as a linear map, never as a matrix."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.checks import check_choice, check_count
from rnn_jax.gradients import loops
from rnn_jax.gradients.input_vectors import check_by_input
from rnn_jax.gradients.linearize import Given, Problem, Record, accept, sizes_of, up_to
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, normalised
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.step_maps import StepMaps, maps_at
from rnn_jax.sequence.calling import ArrayLike, Carry

Scaled = tuple[jax.Array, jax.Array]


@struct.dataclass
class JacobianOperator:
    """J = ∂carry_stop/∂carry_start or ∂y_stop/∂x_start, applied by products with vectors.

    Holds the states between the two steps, (n, S), and nothing that grows like S².

    Attributes:
      cell: the cell.
      carry: the initial carry of the sequence, as it was given; None asked the cell.
      states: the carry before each step, flattened, (n, S).
      xs: the inputs of these steps, in the form in which they were given, (n, ...).
      wrt: "state" or "input".
      shape: (rows, columns) of J.

    Example:
      >>> J = rj.jacobian_operator(cell, xs)
      >>> J.shape
      (8, 8)
      >>> (forth, a), (back, b) = J.matvec(jnp.ones(8)), J.rmatvec(jnp.ones(8))
      >>> bool(jnp.allclose(forth.sum() * jnp.exp(a), back.sum() * jnp.exp(b), rtol=1e-2))
      True
    """

    cell: Any
    carry: Carry
    states: jax.Array
    xs: Any
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
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
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
      xs: one sequence, (T, I), or a pytree of inputs; step t takes xs[t − 1].
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      start, stop: for wrt="state" the two carries, 0 <= start <= stop <= T, carry_0 the initial
        one; for wrt="input" the step of the input and that of the output,
        1 <= start <= stop <= T. None is the first possible and T.
      wrt: "state" or "input".

    Returns:
      A `JacobianOperator` with `.matvec`, `.rmatvec` and `.shape`.

    Raises:
      ValueError: wrong shapes, steps out of range, unknown names, or an empty sequence.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> J = rj.jacobian_operator(cell, xs, start=1)  # From carry_1 to carry_20
      >>> v = jnp.ones(8)
      >>> direction, log_scale = J.matvec(v)
      >>> expected = rj.state_jacobian(cell, xs)[19, :, 0] @ v
      >>> bool(jnp.allclose(direction * jnp.exp(log_scale), expected, rtol=1e-3))
      True
    """
    check_choice("wrt", wrt, ("input", "state"))
    source = accept(cell, xs, carry, feature_axes)
    check_by_input(wrt, source.inputs)
    sizes = sizes_of(source)
    first = 0 if wrt == "state" else 1
    stop = sizes.steps if stop is None else check_count("stop", stop, low=first, high=sizes.steps)
    start = first if start is None else check_count("start", start, low=first, high=stop)
    begin = start - first
    check_fits(
        "jacobian_operator",
        [(stop + 1, sizes.state + sizes.output)],
        sizes.dtype,
        "Use fewer steps.",
        of=source,
    )
    states, inputs = _between(source, begin=begin, stop=stop)
    size = sizes.state
    shape = (size, size) if wrt == "state" else (sizes.output, sizes.inputs)
    return JacobianOperator(source.cell, source.carry, states, inputs, wrt, shape)


@functools.partial(compiled, static=("begin", "stop"))
def _between(source: Given, *, begin: int, stop: int) -> tuple[jax.Array, Any]:
    """The states before some steps, (n, S), and their inputs."""
    steps = slice(begin, stop)
    if begin == stop:
        return Record(source).flat.initial[None][:0], _at(source.inputs, steps)
    record = Record(up_to(source, stop))
    return record.states[steps], _at(record.inputs, steps)


@compiled
def _matvec(operator: JacobianOperator, v: jax.Array) -> Scaled:
    maps = _maps(operator)
    dtype, columns = operator.states.dtype, operator.shape[1]
    state, y, at = v, None, maps.at
    if operator.wrt == "input":
        (first, at) = _split(at, 1)
        state, y = maps.push(_at(first, 0))(jnp.zeros(operator.states.shape[1], dtype), v)
    exponent = jnp.asarray(0, jnp.int32)

    def body(moving: Any, at: Any) -> tuple[Any, None]:
        tangent, y, exponent = moving
        tangent, shift = normalised(tangent, 0)
        if y is None:
            return (maps.push_state(at)(tangent), None, exponent + shift), None
        after, y = maps.push(at)(tangent, jnp.zeros(columns, dtype))
        return (after, y, exponent + shift), None

    (state, y, exponent), _ = loops.scan(body, (state, y, exponent), at)
    return _finish(state if y is None else y, exponent)


@compiled
def _rmatvec(operator: JacobianOperator, u: jax.Array) -> Scaled:
    maps = _maps(operator)
    dtype, size, outputs = operator.states.dtype, operator.states.shape[1], operator.shape[0]
    state, by_input, at = u, None, maps.at
    if operator.wrt == "input":
        (at, last) = _split(at, -1)
        state, by_input = maps.pull(_at(last, 0))(jnp.zeros(size, dtype), u)
    exponent = jnp.asarray(0, jnp.int32)

    def body(moving: Any, at: Any) -> tuple[Any, None]:
        cotangent, by_input, exponent = moving
        cotangent, shift = normalised(cotangent, 0)
        if by_input is None:
            return (maps.pull_state(at)(cotangent), None, exponent + shift), None
        before, by_input = maps.pull(at)(cotangent, jnp.zeros(outputs, dtype))
        return (before, by_input, exponent + shift), None

    start = (state, by_input, exponent)
    (state, by_input, exponent), _ = loops.scan(body, start, at, reverse=True)
    return _finish(state if by_input is None else by_input, exponent)


def _maps(operator: JacobianOperator) -> StepMaps:
    # Flattening looks at shapes only, so that there may be no step at all.
    flat = Record(Problem(operator.cell, operator.xs, operator.carry)).flat
    return maps_at(flat, operator.states, operator.xs)


def _split(at: Any, index: int) -> tuple[Any, Any]:
    """The steps before and from an index on."""
    return _at(at, slice(None, index)), _at(at, slice(index, None))


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


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
