"""Penson and Życzkowski (2011), Alexeev et al. (2010): singular values of a random matrix's powers.

W_ij ~ N(0, 1/N), as the state's Jacobian over T steps of a linear network. As N grows the squared
singular values of W^T have the Fuss–Catalan law: mean 1, second moment T + 1, and the largest is
(T + 1)^(T+1) / T^T. So the norm says ever less of what a typical direction keeps.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.pictures import against, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish


@dataclass(frozen=True)
class Protocol:
    """Steps, and over how many matrices of which size the moments are averaged."""

    hidden: int = 2048
    steps: int = 8
    draws: int = 2


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Moments and the largest value for every number of steps."""
    squares = []
    for seed in range(protocol.draws):
        progress(f"matrix {seed + 1} of {protocol.draws}", seed / protocol.draws)
        with jax.enable_x64(True):
            squares.append(squared_singular_values(seed, protocol))
    found = np.asarray(squares)  # (draws, T, N)
    mean, second, largest = found.mean((0, 2)), (found**2).mean((0, 2)), found.max(2).mean(0)
    steps = np.arange(1, protocol.steps + 1)
    known = (steps + 1.0) ** (steps + 1) / steps.astype(float) ** steps
    findings = []
    for at, count in enumerate(steps):
        for quantity, published, measured in (
            ("mean σ²", 1.0, mean[at]),
            ("second moment / mean²", count + 1.0, second[at] / mean[at] ** 2),
            ("largest σ²", known[at], largest[at]),
        ):
            label = f"T = {count}: {quantity}"
            numbers = float(published), float(measured)
            findings.append(Finding(label, *numbers, tolerance=0.05, relative=True))
    curves: dict[str, Any] = {"known": known.tolist(), "measured": largest.tolist()}
    condition = (
        f"N = {protocol.hidden} and {protocol.draws} matrices. The law is that of N → ∞: four "
        "matrices of N = 1024 missed 5 % at the largest value from T = 6 on."
    )
    return Outcome(tuple(findings), condition=condition, curves=curves)


def squared_singular_values(seed: int, protocol: Protocol) -> np.ndarray:
    """σ² of ∂h_T/∂h_0 for T = 1 … steps, (T, N)."""
    cell = rj.SimpleRNNCell(
        1,
        protocol.hidden,
        activation="identity",
        recurrent_kernel_init="gaussian",
        rngs=nnx.Rngs(seed),
    )
    jacobian = np.asarray(rj.linearize(cell, jnp.zeros((1, 1))).state_jacobians[0])
    product, found = np.eye(protocol.hidden), []
    for _ in range(protocol.steps):
        product = jacobian @ product
        found.append(np.linalg.svd(product, compute_uv=False) ** 2)
    return np.asarray(found)


def draw(outcome: Outcome) -> Figure:
    """The largest squared singular value by the number of steps."""
    figure, ax = new_axes()
    steps = list(range(1, len(outcome.curves["known"]) + 1))
    against(ax, steps, outcome.curves["known"], outcome.curves["measured"])
    ax.set_xlabel("steps T")
    ax.set_ylabel("largest σ² of W^T")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="penson2011_powers",
    source="Penson and Życzkowski, 2011; Alexeev et al., 2010",
    says="Squared singular values of powers of a Gaussian matrix follow the Fuss–Catalan law.",
    protocol=Protocol(),
    quick=Protocol(hidden=128, steps=3, draws=2),
    run=run,
    draw=draw,
    minutes=0.5,
)
