"""Gradient flow: one call that says how far back a network's gradients reach."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rnn_jax.cells.claims import makes_claim
from rnn_jax.checks import check_choice, check_count, check_flag
from rnn_jax.gradients.differentiation import Jacobians
from rnn_jax.gradients.explain.attribution import Attribution, attribution_of
from rnn_jax.gradients.explain.bounds import jacobian_log_bound
from rnn_jax.gradients.explain.lags import by_lag, last_lag_above, slope_by_lag
from rnn_jax.gradients.explain.regime import classify
from rnn_jax.gradients.explain.summary import summarize
from rnn_jax.gradients.input_vectors import check_by_input
from rnn_jax.gradients.jacobians.log_norms import check_log_norms, log_norms_of
from rnn_jax.gradients.linearize import (
    Given,
    Linearization,
    Problem,
    Record,
    Sizes,
    accept,
    sizes_of,
    why_undecomposable,
)
from rnn_jax.gradients.numerics.scaled import log_frobenius
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.signals.backprop import Loss, check_loss, loss_gradient, own_outputs
from rnn_jax.gradients.signals.weight_gradient import weight_log_norms_of, why_without_weights
from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum, check_exponents, exponents_of
from rnn_jax.gradients.spectra.singular_values import check_spectrum, log_singular_values_of
from rnn_jax.sequence.calling import Carry, check_batch_axes, describe
from rnn_jax.sequence.inputs import leading_shape, resolve_feature_axes

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
      omissions: (measure, what it would need) of those that could not be had; see `omitted`.

    Example:
      >>> flow = rj.gradient_flow(cell, xs)
      >>> flow.regime, int(flow.horizon()), flow.by_lag().shape
      ('vanishing', 12, (20,))
    """

    log_norms: jax.Array
    bound: jax.Array | None = None
    attribution: Attribution | None = None
    exponents: LyapunovSpectrum | None = None
    log_singular_values: jax.Array | None = None
    change_log_norms: jax.Array | None = None
    weight_log_norms: jax.Array | None = None
    wrt: str = struct.field(pytree_node=False, default="input")
    omissions: tuple[tuple[str, str], ...] = struct.field(pytree_node=False, default=())

    @property
    def omitted(self) -> dict[str, str]:
        """Measures that could not be had for this cell, by name, each with what it would need."""
        return dict(self.omissions)

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
        return last_lag_above(curve, jnp.asarray(math.log(threshold), curve.dtype))

    @property
    def rate(self) -> jax.Array:
        """Change of the log-norm by step of lag, in nats: the least-squares slope over all lags.

        −inf if the gradient becomes exactly 0; nan if the sequence has a single step.
        """
        return slope_by_lag(self.by_lag())

    @property
    def regime(self) -> str:
        """What the gradient does over the length of this sequence.

        "vanishing" if it falls by a factor of 100 or more from lag 0 to the last lags, "sustained"
        if it changes by less, "exploding" if it grows by as much and the states grow with it or
        rest at an unstable point, "chaotic" if it grows while the states move on and stay bounded,
        "not finite" if anything is NaN or inf, "undetermined" if there is a single step. The same
        network can be sustained over 20 steps and vanishing over 1000.
        """
        return classify(np.asarray(self.by_lag()), self.change_log_norms)

    def summary(self) -> str:
        """A few lines that say in words what the numbers mean."""
        return summarize(self)

    def plot(
        self, *, figsize: tuple[float, float] | None = None, title: str | None = None
    ) -> Figure:
        """One figure: the (t, s) map, norm by lag, and gates and weight shares where known.

        Args:
          figsize: width and height in inches; None gives each panel the room that it needs.
          title: above all; None says what was found, "" leaves it out.

        Returns:
          A matplotlib `Figure`; needs the `experiments` extra.

        Raises:
          ValueError: a figsize that is not two positive numbers.
        """
        # Here and not above: importing this package must not import matplotlib.
        from rnn_jax.plotting.flow_figure import flow_figure

        return flow_figure(self, figsize=figsize, title=title)


def gradient_flow(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    loss: Loss | None = None,
    wrt: str = "input",
    k: int = 8,
    spectrum: bool = False,
    measures: Collection[str] | None = None,
) -> GradientFlow:
    """Measures how every output depends on every earlier step, why, and what that does to learning.

    The sequence is checked, run and linearized once, in one compiled program; all measures are
    readings of that. What cannot be had for a cell (exponents of a bfloat16 carry) is left out and
    named, with the reason, in `.omitted` and in the summary.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence (T, I), or a batch (B, T, I).
      carry: initial carry, its leaves with B first for a batch; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      loss: loss(ys) -> scalar, of one sequence's outputs (T, H); adds the share of the weight
        gradient by step.
      wrt: "input", outputs by inputs, or "state", carries by carries (for systems without
        input).
      k: how many Lyapunov exponents, the leading ones; all S if S is smaller.
      spectrum: also find all singular values of ∂carry_T/∂carry_0; costs T QR decompositions of
        S × S, seconds where S is in the hundreds.
      measures: what to measure beside the log-norms, by the names of the fields of `GradientFlow`:
        "attribution", "bound", "change_log_norms", "exponents", "log_singular_values" and
        "weight_log_norms". None is all that `loss` and `spectrum` ask for.

    Returns:
      A `GradientFlow`.

    Raises:
      ValueError: wrong shapes, unknown names, k below 1, an empty sequence, a loss that is no
        scalar, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> print(rj.gradient_flow(cell, xs).summary())
      Gradient flow over T = 20 steps, ‖∂y_t/∂x_s‖ by lag t − s
        regime        vanishing: later outputs hardly depend on early steps; ...
    """
    check_choice("wrt", wrt, ("input", "state"))
    k = check_count("k", k, low=1)
    if loss is not None:
        check_loss(loss)
    wanted = _wanted(measures, loss, check_flag("spectrum", spectrum))
    source = accept(cell, xs, carry, feature_axes, batched=True)
    batch = _batch_of(source, feature_axes)
    check_by_input(wrt, source.inputs)
    sizes = sizes_of(source, batched=bool(batch))
    k = min(k, sizes.state)
    wanted, omissions = _possible(wanted, source, sizes)
    _check_room(source, sizes, wrt, k, wanted, math.prod(batch))
    flow, steps, ys = _measure(
        source, wrt=wrt, k=k, wanted=wanted, batched=bool(batch), keep="weight_log_norms" in wanted
    )
    if loss is not None and "weight_log_norms" in wanted:
        gradient = functools.partial(loss_gradient, loss)
        gradients = jax.vmap(gradient)(ys) if batch else gradient(ys)
        shares = _weight_shares(source, steps, gradients, batched=bool(batch))
        flow = dataclasses.replace(flow, weight_log_norms=shares)
    return dataclasses.replace(flow, omissions=omissions)


def _batch_of(source: Given, feature_axes: int | None) -> tuple[int, ...]:
    """(B,) of a batch, () of one sequence.

    Raises:
      ValueError: several batch axes, a batch of none, or a carry without the batch axis.
    """
    if isinstance(source, Linearization):
        return source.outputs.shape[:-2]
    axes = resolve_feature_axes(source.cell, feature_axes)
    leading = leading_shape(source.inputs, axes)
    batch = leading[:-1]
    if len(batch) > 1:
        raise ValueError(
            "xs must be one sequence (T, I) or a batch (B, T, I); got "
            f"{describe(source.inputs)}. Merge the batch axes: "
            f"xs.reshape(-1, *xs.shape[{len(batch)}:])."
        )
    if not math.prod(batch):
        raise ValueError(
            f"xs must hold at least one sequence; got {describe(source.inputs)}, a batch of none. "
            "Pass B of at least 1."
        )
    if source.carry is not None:
        check_batch_axes(source.carry, batch)
    return batch


def _wanted(measures: Collection[str] | None, loss: Loss | None, spectrum: bool) -> tuple[str, ...]:
    """The measures to make, checked."""
    asked_by_option = {"weight_log_norms": loss is not None, "log_singular_values": spectrum}
    if measures is None:
        return tuple(name for name in MEASURES if asked_by_option.get(name, True))
    if isinstance(measures, str):
        measures = (measures,)
    for name in measures:
        check_choice("each of measures", name, MEASURES)
    if "weight_log_norms" in measures and loss is None:
        raise ValueError(
            'the measure "weight_log_norms" is of the gradient of a loss; got loss=None. Pass '
            "loss=, a function of the outputs."
        )
    asked = [name for name, by_option in asked_by_option.items() if by_option]
    return tuple(name for name in MEASURES if name in {*measures, *asked})


def _possible(
    wanted: tuple[str, ...], source: Given, sizes: Sizes
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(the measures that this cell allows, the others with what they would need)."""
    reasons = {
        "exponents": why_undecomposable(sizes),
        "log_singular_values": why_undecomposable(sizes),
        "weight_log_norms": why_without_weights(source.cell),
    }
    left_out = {name: reasons[name] for name in wanted if reasons.get(name) is not None}
    omissions = tuple((name, f"needs {reason}") for name, reason in left_out.items())
    return tuple(name for name in wanted if name not in left_out), omissions


def _check_room(
    source: Given, sizes: Sizes, wrt: str, k: int, wanted: tuple[str, ...], batch: int
) -> None:
    """Raises ValueError for the first measure that does not fit into memory."""
    check_log_norms(sizes, wrt, of=source, batch=batch)
    if "exponents" in wanted:
        check_exponents(sizes, k, sizes.steps, of=source, batch=batch)
    if "log_singular_values" in wanted:
        check_spectrum(sizes, of=source, batch=batch)


class _Kept(NamedTuple):
    """What a later program needs of a sequence: its trajectory and Jacobians, without the cell."""

    trajectory: tuple[jax.Array, jax.Array]
    jacobians: Jacobians


@functools.partial(compiled, static=("wrt", "k", "wanted", "batched", "keep"), marks_unknown=True)
def _measure(
    source: Given,
    *,
    wrt: str,
    k: int,
    wanted: tuple[str, ...],
    batched: bool,
    keep: bool,
) -> tuple[GradientFlow, _Kept | None, Any]:
    def measure(source: Given) -> tuple[GradientFlow, _Kept | None, Any]:
        record = Record(source)
        flow = GradientFlow(log_norms=log_norms_of(record, wrt=wrt), wrt=wrt)
        for name in wanted:
            if name in _READINGS:
                flow = dataclasses.replace(flow, **{name: _READINGS[name](record, k)})
        kept = _Kept(record.trajectory, record.jacobians) if keep else None
        return flow, kept, own_outputs(record) if keep else None

    flow, kept, ys = _mapped(measure, source, batched=batched)(source)
    if "bound" in wanted:
        flow = dataclasses.replace(flow, bound=_bound(source.cell, flow.log_norms))
    return flow, kept, ys


@functools.partial(compiled, static=("batched",))
def _weight_shares(source: Given, kept: _Kept, gradients: Any, *, batched: bool) -> jax.Array:
    def shares(source: Given, kept: _Kept, gradients: Any) -> jax.Array:
        record = Record(source)
        record.trajectory, record.jacobians = kept
        return weight_log_norms_of(record, gradients)

    return _mapped(shares, source, batched=batched)(source, kept, gradients)


def _mapped(function: Callable[..., Any], source: Given, *, batched: bool) -> Callable[..., Any]:
    """A function of a sequence (and of what belongs to it), for a batch of them."""
    if not batched:
        return function
    # One cell for all sequences; a `Linearization` of a batch has one for each.
    if isinstance(source, Linearization):
        return jax.vmap(function)

    def of_batch(source: Problem, *rest: Any) -> Any:
        def one(inputs: Any, carry: Carry | None, *rest: Any) -> Any:
            return function(Problem(source.cell, inputs, carry), *rest)

        return jax.vmap(one)(source.inputs, source.carry, *rest)

    return of_batch


# How each measure is read off a record; k is the number of exponents.
_READINGS: dict[str, Callable[[Record, int], Any]] = {
    "attribution": lambda record, k: attribution_of(record),
    "exponents": lambda record, k: exponents_of(record, k=k),
    "log_singular_values": lambda record, k: log_singular_values_of(record),
    "change_log_norms": lambda record, k: log_frobenius(record.states[1:] - record.states[:-1], 1),
}
# And those that are of the cell, or of a loss.
MEASURES = (*_READINGS, "bound", "weight_log_norms")


def _bound(cell: Any, log_norms: jax.Array) -> jax.Array | None:
    """The bound on the product, times the largest factor that it starts from."""
    if not makes_claim(cell, "jacobian_bound"):
        return None
    try:
        bound = jacobian_log_bound(cell, log_norms.shape[-1]).astype(log_norms.dtype)
    except ValueError:  # A simple cell whose activation states no slope range.
        return None
    largest = jnp.max(jnp.diagonal(log_norms, 0, -2, -1))
    return bound + largest
