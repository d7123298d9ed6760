"""Jaeger (2001): how many past inputs a reservoir of N units can be read out of, at most N.

MC = Σ_k r²_k over k ≥ 0, r²_k being the share of the variance of x_{t−k} that a linear readout of
the state gives. A readout of N weights fits N/T of any target by chance, which is taken off.
"""

import itertools
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

CONDITION = (
    "Judged is that a linear reservoir comes near N and that large inputs cost memory. Capacities "
    "of 39.4 and 9.3 for tanh with inputs times 0.1 and 1, from another computation, did not come "
    "out: uniform input weights gave 48.0 and 12.3, other draws 31 to 48 and 5 to 12. They depend "
    "on how input weights are drawn, which is not known, and are no criteria here; the Gaussian "
    "ones of this run give {}."
)


@dataclass(frozen=True)
class Protocol:
    """Reservoirs of N units; lags well beyond N are counted."""

    hidden: int = 50
    lags: int = 200
    steps: int = 50_000
    scales: tuple[float, ...] = (0.01, 0.1, 1.0)
    seed: int = 0


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """The capacity of a shift register, and of tanh reservoirs by the scale of their inputs."""
    with jax.enable_x64(True):
        progress("shift register", 0.0)
        curves = {"shift register": capacity(shift_register(protocol), protocol)}
        for index, scale in enumerate(protocol.scales):
            progress(f"tanh, inputs times {scale:g}", (index + 1) / (len(protocol.scales) + 1))
            curves[f"tanh, inputs × {scale:g}"] = capacity(reservoir(scale, protocol), protocol)
    totals = [float(curve.sum()) for curve in curves.values()]
    size = protocol.hidden
    findings = [
        Finding("shift register: MC / N", 0.98, totals[0] / size, "above"),
        Finding("shift register: MC / N", 1.0, totals[0] / size, "at most", 1e-3),
    ]
    for (low, high), (more, less) in zip(
        itertools.pairwise(protocol.scales), itertools.pairwise(totals[1:]), strict=True
    ):
        quantity = f"MC with inputs × {high:g}, by that with inputs × {low:g}"
        findings.append(Finding(quantity, 1.0, less / more, "below"))
    return Outcome(
        tuple(findings),
        condition=CONDITION.format(" and ".join(f"{total:.1f}" for total in totals[2:])),
        curves={name: curve.tolist() for name, curve in curves.items()},
    )


def shift_register(protocol: Protocol) -> rj.SimpleRNNCell:
    """A linear cell whose unit i + 1 takes what unit i held, the first one the input."""
    cell = rj.SimpleRNNCell(
        1, protocol.hidden, activation="identity", use_bias=False, rngs=nnx.Rngs(0)
    )
    cell.recurrent_kernel[...] = jnp.eye(protocol.hidden, k=1)
    cell.kernel[...] = jnp.eye(1, protocol.hidden)
    return cell


def reservoir(scale: float, protocol: Protocol) -> rj.SimpleRNNCell:
    """tanh(x W_in + h W), W_in of this deviation, W 0.95 times an orthogonal matrix."""
    return rj.SimpleRNNCell(
        1,
        protocol.hidden,
        kernel_init=f"normal({scale})",
        recurrent_kernel_init="orthogonal(0.95)",
        use_bias=False,
        rngs=nnx.Rngs(protocol.seed),
    )


def capacity(cell: rj.RNNCell, protocol: Protocol) -> np.ndarray:
    """r²_k for k = 0 … lags, without what fits by chance."""
    key = jax.random.key(protocol.seed)
    xs = jax.random.uniform(key, (protocol.steps, 1), minval=-1.0, maxval=1.0)
    _, states = rj.unroll(cell, xs)
    lags, washout = np.arange(protocol.lags + 1), 2 * protocol.lags
    past = jnp.stack([jnp.roll(xs[:, 0], int(lag)) for lag in lags], axis=1)
    readout = rj.ridge_readout(states, past, 1e-20, washout=washout)
    errors = np.asarray(past - readout(states))[washout:]
    explained = 1 - errors.var(axis=0) / np.asarray(past)[washout:].var(axis=0)
    return explained - protocol.hidden / (protocol.steps - washout)


def draw(outcome: Outcome) -> Figure:
    """r² by lag."""
    figure, ax = new_axes()
    lags = range(len(next(iter(outcome.curves.values()))))
    lines(ax, lags, outcome.curves)
    ax.set_xlim(0, 100)
    ax.set_xlabel("lag k  (steps)")
    ax.set_ylabel("share of x_{t−k} that is read out, r²")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="jaeger2001_memory_capacity",
    source="Jaeger, 2001",
    says="A reservoir of N units remembers at most N inputs, linear ones do, and large inputs cost "
    "memory.",
    protocol=Protocol(),
    quick=Protocol(hidden=8, lags=20, steps=2000, scales=(0.01, 1.0)),
    run=run,
    draw=draw,
    minutes=0.2,
)
