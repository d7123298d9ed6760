"""Pascanu, Mikolov and Bengio (2013): where σ₁(W) < 1/γ gradients vanish, whatever the inputs.

‖∂h_t/∂h_{t−k}‖₂ ≤ (γ σ₁(W))^k, where γ bounds the activation's slope: 1 for tanh, ¼ for sigmoid.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish

SLOPES = {"tanh": 1.0, "sigmoid": 0.25}


@dataclass(frozen=True)
class Protocol:
    """Networks whose largest singular value times the largest slope is a given share of 1."""

    hidden: int = 64
    steps: int = 200
    shares: tuple[float, ...] = (0.5, 0.9, 0.99)
    seeds: int = 3


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The largest product of every lag, beside the bound."""
    findings, curves = [], {}
    cases = [(name, share) for name in SLOPES for share in protocol.shares]
    for index, (name, share) in enumerate(cases):
        progress(f"{name}, γσ₁ = {share:g}", index / len(cases))
        excess, rate, largest = measure(name, share, protocol)
        setting = f"{name}, γσ₁ = {share:g}"
        curves[setting] = largest.tolist()
        findings += [
            Finding(
                f"{setting}: ln‖product‖ above the bound", 0.0, excess, "at most", 1e-9, unit="nats"
            ),
            Finding(f"{setting}: rate", float(np.log(share)), rate, "at most", unit="nats a step"),
        ]
    return Outcome(tuple(findings), curves=curves)


def measure(name: str, share: float, protocol: Protocol) -> tuple[float, float, np.ndarray]:
    """By how much the bound is broken, the rate of decay, and the largest ln norm by lag."""
    lags = np.arange(protocol.steps)
    with jax.enable_x64(True):
        largest = np.max(
            [
                by_lag(scaled(name, share, seed, protocol), seed, protocol)
                for seed in range(protocol.seeds)
            ],
            axis=0,
        )
    excess = float(np.max(largest - lags * np.log(share)))
    return excess, float(largest[-1] / lags[-1]), largest


def scaled(name: str, share: float, seed: int, protocol: Protocol) -> rj.SimpleRNNCell:
    """A cell with γ σ₁(W_H) = share."""
    cell = rj.SimpleRNNCell(
        2, protocol.hidden, activation=name, recurrent_kernel_init="gaussian", rngs=nnx.Rngs(seed)
    )
    kernel = np.asarray(cell.recurrent_kernel[...])
    cell.recurrent_kernel[...] = kernel * (share / SLOPES[name] / np.linalg.norm(kernel, 2))
    return cell


def by_lag(cell: Any, seed: int, protocol: Protocol) -> np.ndarray:
    """The largest ln‖∂h_t/∂h_{t−k}‖₂ over t, by lag k."""
    xs = jax.random.normal(jax.random.key(seed), (protocol.steps, 2))
    norms = rj.jacobian_log_norms(cell, xs, wrt="state", norm="spectral")
    return np.asarray(rj.by_lag(norms, "max"))


def draw(outcome: Outcome) -> Figure:
    """ln norms by lag, and the bounds."""
    figure, ax = new_axes()
    lags = np.arange(len(next(iter(outcome.curves.values()))))
    lines(ax, lags, outcome.curves)
    for color, setting in zip(ax.get_lines(), list(outcome.curves), strict=False):
        share = float(setting.rpartition("=")[2])
        ax.plot(lags, lags * np.log(share), ":", color=color.get_color(), linewidth=1)
    ax.set_xlabel("lag k  (steps)")
    ax.set_ylabel("largest ln‖∂h_t/∂h_{t−k}‖  (nats)")
    ax.legend(title="dotted: the bound", loc="lower left")
    finish(ax)
    return figure


RESULT = Result(
    name="pascanu2013_bounds",
    source="Pascanu, Mikolov and Bengio, 2013",
    says="Gradients vanish for certain where σ₁(W) < 1/γ, with γ = 1 for tanh and ¼ for sigmoid.",
    protocol=Protocol(),
    quick=Protocol(hidden=8, steps=20, shares=(0.9,), seeds=1),
    run=run,
    draw=draw,
    minutes=1.4,
)
