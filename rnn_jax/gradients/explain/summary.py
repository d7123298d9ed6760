"""Gradient flow in words."""

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from rnn_jax.gradients.explain.regime import MEANING, advice

# ln of the smallest normal float32: below it accelerators and XLA's CPU code read 0.
FLOAT32_FLOOR = math.log(float(np.finfo(np.float32).tiny))

_NAME_WIDTH = 14

Finding = tuple[str, str]


def summarize(flow: Any) -> str:
    """The regime of a `GradientFlow`, how far it reaches and why, and what is usually tried."""
    what = "∂y_t/∂x_s" if flow.wrt == "input" else "∂carry_t/∂carry_s"
    lines = [f"Gradient flow over T = {flow.steps} steps, ‖{what}‖ by lag t − s"]
    for name, text in _findings(flow):
        indent = " " * (_NAME_WIDTH + 2)
        wrapped = textwrap.wrap(text, 80 - len(indent))
        lines += [f"  {name:<{_NAME_WIDTH}}{wrapped[0]}", *(indent + line for line in wrapped[1:])]
    return "\n".join(lines)


def _findings(flow: Any) -> Iterator[Finding]:
    """What there is to say, as (name, sentence)."""
    regime = flow.regime
    yield "regime", f"{regime}: {MEANING[regime]}"
    if regime == "not finite":
        table = np.asarray(flow.log_norms)
        bad = np.isnan(table) | np.isposinf(table)
        yield "not finite", f"first at step t = {int(np.argwhere(bad)[:, -2].min())}"
        return
    yield from _reach(flow)
    if flow.exponents is not None:
        yield "exponents", _exponents(flow.exponents)
    if flow.log_singular_values is not None:
        yield "directions", _directions(np.asarray(flow.log_singular_values))
    if flow.attribution is not None:
        yield from _why(flow.attribution)
    if flow.weight_log_norms is not None and flow.steps > 1:
        yield "learning", _share_line(np.asarray(flow.weight_log_norms))
    for measure, reason in flow.omitted.items():
        yield "left out", f"{measure.replace('_', ' ')}: {reason}"
    tried = advice(flow)
    if tried:
        yield "usually tried", tried


def _reach(flow: Any) -> Iterator[Finding]:
    """How far gradients reach, and what float32 would have seen of it."""
    curve, last = np.asarray(flow.by_lag()), flow.steps - 1
    if last == 0:
        yield "ln norm", f"{curve[0]:.2f} at lag 0, the only one"
        return
    horizon = int(flow.horizon())
    reach = f"at least {horizon}" if horizon == last else f"{horizon}"
    yield "horizon", f"{reach} steps until the norm is 1 % of that at lag 0"
    rate = float(flow.rate)
    yield "rate", f"{rate:+.4f} nats a step (a factor of {math.exp(rate):.4g})"
    yield "ln norm", f"{curve[0]:.2f} at lag 0, {curve[-1]:.2f} at lag {last}"
    zero = np.isneginf(curve)
    if zero.any():
        yield "exactly 0", f"from lag {int(zero.argmax())} on, on at least one path (dead units)"
    under = (curve < FLOAT32_FLOOR) & ~zero
    if under.any():
        lag = int(under.argmax())
        yield (
            "float32",
            f"automatic differentiation would read 0 from about lag {lag} on; the logs here are "
            "still exact",
        )


def _exponents(spectrum: Any) -> str:
    """The leading exponent with its error, and how many are positive."""
    exponents = np.asarray(spectrum.exponents)
    leading, count = float(np.mean(exponents[..., 0])), exponents.shape[-1]
    error = float(np.mean(np.asarray(spectrum.standard_errors)[..., 0]))
    margin = f" ± {error:.4f}" if math.isfinite(error) else ""
    positive = float(np.mean((exponents > 0).sum(axis=-1)))
    many = f"{positive:.0f} of {count} positive"
    if count < spectrum.state_size:
        many = f"{positive:.0f} of the {count} leading ones positive"
    return f"λ₁ = {leading:+.4f}{margin} nats a step (all carries); {many}"


def _directions(logs: np.ndarray) -> str:
    """How many directions survive the whole sequence."""
    size = logs.shape[-1]
    kept = float(np.mean((logs >= math.log(0.01)).sum(axis=-1)))
    zero = float(np.mean(np.isneginf(logs).sum(axis=-1)))
    finite = logs[np.isfinite(logs)]
    spread = f"; ln σ from {finite.max():.1f} to {finite.min():.1f}" if finite.size else ""
    lost = f", {zero:.0f} exactly 0" if zero else ""
    return f"{kept:.0f} of {size} keep 1 % from the first carry to the last{spread}{lost}"


def _why(part: Any) -> Iterator[Finding]:
    """What the one-step Jacobians are made of."""
    if part.slope_log is not None:
        slope, matrix = float(np.mean(part.slope_log)), float(np.mean(part.recurrent_log))
        text = f"ln‖A_t‖ = {matrix:+.2f} from the recurrent matrix {slope:+.2f} from the slopes"
        dead = float(np.mean(part.dead_share()))
        if part.slope_bound is not None:
            saturated = float(np.mean(part.saturated_share()))
            text += f"; {100 * saturated:.0f} % of the units saturated"
        yield "a step", f"{text}, {100 * dead:.0f} % dead"
    for name, values in part.gates.items():
        gate = np.asarray(values)
        low, high = np.quantile(gate, [0.05, 0.95])
        yield f"{name} gate", f"mean {gate.mean():.3f}, 5–95 % {low:.3f}–{high:.3f}"
    for name, path in part.paths.items():
        own, rest = (
            float(np.mean(np.asarray(logs)[..., -1]))
            for logs in (path.path_log_norms, path.rest_log_norms)
        )
        yield (
            f"path of {name}",
            f"∂{name}_T/∂{name}_0 has ln norm {own:.1f} by its own gate, {rest:.1f} by all other "
            "ways",
        )


def _share_line(log_norms: np.ndarray) -> str:
    if np.isnan(log_norms).any() or np.isposinf(log_norms).any():
        return "the weight gradient is not finite: the states or the loss have overflowed"
    half = log_norms.shape[-1] // 2
    total = np.logaddexp.reduce(log_norms, axis=-1)
    if not (total > -np.inf).all():
        return "the weight gradient is exactly 0 on at least one sequence"
    early = np.logaddexp.reduce(log_norms[..., :half], axis=-1) if half else -np.inf
    log_share = float(np.mean(early - total))
    return (
        "the first half of the steps has a share of e^"
        f"{log_share:.1f} in the weight gradient (sum of norms)"
    )
