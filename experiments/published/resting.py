"""Networks at rest, whose gain is turned up until the rest is left: shared by two results."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import root_scalar

import rnn_jax as rj
from published.pictures import lines, new_axes
from published.record import Finding, Outcome, Progress
from rnn_jax.plotting.axes import finish

# Of a gain: cell(gain).
Networks = Callable[[float], Any]


class GainSizes(Protocol):
    """What the protocols of both have."""

    @property
    def draws(self) -> int: ...
    @property
    def shares(self) -> tuple[float, ...]: ...
    @property
    def steps(self) -> int: ...


def measure_gains(
    settings: Mapping[str, tuple[Callable[..., Any], float]], sizes: GainSizes, progress: Progress
) -> Outcome:
    """Critical gains, and exponents at rest by gain.

    Args:
      settings: by name, cell(gain, seed=...) and the critical gain that was published.
      sizes: how many networks, at which shares of that gain, over how many steps.
      progress: of the run.
    """
    findings, curves = [], {}
    for index, (setting, (make, known)) in enumerate(settings.items()):
        progress(setting, index / len(settings))
        critical = float(np.mean(critical_in_float64(make, known, sizes.draws)))
        findings.append(
            Finding(f"{setting}: critical gain", known, critical, tolerance=0.02, relative=True)
        )
        gains = [share * known for share in sizes.shares]
        with jax.enable_x64(True):
            curves[setting] = curve(functools.partial(make, seed=0), gains, sizes.steps)
    return Outcome(tuple(findings), curves=curves)


def set_gain(cell: Any, gain: float) -> Any:
    """The cell with a candidate's recurrent kernel of just this gain."""
    size, at = cell.hidden_features, cell.blocks.index("candidate")
    block = slice(at * size, (at + 1) * size)
    kernel = np.array(cell.recurrent_kernel[...])
    kernel[:, block] *= gain / np.linalg.norm(kernel[:, block]) * np.sqrt(size)
    cell.recurrent_kernel[...] = jnp.asarray(kernel)
    return cell


def crossing(networks: Networks, guess: float) -> float:
    """The gain at which a step's Jacobian at rest has spectral radius 1, to 2e-3 of it."""

    def excess(gain: float) -> float:
        jacobian = rj.linearize(networks(gain), jnp.zeros((1, 1))).state_jacobians[0]
        return float(np.log(np.abs(np.linalg.eigvals(np.asarray(jacobian))).max()))

    found = root_scalar(excess, x0=guess, x1=1.03 * guess, method="secant", xtol=2e-3 * guess)
    if not found.converged:
        raise RuntimeError(f"no gain near {guess:g} leaves a spectral radius of 1")
    return float(found.root)


def curve(networks: Networks, gains: Sequence[float], steps: int) -> dict[str, Any]:
    """λ₁ at rest by gain, of the networks and by theory, and the critical gain."""
    nothing = jnp.zeros((steps, 1))
    measured = [
        rj.lyapunov_exponents(networks(gain), nothing, k=1, warmup=steps // 5) for gain in gains
    ]
    fine = np.linspace(min(gains), max(gains), 41).tolist()
    cell = networks(gains[0])
    return {
        "gains": list(gains),
        "measured": [float(spectrum.exponents[0]) for spectrum in measured],
        "fine": fine,
        "theory": [rj.mean_field(cell, gain=gain).exponent for gain in fine],
        "critical": rj.mean_field(cell).critical_gain,
    }


def critical_in_float64(make: Callable[..., Any], guess: float, draws: int) -> list[float]:
    """The crossing of each of several networks make(gain, seed=seed)."""
    with jax.enable_x64(True):
        return [crossing(functools.partial(make, seed=seed), guess) for seed in range(draws)]


def draw_exponents(curves: Any) -> Figure:
    """λ₁ by gain over the critical one: theory as lines, what was measured as points."""
    figure, ax = new_axes()
    for index, (label, curve) in enumerate(curves.items()):
        lines(ax, curve["fine"], {label: curve["theory"]}, first=index)
        color = ax.get_lines()[-1].get_color()
        ax.plot(curve["gains"], curve["measured"], "o", color=color, markersize=5)
        ax.plot(curve["critical"], 0, "|", color=color, markersize=16)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_xlabel("gain of the candidate's recurrent weights")
    ax.set_ylabel("λ₁ at rest  (nats a step)")
    ax.legend(title="lines: theory; points: measured; bars: critical")
    finish(ax)
    return figure
