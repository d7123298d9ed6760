"""The pictures of the main job, one function for each point that is made."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import rnn_jax as rj
from rnn_jax.plotting import COLORS, plot_by_lag, plot_gates, plot_log_norms, plot_weight_shares
from rnn_jax.plotting.axes import finish
from vanishing.networks import COMPARED, SIMPLE
from vanishing.results import Results

COLOR = {
    "sigmoid": COLORS["black"],
    "tanh": COLORS["vermilion"],
    "ReLU": COLORS["orange"],
    "leaky ReLU": COLORS["purple"],
    "LSTM, forget bias 0": "#9CC9E3",
    "LSTM, forget bias 1": COLORS["sky"],
    "LSTM, forget bias 5": COLORS["blue"],
    "GRU": COLORS["green"],
}


def draw(results: Results) -> dict[str, Figure]:
    """All pictures by file name."""
    makers: dict[str, Callable[[Results], Figure]] = {
        "norm_by_lag": norm_by_lag,
        "maps": maps,
        "slopes": slopes,
        "bound": bound,
        "weight_shares": weight_shares,
        "input_gradient": input_gradient,
        "gain": gain,
        "gates": gates,
        "training": training,
    }
    return {name: make(results) for name, make in makers.items()}


def norm_by_lag(results: Results) -> Figure:
    """How far each network's gradients reach: the picture of the whole job.

    Small, because the guide begins with it, and phones show it at two thirds of its size.
    """
    figure, ax = _figure((5.6, 4.2))
    curves = {name: np.asarray(results.reach[name].flow.by_lag()) for name in COMPARED}
    plot_by_lag(curves, ax, colors=COLOR)
    _show_both(ax)
    _label_ends(ax, curves)
    ax.set_ylabel(r"ln $\|\partial y_t/\partial x_{t-k}\|$  (nats, mean over t)")
    ax.set_title(
        f"Influence of an input k steps later (untrained, H = {results.hidden})",
        loc="left",
        fontsize="medium",
    )
    return figure


def maps(results: Results) -> Figure:
    """The (t, s) maps of four networks on one scale."""
    shown = ["sigmoid", "tanh", "LSTM, forget bias 1", "LSTM, forget bias 5"]
    figure, axes = _four((8.6, 7.4))
    part = min(150, results.steps)
    for ax, name in zip(axes.flat, shown, strict=True):
        table = np.asarray(results.reach[name].flow.log_norms)[:part, :part]
        # One scale for each row, at its end.
        last = ax is axes[0, -1] or ax is axes[1, -1]
        plot_log_norms(table, ax, limits=(-60.0, 2.0), title=name, colorbar=last)
        ax.label_outer()
    return figure


def slopes(results: Results) -> Figure:
    """The slopes that a trajectory meets, which are what gets multiplied."""
    figure, axes = _four((8.6, 5.4))
    for ax, name in zip(axes.flat, SIMPLE, strict=True):
        seen = results.slopes[name]
        counts, edges = np.histogram(seen.values, bins=40, range=(0, 1.0001))
        ax.bar(
            edges[:-1],
            100 * counts / counts.sum(),
            width=np.diff(edges),
            align="edge",
            color=COLOR[name],
        )
        ax.axvline(seen.range[1], color=COLORS["grey"], linewidth=1.2, linestyle="--")
        ax.set_xlabel("slope φ′")
        ax.set_ylabel("unit-steps  (%)")
        finish(ax, f"{name}: mean slope {seen.mean:.2f}")
        ax.label_outer()
    return figure


def bound(results: Results) -> Figure:
    """The sigmoid network's product against theory and against what float32 can show."""
    figure, ax = _figure((7.2, 3.8))
    zero = results.reach["sigmoid"].zero_lag
    part = min(results.steps, 3 * zero if zero else results.steps)
    curve = {"measured, ln ‖∂h_T / ∂h_{T−k}‖₂": results.decay.curve[:part]}
    plot_by_lag(curve, ax, bound=results.decay.bound[:part])
    if zero is not None:
        ax.axvspan(zero, part - 1, color="0.93", zorder=0)
        ax.text(
            zero + 0.02 * part,
            0.93,
            "float32 automatic differentiation\nreads exactly 0 here",
            transform=ax.get_xaxis_transform(),
            va="top",
            fontsize="small",
        )
    ax.legend(frameon=False, fontsize="small", loc="lower left")
    ax.set_title("sigmoid: the chain shrinks geometrically", loc="left", fontsize="medium")
    return figure


def weight_shares(results: Results) -> Figure:
    """Which steps the weight update comes from."""
    figure, ax = _figure((7.2, 3.8))
    plot_weight_shares(results.shares, ax, colors=COLOR)
    _legend_outside(ax)
    ax.set_title(
        "Which steps the weight update comes from (loss at the last step)",
        loc="left",
        fontsize="medium",
    )
    return figure


def input_gradient(results: Results) -> Figure:
    """The gradient that reaches each input."""
    figure, ax = _figure((7.2, 3.8))
    for name, rows in results.signal.items():
        ax.plot(np.arange(1, len(rows) + 1), rows, color=COLOR[name], linewidth=1.8, label=name)
    ax.set_xlabel("input step t")
    ax.set_ylabel("ln ‖dL / dx_t‖  (nats)")
    finish(ax, "How much of the error reaches each input (loss at the last step)")
    _legend_outside(ax)
    return figure


def gain(results: Results) -> Figure:
    """Vanishing on one side, exploding on the other, by the scale of the recurrent weights."""
    figure, ax = _figure((7.2, 3.8))
    for name, rates in results.gains.rates.items():
        ax.plot(results.gains.gains, rates, color=COLOR[name], linewidth=1.8, label=name)
    ax.axhline(0, color=COLORS["black"], linewidth=0.8)
    ax.set_xlabel("σ₁(W_h): scale of the orthogonal recurrent weights")
    ax.set_ylabel("change of ln ‖∂h_t / ∂h_s‖ per step  (nats)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, max(high, 0.25))
    ax.text(0.01, 0.97, "explodes", transform=ax.transAxes, va="top", fontsize="small")
    ax.text(0.2, 0.03, "vanishes", transform=ax.transAxes, va="bottom", fontsize="small")
    finish(ax, "The price of slope 1: growth, once the weights are large enough")
    _show_both(ax)
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def gates(results: Results) -> Figure:
    """The forget gate is where the bias sets it."""
    shown = ["LSTM, forget bias 0", "LSTM, forget bias 1", "LSTM, forget bias 5", "GRU"]
    figure, axes = _four((8.6, 6.4))
    for ax, name in zip(axes.flat, shown, strict=True):
        activations: Mapping[str, object] = results.reach[name].flow.gates or {}
        part = {gate: np.asarray(values)[:60] for gate, values in activations.items()}
        plot_gates(part, ax, title=name)
        ax.label_outer()
    return figure


def training(results: Results) -> Figure:
    """Who learns the adding problem."""
    figure, ax = _figure((8.6, 4.2))
    chance = rj.tasks.Adding(results.training_config.length).chance_loss
    for name, run in results.training.items():
        middle = np.median(run.loss, axis=1)
        ax.plot(run.at, middle, color=COLOR[name], linewidth=1.8, label=name)
        if run.solved == run.loss.shape[1]:
            ax.plot(run.at[-1], middle[-1], "o", color=COLOR[name], markersize=6)
        ax.fill_between(
            run.at, run.loss.min(axis=1), run.loss.max(axis=1), color=COLOR[name], alpha=0.12, lw=0
        )
    ax.axhline(chance, color=COLORS["grey"], linewidth=1.2, linestyle="--")
    ax.text(
        1.0,
        chance * 1.2,
        "remembers nothing: 1/6",
        transform=ax.get_yaxis_transform(),
        ha="right",
        fontsize="small",
    )
    ax.set_yscale("log")
    ax.set_ylim(2e-3, 1.0)
    ax.set_xlabel("training step")
    ax.set_ylabel("mean squared error")
    seeds = results.training_config.seeds
    length = results.training_config.length
    finish(
        ax, f"Adding problem, T = {length}: median and range of {seeds} seeds; a dot: all solved it"
    )
    _legend_outside(ax)
    return figure


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    return plt.subplots(figsize=size, layout="constrained")


def _four(size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Two rows of two, so that text keeps its size where the page is as wide as the picture."""
    return plt.subplots(2, 2, figsize=size, layout="constrained", sharex=True, sharey=True)


def _show_both(ax: Axes) -> None:
    """Dashes where leaky ReLU lies on top of ReLU, which it does nearly everywhere."""
    for line in ax.lines:
        if line.get_label() == "leaky ReLU":
            line.set_linestyle((0, (4, 2)))


def _legend_outside(ax: Axes) -> None:
    _show_both(ax)
    ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _label_ends(ax: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Names at the curves' ends instead of a legend, pushed apart where they would overlap."""
    legend = ax.get_legend()
    if legend is not None:
        legend.remove()
    low, high = ax.get_ylim()
    gap = 0.055 * (high - low)
    ends = []
    for name, curve in curves.items():
        alive = np.flatnonzero(
            np.isfinite(curve)
        )  # A dead network's curve ends early, or never is.
        if alive.size:
            ends.append((float(curve[alive[-1]]), int(alive[-1]), name))
    ends.sort(reverse=True)
    ax.set_xlim(right=max(len(curve) for curve in curves.values()) - 1)
    last = high + gap
    for value, lag, name in ends:
        last = min(value, last - gap)
        ax.annotate(
            name,
            xy=(lag, value),
            xytext=(1.04, last),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            color=COLOR[name],
            fontsize="small",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": COLOR[name],
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )
