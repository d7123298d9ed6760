"""The pictures of `experiments/lyapunov.py`."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exponents.cells import TITLES, CellConfig, CellResult
from exponents.gain import Spectrum, Transition, mean_field
from rnn_jax.plotting import COLORS
from rnn_jax.plotting.axes import finish

_COLOR = {"simple": "vermilion", "lstm": "blue", "gru": "green"}


def draw_transition(result: Transition) -> Figure:
    """λ_1 against the gain, and against the spectral radius of the very matrix."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.4, 4.2), layout="constrained", width_ratios=(1.7, 1)
    )
    _against_gain(left, result)
    _against_radius(right, result)
    return figure


def _against_gain(ax: Axes, result: Transition) -> None:
    draws = result.exponents.shape[1]
    fine = np.linspace(min(result.gains), max(result.gains), 200)
    below = fine[fine <= 1]
    above = np.concatenate([[1.0], fine[fine > 1]])
    if below.size:
        below = np.append(below, 1.0)
        ax.plot(below, np.log(below), color=COLORS["blue"], label="N → ∞, at rest: ln g")
    if above.size > 1:
        theory = [mean_field(float(gain)) for gain in above]
        ax.plot(above, theory, color=COLORS["vermilion"], label="N → ∞, chaos: mean-field theory")
    # Points for every draw: their scatter is the finite size, the time averages are finer.
    ax.plot(
        np.repeat(result.gains, draws),
        result.exponents.ravel(),
        "o",
        color=COLORS["black"],
        markersize=4.5,
        markerfacecolor="none",
        markeredgewidth=1.0,
        label=f"measured, N = {result.size}, {_networks(draws)}",
        zorder=3,
    )
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.axvline(1, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.set_xscale("log")
    ticks = [gain for gain in (0.5, 0.7, 1, 1.5, 2, 3, 5) if fine[0] <= gain <= fine[-1]]
    ax.set_xticks(ticks, [f"{gain:g}" for gain in ticks])
    ax.minorticks_off()
    ax.set_xlabel("gain g")
    ax.set_ylabel("leading exponent λ₁  (nats a step)")
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    finish(ax, "Random tanh networks turn chaotic at g = 1")


def _against_radius(ax: Axes, result: Transition) -> None:
    """λ_1 less the two predictions of it, below the transition."""
    rest = np.flatnonzero(result.gains < 1)
    finish(ax, "At rest: J's own spectral radius decides")
    ax.set_xlabel("gain g")
    ax.set_ylabel("λ₁ less what is predicted")
    if not rest.size:
        ax.text(0.5, 0.5, "no gain below 1", transform=ax.transAxes, ha="center")
        return
    values, radii = result.exponents[rest], result.radii[rest]
    draws = values.shape[1]
    shift = np.linspace(-0.15, 0.15, draws) if draws > 1 else np.zeros(1)
    places = (np.arange(len(rest))[:, None] + shift).ravel()
    ax.axhline(0, color=COLORS["black"], linewidth=0.8)
    ax.plot(
        places,
        (values - np.log(result.gains[rest])[:, None]).ravel(),
        "o",
        color=COLORS["blue"],
        markerfacecolor="none",
        markersize=5,
        label="predicted: ln g",
    )
    ax.plot(
        places,
        (values - radii).ravel(),
        "x",
        color=COLORS["black"],
        markersize=5,
        label="predicted: ln of J's spectral radius",
    )
    ax.set_xticks(np.arange(len(rest)), [f"{gain:g}" for gain in result.gains[rest]])
    ax.set_xlim(-0.5, len(rest) - 0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.4 * (high - low))
    ax.legend(frameon=False, fontsize="small", loc="upper left")


def draw_spectra(results: Sequence[Spectrum]) -> Figure:
    """Whole spectra over i/N, and the part around zero again."""
    figure, (whole, top) = plt.subplots(1, 2, figsize=(10.4, 4.2), layout="constrained")
    colors = mpl.colormaps["cividis"](np.linspace(0.0, 0.92, len(results)))
    for color, result in zip(colors, results, strict=True):
        size = len(result.exponents)
        share = (np.arange(size) + 0.5) / size
        note = f"g = {result.gain:g}:  {result.dimension:.3f},  {result.entropy:.2g}"
        for ax in (whole, top):
            ax.plot(share, result.exponents, color=color, linewidth=1.9, label=note)
    highest = max(0.1, *(float(result.exponents[0]) for result in results))
    for ax in (whole, top):
        ax.axhline(0, color=COLORS["black"], linewidth=0.8)
        ax.set_xlabel("i / N")
    whole.set_xlim(0, 1)
    whole.set_ylim(-6.5, 0.3 + highest)
    top.set_xlim(0, 0.4)
    top.set_ylim(-0.8 * highest, 1.1 * highest)
    whole.set_ylabel(r"exponent $\lambda_i$  (nats a step)")
    whole.legend(
        frameon=False,
        fontsize="small",
        loc="lower left",
        title="dimension / N,  entropy rate / N",
        title_fontsize="small",
        alignment="left",
    )
    size = len(results[0].exponents)
    finish(whole, f"More gain, a wider spectrum (random tanh networks, N = {size})")
    finish(top, "The same, around zero: the directions that grow")
    return figure


def draw_cells(results: Mapping[str, CellResult], config: CellConfig) -> Figure:
    """Each kind of cell before and after training."""
    figure, axes = plt.subplots(
        1,
        len(results),
        figsize=(max(5.0, 3.7 * len(results)), 3.7),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for ax, (name, result) in zip(axes[0], results.items(), strict=True):
        _before_and_after(ax, result, COLORS[_COLOR[name]])
        ax.set_xlabel("i")
        loss = float(np.median(result.loss))
        finish(ax, f"{TITLES[name]}: error {loss:.4f}, chance 0.0833")
    axes[0, 0].set_ylabel(r"exponent $\lambda_i$  (nats a step)")
    axes[0, 0].legend(frameon=False, fontsize="small", loc="lower left")
    figure.suptitle(
        f"What learning to recall {config.delay} steps does to the exponents "
        f"(H = {config.hidden}, {_networks(config.seeds)})",
        x=0.01,
        ha="left",
        fontsize="medium",
    )
    return figure


def _before_and_after(ax: Axes, result: CellResult, color: str) -> None:
    index = np.arange(1, result.before.shape[1] + 1)
    for table, shade, label in (
        (result.before, COLORS["grey"], "untrained"),
        (result.after, color, "trained"),
    ):
        shown = np.where(np.isfinite(table), table, np.nan)
        ax.plot(index, shown.T, color=shade, linewidth=0.7, alpha=0.45)
        ax.plot(index, np.median(shown, axis=0), color=shade, linewidth=2.0, label=label)
    ax.axhline(0, color=COLORS["black"], linewidth=0.8)
    ax.set_xscale("log", base=2)
    ticks = [2**power for power in range(0, int(np.log2(index[-1])) + 1, 2)]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_ylim(-1.5, 0.1)


def _networks(count: int) -> str:
    return "1 network" if count == 1 else f"{count} networks"
