"""What a network's gradients do over a sequence, in one word, and what is usually tried."""

import math
from typing import Any

import numpy as np

# A change by this factor over the sequence is what separates sustained from the other regimes.
_FACTOR = 100.0

MEANING = {
    "vanishing": "later outputs hardly depend on early steps; what must be remembered longer "
    "than the horizon will be hard to learn",
    "sustained": "gradients change by less than a factor of 100 over the whole sequence",
    "exploding": "gradients grow with distance, and the states with them or away from an unstable "
    "point; training will be unstable",
    "chaotic": "gradients grow with distance while the states stay bounded: nearby trajectories "
    "separate, so the loss is rugged in the weights and far steps cannot be learned from",
    "undetermined": "a single step has no earlier one to compare with; pass a longer sequence",
    "not finite": "the logs are NaN or infinite from the step below on; nothing was repaired",
}


def classify(curve: np.ndarray, change_log_norms: Any | None) -> str:
    """One of the keys of `MEANING`.

    Args:
      curve: mean log-norm by lag, (T,).
      change_log_norms: ln‖carry_t − carry_{t−1}‖, (..., T); None if unknown. States that run away,
        or leave an unstable point, change faster and faster; in chaos they keep their pace.
    """
    if np.isnan(curve).any() or np.isposinf(curve).any():
        return "not finite"
    if len(curve) == 1:
        return "undetermined"
    if not np.isfinite(curve).any():
        return "vanishing"
    # The last lag has a single pair of steps; the last tenth says it with less noise.
    tail = curve[-max(1, len(curve) // 10) :]
    growth = float(np.mean(tail)) - float(curve[np.isfinite(curve).argmax()])
    if growth <= -math.log(_FACTOR):
        return "vanishing"
    if growth < math.log(_FACTOR):
        return "sustained"
    return "chaotic" if _keeps_its_pace(change_log_norms, growth) else "exploding"


def _keeps_its_pace(change_log_norms: Any | None, growth: float) -> bool:
    """Whether the states move on and do not speed up as the gradients grow."""
    if change_log_norms is None:
        return False
    changes = np.asarray(change_log_norms, np.float64)
    changes = changes.reshape(-1, changes.shape[-1])
    part = max(1, changes.shape[-1] // 10)
    early, late = changes[:, :part].mean(), changes[:, -part:].mean()
    return bool(np.isfinite([early, late]).all() and late - early < growth / 2)


def advice(flow: Any) -> str | None:
    """What is usually tried against the regime that a `GradientFlow` is in; None if all is well."""
    regime, part = flow.regime, flow.attribution
    if regime in ("exploding", "chaotic"):
        return (
            "gradient clipping, a smaller recurrent gain, an orthogonal recurrent matrix, a gated "
            "cell; or rj.flossing_penalty, which pulls the leading exponents to 0"
        )
    if regime != "vanishing":
        return None
    if part is not None and any(name.endswith("forget") for name in part.gates):
        return (
            "a larger forget bias (about ln of the steps to be bridged: Tallec and Ollivier, "
            "2018), or rj.flossing_penalty before training"
        )
    if part is not None and part.gates:
        return "a bias that holds the gates on the memory path open, or rj.flossing_penalty"
    if part is not None and part.slopes is not None:
        return (
            "an orthogonal or identity recurrent matrix, activations of slope 1, smaller inputs "
            "where units saturate, a gated cell; or rj.flossing_penalty before training"
        )
    return "a gated cell, skip connections through time, or rj.flossing_penalty before training"
