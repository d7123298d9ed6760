"""A `GradientFlow` on one page."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rnn_jax.gradients.flow import GradientFlow
from rnn_jax.plotting.gates import plot_gates
from rnn_jax.plotting.lags import plot_by_lag
from rnn_jax.plotting.maps import plot_log_norms
from rnn_jax.plotting.weights import plot_weight_shares


def flow_figure(flow: GradientFlow) -> Figure:
    """The (t, s) map and the norm by lag; gates and weight shares below, where they are known."""
    below = [flow.gates is not None, flow.weight_log_norms is not None]
    rows = 2 if any(below) else 1
    figure, axes = plt.subplots(rows, 2, figsize=(10.5, 4.2 * rows), layout="constrained")
    grid = axes.reshape(rows, 2)
    horizon = int(flow.horizon())
    reach = f"at least {horizon}" if horizon == flow.steps - 1 else str(horizon)
    plot_log_norms(flow, grid[0, 0], title="How much each output depends on each input")
    plot_by_lag(flow, grid[0, 1], title=f"{flow.regime}: horizon {reach} steps (to 1 %)")
    free = list(grid[1]) if rows == 2 else []
    if flow.weight_log_norms is not None:
        plot_weight_shares(flow, free.pop(0), title="Where the weight update comes from")
    if flow.gates is not None:
        plot_gates(flow, free.pop(0), title="Gates")
    for unused in free:
        unused.set_visible(False)
    return figure
