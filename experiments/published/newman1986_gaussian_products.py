"""Newman (1986): Lyapunov exponents of products of independent Gaussian matrices.

Entries N(0, s²), N × N: λ_i = ½ [ln 2s² + ψ((N − i + 1)/2)], and one step's growth of the i-th
direction has the variance ¼ ψ₁((N − i + 1)/2).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import digamma, polygamma

import rnn_jax as rj
from published.pictures import against, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting.axes import finish


@dataclass(frozen=True)
class Protocol:
    """Matrices of `size`, scaled so that s² = 1/size."""

    size: int = 6
    steps: int = 100_000
    seed: int = 0


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Exponents and variances beside their closed forms, in standard errors."""
    size = protocol.size
    with jax.enable_x64(True):
        spectrum = rj.lyapunov_exponents(
            multiply, matrices(protocol), jnp.zeros(size), warmup=protocol.steps // 100
        )
    growth = np.asarray(spectrum.growth)
    shapes = (size - np.arange(size)) / 2
    exponents = (math.log(2 / size) + digamma(shapes)) / 2
    variances = polygamma(1, shapes) / 4
    # Steps are independent: the factors are, and their law does not depend on directions.
    count = len(growth)
    errors = np.sqrt(variances / count)
    measured = growth.var(axis=0, ddof=1)
    fourth = np.mean((growth - growth.mean(axis=0)) ** 4, axis=0)
    spread = np.sqrt((fourth - measured**2) / count)
    means = growth.mean(axis=0)
    findings = [
        Finding(f"λ_{i + 1}", exponents[i], means[i], tolerance=4 * errors[i], unit="nats a step")
        for i in range(size)
    ]
    findings += [
        Finding(f"variance of step {i + 1}", variances[i], measured[i], tolerance=4 * spread[i])
        for i in range(size)
    ]
    curves = {"known": exponents.tolist(), "measured": means.tolist()}
    return Outcome(tuple(map(plain_floats, findings)), curves=curves)


def multiply(state: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A step that multiplies by the matrix that is its input."""
    size = state.shape[0]
    state = matrix.reshape(size, size) @ state
    return state, state


def matrices(protocol: Protocol) -> jax.Array:
    """A matrix for each step, flattened, (T, N²)."""
    shape = (protocol.steps, protocol.size**2)
    return jax.random.normal(jax.random.key(protocol.seed), shape) / math.sqrt(protocol.size)


def plain_floats(finding: Finding) -> Finding:
    """The same with Python's floats, as JSON has them."""
    return Finding(
        finding.quantity,
        float(finding.published),
        float(finding.measured),
        tolerance=float(finding.tolerance),
        unit=finding.unit,
    )


def draw(outcome: Outcome) -> Figure:
    """The spectrum, closed form and measurement."""
    figure, ax = new_axes()
    numbers = list(range(1, len(outcome.curves["known"]) + 1))
    against(ax, numbers, outcome.curves["known"], outcome.curves["measured"])
    ax.set_xlabel("i, from the largest exponent on")
    ax.set_ylabel("λ_i  (nats a step)")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="newman1986_gaussian_products",
    source="Newman, 1986",
    says="Products of Gaussian matrices have exponents and variances in closed form.",
    protocol=Protocol(),
    quick=Protocol(size=2, steps=400),
    run=run,
    draw=draw,
    minutes=0.1,
)
