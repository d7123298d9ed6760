"""Covariant Lyapunov vectors: the directions that the steps map onto one another."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rnn_jax.checks import check_count, check_flag
from rnn_jax.gradients import loops
from rnn_jax.gradients.linearize import (
    Record,
    Sizes,
    Source,
    accept,
    check_decomposable,
    sizes_of,
)
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.row_sorted_qr import inverse_permutation
from rnn_jax.gradients.numerics.scaled import (
    LN2,
    normalised,
    normalizing_exponent,
    power_of_two,
    times_powers,
)
from rnn_jax.gradients.numerics.subspace_angles import smallest_angle
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.spectra.finite_time import LocalLyapunovExponents, by_window
from rnn_jax.gradients.spectra.frame import (
    Frame,
    Triangle,
    check_leading,
    first_frame,
    growth_by_direction,
    sweep,
)
from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum, descending, spectrum_of
from rnn_jax.gradients.step_maps import pushes
from rnn_jax.sequence.calling import Carry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@struct.dataclass
class CovariantLyapunovVectors:
    """The k directions that travel with a trajectory, and the growth of each at every step.

    A_t v_i(t−1) = exp(χ_i(t)) v_i(t),    v_i(t) = Q_t c_i(t)

    from step `start` on, for N steps. They are kept as their coefficients in the frame of
    orthonormal backward Lyapunov vectors Q_t, of which the leading j span what the leading j
    covariant ones do.

    Attributes:
      local_exponents: χ, the log growth of each vector in each step, nats, (N, k). −inf where a
        step maps a vector to 0 or below its own rounding error: the vector before it is in the
        kernel of that step, and what follows in its place is a new direction.
      coefficients: columns c_i of length 1, (N+1, k, k).
      frames: Q_{start} … Q_{start+N}, orthonormal columns, (N+1, S, k); None if the call was told
        vectors=False.
      spectrum: `lyapunov_exponents` of the same steps, which come with it; vector i belongs to
        spectrum.exponents[i].
      start: steps before the first vectors.

    Example:
      >>> found = rj.covariant_lyapunov_vectors(rj.linearize(cell, xs), k=3)
      >>> found.vectors.shape
      (21, 8, 3)
      >>> found.angles(0).shape  # Between the leading vector and the other two
      (21,)
      >>> found.exponents.shape
      (3,)
    """

    local_exponents: jax.Array
    coefficients: jax.Array
    frames: jax.Array | None
    spectrum: LyapunovSpectrum
    start: int = struct.field(pytree_node=False, default=0)

    @property
    def vectors(self) -> jax.Array:
        """Columns of length 1 at carry_start … carry_{start+N}, (N+1, S, k), each up to its sign.

        Raises:
          ValueError: the frames were not kept.
        """
        if self.frames is None:
            raise ValueError(
                "the vectors need the frames; got a result without. Pass vectors=True to "
                "covariant_lyapunov_vectors."
            )
        return _times(self.frames, self.coefficients)

    @property
    def exponents(self) -> jax.Array:
        """Means of the local exponents, nats a step, (k,).

        They are those of the spectrum but for 1/N · ln(sin θ_i(start) / sin θ_i(start+N)), θ_i
        being the angle of v_i to the vectors before it.
        """
        return jnp.mean(self.local_exponents, axis=-2)

    def finite_time(self, window: int) -> LocalLyapunovExponents:
        """Exponents of the covariant vectors over consecutive windows, (N // window, k).

        Args:
          window: steps in each, in [1, N]; what is left over at the end is dropped.

        Raises:
          ValueError, TypeError: it is no whole number in that range.
        """
        return by_window(self.local_exponents, window, start=self.start)

    def angles(self, one: Any, other: Any = None) -> jax.Array:
        """The smallest angle between two subspaces spanned by covariant vectors, at every step.

        Between an unstable and a stable one it says how hyperbolic the trajectory is: an angle that
        comes near 0 is a tangency of the two.

        Args:
          one: which vectors span the first, by index: an int or several.
          other: which span the second; None is all others.

        Returns:
          (N+1,), rad, in [0, π/2]. The angle to a vector of exponent −inf is one to the kernel.

        Raises:
          ValueError: indices out of range, or given twice, or none.
          TypeError: they are no whole numbers.
        """
        k = self.coefficients.shape[-1]
        first = _indices("one", one, k)
        second = tuple(i for i in range(k) if i not in first)
        if other is not None:
            second = _indices("other", other, k)
        if not second or set(first) & set(second):
            raise ValueError(
                "an angle needs two subspaces without a vector in common; got one="
                f"{list(first)} and other={list(second)} of k = {k} vectors. Pass other indices, "
                "or measure more vectors."
            )
        return _angles(self.coefficients, one=first, other=second)

    def splitting_angles(self, unstable: int | None = None) -> jax.Array:
        """The smallest angle between the leading, unstable vectors and all others, at every step.

        Args:
          unstable: how many are unstable, in [1, k − 1]; None counts the positive exponents, which
            can be done outside `jit` and `vmap` only.

        Returns:
          (N+1,), rad; where it comes near 0 the trajectory is not hyperbolic. Within 1 / (λ_j −
          λ_{j+1}) steps of an end without warm-up or tail it is not settled, j = unstable.

        Raises:
          ValueError: all or none of the vectors are unstable, or that cannot be read yet.
          TypeError: no whole number.
        """
        k = self.coefficients.shape[-1]
        if unstable is None:
            unstable = self._count_unstable()
        unstable = check_count("unstable", unstable)
        if not 0 < unstable < k:
            raise ValueError(
                f"a splitting needs unstable vectors and others, 1 to {k - 1} of k = {k}; got "
                f"{unstable} unstable. Pass unstable= for a splitting elsewhere, or a larger k."
            )
        return self.angles(range(unstable))

    def plot(self, ax: Axes | None = None, *, window: int | None = None, **options: Any) -> Axes:
        """Exponents of the covariant vectors by window over time.

        Args:
          ax: where to draw; None makes a figure.
          window: steps in each; None makes about a hundred windows.
          options: of `rnn_jax.plotting.plot_local_exponents`.

        Returns:
          A matplotlib `Axes`, whose `figure` can be saved; needs the `experiments` extra.
        """
        if window is None:
            window = max(1, self.local_exponents.shape[-2] // 100)
        return self.finite_time(window).plot(ax, **options)

    def _count_unstable(self) -> int:
        exponents = self.spectrum.exponents
        if isinstance(exponents, jax.core.Tracer) or exponents.ndim > 1:
            raise ValueError(
                "how many vectors are unstable must be known while a program is traced, and be one "
                "number for a batch; got exponents of which it cannot be read. Pass unstable=."
            )
        return int((np.asarray(exponents) > 0).sum())


def covariant_lyapunov_vectors(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    k: int | None = None,
    warmup: int = 0,
    tail: int = 0,
    vectors: bool = True,
) -> CovariantLyapunovVectors:
    """Covariant Lyapunov vectors along the trajectory that a sequence of inputs drives.

    A_t Q_{t−1} = Q_t R_t forward,    C_{t−1} = R_t⁻¹ C_t D_t backward,    V_t = Q_t C_t

    with C_T = I and D_t scaling columns to length 1 (Ginelli's algorithm). Unlike the frames of a
    QR decomposition they do not depend on a choice of lengths and angles: vector i is what grows
    at exponent λ_i both forward and back in time, and A_t maps it onto itself a step later. A_t is
    never formed; the k columns are advanced by Jacobian-vector products, as in
    `lyapunov_exponents`. (Of a `Linearization`, by its A_t.) Differentiable in both modes.

    That A_t v(t−1) is v(t) holds to rounding at every step, whatever warm-up and tail are; they
    bring the vectors near to those of an infinitely long trajectory. Their errors fall by
    exp(λ_{i+1} − λ_i) a step (warmup, in the span of the leading i) and as much going back (tail);
    where two exponents are equal only what the two span together is defined.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      k: how many vectors, the leading ones; None is all S.
      warmup: steps before the first vectors that bring carry and Q into line; in [0, T).
      tail: steps after the last vectors that bring C into line; in [0, T − warmup).
      vectors: keep the frames, (N+1) S k numbers. False for the local exponents and the angles
        alone, which need only the triangles, N k² numbers.

    Returns:
      A `CovariantLyapunovVectors` of N = T − warmup − tail steps.

    Raises:
      ValueError: wrong shapes, k, warmup or tail out of range, an empty sequence, or a result too
        large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> lin = rj.linearize(cell, xs)
      >>> v = rj.covariant_lyapunov_vectors(lin, k=3).vectors[..., 1]
      >>> onwards = lin.state_jacobians[9] @ v[9]  # Along v[10], whose length is 1
      >>> bool(jnp.allclose(jnp.abs(onwards @ v[10]), jnp.linalg.norm(onwards), rtol=1e-3))
      True

    References:
      F. Ginelli et al., "Characterizing dynamics with covariant Lyapunov vectors", 2007;
      P. Kuptsov and U. Parlitz, "Theory and computation of covariant Lyapunov vectors", 2012;
      G. Froyland, S. Lloyd and A. Quas, "Coherent structures and isolated spectrum for
      Perron–Frobenius cocycles", 2010 (steps that are not invertible).
    """
    source = accept(cell, xs, carry, feature_axes)
    sizes = sizes_of(source)
    warmup = check_count("warmup", warmup, high=sizes.steps - 1)
    tail = check_count("tail", tail, high=sizes.steps - warmup - 1)
    k = check_leading(k, sizes)
    vectors = check_flag("vectors", vectors)
    check_decomposable(sizes, "covariant_lyapunov_vectors")
    _check_room(sizes, k, warmup, tail, vectors=vectors, of=source)
    return _covariant(source, k=k, warmup=warmup, tail=tail, vectors=vectors)


def _check_room(sizes: Sizes, k: int, warmup: int, tail: int, *, vectors: bool, of: Any) -> None:
    """Raises ValueError unless there is room for what is kept of all steps."""
    steps = sizes.steps - warmup - tail
    kept: list[tuple[int, ...]] = [(steps + 1, k, k), (steps + tail, k, k), (4, sizes.state, k)]
    fix = "Use a shorter sequence or a smaller k=, the number of leading vectors."
    if vectors:
        # As they are made, and once more with the first before them.
        kept = [(steps + 1, sizes.state, k), *kept, (steps, sizes.state, k)]
        fix = f"Pass vectors=False for local exponents and angles alone. {fix}"
    check_fits("covariant_lyapunov_vectors", kept, sizes.dtype, fix, of=of)


@functools.partial(compiled, static=("k", "warmup", "tail", "vectors"), marks_unknown=True)
def _covariant(
    source: Source, *, k: int, warmup: int, tail: int, vectors: bool
) -> CovariantLyapunovVectors:
    record = Record(source)
    steps, size, dtype = record.sizes.steps, record.sizes.state, record.sizes.dtype
    maps = pushes(record)
    first = first_frame(maps, size, k, dtype, warmup=warmup)

    def read(frame: Frame, triangle: Triangle) -> Any:
        return frame.q if vectors else None, frame.label, triangle

    last, (qs, labels, triangles) = sweep(maps, first, warmup, steps - tail, read=read)
    c = jnp.eye(k, dtype=dtype)
    if tail:
        _, later = sweep(maps, last, steps - tail, steps, read=lambda _, triangle: triangle)
        c, _ = loops.scan(lambda c, at: (_pull_back(c, at)[0], None), c, later, reverse=True)

    def body(c: jax.Array, at: Triangle) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        before, growth = _pull_back(c, at)
        return before, (c, growth)

    c, (cs, growth) = loops.scan(body, c, triangles, reverse=True)
    by_direction = jax.vmap(growth_by_direction)(labels, triangles)
    # Columns by direction, wherever they stood in their frame, and these by their exponents.
    order = descending(by_direction)
    place = jax.vmap(lambda label: inverse_permutation(label)[order])(labels)
    before = jnp.take(c, order, axis=1)[None]
    return CovariantLyapunovVectors(
        local_exponents=jnp.take_along_axis(growth, place, axis=1),
        coefficients=jnp.concatenate([before, jnp.take_along_axis(cs, place[:, None], axis=2)]),
        frames=jnp.concatenate([first.q[None], qs]) if vectors else None,
        spectrum=spectrum_of(by_direction, jnp.ones(steps - tail - warmup, int), size),
        start=warmup,
    )


def _pull_back(c: jax.Array, triangle: Triangle) -> tuple[jax.Array, jax.Array]:
    """Coefficients one step before, and the log growth of each in the step, (k, k) and (k,).

    R d = c for the columns that are kept. In place of one that is lost stands, before the step,
    what the step maps to 0: the column itself less what R says that it has of those before it.
    """
    order, r, exponents, kept = triangle
    index = jnp.arange(r.shape[0], dtype=jnp.int32)
    is_kept = index < kept
    rows, columns = (
        jnp.broadcast_to(is_kept[:, None], r.shape),
        jnp.broadcast_to(is_kept, r.shape),
    )
    eye = jnp.eye(r.shape[0], dtype=r.dtype)
    zeros = jnp.zeros_like(r)
    kernel = jnp.where(order[:, None] < order[None], -r, zeros)
    right = jnp.where(rows, jnp.where(columns, c, kernel), zeros)
    left = jnp.where(rows & columns, r, eye)
    # Rows of R are graded where units saturate, and its columns have been scaled: both in powers of
    # two, so that what is substituted is near 1.
    scale = power_of_two(-normalizing_exponent(left, 1), r.dtype)
    scale = jnp.broadcast_to(scale[:, None], r.shape)
    right, shift = normalised(right * scale, 0)
    solved = lax.linalg.triangular_solve(left * scale, right, left_side=True, lower=False)
    is_lost = (eye == 1) & ~columns
    solved = jnp.where(is_lost, eye, solved)
    shift = jnp.broadcast_to(shift, r.shape)
    shift = jnp.where(is_lost, jnp.zeros_like(shift), shift)
    d, shift = times_powers(solved, shift - jnp.broadcast_to(exponents[:, None], r.shape), 0)
    length = jnp.linalg.norm(d, axis=0)
    growth = -(jnp.log(length) + LN2 * shift.astype(r.dtype))
    growth = jnp.where(is_kept, growth, jnp.full_like(growth, -jnp.inf))
    place = inverse_permutation(order)
    d = d / jnp.broadcast_to(length, d.shape)
    return d[place][:, place], growth


@compiled
def _times(frames: jax.Array, coefficients: jax.Array) -> jax.Array:
    return jnp.matmul(frames, coefficients)


@functools.partial(compiled, static=("one", "other"))
def _angles(coefficients: jax.Array, *, one: tuple[int, ...], other: tuple[int, ...]) -> jax.Array:
    spans = (jnp.take(coefficients, jnp.array(which), axis=-1) for which in (one, other))
    return smallest_angle(*spans)


def _indices(name: str, value: Any, k: int) -> tuple[int, ...]:
    """Distinct indices of vectors in [0, k), else raises."""
    several = value if isinstance(value, Iterable) else (value,)
    try:
        found = tuple(operator.index(index) for index in several)
    except TypeError as error:
        raise TypeError(
            f"{name} must be an index or several, whole numbers; got {value!r}. Pass for example "
            f"{name}=[0]."
        ) from error
    if not found or len(set(found)) < len(found) or not all(0 <= index < k for index in found):
        raise ValueError(
            f"{name} must be distinct indices of vectors in [0, {k}); got {list(found)}. Pass for "
            f"example {name}=[0]."
        )
    return found
