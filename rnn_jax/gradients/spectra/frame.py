"""A trajectory and an orthonormal frame of perturbations that travels along it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.checks import check_count
from rnn_jax.gradients import loops
from rnn_jax.gradients.linearize import Sizes
from rnn_jax.gradients.numerics.row_sorted_qr import noise_of_pivots, sorted_qr
from rnn_jax.gradients.numerics.scaled import LN2, log_exactly, normalizing_exponent, power_of_two
from rnn_jax.gradients.step_maps import Pushes


class Frame(NamedTuple):
    """Where the trajectory is, and the directions whose growth is measured.

    Attributes:
      place: what the maps of the steps carry along: the state (S,), or nothing.
      q: orthonormal columns, (S, k).
      label: which of the k directions each column is, (k,): one that is lost moves to the end.
    """

    place: Any
    q: jax.Array
    label: jax.Array


class Triangle(NamedTuple):
    """What a window makes of a frame: its steps map Q[:, order] to Q' · R · diag(2^exponents).

    Attributes:
      order: which column before each column after has come from, (k,).
      r: upper triangular, (k, k), its columns near 1.
      exponents: what was taken out of the columns, (k,).
      kept: the columns from here on are lost, (): their part of R is 0 or rounding, and Q' goes on
        with arbitrary directions in their place.
    """

    order: jax.Array
    r: jax.Array
    exponents: jax.Array
    kept: jax.Array


class _Factors(NamedTuple):
    """z[:, order] = Q · R; the columns from `kept` on are lost.

    `misplaced` says that the first lost one stands before others that may not be.
    """

    order: jax.Array
    q: jax.Array
    r: jax.Array
    kept: jax.Array
    misplaced: jax.Array


def check_leading(k: Any, sizes: Sizes) -> int:
    """Returns k if so many directions can be followed, all S for None, else raises."""
    k = sizes.state if k is None else check_count("k", k, low=1)
    if k > sizes.state:
        raise ValueError(
            f"k must be at most the size of the carry, S = {sizes.state}; got {k}. Pass a smaller "
            "int, or None for all."
        )
    return k


def first_directions(size: int, k: int, dtype: Any) -> jax.Array:
    """The frame to start from, (S, k): the axes if it holds all of them, else random directions.

    Where units are independent of one another an axis never turns, and k of them would show the
    growth of the first k units and not of the fastest. The directions are the same in every run.
    """
    if k == size:
        return jnp.eye(size, dtype=dtype)
    drawn = np.random.default_rng(0).normal(size=(size, k))
    return jnp.asarray(np.linalg.qr(drawn)[0], dtype)


def first_frame(maps: Pushes, size: int, k: int, dtype: Any, *, warmup: int) -> Frame:
    """The frame that starts as `first_directions`, after so many steps."""
    label = jnp.arange(k, dtype=jnp.int32)
    frame = Frame(maps.start, first_directions(size, k, dtype), label)
    if warmup:
        frame, _ = sweep(maps, frame, 0, warmup, read=lambda *_: None)
    # Whatever the warm-up has lost is refilled: from here on every direction counts anew.
    return frame._replace(label=label)


def sweep(
    maps: Pushes,
    frame: Frame,
    start: int,
    stop: int,
    *,
    interval: int = 1,
    read: Callable[[Frame, Triangle], Any],
) -> tuple[Frame, Any]:
    """Advances a frame from one step to another, in windows of `interval` steps.

    Args:
      maps: of all steps.
      frame: at `start`.
      start, stop: steps; what is between them is a whole number of windows.
      interval: steps between two QR decompositions.
      read: what is kept of each window, from the frame after it and its triangle.

    Returns:
      (the frame at `stop`, what was kept, leading axis N).
    """
    count = (stop - start) // interval  # Said, because an array may have no elements.

    def windows(array: jax.Array) -> jax.Array:
        return array[start:stop].reshape(count, interval, *array.shape[1:])

    def body(frame: Frame, at: Any) -> tuple[Frame, Any]:
        frame, triangle = _advance_window(maps, frame, at)
        return frame, read(frame, triangle)

    return loops.scan(body, frame, jax.tree.map(windows, maps.at))


def growth_by_direction(label: jax.Array, triangle: Triangle) -> jax.Array:
    """ln|R_ii| of a window by direction, (k,), from the labels after it.

    −inf for a direction that was mapped to 0, or, in a single step, to less than that step's
    rounding error.
    """
    pivots = jnp.abs(jnp.diagonal(triangle.r))
    rank = jnp.arange(pivots.shape[0], dtype=jnp.int32)
    pivots = jnp.where(rank < triangle.kept, pivots, jnp.zeros_like(pivots))
    logs = log_exactly(pivots) + LN2 * triangle.exponents.astype(pivots.dtype)
    return jnp.zeros_like(logs).at[label].set(logs)


def _advance_window(maps: Pushes, frame: Frame, at: Any) -> tuple[Frame, Triangle]:
    """Advances a frame through some steps, then makes it orthonormal again.

    `at` is what the maps take at each of the steps, leading axis n.
    """
    place, q, label = frame
    exponents = jnp.zeros(q.shape[1], jnp.int32)

    def step(moving: Any, at: Any) -> tuple[Any, None]:
        place, z, exponents = moving
        place, push = maps.advance(place, at)
        z = jax.vmap(push, in_axes=1, out_axes=1)(z)
        shift = normalizing_exponent(z, 0)
        z = z * jnp.broadcast_to(power_of_two(-shift, z.dtype)[None], z.shape)
        return (place, z, exponents + shift), None

    (place, z, exponents), _ = loops.scan(step, (place, q, exponents), at)
    # Over several steps small pivots are what was asked for; only zeros count as lost then.
    formed = _formed(z, exponents) if jax.tree.leaves(at)[0].shape[0] == 1 else None
    done = _orthonormal(z, formed)
    triangle = Triangle(done.order, done.r, exponents[done.order], done.kept)
    return Frame(place, done.q, label[done.order]), triangle


def _formed(z: jax.Array, exponents: jax.Array) -> jax.Array:
    """The size of the terms that were added up to make z: its rows, in the scale of each column."""
    exponents = exponents - jnp.max(exponents)
    true = z * jnp.broadcast_to(power_of_two(exponents, z.dtype)[None], z.shape)
    rows = jnp.linalg.norm(lax.stop_gradient(true), axis=1)
    return jnp.outer(rows, power_of_two(-exponents, z.dtype))


def _orthonormal(z: jax.Array, formed: jax.Array | None) -> _Factors:
    """QR with the columns as they come, except that lost ones go to the end.

    What a lost column leaves behind in Q is an arbitrary direction; standing before others it
    would take their growth away from them.
    """
    row_sizes = jnp.linalg.norm(lax.stop_gradient(z), axis=1)
    as_they_come = jnp.arange(z.shape[1], dtype=jnp.int32)
    first = _factor(z, formed, row_sizes, as_they_come)
    fixed = lax.stop_gradient(z)
    settled = loops.while_loop(
        lambda state: state[0].misplaced & (state[1] < z.shape[1]),
        lambda state: _move_lost(fixed, formed, row_sizes, *state),
        (jax.tree.map(lax.stop_gradient, first), jnp.asarray(0, jnp.int32)),
    )[0]
    # The same QR once more, so that it can be differentiated: a loop cannot be, backward.
    moved = jnp.any(settled.order != as_they_come)
    q, r = loops.cond(
        moved,
        lambda: sorted_qr(z[:, settled.order], row_sizes),
        lambda: (first.q, first.r),
    )
    return settled._replace(q=q, r=r)


def _factor(
    z: jax.Array, formed: jax.Array | None, row_sizes: jax.Array, order: jax.Array
) -> _Factors:
    z = z[:, order]
    q, r = sorted_qr(z, row_sizes)
    noise = jnp.zeros_like(r[0])
    if formed is not None:
        noise = noise_of_pivots(z, q, formed[:, order])
    lost = jnp.abs(jnp.diagonal(r)) <= noise
    index = jnp.arange(z.shape[1], dtype=jnp.int32)
    count = jnp.asarray(z.shape[1], jnp.int32)
    kept = jnp.where(jnp.any(lost), lax.argmax(lost, 0, jnp.int32), count)
    # Where all that follows is noise there is nothing to be moved out of its way.
    misplaced = jnp.any((index >= kept) & (jnp.max(jnp.abs(r), axis=1) > noise))
    return _Factors(order, q, r, kept, misplaced)


def _move_lost(
    z: jax.Array,
    formed: jax.Array | None,
    row_sizes: jax.Array,
    factors: _Factors,
    moves: jax.Array,
) -> tuple[_Factors, jax.Array]:
    """Puts the first lost column last and factors again."""
    index = jnp.arange(z.shape[1], dtype=jnp.int32)
    last = jnp.asarray(z.shape[1] - 1, jnp.int32)
    take = jnp.where(index < factors.kept, index, jnp.minimum(index + 1, last))
    take = take.at[last].set(factors.kept)
    return _factor(z, formed, row_sizes, factors.order[take]), moves + 1
