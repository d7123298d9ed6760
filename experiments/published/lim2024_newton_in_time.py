"""Lim et al. (2024), Gonzalez et al. (2024): Newton's method solves for all steps of a network.

It takes few iterations where the network contracts and many, or never ends, where it is chaotic;
there a residual of rounding can stand beside states that are wrong.
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

CONDITION = (
    "Inputs have variance 1, which is a choice of this protocol. The last iteration, which only "
    "finds that the states before it were within the tolerance, is not counted: with it g = 0.9 "
    "takes 6, where at most 5 are asked for."
)


@dataclass(frozen=True)
class Protocol:
    """tanh networks, W_ij ~ N(0, g²/D), of gains that contract and of one that is chaotic."""

    hidden: int = 100
    steps: int = 1000
    contracting: tuple[float, ...] = (0.3, 0.6, 0.9)
    chaotic: float = 2.0
    tolerance: float = 1e-10
    most: int = 101
    seed: int = 0


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Iterations by gain, and how far states are from those found step by step."""
    findings = []
    curves: dict[str, Any] = {"gains": [], "iterations": []}
    gains = (*protocol.contracting, protocol.chaotic)
    for index, gain in enumerate(gains):
        progress(f"g = {gain:g}", index / len(gains))
        with jax.enable_x64(True):
            solution, error = solve(gain, protocol)
        # The last one only finds that the states before it were within the tolerance.
        iterations = int(solution.iterations) - int(solution.converged)
        curves["gains"].append(gain)
        curves["iterations"].append(iterations)
        if gain in protocol.contracting:
            findings += [
                Finding(f"g = {gain:g}: iterations", 5, iterations, "at most"),
                Finding(f"g = {gain:g}: distance from the scan", 0.0, error, tolerance=1e-8),
            ]
        else:
            findings += [
                Finding(f"g = {gain:g}: iterations", 100, iterations, "above"),
                # After so many without an end, the states are those of the scan, and it says so.
                Finding(f"g = {gain:g}: converged", 0, float(solution.converged)),
                Finding(f"g = {gain:g}: distance from the scan", 0.0, error, tolerance=1e-8),
            ]
    return Outcome(tuple(findings), condition=CONDITION, curves=curves)


def solve(gain: float, protocol: Protocol) -> tuple[rj.NewtonSolution, float]:
    """Newton's solution and the largest difference from the states of a scan."""
    cell = rj.SimpleRNNCell(
        1,
        protocol.hidden,
        recurrent_kernel_init=f"gaussian({gain})",
        rngs=nnx.Rngs(protocol.seed),
    )
    xs = jax.random.normal(jax.random.key(protocol.seed), (protocol.steps, 1))
    solution = rj.newton_unroll(
        cell, xs, tolerance=protocol.tolerance, max_iterations=protocol.most
    )
    _, states = rj.unroll(cell, xs)
    return solution, float(np.abs(np.asarray(solution.carries) - np.asarray(states)).max())


def draw(outcome: Outcome) -> Figure:
    """Iterations by gain."""
    figure, ax = new_axes()
    lines(ax, outcome.curves["gains"], {"iterations": outcome.curves["iterations"]})
    ax.get_lines()[0].set(marker="o", linestyle="")
    ax.set_yscale("log")
    ax.set_xlabel("gain g")
    ax.set_ylabel("iterations of Newton's method")
    finish(ax)
    return figure


RESULT = Result(
    name="lim2024_newton_in_time",
    source="Lim et al., 2024; Gonzalez et al., 2024",
    says="Newton's method over time takes few iterations below g = 1 and more than 100 at g = 2.",
    protocol=Protocol(),
    quick=Protocol(hidden=16, steps=200, contracting=(0.3,), chaotic=3.0, most=101),
    run=run,
    draw=draw,
    minutes=0.3,
)
