"""Gradient flow in words."""

import math
from typing import Any

import numpy as np

# ln of the smallest normal float32: below it accelerators and XLA's CPU code read 0.
FLOAT32_FLOOR = math.log(float(np.finfo(np.float32).tiny))

_MEANING = {
    "vanishing": "later outputs hardly depend on early steps; what must be remembered longer "
    "than the horizon will be hard to learn",
    "sustained": "gradients change by less than a factor of 100 over the whole sequence",
    "exploding": "gradients grow with distance; training needs clipping or a smaller recurrent "
    "gain",
    "not finite": "the numbers below cannot be trusted from that step on",
}


def summarize(flow: Any) -> str:
    """The regime of a `GradientFlow`, how far it reaches, and what float32 would have seen."""
    curve = np.asarray(flow.by_lag())
    regime, last = flow.regime, flow.steps - 1
    what = "∂y_t/∂x_s" if flow.wrt == "input" else "∂carry_t/∂carry_s"
    lines = [f"Gradient flow over T = {flow.steps} steps, ‖{what}‖ by lag t − s"]
    lines.append(f"  regime        {regime}: {_MEANING[regime]}")
    if regime == "not finite":
        table = np.asarray(flow.log_norms)
        bad = np.isnan(table) | np.isposinf(table)
        lines.append(f"  not finite    first at step t = {int(np.argwhere(bad)[0][-2])}")
        return "\n".join(lines)
    horizon = int(flow.horizon())
    reach = f"at least {horizon}" if horizon == last else f"{horizon}"
    lines.append(f"  horizon       {reach} steps until the norm is 1 % of that at lag 0")
    if last > 0:
        rate = float(flow.rate)
        lines.append(f"  rate          {rate:+.4f} nats a step (a factor of {math.exp(rate):.4g})")
    lines.append(f"  ln norm       {curve[0]:.2f} at lag 0, {curve[-1]:.2f} at lag {last}")
    zero = np.isneginf(curve)
    if zero.any():
        lines.append(f"  exactly 0     from lag {int(zero.argmax())} on some paths (dead units)")
    under = curve < FLOAT32_FLOOR
    if under.any():
        lines.append(
            f"  float32       automatic differentiation would read 0 from lag "
            f"{int(under.argmax())} on; the logs above are still exact"
        )
    for name, values in (flow.gates or {}).items():
        gate = np.asarray(values)
        lines.append(
            f"  {name + ' gate':<13} mean {gate.mean():.3f}, "
            f"5–95 % {np.quantile(gate, 0.05):.3f}–{np.quantile(gate, 0.95):.3f}"
        )
    if flow.weight_log_norms is not None:
        lines.append(f"  learning      {_share_line(np.asarray(flow.weight_log_norms))}")
    return "\n".join(lines)


def _share_line(log_norms: np.ndarray) -> str:
    half = log_norms.shape[-1] // 2
    total = np.logaddexp.reduce(log_norms, axis=-1)
    early = np.logaddexp.reduce(log_norms[..., :half], axis=-1) if half else -np.inf
    log_share = float(np.mean(early - total))
    return (
        "the first half of the steps has a share of e^"
        f"{log_share:.1f} in the weight gradient (sum of norms)"
    )
