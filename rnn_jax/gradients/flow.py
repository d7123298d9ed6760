"""Gradient flow: one call that says how far back a network's gradients reach."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rnn_jax.checks import check_choice
from rnn_jax.gradients.bounds import jacobian_log_bound
from rnn_jax.gradients.log_norms import jacobian_log_norms
from rnn_jax.gradients.signal import Loss
from rnn_jax.gradients.summary import summarize
from rnn_jax.gradients.weight_gradient import weight_gradient_log_norms
from rnn_jax.sequence.calling import (
    ArrayLike,
    Carry,
    as_pytree,
    as_sequence,
    check_batch_axes,
    resolve_carry,
)
from rnn_jax.sequence.unroll import unroll

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A change by this factor over the sequence is what separates sustained from the other regimes.
_REGIME_FACTOR = 100.0


@struct.dataclass
class GradientFlow:
    """How the outputs of a network depend on earlier steps. B stands for batch axes, if any.

    Attributes:
      log_norms: ln‖∂y_t/∂x_s‖_F (or carries by carries, as `wrt` says), (B, T, T); −inf for s > t.
      bound: the analytic upper bound by lag, (T,), in the same units; None where theory has none.
      gates: activations by gate name along the sequence, each (B, T, H); None for ungated cells.
      weight_log_norms: ln‖share of dL/dW by step‖, (B, T); None without a loss.
      wrt: "input" or "state".
    """

    log_norms: jax.Array
    bound: jax.Array | None = None
    gates: dict[str, jax.Array] | None = None
    weight_log_norms: jax.Array | None = None
    wrt: str = struct.field(pytree_node=False, default="input")

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
        check_choice("statistic", statistic, ("mean", "min", "max"))
        steps = self.steps
        t, k = jnp.arange(steps)[:, None], jnp.arange(steps)[None, :]
        exists = jnp.broadcast_to(k <= t, (steps, steps))
        pairs = self.log_norms[..., t, jnp.where(k <= t, t - k, 0)]
        exists = jnp.broadcast_to(exists, pairs.shape)
        over = tuple(range(pairs.ndim - 1))
        if statistic == "mean":
            return jnp.mean(pairs, axis=over, where=exists)
        if statistic == "min":
            return jnp.min(pairs, axis=over, where=exists, initial=jnp.inf)
        return jnp.max(pairs, axis=over, where=exists, initial=-jnp.inf)

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

        "vanishing" if it falls by a factor of 100 or more from lag 0 to the last lags, "exploding"
        if it grows by as much, "sustained" in between, "not finite" if anything is NaN or inf.
        The same network can be sustained over 20 steps and vanishing over 1000.
        """
        curve = np.asarray(self.by_lag())
        if np.isnan(curve).any() or np.isposinf(curve).any():
            return "not finite"
        if not np.isfinite(curve).any():
            return "vanishing"
        # The last lag has a single pair of steps; the last tenth says it with less noise.
        tail = curve[-max(1, len(curve) // 10) :]
        change = float(np.mean(tail)) - float(curve[np.isfinite(curve).argmax()])
        if change <= -math.log(_REGIME_FACTOR):
            return "vanishing"
        return "exploding" if change >= math.log(_REGIME_FACTOR) else "sustained"

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
        from rnn_jax.plotting.flow import flow_figure

        return flow_figure(self)


def gradient_flow(
    cell: Any,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    loss: Loss | None = None,
    wrt: str = "input",
) -> GradientFlow:
    """Measures how every output depends on every earlier step, and what that does to learning.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence (T, I), or a batch (B, T, I).
      carry: initial carry, its leaves with B first for a batch; None asks the cell.
      loss: loss(ys) -> scalar, of one sequence's outputs (T, H); adds the share of the weight
        gradient by step.
      wrt: "input", outputs by inputs, or "state", carries by carries (for systems without
        input).

    Returns:
      A `GradientFlow`.

    Raises:
      ValueError: wrong shapes, unknown names, an empty sequence, a loss that is no scalar, or a
        result too large for memory.
      TypeError: inputs or carries that are no floats, or a cell that needs `carry`.
    """
    check_choice("wrt", wrt, ("input", "state"))
    xs = as_sequence(xs, batched=True)
    if xs.ndim > 3:
        raise ValueError(
            f"xs must be one sequence (T, I) or a batch (B, T, I); got shape {xs.shape}. "
            "Merge the batch axes: xs.reshape(-1, *xs.shape[-2:])."
        )
    if carry is not None:
        check_batch_axes(carry, xs.shape[:-2])
    cell = as_pytree(cell)
    measure = functools.partial(_measure, cell, loss=loss, wrt=wrt)
    if xs.ndim == 3:
        measure = jax.vmap(measure)
    log_norms, gates, weights = measure(xs, carry)
    bound = _bound(cell, log_norms, wrt)
    return GradientFlow(log_norms, bound, gates, weights, wrt)


def _measure(
    cell: Any, xs: jax.Array, carry: Carry | None, *, loss: Loss | None, wrt: str
) -> tuple[Any, Any, Any]:
    log_norms = jacobian_log_norms(cell, xs, carry, wrt=wrt)
    weights = None if loss is None else weight_gradient_log_norms(loss, cell, xs, carry)
    return log_norms, _gates(cell, xs, carry), weights


def _gates(cell: Any, xs: jax.Array, carry: Carry | None) -> dict[str, jax.Array] | None:
    if not hasattr(cell, "gates"):
        return None
    start = resolve_carry(cell, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype), carry)
    _, _, carries = unroll(cell, xs, start, return_carries=True)
    before = jax.tree.map(lambda c0, c: jnp.concatenate([c0[None], c[:-1]]), start, carries)
    return jax.vmap(cell.gates)(before, xs)


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
