"""Gradient flow: one call that says how far back a network's gradients reach."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rnn_jax.checks import check_choice, check_count
from rnn_jax.gradients.explain.attribution import Attribution, attribution
from rnn_jax.gradients.explain.bounds import jacobian_log_bound
from rnn_jax.gradients.explain.lags import by_lag
from rnn_jax.gradients.explain.regime import classify
from rnn_jax.gradients.explain.summary import summarize
from rnn_jax.gradients.jacobians.log_norms import jacobian_log_norms
from rnn_jax.gradients.numerics.scaled import log_frobenius
from rnn_jax.gradients.signals.backprop import Loss, check_loss
from rnn_jax.gradients.signals.weight_gradient import weight_gradient_log_norms
from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum, lyapunov_exponents
from rnn_jax.gradients.spectra.singular_values import jacobian_log_singular_values
from rnn_jax.gradients.trajectory import trajectory
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_batch_axes,
    check_carry_leaves,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@struct.dataclass
class GradientFlow:
    """How the outputs of a network depend on earlier steps. B stands for batch axes, if any.

    Attributes:
      log_norms: ln‖∂y_t/∂x_s‖_F (or carries by carries, as `wrt` says), (B, T, T); −inf for s > t.
      bound: the analytic upper bound by lag, (T,), in the same units; None where theory has none.
      attribution: why each step shrinks or grows the signal.
      exponents: the leading Lyapunov exponents of the carry along the sequence.
      log_singular_values: ln σ_i of ∂carry_T/∂carry_0, (B, S); None unless asked for.
      change_log_norms: ln‖carry_t − carry_{t−1}‖, (B, T): whether the states themselves run away.
      weight_log_norms: ln‖share of dL/dW by step‖, (B, T); None without a loss.
      wrt: "input" or "state".
    """

    log_norms: jax.Array
    bound: jax.Array | None = None
    attribution: Attribution | None = None
    exponents: LyapunovSpectrum | None = None
    log_singular_values: jax.Array | None = None
    change_log_norms: jax.Array | None = None
    weight_log_norms: jax.Array | None = None
    wrt: str = struct.field(pytree_node=False, default="input")

    @property
    def gates(self) -> dict[str, jax.Array] | None:
        """Activations by gate name along the sequence, each (B, T, H); None for ungated cells."""
        return (self.attribution.gates or None) if self.attribution is not None else None

    @property
    def steps(self) -> int:
        """T, the length of the sequence."""
        return self.log_norms.shape[-1]

    def by_lag(self, statistic: str = "mean") -> jax.Array:
        """The log-norm by lag k = t − s, over all pairs of steps (and sequences) at that lag.

        Args:
          statistic: "mean" (the log of the geometric mean of the norms), "min" or "max".

        Returns:
          (T,), index k; −inf if any pair at that lag is exactly 0 (for "mean" and "min").
        """
        return by_lag(self.log_norms, statistic)

    def horizon(self, threshold: float = 0.01) -> jax.Array:
        """The largest lag at which the gradient is still `threshold` of what it is at lag 0.

        Args:
          threshold: in (0, 1].

        Returns:
          A whole number in [0, T−1]; T−1 means at least T−1, as far as the sequence shows. (Where
          lag 0 is exactly 0, the first lag that is not takes its place; 0 if there is none.)

        Raises:
          ValueError: the threshold is outside (0, 1].
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1]; got {threshold}.")
        curve = self.by_lag()
        first = jnp.argmax(jnp.isfinite(curve))
        within = (curve >= curve[first] + math.log(threshold)) & (curve > -jnp.inf)
        return jnp.max(jnp.where(within, jnp.arange(self.steps), 0))

    @property
    def rate(self) -> jax.Array:
        """Change of the log-norm by step of lag, in nats: the least-squares slope over all lags.

        −inf if the gradient becomes exactly 0; nan if the sequence has a single step.
        """
        curve = self.by_lag()
        lags = jnp.arange(self.steps, dtype=curve.dtype)
        centred = lags - jnp.mean(lags)
        slope = jnp.sum(centred * curve) / jnp.sum(centred * centred)
        zero = jnp.any(jnp.isneginf(curve)) & ~jnp.any(jnp.isnan(curve))
        return jnp.where(zero, -jnp.inf, slope)

    @property
    def regime(self) -> str:
        """What the gradient does over the length of this sequence.

        "vanishing" if it falls by a factor of 100 or more from lag 0 to the last lags, "sustained"
        if it changes by less, "exploding" if it grows by as much and the states grow with it or
        rest at an unstable point, "chaotic" if it grows while the states move on and stay bounded,
        "not finite" if anything is NaN or inf. The same network can be sustained over 20 steps and
        vanishing over 1000.
        """
        return classify(np.asarray(self.by_lag()), self.change_log_norms)

    def summary(self) -> str:
        """A few lines that say in words what the numbers mean."""
        return summarize(self)

    def plot(self) -> Figure:
        """One figure: the (t, s) map, norm by lag, and gates and weight shares where known.

        Returns:
          A matplotlib `Figure`; needs the `experiments` extra.
        """
        # Here and not above: only plotting may import matplotlib, and importing this package
        # must not.
        from rnn_jax.plotting.flow_figure import flow_figure

        return flow_figure(self)


def gradient_flow(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    loss: Loss | None = None,
    wrt: str = "input",
    k: int = 8,
    spectrum: bool = False,
) -> GradientFlow:
    """Measures how every output depends on every earlier step, why, and what that does to learning.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence (T, I), or a batch (B, T, I).
      carry: initial carry, its leaves with B first for a batch; None asks the cell.
      loss: loss(ys) -> scalar, of one sequence's outputs (T, H); adds the share of the weight
        gradient by step.
      wrt: "input", outputs by inputs, or "state", carries by carries (for systems without
        input).
      k: how many Lyapunov exponents, the leading ones; all S if S is smaller.
      spectrum: also find all singular values of ∂carry_T/∂carry_0; costs T QR decompositions of
        S × S, seconds where S is in the hundreds.

    Returns:
      A `GradientFlow`.

    Raises:
      ValueError: wrong shapes, unknown names, k below 1, an empty sequence, a loss that is no
        scalar, or a result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    check_choice("wrt", wrt, ("input", "state"))
    k = check_count("k", k, low=1)
    if loss is not None:
        check_loss(loss)
    xs = as_sequence(xs, batched=True)
    if xs.ndim > 3:
        raise ValueError(
            f"xs must be one sequence (T, I) or a batch (B, T, I); got shape {xs.shape}. "
            "Merge the batch axes: xs.reshape(-1, *xs.shape[-2:])."
        )
    if not xs.shape[0]:
        raise ValueError(
            f"xs must hold at least one sequence; got shape {xs.shape}, a batch of none. Pass B of "
            "at least 1."
        )
    if carry is not None:
        check_batch_axes(check_carry_leaves(carry), xs.shape[:-2])
    cell = as_pytree(cell)

    def measure(xs: jax.Array, carry: Carry | None) -> GradientFlow:
        return _measure(cell, xs, carry, loss, wrt, k, spectrum)

    flow = measure(xs, carry) if xs.ndim == 2 else jax.vmap(measure)(xs, carry)
    return dataclasses.replace(flow, bound=_bound(cell, flow.log_norms, wrt))


def _measure(
    cell: Any,
    xs: jax.Array,
    carry: Carry | None,
    loss: Loss | None,
    wrt: str,
    k: int,
    spectrum: bool,
) -> GradientFlow:
    log_norms = jacobian_log_norms(cell, xs, carry, wrt=wrt)
    states = trajectory(cell, xs, carry)
    return GradientFlow(
        log_norms=log_norms,
        attribution=attribution(cell, xs, carry),
        exponents=lyapunov_exponents(cell, xs, carry, k=min(k, states.shape[1])),
        log_singular_values=jacobian_log_singular_values(cell, xs, carry) if spectrum else None,
        change_log_norms=log_frobenius(states[1:] - states[:-1], 1),
        weight_log_norms=None if loss is None else weight_gradient_log_norms(loss, cell, xs, carry),
        wrt=wrt,
    )


def _bound(cell: Any, log_norms: jax.Array, wrt: str) -> jax.Array | None:
    """The bound on the product, times the largest factor that it starts from."""
    if not hasattr(cell, "jacobian_bound"):
        return None
    try:
        bound = jacobian_log_bound(cell, log_norms.shape[-1]).astype(log_norms.dtype)
    except ValueError:  # A simple cell whose activation states no slope range.
        return None
    largest = jnp.max(jnp.diagonal(log_norms, 0, -2, -1))
    return bound + largest
