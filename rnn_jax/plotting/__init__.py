"""Results in, matplotlib Axes out: the only part of the package that imports matplotlib."""

from rnn_jax.plotting.flow import flow_figure
from rnn_jax.plotting.gates import plot_gates
from rnn_jax.plotting.lags import plot_by_lag
from rnn_jax.plotting.maps import plot_log_norms
from rnn_jax.plotting.weights import plot_weight_shares

__all__ = ["flow_figure", "plot_by_lag", "plot_gates", "plot_log_norms", "plot_weight_shares"]
