"""Zucchet and Orvieto (2024): the longer a linear unit remembers, the sharper its loss.

h' = λ h + x, with x a stationary autoregression of coefficient ρ and variance 1. With q = λρ

E h² = (1 + q) / ((1 − q)(1 − λ²))
E (dh/dλ)² = (1 + λ²)/(1 − λ²)³ · (1 + q)/(1 − q) + 2/(1 − λ²)² · q/(1 − q)²
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
    """Pairs of λ and ρ; time averages over `batch` sequences after their first tenth."""

    pairs: tuple[tuple[float, float], ...] = ((0.9, 0.5), (0.9, 0.0), (0.5, 0.5), (0.95, 0.0))
    steps: int = 20_000
    batch: int = 128
    seed: int = 0


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Both second moments beside their closed forms."""
    findings = []
    curves: dict[str, list[Any]] = {"known": [], "measured": [], "labels": []}
    for index, (decay, memory) in enumerate(protocol.pairs):
        progress(f"λ = {decay:g}, ρ = {memory:g}", index / len(protocol.pairs))
        known = closed_form(decay, memory)
        with jax.enable_x64(True):
            measured = moments(decay, memory, protocol)
        for quantity, expected, value in zip(("E h²", "E (dh/dλ)²"), known, measured, strict=True):
            label = f"λ = {decay:g}, ρ = {memory:g}: {quantity}"
            findings.append(Finding(label, expected, value, tolerance=0.03, relative=True))
        curves["known"].append(known[1])
        curves["measured"].append(measured[1])
        curves["labels"].append(f"λ = {decay:g}\nρ = {memory:g}")
    return Outcome(tuple(findings), curves=curves)


def closed_form(decay: float, memory: float) -> tuple[float, float]:
    """E h² and E (dh/dλ)²."""
    q, rest = decay * memory, 1 - decay**2
    square = (1 + q) / ((1 - q) * rest)
    slope = (1 + decay**2) / rest**3 * (1 + q) / (1 - q) + 2 / rest**2 * q / (1 - q) ** 2
    return square, slope


def moments(decay: float, memory: float, protocol: Protocol) -> tuple[float, float]:
    """Time averages of h² and (dh/dλ)² of a linear unit that is run on noise with memory."""
    cell = unit(decay)
    noise = jax.random.normal(jax.random.key(protocol.seed), (protocol.batch, protocol.steps, 1))
    _, xs = rj.unroll(unit(memory), noise * np.sqrt(1 - memory**2))
    graph, weights = nnx.split(cell)

    def states(weights: nnx.State) -> jax.Array:
        return rj.unroll(nnx.merge(graph, weights), xs)[1]

    along = jax.tree.map(jnp.zeros_like, weights)
    along["recurrent_kernel"] = jax.tree.map(jnp.ones_like, weights["recurrent_kernel"])
    h, slope = jax.jvp(states, (weights,), (along,))
    settled = slice(protocol.steps // 10, None)
    return float(jnp.mean(h[:, settled] ** 2)), float(jnp.mean(slope[:, settled] ** 2))


def unit(decay: float) -> rj.SimpleRNNCell:
    """h' = λ h + x."""
    return rj.SimpleRNNCell(
        1,
        1,
        activation="identity",
        kernel_init="ones",
        recurrent_kernel_init=f"constant({decay})",
        use_bias=False,
        rngs=nnx.Rngs(0),
    )


def draw(outcome: Outcome) -> Figure:
    """E (dh/dλ)², closed form and measurement."""
    figure, ax = new_axes()
    places = list(range(len(outcome.curves["labels"])))
    against(ax, places, outcome.curves["known"], outcome.curves["measured"])
    ax.get_lines()[0].set(linestyle="", marker="_", markersize=22)
    ax.set_xticks(places, outcome.curves["labels"])
    ax.set_yscale("log")
    ax.set_ylabel("E (dh/dλ)²")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="zucchet2024_curse_of_memory",
    source="Zucchet and Orvieto, 2024",
    says="The gradient by a linear unit's decay grows far faster with memory than its state.",
    protocol=Protocol(),
    quick=Protocol(pairs=((0.5, 0.5),), steps=200, batch=8),
    run=run,
    draw=draw,
    minutes=0.1,
)
