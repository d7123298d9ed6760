"""Lyapunov exponents of any cell, autonomous or driven, and what follows from them."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rnn_jax.checks import check_count
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.time_series import standard_error_of_sum
from rnn_jax.gradients.spectra.frame import Frame, advance_window
from rnn_jax.gradients.trajectory import check_decomposable, flatten_cell
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence, check_carry_leaves


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
        sums = jnp.cumsum(self.exponents, axis=-1)
        kept = jnp.sum(sums >= 0, axis=-1)
        count = self.exponents.shape[-1]
        before = jnp.concatenate([jnp.zeros_like(sums[..., :1]), sums], axis=-1)
        total = jnp.take_along_axis(before, kept[..., None], axis=-1)[..., 0]
        after = jnp.minimum(kept, count - 1)[..., None]
        next_exponent = jnp.take_along_axis(self.exponents, after, axis=-1)[..., 0]
        inside = kept.astype(total.dtype) + total / jnp.abs(next_exponent)
        whole = float(count) if count == self.state_size else jnp.nan
        known = ~jnp.any(jnp.isnan(self.exponents), axis=-1)
        dimension = jnp.where(kept < count, inside, jnp.full_like(inside, whole))
        return jnp.where(known, dimension, jnp.full_like(dimension, jnp.nan))

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
        groups = available // windows

        def grouped(array: jax.Array) -> jax.Array:
            """Sums over the window axis, which is the second last."""
            array = array[..., : groups * windows, :]
            shape = (*array.shape[:-2], groups, windows, array.shape[-1])
            return jnp.sum(array.reshape(shape), axis=-2)

        sums = grouped(self.growth)
        steps = grouped(self.window_steps.astype(sums.dtype)[..., None])
        return sums / jnp.broadcast_to(steps, sums.shape)


def lyapunov_exponents(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    k: int | None = None,
    warmup: int = 0,
    interval: int = 1,
) -> LyapunovSpectrum:
    """Lyapunov exponents along the trajectory that a sequence of inputs drives.

    A_t Q_{t−1} = Q_t R_t,    λ_i = ⟨ln |R_ii|⟩ over the steps after the warm-up

    The k columns of Q are advanced by Jacobian-vector products, so A_t is never formed: a cell
    with a carry of thousands and k = 16 fits. An autonomous system takes inputs that it ignores,
    `jnp.zeros((T, 1))`. Differentiable in both modes, to any order.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      k: how many exponents, the leading ones; None is all S.
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
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.

    References:
      G. Benettin et al., "Lyapunov characteristic exponents for smooth dynamical systems", 1980;
      R. Engelken, F. Wolf and L. Abbott, "Lyapunov spectra of chaotic recurrent neural networks",
      2023.
    """
    xs = as_sequence(xs, batched=False)
    steps = xs.shape[0]
    warmup = check_count("warmup", warmup, high=steps - 1)
    interval = check_count("interval", interval, low=1, high=steps - warmup)
    if k is not None:
        k = check_count("k", k, low=1)
    spectrum = _lyapunov(
        as_pytree(cell), xs, check_carry_leaves(carry), k=k, warmup=warmup, interval=interval
    )
    if interval > 1:
        _warn_if_spoilt(spectrum.condition, interval)
    return spectrum


@functools.partial(jax.jit, static_argnames=("k", "warmup", "interval"))
def _lyapunov(
    cell: Any, xs: jax.Array, carry: Carry | None, *, k: int | None, warmup: int, interval: int
) -> LyapunovSpectrum:
    flat = flatten_cell(cell, xs, carry)
    check_decomposable(flat, "lyapunov_exponents")
    size, dtype = flat.state_size, flat.initial.dtype
    if k is not None and k > size:
        raise ValueError(f"k must be at most the size of the carry, S = {size}; got {k}.")
    k = size if k is None else k
    windows, rest = divmod(xs.shape[0] - warmup, interval)
    check_fits(
        "lyapunov_exponents",
        [(windows + 1, k), (4, size, k)],
        dtype,
        "Pass a smaller k=, the number of leading exponents.",
    )
    window = functools.partial(advance_window, flat)
    start = Frame(flat.initial, jnp.eye(size, k, dtype=dtype), jnp.arange(k, dtype=jnp.int32))
    frame, _ = lax.scan(window, start, xs[:warmup, None])
    counted = xs[warmup : warmup + windows * interval]
    # Whatever the warm-up has lost is refilled: from here on every direction counts anew.
    frame = frame._replace(label=start.label)
    frame, growth = lax.scan(window, frame, counted.reshape(windows, interval, -1))
    lengths = [interval] * windows
    if rest:
        _, last = window(frame, xs[-rest:])
        growth = jnp.concatenate([growth, last[None]])
        lengths.append(rest)
    return _spectrum(growth, jnp.asarray(lengths), size)


def _spectrum(growth: jax.Array, window_steps: jax.Array, size: int) -> LyapunovSpectrum:
    total = jnp.sum(window_steps).astype(growth.dtype)
    exponents = jnp.sum(growth, axis=0) / total
    order = jnp.argsort(-lax.stop_gradient(exponents), stable=True)
    exponents, growth = exponents[order], growth[:, order]
    share = jnp.outer(window_steps.astype(growth.dtype), exponents)
    # Constants to differentiation: only the exponents themselves are a function to be optimised.
    noise = lax.stop_gradient(growth - share)
    found = jnp.isfinite(growth)
    high = jnp.max(jnp.where(found, growth, jnp.full_like(growth, -jnp.inf)), axis=1)
    low = jnp.min(jnp.where(found, growth, jnp.full_like(growth, jnp.inf)), axis=1)
    return LyapunovSpectrum(
        exponents=exponents,
        standard_errors=standard_error_of_sum(noise) / total,
        growth=growth,
        window_steps=window_steps,
        condition=lax.stop_gradient(jnp.exp(jnp.max(high - low))),
        state_size=size,
    )


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
