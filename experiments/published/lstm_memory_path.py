"""Gers et al. (2000), Tallec and Ollivier (2018): what forget biases do to an LSTM's cell state.

Without recurrent weights and inputs ∂c_T/∂c_0 = σ(b_f)^T. The chrono initialization,
b_f = ln U[1, T_max − 1] and b_i = −b_f, spreads the time 1/(1 − f) over [2, T_max].
"""

from dataclasses import dataclass

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
    """Forget biases, the steps of the path, and the range of the chrono initialization."""

    steps: int = 100
    biases: tuple[float, ...] = (0.0, 1.0, 5.0)
    hidden: int = 4096
    longest: int = 100


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """ln ∂c_T/∂c_0 by forget bias, and the times of chrono-initialized gates."""
    with jax.enable_x64(True):
        paths = {bias: path(bias, protocol.steps) for bias in protocol.biases}
        shortest, longest, mirrored = chrono_times(protocol)
    findings = [
        Finding(
            f"b_f = {bias:g}: ln ∂c_T/∂c_0",
            -protocol.steps * float(np.logaddexp(0, -bias)),
            measured,
            tolerance=1e-10,
            relative=True,
            unit="nats",
        )
        for bias, measured in paths.items()
    ]
    findings += [
        Finding("chrono: shortest time 1/(1 − f)", 2.0, shortest, "at least", 1e-9, unit="steps"),
        Finding("chrono: longest time", protocol.longest, longest, "at most", 1e-9, unit="steps"),
        Finding("chrono: largest |b_i + b_f|", 0.0, mirrored, tolerance=1e-9),
    ]
    curves = {"biases": list(paths), "paths": list(paths.values()), "steps": protocol.steps}
    return Outcome(tuple(findings), curves=curves)


def path(bias: float, steps: int) -> float:
    """ln ∂c_T/∂c_0 of an LSTM without recurrent weights, by the product of its Jacobians."""
    cell = rj.LSTMCell(1, 1, forget_bias=bias, recurrent_kernel_init="zeros", rngs=nnx.Rngs(0))
    # From c_0 = 0 and without inputs the candidate is 0, and c stays 0.
    carry = tuple(jnp.zeros(1) for _ in range(2))
    product = rj.jacobian_log_norms(
        cell, jnp.zeros((steps + 1, 1)), carry, wrt="state", norm="spectral", targets=[-1]
    )
    # h_0 has no weight; what is left of the norm is the path c → c, h, h being ½ tanh(c).
    return float(product[0, 0]) - float(np.log(np.hypot(1.0, 0.5)))


def chrono_times(protocol: Protocol) -> tuple[float, float, float]:
    """The shortest and the longest time of a gate, and the largest |b_i + b_f|."""
    cell = rj.LSTMCell(
        1, protocol.hidden, bias_init=f"chrono(1, {protocol.longest - 1})", rngs=nnx.Rngs(0)
    )
    gates = cell.gates(cell.initialize_carry((1,)), jnp.zeros(1))
    forget, into = (np.asarray(gates[name], np.float64) for name in ("forget", "input"))
    times = 1 / (1 - forget)
    biases = [np.log(gate / (1 - gate)) for gate in (forget, into)]
    return float(times.min()), float(times.max()), float(np.abs(biases[0] + biases[1]).max())


def draw(outcome: Outcome) -> Figure:
    """ln ∂c_T/∂c_0 against the forget bias."""
    figure, ax = new_axes()
    fine = np.linspace(-1, 6, 200)
    ax.plot(
        fine,
        -outcome.curves["steps"] * np.logaddexp(0, -fine),
        color="black",
        linewidth=1.2,
        label="T ln σ(b_f)",
    )
    against(ax, outcome.curves["biases"], None, outcome.curves["paths"])
    ax.set_xlabel("forget bias b_f")
    ax.set_ylabel("ln ∂c_T/∂c_0  (nats)")
    ax.legend()
    finish(ax)
    return figure


RESULT = Result(
    name="lstm_memory_path",
    source="Gers, Schmidhuber and Cummins, 2000; Tallec and Ollivier, 2018",
    says="Over 100 steps an LSTM keeps e⁻⁶⁹ of its cell state with forget bias 0, and half with 5.",
    protocol=Protocol(),
    quick=Protocol(steps=10, hidden=64),
    run=run,
    draw=draw,
    minutes=0.4,
)
