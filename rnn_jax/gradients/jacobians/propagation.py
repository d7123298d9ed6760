"""Products of one-step Jacobians, swept through time in either direction.

Forward, the derivatives of the present by *all* earlier sources advance together: one matrix
product A_t · P a step. Backward, the derivatives of a few chosen targets by all earlier sources
retreat together: R · A_t. Both carry a whole exponent for each product, so nothing underflows.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rnn_jax.gradients import loops
from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.numerics.scaled import (
    in_middle,
    log_exactly,
    log_frobenius,
    normalizing_exponent,
    power_of_two,
)
from rnn_jax.gradients.one_step import StepJacobians

# A sweep over all sources is cut into at most so many scans, each of which knows only the sources
# that it reaches: 4 do 5/8 of the work of one, for four times its compile time.
_SCANS = 4
_SCAN_STEPS = 64  # Shorter sequences are not worth cutting.


class Products(NamedTuple):
    """The derivatives by all sources that a scan reaches: p · 2^exponents.

    Attributes:
      p: with an axis of sources, 0 for those that are still ahead.
      exponents: whole numbers, (sources,).
      zero: whether p is exactly 0 for a source, as far as was looked, (sources,).
    """

    p: jax.Array
    exponents: jax.Array
    zero: jax.Array


class AtStep(NamedTuple):
    """What a forward sweep shows at step t: the derivatives by every source it reaches.

    Attributes:
      t: the step.
      value: derivatives as `Products.p`, not to be trusted for the sources ahead of t.
      exponents: of value, (sources,).
      zero: where value is known to be exactly 0, (sources,).
      square: the sum of squares of value by source, wrong where that leaves the type's range.
      in_range: whether it is known that square does not, because value was just rescaled by it.
      axis: of the sources.
    """

    t: jax.Array
    value: jax.Array
    exponents: jax.Array
    zero: jax.Array
    square: jax.Array
    in_range: bool
    axis: int

    def reached(self) -> jax.Array:
        """Which sources are not ahead, (sources,)."""
        return jnp.arange(self.exponents.shape[0]) <= self.t

    def masked(self) -> jax.Array:
        """The derivatives, 0 for the sources ahead, also where 0 times a Jacobian was NaN."""
        reached = jnp.expand_dims(self.reached(), (0, 3 - self.axis))
        reached = jnp.broadcast_to(reached, self.value.shape)
        return jnp.where(reached, self.value, jnp.zeros_like(self.value))

    def log_norms(self) -> jax.Array:
        """ln of the Frobenius norm of the value by source, (sources,); −inf for those ahead."""
        if self.in_range:
            logs = 0.5 * log_exactly(self.square)
        else:
            # Almost always the squares are of middling size, and their sums all there is to do.
            logs = loops.cond(
                jnp.all(in_middle(self.square) | self.zero),
                lambda value, square: 0.5 * log_exactly(square),
                lambda value, square: log_frobenius(value, (0, 3 - self.axis)),
                self.value,
                self.square,
            )
        return jnp.where(self.reached(), logs, jnp.full_like(logs, -jnp.inf))


Emit = Callable[[AtStep], jax.Array]
# Called by a backward sweep with derivatives (K, O or S, n), 0 for sources ahead, and exponents.
EmitBackward = Callable[[jax.Array, jax.Array], jax.Array]


def sweep_forward(
    steps: StepJacobians, wrt: str, emit: Emit, *, rescale: bool, fill: float, time_last: bool
) -> Any:
    """∂(output or state at t)/∂(source at s) for every s at once, t by t.

    P_t[s] = A_t P_{t−1}[s] for s < t, and P_t[t] = B_t (sources are inputs) or I (states).

    Args:
      steps: the one-step Jacobians.
      wrt: "input" (of outputs by inputs) or "state" (of carries by carries).
      emit: called at each t with what is known there, an `AtStep`; it returns an array with an axis
        of sources, last with `time_last` and second with not. These are stacked over t.
      rescale: keep each P[s] near 1 and count its exponent; False leaves plain numbers.
      fill: what `emit` gives for the sources of the future.
      time_last: lay the derivatives out as (O or S, n, sources), which is fast to reduce, or as
        (O or S, sources, n), which is the order of a Jacobian.

    Returns:
      What `emit` returned for all T sources, with a leading axis T.
    """
    one_step = steps.jacobians
    total, size, features = one_step.state_by_input.shape
    columns = size if wrt == "state" else features
    axis = 2 if time_last else 1
    step = _forward_step(steps, wrt, emit, rescale=rescale, axis=axis)
    count = max(1, min(_SCANS, total // _SCAN_STEPS))
    ends = [total * (k + 1) // count for k in range(count)]
    shape = (size, columns, 0) if time_last else (size, 0, columns)
    dtype = one_step.state_by_state.dtype
    products = Products(jnp.zeros(shape, dtype), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool))
    whole, results = (jnp.arange(total), StepMatrices.of(steps), one_step), None
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        products = _grow(products, end - start, axis)
        part = jax.tree.map(lambda leaf, i=start, j=end: leaf[i:j], whole)
        if results is None:
            results = _unfilled(step, products, part, total, end, time_last, fill)
        (products, results), _ = loops.scan(
            lambda carry, at: (_write(step, carry, at), None), (products, results), part
        )
    return results


def _grow(products: Products, by: int, axis: int) -> Products:
    """Makes room for more sources, which are 0 until they are reached."""
    widths = [(0, 0)] * products.p.ndim
    widths[axis] = (0, by)
    return Products(
        jnp.pad(products.p, widths),
        jnp.pad(products.exponents, (0, by)),
        jnp.pad(products.zero, (0, by), constant_values=True),
    )


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
    products, results = carry
    products, result = step(products, at)
    where = (at[0], *(jnp.zeros((), at[0].dtype) for _ in result.shape))
    return products, lax.dynamic_update_slice(results, result[None], where)


def _forward_step(
    steps: StepJacobians, wrt: str, emit: Emit, *, rescale: bool, axis: int
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The body of `sweep_forward`'s scans."""
    by_state = wrt == "state"
    dtype, output_rows = steps.jacobians.state_by_state.dtype, steps.output_rows
    eye = jnp.eye(steps.jacobians.state_by_state.shape[-1], dtype=dtype)
    # An output that is a part of the state needs no product of its own, only its rows.
    start, stop = (0, eye.shape[0]) if by_state or output_rows is None else output_rows
    own_output = not by_state and output_rows is None
    others = (0, 3 - axis)

    def squares(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Sums of squares by source, of the rows that are shown and of all rows."""
        shown = jnp.sum(p[start:stop] ** 2, others)
        return shown, shown + sum(
            jnp.sum(rest**2, others) for rest in (p[:start], p[stop:]) if rest.shape[0]
        )

    def bring_back(p: jax.Array, exponents: jax.Array) -> tuple[Products, jax.Array]:
        shift = normalizing_exponent(p, others)
        scale = jnp.expand_dims(power_of_two(-shift, dtype), others)
        p = p * jnp.broadcast_to(scale, p.shape)
        return Products(p, exponents + shift, jnp.all(p == 0, others)), squares(p)[0]

    def body(before: Products, at: Any) -> tuple[Products, jax.Array]:
        t, a, now = at
        p, exponents, zero = before
        if own_output:
            y = _put(_times(now.output_by_state, p), t, now.output_by_input, axis)
            ahead = jnp.arange(zero.shape[0]) > t
            shown = AtStep(t, y, exponents, ahead, jnp.sum(y**2, others), False, axis)
        p = _put(a.times(p), t, eye if by_state else now.state_by_input, axis)
        zero = zero.at[t].set(False)
        square, total = squares(p)
        products = Products(p, exponents, zero)
        if rescale:
            # Few steps leave the middle of the type's range; those that do bring back all sources.
            products, square = loops.cond(
                jnp.all(in_middle(total) | (zero & (total == 0))),
                lambda p, exponents, zero, square: (Products(p, exponents, zero), square),
                lambda p, exponents, zero, square: bring_back(p, exponents),
                *products,
                square,
            )
        if not own_output:
            all_rows = rescale and (start, stop) == (0, eye.shape[0])
            value = products.p[start:stop]
            shown = AtStep(t, value, *products[1:], square, all_rows, axis)
        return products, emit(shown)

    return body


@struct.dataclass
class StepMatrices:
    """A_t as what its products need: dense columns, and the diagonals of those that have no more.

    Attributes:
      dense: the columns that are not diagonal, (T, S, S − n·D).
      diagonals: of each block of the diagonal columns, D units wide and n side by side,
        (T, S/D, n, D); None where there are none.
      columns: (start, stop) of the diagonal columns.
    """

    dense: jax.Array
    diagonals: jax.Array | None
    columns: tuple[int, int] | None = struct.field(pytree_node=False)

    @classmethod
    def of(cls, steps: StepJacobians) -> "StepMatrices":
        """Takes A_t apart where it is known which columns are diagonal."""
        a = steps.jacobians.state_by_state
        if steps.diagonal_columns is None:
            return cls(a, None, None)
        start, stop = steps.diagonal_columns
        width = steps.diagonal_width or stop - start
        blocks = a[:, :, start:stop].reshape(a.shape[0], -1, width, (stop - start) // width, width)
        dense = jnp.concatenate([a[:, :, :start], a[:, :, stop:]], axis=2)
        # (T, S/D, n, D): `jnp.diagonal` moves the units to the end.
        diagonals = jnp.diagonal(blocks, axis1=2, axis2=4)
        return cls(dense, diagonals, steps.diagonal_columns)

    def times(self, p: jax.Array) -> jax.Array:
        """A_t · P for one t: (S, ·, ·) to (S, ·, ·)."""
        if self.diagonals is None or self.columns is None:
            return _times(self.dense, p)
        start, stop = self.columns
        _, count, width = self.diagonals.shape
        parts = [p[start + k * width : start + (k + 1) * width] for k in range(count)]
        direct = functools.reduce(operator.add, map(self._of_block, parts, range(count)))
        if not self.dense.shape[1]:
            return direct
        return _times(self.dense, jnp.concatenate([p[:start], p[stop:]])) + direct

    def _of_block(self, own: jax.Array, k: int) -> jax.Array:
        """What the k-th of the blocks side by side makes of its rows of P."""
        assert self.diagonals is not None
        weights = jnp.expand_dims(self.diagonals[:, k], (2, 3))
        shape = (*weights.shape[:2], *own.shape[1:])
        direct = jnp.broadcast_to(weights, shape) * jnp.broadcast_to(own[None], shape)
        return direct.reshape(-1, *own.shape[1:])


def sweep_backward(record: Record, targets: jax.Array, wrt: str, emit: EmitBackward) -> Any:
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
    return loops.scan(body, start, inputs, reverse=True)[1]


def _times(a: jax.Array, p: jax.Array) -> jax.Array:
    """A · P for every source as one matrix product: (m, S) with (S, ·, ·) to (m, ·, ·)."""
    return jnp.einsum("ij,jsn->isn", a, p)


def _put(p: jax.Array, t: jax.Array, source: jax.Array, axis: int) -> jax.Array:
    """P with the newest source, (m, n), entered at t."""
    return lax.dynamic_update_index_in_dim(p, source, t, axis=axis)


def _choose(condition: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """`one`, the same for every target, where the target is reached; else `other`."""
    one = jnp.broadcast_to(one, other.shape)
    return jnp.where(jnp.broadcast_to(condition, other.shape), one, other)
