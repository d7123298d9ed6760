"""Ganguli, Huh and Sompolinsky (2008): how much a linear network's state knows of its past inputs.

h_t = W h_{t−1} + v x_t + noise of variance 1. The Fisher information of h_T about x_{T−k} is
J(k) = ∂h_T/∂x_{T−k}ᵀ C⁻¹ ∂h_T/∂x_{T−k}, with C = Σ_k (∂h_T/∂h_{T−k})(∂h_T/∂h_{T−k})ᵀ, the
covariance of the noise. A delay line, whose units hand on α times their state, has a Σ_k J(k) that
grows with its length where α ≥ 1, and stays finite below.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish

PUBLISHED = {0.95: 3.03, 1.0: 5.19, 1.05: 12.1}


@dataclass(frozen=True)
class Protocol:
    """The length of the delay line and its factors."""

    hidden: int = 100
    factors: tuple[float, ...] = (0.95, 1.0, 1.05)


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The memory of every delay line, and its sum."""
    findings, curves = [], {}
    for index, factor in enumerate(protocol.factors):
        progress(f"α = {factor:g}", index / len(protocol.factors))
        with jax.enable_x64(True):
            curve = memory(factor, protocol.hidden)
        curves[f"α = {factor:g}"] = curve.tolist()
        findings.append(
            Finding(
                f"α = {factor:g}: Σ J(k)",
                PUBLISHED[factor],
                float(curve.sum()),
                tolerance=0.005 * 10 ** np.floor(np.log10(PUBLISHED[factor])),
            )
        )
    return Outcome(tuple(findings), curves=curves)


def memory(factor: float, hidden: int) -> np.ndarray:
    """J(k) for k from 0 on, (H,): no input or noise is left after H steps."""
    cell = delay_line(factor, hidden)
    lin = rj.linearize(cell, jnp.zeros((hidden, 1)))
    products = [np.eye(hidden)]
    for jacobian in np.asarray(lin.state_jacobians)[:0:-1]:
        products.append(products[-1] @ jacobian)
    noise = sum(product @ product.T for product in products)
    entry = np.asarray(lin.input_jacobians)[0][:, 0]
    responses = np.stack([product @ entry for product in products])
    return np.sum(responses * np.linalg.solve(noise, responses.T).T, axis=1)


def delay_line(factor: float, hidden: int) -> rj.SimpleRNNCell:
    """A linear cell whose unit i + 1 takes α times unit i, the first one the input."""
    cell = rj.SimpleRNNCell(1, hidden, activation="identity", use_bias=False, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = factor * jnp.eye(hidden, k=1)
    cell.kernel[...] = jnp.eye(1, hidden)
    return cell


def draw(outcome: Outcome) -> Figure:
    """J(k) by delay."""
    figure, ax = new_axes()
    lines(ax, range(len(next(iter(outcome.curves.values())))), outcome.curves)
    ax.set_yscale("log")
    ax.set_xlabel("delay k  (steps)")
    ax.set_ylabel("Fisher memory J(k)")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="ganguli2008_fisher_memory",
    source="Ganguli, Huh and Sompolinsky, 2008",
    says="A delay line of 100 units remembers more, in all, the more its units amplify.",
    protocol=Protocol(),
    quick=Protocol(hidden=100, factors=(1.0,)),
    run=run,
    draw=draw,
    minutes=0.1,
)
