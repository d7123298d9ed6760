"""Products of one-step Jacobians, swept through time in either direction.

Forward, the derivatives of the present by *all* earlier sources advance together: one matrix
product A_t · P a step. Backward, the derivatives of a few chosen targets by all earlier sources
retreat together: R · A_t. Both carry a whole exponent for each product, so nothing underflows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.numerics.scaled import normalizing_exponent, power_of_two

Emit = Callable[[jax.Array, jax.Array], Any]

# A sweep over all sources is cut into at most so many scans, each of which knows only the sources
# that it reaches: 4 do 5/8 of the work of one, for four times its compile time.
_SCANS = 4
_SCAN_STEPS = 64  # Shorter sequences are not worth cutting.


def sweep_forward(
    record: Record, wrt: str, emit: Emit, *, rescale: bool, fill: float, time_last: bool
) -> Any:
    """∂(output or state at t)/∂(source at s) for every s at once, t by t.

    P_t[s] = A_t P_{t−1}[s] for s < t, and P_t[t] = B_t (sources are inputs) or I (states).

    Args:
      record: of the sequence, for its one-step Jacobians.
      wrt: "input" (of outputs by inputs) or "state" (of carries by carries).
      emit: called at each t with the derivatives by the sources that the scan reaches, exact zeros
        for s > t, and their exponents, one for each source; it returns an array with an axis of
        sources, last with `time_last` and second with not. These are stacked over t.
      rescale: keep each P[s] near 1 and count its exponent; False leaves plain numbers.
      fill: what `emit` gives for the sources of the future.
      time_last: lay the derivatives out as (O or S, n, sources), which is fast to reduce, or as
        (O or S, sources, n), which is the order of a Jacobian.

    Returns:
      What `emit` returned for all T sources, with a leading axis T.
    """
    one_step = record.jacobians
    steps, size, features = one_step.state_by_input.shape
    columns = size if wrt == "state" else features
    sources = 2 if time_last else 1
    step = _forward_step(record, wrt, emit, rescale=rescale, sources=sources)
    count = max(1, min(_SCANS, steps // _SCAN_STEPS))
    ends = [steps * (k + 1) // count for k in range(count)]
    shape = (size, columns, 0) if time_last else (size, 0, columns)
    dtype = one_step.state_by_state.dtype
    p, exponents = jnp.zeros(shape, dtype), jnp.zeros(0, jnp.int32)
    whole, results = (jnp.arange(steps), StepMatrices.of(record), one_step), None
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        # Sources enter as they are reached, with derivatives of 0 until then.
        p, exponents = _grow(p, end - start, sources), _grow(exponents, end - start, 0)
        part = jax.tree.map(lambda leaf, i=start, j=end: leaf[i:j], whole)
        if results is None:
            results = _unfilled(step, (p, exponents), part, steps, end, time_last, fill)
        (p, exponents, results), _ = lax.scan(
            lambda carry, at: (_write(step, carry, at), None), (p, exponents, results), part
        )
    return results


def _unfilled(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    part: Any,
    steps: int,
    reached: int,
    time_last: bool,
    fill: float,
) -> jax.Array:
    """Where all results go, (T, …): written in place, so that no scan's share is copied again."""
    first = jax.tree.map(lambda leaf: leaf[0], part)
    _, result = jax.eval_shape(step, carry, first)
    shape = list(result.shape)
    axis = len(shape) - 1 if time_last else 1
    shape[axis] += steps - reached
    return jnp.full((steps, *shape), fill, result.dtype)


def _write(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, at: Any) -> Any:
    """One step, its result put in its place."""
    *carry, results = carry
    after, result = step(tuple(carry), at)
    where = (at[0], *(jnp.zeros((), at[0].dtype) for _ in result.shape))
    return (*after, lax.dynamic_update_slice(results, result[None], where))


def _forward_step(
    record: Record, wrt: str, emit: Emit, *, rescale: bool, sources: int
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The body of `sweep_forward`'s scans."""
    by_state = wrt == "state"
    dtype, output_rows = record.jacobians.state_by_state.dtype, record.output_rows
    eye = jnp.eye(record.sizes.state, dtype=dtype)
    # An output that is a part of the state needs no product of its own, only its rows.
    rows = slice(None) if by_state or output_rows is None else slice(*output_rows)
    own_output = not by_state and output_rows is None
    other_axes = (0, 3 - sources)

    def body(carry: tuple[jax.Array, jax.Array], at: Any) -> tuple[Any, Any]:
        p_prev, exponents = carry
        t, a, now = at
        p = _put(a.times(p_prev), t, eye if by_state else now.state_by_input, sources)
        if own_output:
            value = _put(_times(now.output_by_state, p_prev), t, now.output_by_input, sources)
            result = emit(_until(t, value, sources), exponents)
        if rescale:
            shift = normalizing_exponent(p, other_axes)
            scale = jnp.expand_dims(power_of_two(-shift, dtype), other_axes)
            p = p * jnp.broadcast_to(scale, p.shape)
            exponents = exponents + shift
        if not own_output:
            result = emit(_until(t, p[rows], sources), exponents)
        return (p, exponents), result

    return body


@struct.dataclass
class StepMatrices:
    """A_t as what its products need: dense columns, and the diagonals of those that have no more.

    Attributes:
      dense: the columns that are not diagonal, (T, S, S − D).
      diagonals: of each block of rows of the diagonal columns, (T, S/D, D); None where D = 0.
      columns: (start, stop) of the diagonal columns.
    """

    dense: jax.Array
    diagonals: jax.Array | None
    columns: tuple[int, int] | None = struct.field(pytree_node=False)

    @classmethod
    def of(cls, record: Record) -> "StepMatrices":
        """Takes A_t apart where the cell says which columns are diagonal."""
        a = record.jacobians.state_by_state
        if record.diagonal_columns is None:
            return cls(a, None, None)
        start, stop = record.diagonal_columns
        blocks = a[:, :, start:stop].reshape(a.shape[0], -1, stop - start, stop - start)
        dense = jnp.concatenate([a[:, :, :start], a[:, :, stop:]], axis=2)
        return cls(dense, jnp.diagonal(blocks, axis1=2, axis2=3), record.diagonal_columns)

    def times(self, p: jax.Array) -> jax.Array:
        """A_t · P for one t: (S, ·, ·) to (S, ·, ·)."""
        if self.diagonals is None or self.columns is None:
            return _times(self.dense, p)
        start, stop = self.columns
        own = p[None, start:stop]
        others = jnp.concatenate([p[:start], p[stop:]])
        weights = jnp.expand_dims(self.diagonals, (2, 3))
        blocks = (*weights.shape[:2], *own.shape[2:])
        direct = jnp.broadcast_to(weights, blocks) * jnp.broadcast_to(own, blocks)
        return _times(self.dense, others) + direct.reshape(p.shape)


def sweep_backward(record: Record, targets: jax.Array, wrt: str, emit: Emit) -> Any:
    """∂(output or state at each target)/∂(source at s), s by s from the last step to the first.

    R_{s−1}[k] = R_s[k] A_s for s below target k, where R_s[k] is the target's derivative by
    carry_s.

    Args:
      record: of the sequence, for its one-step Jacobians.
      targets: the steps t to differentiate, (K,), in [0, T).
      wrt: "input" or "state", as for `sweep_forward`.
      emit: called at each s with the derivatives (K, O or S, n), exact zeros where s > t, and
        their exponents (K,).

    Returns:
      What `emit` returned, with a leading axis T over s.
    """
    steps, size, outputs, _, dtype = record.sizes
    by_state = wrt == "state"
    rows = size if by_state else outputs
    eye = jnp.eye(size, dtype=dtype)

    def body(carry: tuple[jax.Array, jax.Array], at: Any) -> tuple[Any, Any]:
        r, exponents = carry
        s, (a, b, c, d) = at
        here = jnp.expand_dims(targets == s, (1, 2))
        # Set to 0 once more, because 0 times a Jacobian that is not finite is NaN.
        ahead = jnp.expand_dims(targets < s, (1, 2))
        if by_state:
            r = _choose(ahead, jnp.zeros_like(eye), _choose(here, eye, r))
            result = emit(r, exponents)
            r = jnp.matmul(r, a)
        else:
            value = _choose(here, d, jnp.matmul(r, b))
            result = emit(_choose(ahead, jnp.zeros_like(d), value), exponents)
            r = _choose(here, c, jnp.matmul(r, a))
        shift = normalizing_exponent(r, (1, 2))
        r = r * jnp.broadcast_to(power_of_two(-shift, dtype)[:, None, None], r.shape)
        return (r, exponents + shift), result

    count = targets.shape[0]
    start = (jnp.zeros((count, rows, size), dtype), jnp.zeros(count, jnp.int32))
    inputs = (jnp.arange(steps), record.jacobians)
    return lax.scan(body, start, inputs, reverse=True)[1]


def _times(a: jax.Array, p: jax.Array) -> jax.Array:
    """A · P for every source as one matrix product: (m, S) with (S, ·, ·) to (m, ·, ·)."""
    return jnp.einsum("ij,jsn->isn", a, p)


def _put(p: jax.Array, t: jax.Array, source: jax.Array, axis: int) -> jax.Array:
    """P with the newest source, (m, n), entered at t."""
    return lax.dynamic_update_index_in_dim(p, source, t, axis=axis)


def _until(t: jax.Array, p: jax.Array, axis: int) -> jax.Array:
    """P with zeros for the sources after t, also where 0 times a Jacobian was NaN."""
    reached = jnp.expand_dims(jnp.arange(p.shape[axis]) <= t, (0, 3 - axis))
    return jnp.where(jnp.broadcast_to(reached, p.shape), p, jnp.zeros_like(p))


def _grow(x: jax.Array, by: int, axis: int) -> jax.Array:
    """x with `by` more zeros at the end of an axis."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, by)
    return jnp.pad(x, widths)


def _choose(condition: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """`one`, the same for every target, where the target is reached; else `other`."""
    one = jnp.broadcast_to(one, other.shape)
    return jnp.where(jnp.broadcast_to(condition, other.shape), one, other)
