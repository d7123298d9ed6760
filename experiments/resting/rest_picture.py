"""The picture of `experiments/fixed_points.py`."""

from collections.abc import Mapping, Sequence
from math import comb

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resting.flip_flops import Dissection
from rnn_jax.plotting import COLORS, plot_fixed_points
from rnn_jax.plotting.axes import cycle_color, finish


def draw(results: Mapping[str, Sequence[Dissection]], bits: int) -> Figure:
    """The first network of each kind in its plane, and all of them counted."""
    figure, axes = plt.subplots(
        1, len(results) + 1, figsize=(13, 4.5), layout="constrained",
        width_ratios=(*[1.15] * len(results), 1),
    )  # fmt: skip
    for ax, (kind, networks) in zip(axes, results.items(), strict=False):
        first = networks[0]
        plot_fixed_points(
            first.found, first.states, ax, title=f"{kind}: {bits} bit{'s' * (bits > 1)}, no input"
        )
        ax.legend(
            frameon=False,
            fontsize="small",
            ncols=3,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
        )
    _count(axes[-1], results, bits)
    return figure


def _count(ax: Axes, results: Mapping[str, Sequence[Dissection]], bits: int) -> None:
    """Fixed points by the number of their unstable directions, one dot a network."""
    ranks = np.arange(bits + 1)
    cube = [comb(bits, k) * 2 ** (bits - k) for k in ranks]
    ax.plot(
        ranks, cube, color=COLORS["grey"], linewidth=6, alpha=0.35, solid_capstyle="round",
        label="corners, edges, faces … of a cube",
    )  # fmt: skip
    width = 0.5 / max(len(networks) for networks in results.values())
    for index, (kind, networks) in enumerate(results.items()):
        side = (index - (len(results) - 1) / 2) * 0.34
        for number, network in enumerate(networks):
            shift = side + (number - (len(networks) - 1) / 2) * width * 0.5
            ax.plot(
                ranks + shift, network.by_directions(bits), linestyle="", marker="o",
                markersize=5, markeredgecolor="white", markeredgewidth=0.6,
                color=cycle_color(index), label=kind if number == 0 else None,
            )  # fmt: skip
    ax.set_xticks(ranks, [*map(str, ranks[:-1]), f"{bits} or more"])
    ax.set_xlabel("unstable directions")
    ax.set_ylabel("fixed points")
    ax.set_ylim(bottom=-0.4)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize="small")
    finish(ax, f"Each of {len(next(iter(results.values())))} trainings")
