"""Measures and draws what the catalogue shows of each cell: `python cell_maps.py FOLDER`.

All cells have one size, one sequence and one scale of colours, so that their pictures can be
compared at a glance. A process of its own, because JAX's threads do not survive the forks of a
parallel Sphinx.

Nearly all of its time goes into compiling programs that run once. So the compiler is asked for no
optimizations, which moves the numbers by rounding alone, and what does not depend on the cell is
compiled once for all that have carries of one size.
"""

import dataclasses
import inspect
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import rnn_jax as rj
from benchmarks.cells import abstract_cells, every_cell
from benchmarks.cells_page import description
from rnn_jax import plotting
from rnn_jax.cells.claims import claim
from rnn_jax.cells.structure import fused_form, stages_of
from rnn_jax.plotting import plot_by_lag, plot_log_norms

STEPS, FEATURES, HIDDEN = 100, 2, 32
# Nats above and below the mean at lag 0: from e^−10 to e^2 of it.
LIMITS = (-10.0, 2.0)
# The share of the gradient that the horizon is measured by.
LEFT = 0.01
# Text and lines take the colour of the page around them, in a light and in a dark theme.
INK = "#010203"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cells",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


def measure(name: str) -> np.ndarray:
    """ln‖∂y_t/∂x_s‖ above its mean at lag 0, (T, T), of an untrained cell along normal inputs."""
    cell = every_cell()[name](FEATURES, HIDDEN, rngs=nnx.Rngs(0))
    xs = jax.random.normal(jax.random.key(1), (STEPS, FEATURES))
    # Norms need the Jacobians alone: without what is known of the cell beside them, cells with
    # carries and outputs of one size share a program.
    beside = {"output_rows": None, "diagonal_columns": None, "diagonal_width": None}
    record = dataclasses.replace(rj.linearize(cell, xs), cell=(), **beside)
    table = np.asarray(rj.jacobian_log_norms(record), np.float64)
    return table - float(rj.by_lag(table)[0])


def facts(cell: rj.RNNCell) -> dict[str, Any]:
    """What a cell says of itself and how it is built; the cell may be an abstract one."""
    said: dict[str, Any] = {}

    def ask(cell: rj.RNNCell) -> None:
        form, bound = fused_form(cell), claim(cell, "jacobian_bound")
        said["stages"] = 0 if form is None else len(stages_of(form.mathematics))
        said["bound"] = bound is not None and bound() is not None
        x = jnp.zeros(cell.in_features)
        for what in ("gates", "memory_path"):
            told = claim(cell, what)
            step = () if told is None else told(cell.initialize_carry(x.shape), x)
            said[what] = list(step)

    jax.eval_shape(ask, cell)
    module = inspect.getmodule(type(cell))
    assert module is not None
    return {
        **description(cell),
        **said,
        "module": module.__name__.replace(".", "/") + ".py",
        "constructor": constructor(type(cell)),
    }


def constructor(kind: Any) -> list[str]:
    """The arguments of a class with their defaults; a star before those that go by name."""
    parts, starred = [], False
    _, *parameters = inspect.signature(kind.__init__).parameters.values()  # Without self.
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        default = parameter.default
        has_none = default is parameter.empty
        parts.append(parameter.name + ("" if has_none else f"={_written(default)}"))
    return parts


def _written(default: Any) -> str:
    if isinstance(default, float) and math.isclose(default, 2 * math.pi):
        return "2 * math.pi"
    return repr(default)


def draw(name: str, folder: Path) -> dict[str, Any]:
    """Measures a cell, writes its pictures, and returns what is said of them."""
    table = measure(name)
    flow = rj.GradientFlow(table)
    curve, horizon = np.asarray(flow.by_lag()), int(flow.horizon(LEFT))
    image = mpl.colormaps["cividis"](mpl.colors.Normalize(*LIMITS)(table))
    image[~np.isfinite(table)] = 0  # Exactly 0, as future inputs are: the page shows through.
    plt.imsave(folder / f"{name}.png", image)
    with mpl.rc_context(STYLE):
        svgs = {"map": _map(table), "curve": _curve(flow, curve, horizon)}
    for what, svg in svgs.items():
        (folder / f"{name}-{what}.svg").write_text(svg, encoding="utf-8")
    return {"horizon": horizon}


def _axes(right: float) -> tuple[Any, Any]:
    """One place for the axes of every cell, up to a share of the width."""
    figure, ax = plt.subplots(figsize=(3.7, 2.9))
    figure.subplots_adjust(left=0.16, right=right, bottom=0.16, top=0.96)
    return figure, ax


def _map(table: np.ndarray) -> str:
    figure, ax = _axes(right=0.8)
    plot_log_norms(table, ax, limits=LIMITS, colorbar=False)
    scale = ax.inset_axes((1.05, 0.04, 0.05, 0.92))
    label = "nats above the mean at lag 0"
    bar = figure.colorbar(ax.images[0], cax=scale, label=label, extend="both")
    bar.outline.set_visible(False)
    return _inline(figure)


def _curve(flow: rj.GradientFlow, curve: np.ndarray, horizon: int) -> str:
    figure, ax = _axes(right=0.97)
    plot_by_lag(flow, ax)
    for note in list(ax.texts):  # On what lies below the part that is shown.
        note.remove()
    ax.axhline(math.log(LEFT), color=plotting.COLORS["grey"], linewidth=1, linestyle=":")
    ax.annotate(
        "1 % left",
        (STEPS - 1, math.log(LEFT)),
        (0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize="small",
    )
    ax.plot([horizon], [curve[horizon]], "o", color=plotting.COLORS["vermilion"])
    ax.set_ylim(*LIMITS)
    ax.set_xlim(-1, STEPS)
    ax.set_ylabel("nats above the mean at lag 0")
    ax.grid(visible=False)
    return _inline(figure)


def _inline(figure: Any) -> str:
    """A figure as SVG for the inside of a page, as wide as there is room."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r' width="[^"]*pt" height="[^"]*pt"', "", svg, count=1)


def main(folder: Path) -> None:
    """Draws every cell into a folder, and writes there what is known of each, as cells.json."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = {name: facts(cell) | draw(name, folder) for name, cell in abstract_cells().items()}
    measured = {"steps": STEPS, "features": FEATURES, "hidden": HIDDEN, "cells": cells}
    text = json.dumps(measured, indent=1, ensure_ascii=False)
    (folder / "cells.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    mpl.use("Agg")
    jax.config.update("jax_disable_most_optimizations", True)
    main(Path(sys.argv[1]))
