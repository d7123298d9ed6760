"""Chen, Pennington and Schoenholz (2018): inputs take a tanh network of gain 1 off criticality.

h' = tanh(h W + z V), with W and V of variance σ_w²/N and σ_v²/N, and E z² = R. Without inputs
σ_w = 1 is critical. With them the pre-activations have a variance q > 0, slopes are below 1, and
χ = σ_w² E tanh'(√q ξ)² < 1 there: squared gradients live for T = −1/ln χ steps. That is theory for
N → ∞: of networks of 512 units the exponents up to σ_w = 1 are higher, as is their spectral radius.
"""

from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import rnn_jax as rj
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress, Result
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish

# χ and T by R, each with half of the last digit that counts.
PUBLISHED = {0.46: ((0.9766, 5e-4), (42.0, 0.5)), 1.0: ((0.9659, 5e-4), (28.8, 0.05))}


@dataclass(frozen=True)
class Protocol:
    """Theory at the gains of the paper; for the picture, `points` of it and measured networks."""

    hidden: int = 512
    gain: float = 1.0
    input_gain: float = 0.025
    drives: tuple[float, ...] = (0.46, 1.0)
    sweep: tuple[float, ...] = (0.9, 0.95, 1.0, 1.05, 1.1)
    draws: int = 4
    steps: int = 1500
    points: int = 21


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """χ and T by theory; exponents of wide networks beside them."""
    findings = []
    fine = np.linspace(min(protocol.sweep), max(protocol.sweep), protocol.points).tolist()
    theories: dict[str, list[float]] = {}
    with jax.enable_x64(True):
        cell = network(protocol.gain, 0, protocol)
        for drive in protocol.drives:
            theory = rj.mean_field(cell, input_variance=drive)
            (chi, of_chi), (length, of_length) = PUBLISHED[drive]
            findings += [
                Finding(f"R = {drive:g}: χ", chi, theory.chi, tolerance=of_chi),
                Finding(
                    f"R = {drive:g}: T", length, theory.length, tolerance=of_length, unit="steps"
                ),
            ]
        for drive in (*protocol.drives, 0.0):
            sizes = [rj.mean_field(cell, input_variance=drive, gain=gain).chi for gain in fine]
            theories[f"R = {drive:g}"] = np.log(sizes).tolist()
        drive, measured = protocol.drives[0], []
        for index, gain in enumerate(protocol.sweep):
            progress(f"R = {drive:g}, σ_w = {gain:g}", index / len(protocol.sweep))
            measured.append(
                [2 * exponent(gain, drive, seed, protocol) for seed in range(protocol.draws)]
            )
    curves = {
        "gains": list(protocol.sweep),
        "measured": measured,
        "of": f"R = {drive:g}",
        "fine": fine,
        "theory": theories,
    }
    return Outcome(
        tuple(findings),
        condition="That is theory for N → ∞; up to σ_w = 1 the measured networks decay less.",
        curves=curves,
    )


def network(gain: float, seed: int, protocol: Protocol) -> rj.SimpleRNNCell:
    """A cell of just these gains."""
    size = protocol.hidden
    cell = rj.SimpleRNNCell(
        size, size, recurrent_kernel_init="gaussian", use_bias=False, rngs=nnx.Rngs(seed)
    )
    for parameter, wanted in ((cell.recurrent_kernel, gain), (cell.kernel, protocol.input_gain)):
        kernel = np.asarray(parameter[...])
        parameter[...] = kernel * (wanted / np.linalg.norm(kernel) * np.sqrt(size))
    return cell


def exponent(gain: float, drive: float, seed: int, protocol: Protocol) -> float:
    """The leading exponent of one network on inputs of variance R."""
    shape = (protocol.steps, protocol.hidden)
    xs = np.sqrt(drive) * jax.random.normal(jax.random.key(seed), shape)
    cell = network(gain, seed, protocol)
    spectrum = rj.lyapunov_exponents(cell, xs, k=1, warmup=protocol.steps // 5)
    return float(spectrum.exponents[0])


def draw(outcome: Outcome) -> Figure:
    """ln χ by σ_w, and 2 λ₁ as measured."""
    figure, ax = new_axes()
    curves = outcome.curves
    named = {k if k != "R = 0" else "R = 0, at rest": v for k, v in curves["theory"].items()}
    lines(ax, curves["fine"], named)
    measured = np.asarray(curves["measured"], float)
    ax.errorbar(
        curves["gains"],
        measured.mean(axis=1),
        measured.std(axis=1),
        fmt="o",
        color=COLORS["blue"],
        markersize=4,
        capsize=3,
        label=f"{curves['of']}, 2λ₁ measured",
    )
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_xlabel("σ_w, gain of the recurrent weights")
    ax.set_ylabel("ln χ  (nats a step)")
    ax.set_xticks(curves["gains"])
    ax.legend(title="bars: standard deviation over networks", ncols=2)
    finish(ax)
    return figure


RESULT = Result(
    name="chen2018_tanh",
    source="Chen, Pennington and Schoenholz, 2018",
    says="A tanh network of gain 1 is no longer critical as soon as its inputs vary.",
    protocol=Protocol(),
    quick=Protocol(hidden=32, sweep=(0.9, 1.0), draws=2, steps=40, points=3),
    run=run,
    draw=draw,
    minutes=0.1,
)
