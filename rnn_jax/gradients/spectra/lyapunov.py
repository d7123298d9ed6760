"""Lyapunov exponents of any cell, autonomous or driven, and what follows from them."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rnn_jax.arrays import nan_unless
from rnn_jax.checks import check_count
from rnn_jax.gradients import loops
from rnn_jax.gradients.by_platform import by_platform
from rnn_jax.gradients.linearize import (
    Record,
    Sizes,
    Source,
    accept,
    check_decomposable,
    sizes_of,
)
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.on_chip import fits_on_chip
from rnn_jax.gradients.numerics.time_series import standard_error_of_sum, sums_by_stretch
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.spectra import frame_kernel
from rnn_jax.gradients.spectra.frame import (
    Frame,
    Triangle,
    check_leading,
    first_directions,
    first_frame,
    growth_by_direction,
    sweep,
)
from rnn_jax.gradients.step_maps import pushes
from rnn_jax.sequence.calling import Carry


@struct.dataclass
class LyapunovSpectrum:
    """Mean growth rates of k perpendicular perturbations along a trajectory.

    Attributes:
      exponents: λ_1 ≥ … ≥ λ_k, nats a step, (k,).
      standard_errors: of the exponents as time averages, autocorrelation included, (k,); NaN for
        fewer than 4 windows and for exponents of −inf.
      growth: ln|R_ii| of every window between two QR steps, nats, (N, k).
      window_steps: steps in each window, (N,); all but the last are equal.
      condition: the largest max|R_ii| / min|R_ii| of a window, (); beyond 1/√eps the smaller
        exponents of that window are rounding.
      state_size: S.

    Example:
      >>> def henon(state, _):
      ...     x, y = state
      ...     return jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x]), x
      >>> spectrum = rj.lyapunov_exponents(henon, jnp.zeros((2000, 1)), jnp.zeros(2), warmup=100)
      >>> bool(spectrum.exponents[0] > 0)  # Chaos
      True
      >>> round(float(spectrum.exponents.sum()), 3)  # ln 0.3: areas shrink
      -1.204
      >>> 1.2 < float(spectrum.kaplan_yorke_dimension) < 1.3
      True
    """

    exponents: jax.Array
    standard_errors: jax.Array
    growth: jax.Array
    window_steps: jax.Array
    condition: jax.Array
    state_size: int = struct.field(pytree_node=False)

    @property
    def steps(self) -> jax.Array:
        """How many steps were averaged over, the warm-up left out."""
        return jnp.sum(self.window_steps, axis=-1)

    @property
    def entropy_rate(self) -> jax.Array:
        """Sum of the positive exponents, nats a step.

        By Pesin's formula the Kolmogorov–Sinai entropy rate of a system with a smooth invariant
        measure, and an upper bound of it in any case (Ruelle). A lower bound on that sum if the k
        exponents do not reach below 0.
        """
        return jnp.sum(jnp.maximum(self.exponents, 0), axis=-1)

    @property
    def kaplan_yorke_dimension(self) -> jax.Array:
        """j + (λ_1 + … + λ_j) / |λ_{j+1}|, j the largest number whose sum is not negative.

        0 if λ_1 < 0; S if no sum is negative; NaN if the k exponents measured are too few to tell
        (pass a larger k).

        References:
          J. Kaplan and J. Yorke, "Chaotic behavior of multidimensional difference equations", 1979.
        """
        return _kaplan_yorke_dimension(self.exponents, size=self.state_size)

    def convergence(self) -> jax.Array:
        """The estimate after each window, (N, k): how the exponents settled."""
        steps = jnp.cumsum(self.window_steps, axis=-1).astype(self.growth.dtype)
        sums = jnp.cumsum(self.growth, axis=-2)
        return sums / jnp.broadcast_to(steps[..., None], sums.shape)

    def finite_time(self, windows: int) -> jax.Array:
        """Exponents over consecutive stretches of the trajectory, (N // windows, k).

        Args:
          windows: windows in a stretch, in [1, N]; what is left over at the end is dropped.

        Raises:
          ValueError, TypeError: it is no whole number in that range.
        """
        available = self.growth.shape[-2]
        windows = check_count("windows", windows, low=1, high=available)
        sums = sums_by_stretch(self.growth, windows)
        steps = sums_by_stretch(self.window_steps.astype(sums.dtype)[..., None], windows)
        return sums / jnp.broadcast_to(steps, sums.shape)


def lyapunov_exponents(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    k: int | None = None,
    warmup: int = 0,
    interval: int = 1,
) -> LyapunovSpectrum:
    """Lyapunov exponents along the trajectory that a sequence of inputs drives.

    A_t Q_{t−1} = Q_t R_t,    λ_i = ⟨ln |R_ii|⟩ over the steps after the warm-up

    The k columns of Q are advanced by Jacobian-vector products, so A_t is never formed: a cell
    with a carry of thousands and k = 16 fits. (Of a `Linearization`, by its A_t.) An autonomous
    system takes inputs that it ignores, `jnp.zeros((T, 1))`. Differentiable in both modes, to any
    order: exponents, standard errors, growth and condition.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      k: how many exponents, the leading ones; None is all S. Q starts as the axes if it holds all
        of them, else as random directions, the same in every call: where units are independent an
        axis would never turn to a faster one. To turn takes a warm-up.
      warmup: steps that bring the carry to its attractor and Q into line, and are not counted;
        in [0, T).
      interval: steps between two QR decompositions. 1 is safe; longer saves time for small k and
        loses the smaller exponents to rounding. A warning says when it has (outside `jit`;
        `.condition` says so everywhere).

    Returns:
      A `LyapunovSpectrum`. An exponent is −inf if a step maps its direction to 0 (dead units), or,
      at interval 1, to less than the rounding error of that step.

    Raises:
      ValueError: wrong shapes, k, warmup or interval out of range, an empty sequence, or a result
        too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> spectrum = rj.lyapunov_exponents(cell, xs)
      >>> spectrum.exponents.shape
      (8,)
      >>> bool(spectrum.exponents[0] < 0)  # Nearby states come together
      True

    References:
      G. Benettin et al., "Lyapunov characteristic exponents for smooth dynamical systems", 1980;
      R. Engelken, F. Wolf and L. Abbott, "Lyapunov spectra of chaotic recurrent neural networks",
      2023.
    """
    source = accept(cell, xs, carry, feature_axes)
    sizes = sizes_of(source)
    warmup = check_count("warmup", warmup, high=sizes.steps - 1)
    interval = check_count("interval", interval, low=1, high=sizes.steps - warmup)
    k = check_leading(k, sizes)
    check_decomposable(sizes, "lyapunov_exponents")
    check_exponents(sizes, k, (sizes.steps - warmup) // interval, of=source)
    spectrum = _lyapunov(source, k=k, warmup=warmup, interval=interval)
    if interval > 1:
        _warn_if_spoilt(spectrum.condition, interval)
    return spectrum


@functools.partial(compiled, static=("size",), marks_unknown=True)
def _kaplan_yorke_dimension(exponents: jax.Array, *, size: int) -> jax.Array:
    sums = jnp.cumsum(exponents, axis=-1)
    kept = jnp.sum(sums >= 0, axis=-1)
    count = exponents.shape[-1]
    before = jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums], axis=-1)
    total = jnp.take_along_axis(before, kept[..., None], axis=-1)[..., 0]
    after = jnp.minimum(kept, count - 1)[..., None]
    next_exponent = jnp.take_along_axis(exponents, after, axis=-1)[..., 0]
    inside = kept < count
    # Where all sums are positive there is no next exponent to divide by.
    divisor = jnp.where(inside, jnp.abs(next_exponent), jnp.ones_like(total))
    dimension = kept.astype(total.dtype) + jnp.where(inside, total, 0.0) / divisor
    known = ~jnp.any(jnp.isnan(exponents), axis=-1) & (inside | (count == size))
    return nan_unless(known, dimension)


def check_exponents(sizes: Sizes, k: int, windows: int, *, of: Any, batch: int = 1) -> None:
    """Raises ValueError unless there is room; `of` and `batch` as for `check_fits`."""
    check_fits(
        "lyapunov_exponents",
        [(windows + 1, k), (4, sizes.state, k)],
        sizes.dtype,
        "Pass a smaller k=, the number of leading exponents.",
        of=of,
        batch=batch,
    )


@functools.partial(compiled, static=("k", "warmup", "interval"), marks_unknown=True)
def _lyapunov(source: Source, *, k: int, warmup: int, interval: int) -> LyapunovSpectrum:
    return exponents_of(Record(source), k=k, warmup=warmup, interval=interval)


def exponents_of(record: Record, *, k: int, warmup: int = 0, interval: int = 1) -> LyapunovSpectrum:
    """`lyapunov_exponents`, read off a record.

    Lowered for a GPU, by a kernel that holds the frame on chip, where a direction is not lost.
    """
    steps, size, dtype = record.sizes.steps, record.sizes.state, record.sizes.dtype
    windows, rest = divmod(steps - warmup, interval)
    lengths = [interval] * windows + ([rest] if rest else [])
    by_sweep = functools.partial(growth_by_sweep, k=k, warmup=warmup, interval=interval)
    if interval == 1 and fits_on_chip(steps, size, dtype):
        kernel = functools.partial(growth_by_kernel, by_sweep, k=k, warmup=warmup)
        growth = by_platform(by_sweep, kernel=kernel)(record.source())
    else:
        growth = by_sweep(record.source())
    return spectrum_of(growth, jnp.asarray(lengths), size)


def growth_by_sweep(source: Source, *, k: int, warmup: int, interval: int) -> jax.Array:
    """ln|R_ii| of every window, (N, k), with a QR decomposition at the end of each."""
    record = Record(source)
    steps, size, dtype = record.sizes.steps, record.sizes.state, record.sizes.dtype
    windows, rest = divmod(steps - warmup, interval)
    maps = pushes(record)
    frame = first_frame(maps, size, k, dtype, warmup=warmup)

    def read(frame: Frame, triangle: Triangle) -> jax.Array:
        return growth_by_direction(frame.label, triangle)

    whole = warmup + windows * interval
    frame, growth = sweep(maps, frame, warmup, whole, interval=interval, read=read)
    if rest:
        _, last = sweep(maps, frame, whole, steps, interval=rest, read=read)
        growth = jnp.concatenate([growth, last])
    return growth


def growth_by_kernel(
    by_sweep: Callable[[Source], jax.Array], source: Source, *, k: int, warmup: int
) -> jax.Array:
    """The same from one kernel, unless it finds a direction lost."""
    jacobians = Record(source).jacobians.state_by_state
    first = first_directions(jacobians.shape[-1], k, jacobians.dtype)
    growth, kept = frame_kernel.growth_by_step(jacobians, first)
    # A loop of at most one turn: under `vmap` a branch would be taken always.
    growth, _ = loops.while_loop(
        lambda state: ~state[1],
        lambda _: (by_sweep(source), jnp.ones((), bool)),
        (growth[warmup:], kept),
    )
    return growth


def spectrum_of(growth: jax.Array, window_steps: jax.Array, size: int) -> LyapunovSpectrum:
    """The exponents of directions from their growth by window (N, k), in descending order."""
    total = jnp.sum(window_steps).astype(growth.dtype)
    order = descending(growth)
    growth = growth[:, order]
    exponents = jnp.sum(growth, axis=0) / total
    return LyapunovSpectrum(
        exponents=exponents,
        standard_errors=_standard_errors(growth, exponents, window_steps) / total,
        growth=growth,
        window_steps=window_steps,
        condition=_condition(growth),
        state_size=size,
    )


def descending(growth: jax.Array) -> jax.Array:
    """Directions from the fastest to the slowest, (k,), by their growth over all windows (N, k)."""
    return jnp.argsort(-lax.stop_gradient(jnp.sum(growth, axis=0)), stable=True)


def _standard_errors(growth: jax.Array, exponents: jax.Array, window_steps: jax.Array) -> jax.Array:
    """Of the sums of growth over all windows, (k,); NaN for a direction that was lost."""
    kept = jnp.isfinite(exponents)
    # A constant in its place, whose derivative is 0 and no NaN.
    series = jnp.where(jnp.broadcast_to(kept, growth.shape), growth, jnp.zeros_like(growth))
    mean = jnp.where(kept, exponents, jnp.zeros_like(exponents))
    share = jnp.outer(window_steps.astype(growth.dtype), mean)
    found = standard_error_of_sum(series - share)
    return nan_unless(kept, found)


def _condition(growth: jax.Array) -> jax.Array:
    """The largest ratio of directions' growth in a window, lost ones left out; NaN for NaN."""
    found = jnp.isfinite(growth)
    high = jnp.max(jnp.where(found, growth, jnp.full_like(growth, -jnp.inf)), axis=1)
    low = jnp.min(jnp.where(found, growth, jnp.full_like(growth, jnp.inf)), axis=1)
    some = jnp.any(found, axis=1)
    zero = jnp.zeros_like(high)
    ratio = jnp.exp(jnp.max(jnp.where(some, high, zero) - jnp.where(some, low, zero)))
    return nan_unless(~jnp.any(jnp.isnan(growth)), ratio)


def _warn_if_spoilt(condition: jax.Array, interval: int) -> None:
    """Warns where the values can be read, that is outside `jit`, `vmap` and `grad`."""
    try:
        worst = float(np.max(np.asarray(condition)))
    except jax.errors.TracerArrayConversionError:
        return
    limit = float(jnp.finfo(condition.dtype).eps) ** -0.5
    if worst > limit:
        warnings.warn(
            f"interval={interval} is too long for this system: within one window the perturbations "
            f"came to differ by a factor of {worst:.1e}, and beyond {limit:.1e} (1/√eps) the "
            "smaller exponents are rounding errors. Pass a smaller interval, a smaller k, or "
            "float64.",
            stacklevel=3,
        )
