"""Gradient flow in words."""

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

# ln of the smallest normal float32: below it accelerators and XLA's CPU code read 0.
FLOAT32_FLOOR = math.log(float(np.finfo(np.float32).tiny))

_NAME_WIDTH = 14

_MEANING = {
    "vanishing": "later outputs hardly depend on early steps; what must be remembered longer "
    "than the horizon will be hard to learn",
    "sustained": "gradients change by less than a factor of 100 over the whole sequence",
    "exploding": "gradients grow with distance; training needs clipping or a smaller recurrent "
    "gain",
    "not finite": "the logs are NaN or infinite from the step below on; nothing was repaired",
}


def summarize(flow: Any) -> str:
    """The regime of a `GradientFlow`, how far it reaches, and what float32 would have seen."""
    what = "∂y_t/∂x_s" if flow.wrt == "input" else "∂carry_t/∂carry_s"
    lines = [f"Gradient flow over T = {flow.steps} steps, ‖{what}‖ by lag t − s"]
    for name, text in _findings(flow):
        indent = " " * (_NAME_WIDTH + 2)
        wrapped = textwrap.wrap(text, 80 - len(indent))
        lines += [f"  {name:<{_NAME_WIDTH}}{wrapped[0]}", *(indent + line for line in wrapped[1:])]
    return "\n".join(lines)


def _findings(flow: Any) -> Iterator[tuple[str, str]]:
    """What there is to say, as (name, sentence)."""
    curve = np.asarray(flow.by_lag())
    regime, last = flow.regime, flow.steps - 1
    yield "regime", f"{regime}: {_MEANING[regime]}"
    if regime == "not finite":
        table = np.asarray(flow.log_norms)
        bad = np.isnan(table) | np.isposinf(table)
        yield "not finite", f"first at step t = {int(np.argwhere(bad)[:, -2].min())}"
        return
    horizon = int(flow.horizon())
    reach = f"at least {horizon}" if horizon == last else f"{horizon}"
    yield "horizon", f"{reach} steps until the norm is 1 % of that at lag 0"
    if last > 0:
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
    for name, values in (flow.gates or {}).items():
        gate = np.asarray(values)
        low, high = np.quantile(gate, [0.05, 0.95])
        yield f"{name} gate", f"mean {gate.mean():.3f}, 5–95 % {low:.3f}–{high:.3f}"
    if flow.weight_log_norms is not None and last > 0:
        yield "learning", _share_line(np.asarray(flow.weight_log_norms))


def _share_line(log_norms: np.ndarray) -> str:
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
