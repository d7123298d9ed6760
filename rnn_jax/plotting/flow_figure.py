"""A `GradientFlow` on one page."""

from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnn_jax.gradients.explain.flow import GradientFlow
from rnn_jax.plotting.attribution_panels import plot_attribution
from rnn_jax.plotting.gate_panels import plot_gates
from rnn_jax.plotting.maps import plot_log_norms
from rnn_jax.plotting.norm_by_lag import plot_by_lag
from rnn_jax.plotting.spectra import plot_exponents, plot_singular_values
from rnn_jax.plotting.style import as_numpy
from rnn_jax.plotting.weights import plot_weight_shares

Panel = Callable[[Axes], Axes]


def flow_figure(flow: GradientFlow) -> Figure:
    """The (t, s) map, the norm by lag, and below them all that this flow holds besides."""
    panels = _panels(flow)
    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10.5, 3.9 * rows), layout="constrained")
    free = list(axes.reshape(-1))
    for panel in panels:
        panel(free.pop(0))
    for unused in free:
        unused.set_visible(False)
    figure.suptitle(_headline(flow), x=0.01, ha="left", fontsize="large", fontweight="bold")
    return figure


def _panels(flow: GradientFlow) -> list[Panel]:
    """What there is to draw, in reading order: how far, why, along how many directions."""
    source = "input" if flow.wrt == "input" else "carry"
    target = "output" if flow.wrt == "input" else "carry"
    panels: list[Panel] = [
        lambda ax: plot_log_norms(
            flow, ax, title=f"How much each {target} depends on each earlier {source}"
        ),
        lambda ax: plot_by_lag(flow, ax, title="How that changes with distance"),
    ]
    if flow.attribution is not None:
        panels.append(lambda ax: plot_attribution(flow, ax, title="What it is made of"))
    if flow.gates:
        panels.append(lambda ax: plot_gates(flow, ax, title="Gates"))
    if flow.exponents is not None:
        panels.append(lambda ax: plot_exponents(flow, ax, title="Leading Lyapunov exponents"))
    if flow.log_singular_values is not None:
        panels.append(lambda ax: plot_singular_values(flow, ax, title="Along how many directions"))
    if flow.weight_log_norms is not None:
        panels.append(
            lambda ax: plot_weight_shares(flow, ax, title="Where the weight update comes from")
        )
    return panels


def _headline(flow: GradientFlow) -> str:
    regime, last = flow.regime, flow.steps - 1
    if regime == "not finite":
        return "Gradients are not finite"
    if regime in ("exploding", "chaotic"):
        curve = as_numpy(flow.by_lag())
        return (
            f"{regime.capitalize()}: e^{curve[-1] - curve[0]:.0f} times the gradient at lag {last}"
        )
    horizon = int(flow.horizon())
    reach = f"{horizon} of {last} steps" if horizon < last else f"all {last} steps"
    return f"{regime.capitalize()}: 1 % of the gradient is left after {reach}"
