"""Results in, matplotlib Axes out: the only part of the package that imports matplotlib.

Functions named `plot_…` draw on one `Axes`, given as `ax` or of a new figure, and return it; those
named `…_figure` make a whole figure. `style` says how, for a screen or for one or two columns of a
page.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "matplotlib":
        raise
    raise ModuleNotFoundError(
        "pictures are drawn with matplotlib, which this environment does not have. "
        "Run pip install 'rnn_jax[experiments]'.",
        name="matplotlib",
    ) from None

from rnn_jax.plotting.attribution_panels import plot_attribution
from rnn_jax.plotting.fixed_point_plane import plot_fixed_points
from rnn_jax.plotting.flow_figure import flow_figure
from rnn_jax.plotting.gate_panels import plot_gates
from rnn_jax.plotting.local_exponents import plot_local_exponents
from rnn_jax.plotting.maps import plot_log_norms
from rnn_jax.plotting.norm_by_lag import plot_by_lag
from rnn_jax.plotting.spectra import plot_exponents, plot_singular_values
from rnn_jax.plotting.styles import COLORS, COLUMN, PAGE, STYLES, style
from rnn_jax.plotting.training_curves import (
    plot_flow_while_learning,
    plot_learning,
    plot_terms,
    training_figure,
)
from rnn_jax.plotting.weights import plot_weight_shares

__all__ = [
    "COLORS",
    "COLUMN",
    "PAGE",
    "STYLES",
    "flow_figure",
    "plot_attribution",
    "plot_by_lag",
    "plot_exponents",
    "plot_fixed_points",
    "plot_flow_while_learning",
    "plot_gates",
    "plot_learning",
    "plot_local_exponents",
    "plot_log_norms",
    "plot_singular_values",
    "plot_terms",
    "plot_weight_shares",
    "style",
    "training_figure",
]
