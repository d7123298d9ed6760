"""Lyapunov exponents window by window: where along a trajectory perturbations grow and shrink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.checks import check_count
from rnn_jax.gradients.linearize import accept, sizes_of
from rnn_jax.gradients.numerics.time_series import sums_by_stretch
from rnn_jax.gradients.spectra.lyapunov import lyapunov_exponents
from rnn_jax.sequence.calling import Carry

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@struct.dataclass
class LocalLyapunovExponents:
    """Growth rates over consecutive windows of a trajectory.

    Attributes:
      exponents: nats a step, (N, k); −inf in a window in which a direction is mapped to 0.
      window: steps in each window.
      start: steps before the first one.

    Example:
      >>> local = rj.local_lyapunov_exponents(cell, xs, window=5)
      >>> [int(step) for step in local.ends]
      [5, 10, 15, 20]
      >>> local.mean.shape
      (8,)
    """

    exponents: jax.Array
    window: int = struct.field(pytree_node=False)
    start: int = struct.field(pytree_node=False, default=0)

    @property
    def mean(self) -> jax.Array:
        """The exponents over all windows together, (k,)."""
        return jnp.mean(self.exponents, axis=-2)

    @property
    def ends(self) -> jax.Array:
        """The step with which each window ends, (N,): from carry_{end − window} to carry_end."""
        return self.start + self.window * jnp.arange(1, self.exponents.shape[-2] + 1)

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Exponents by window over time: lines for a few, a heat map for many.

        Args:
          ax: where to draw; None makes a figure.
          options: of `rnn_jax.plotting.plot_local_exponents`.

        Returns:
          A matplotlib `Axes`, whose `figure` can be saved; needs the `experiments` extra.
        """
        # Here and not above: only plotting may import matplotlib, and importing this package
        # must not.
        from rnn_jax.plotting.local_exponents import plot_local_exponents

        return plot_local_exponents(self, ax, **options)


def local_lyapunov_exponents(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    window: int,
    k: int | None = None,
    warmup: int = 0,
) -> LocalLyapunovExponents:
    """Finite-time Lyapunov exponents by window: how much perturbations grow there and then.

    λ_i(n) = 1/window · Σ_t ln |R_t,ii| over the steps t of window n,    A_t Q_{t−1} = Q_t R_t

    The growth is that of perpendicular directions which have travelled along the trajectory, so
    sums over i are growth rates of areas and volumes, and the means over the windows are the
    exponents of `lyapunov_exponents` over the same steps. The growth of each covariant direction
    by itself is in `covariant_lyapunov_vectors`. Matrix-free and differentiable, as those are.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y), or a `Linearization`.
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      window: steps in each window, in [1, T − warmup]; a rest at the end that fills no window is
        left out.
      k: how many exponents, the leading ones; None is all S.
      warmup: steps that bring the carry to its attractor and the directions into line, and are not
        counted; in [0, T).

    Returns:
      A `LocalLyapunovExponents` of N = (T − warmup) // window windows; directions are in the order
      of their exponents over the whole sequence, so a row need not descend.

    Raises:
      ValueError: wrong shapes, window, k or warmup out of range, an empty sequence, or a result
        too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> local = rj.local_lyapunov_exponents(cell, xs, window=5)
      >>> local.exponents.shape
      (4, 8)
      >>> whole = rj.lyapunov_exponents(cell, xs)
      >>> bool(jnp.allclose(local.mean, whole.exponents, atol=1e-3))
      True

    References:
      H. Abarbanel, R. Brown and M. Kennel, "Variation of Lyapunov exponents on a strange
      attractor", 1991.
    """
    steps = sizes_of(accept(cell, xs, carry, feature_axes)).steps
    warmup = check_count("warmup", warmup, high=steps - 1)
    window = check_count("window", window, low=1, high=steps - warmup)
    spectrum = lyapunov_exponents(cell, xs, carry, feature_axes=feature_axes, k=k, warmup=warmup)
    return LocalLyapunovExponents(spectrum.finite_time(window), window=window, start=warmup)


def by_window(growth: jax.Array, window: int, *, start: int) -> LocalLyapunovExponents:
    """Growth by step, (..., n, k), averaged over windows that `window` counts, checked here."""
    window = check_count("window", window, low=1, high=growth.shape[-2])
    rates = sums_by_stretch(growth, window) / window
    return LocalLyapunovExponents(rates, window=window, start=start)
