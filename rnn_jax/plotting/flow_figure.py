"""A `GradientFlow` on one page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from rnn_jax.plotting.attribution_panels import plot_attribution
from rnn_jax.plotting.axes import Size, add_headline, as_numpy, check_figsize
from rnn_jax.plotting.gate_panels import plot_gates
from rnn_jax.plotting.maps import plot_log_norms
from rnn_jax.plotting.norm_by_lag import plot_by_lag
from rnn_jax.plotting.spectra import plot_exponents, plot_singular_values
from rnn_jax.plotting.styles import drawing, is_chosen, parameters
from rnn_jax.plotting.weights import plot_weight_shares

if TYPE_CHECKING:
    from rnn_jax.gradients.explain.flow import GradientFlow

Panel = Callable[[Axes], Axes]

# Inches of a panel in which text of ten points has the right size.
_WIDTH, _HEIGHT = 4.6, 3.7
_POINTS = 10.0
_MOST = 3  # panels beside one another


@drawing()
def flow_figure(
    flow: GradientFlow, *, figsize: Size | None = None, title: str | None = None
) -> Figure:
    """All that a flow holds: the map and the norm by lag in nats, and what they are made of.

    Args:
      flow: what was measured.
      figsize: width and height in inches; None gives each panel the room that it needs, as many
        beside one another as the style is wide. Text shrinks and grows with the panels, unless a
        style was chosen.
      title: above all; None says what was found, "" leaves it out.

    Returns:
      A matplotlib `Figure`.

    Raises:
      ValueError: a figsize that is not two positive numbers.

    Example:
      >>> figure = rj.plotting.flow_figure(rj.gradient_flow(cell, xs), figsize=(9, 6))
      >>> figure.axes[0].get_ylabel()
      'output step $t$'
    """
    panels = _panels(flow)
    size = None if figsize is None else check_figsize(figsize)
    if is_chosen():
        return _draw(panels, *_print_size(len(panels), size), title, flow)
    rows = _rows(len(panels), _MOST)
    natural = (_WIDTH * max(rows), _HEIGHT * len(rows))
    width, height = size or natural
    scale = min(max(min(width / natural[0], height / natural[1]), 0.3), 1.6)
    with parameters({"font.size": _POINTS * scale}):
        figure = _draw(panels, rows, (width, height), title, flow)
        for ax in figure.axes:  # Ticks are made when they are drawn, outside of this context.
            for one in (ax, *ax.child_axes):
                one.tick_params(labelsize=_POINTS * scale)
    return figure


def _draw(
    panels: list[Panel], rows: list[int], size: Size, title: str | None, flow: GradientFlow
) -> Figure:
    scale = mpl.rcParams["font.size"] / _POINTS
    layout = ConstrainedLayoutEngine(w_pad=0.08 * scale, h_pad=0.08 * scale, wspace=0.04)
    figure = plt.figure(figsize=size, layout=layout)
    for panel, ax in zip(panels, _axes(figure, rows), strict=True):
        panel(ax)
    headline = _headline(flow) if title is None else title
    if headline:
        add_headline(figure, headline, "large", "bold")
    return figure


def _print_size(panels: int, size: Size | None) -> tuple[list[int], Size]:
    """(panels in each row, inches) in which text of the style's size has the room that it needs."""
    scale = mpl.rcParams["font.size"] / _POINTS
    width = float(mpl.rcParams["figure.figsize"][0]) if size is None else size[0]
    rows = _rows(panels, min(max(round(width / (_WIDTH * scale)), 1), _MOST))
    return rows, size or (width, len(rows) * width / max(rows) * _HEIGHT / _WIDTH)


def _rows(panels: int, most: int) -> list[int]:
    """How many panels stand in each row: the most or fewer, none missing, larger rows below."""
    rows = -(-panels // most)
    fewer, more = panels // rows, panels % rows
    return [fewer] * (rows - more) + [fewer + 1] * more


def _axes(figure: Figure, rows: list[int]) -> list[Axes]:
    """Each row laid out by itself. The map, in the first, is square: its neighbour has the rest."""
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    axes: list[Axes] = []
    for band, count in zip(bands, rows, strict=True):
        left = max(rows) - count if band is bands[0] else 0
        ratios = [1] * (count - 1) + [1 + left]
        axes += list(band.subplots(1, count, squeeze=False, width_ratios=ratios)[0])
    return axes


def _panels(flow: GradientFlow) -> list[Panel]:
    """What there is to draw, in reading order: how far, why, along how many directions."""
    target, sources = ("output", "inputs") if flow.wrt == "input" else ("carry", "carries")
    panels: list[Panel] = [
        lambda ax: plot_log_norms(
            flow, ax, title=f"How each {target} depends on earlier {sources}"
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
