"""Colours, text and sizes of pictures, as parameters of matplotlib, and the switch between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib as mpl
from cycler import cycler

# Okabe and Ito, "Color universal design", 2008: told apart with any common colour blindness.
COLORS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#7A7A7A",
}
CYCLE = ["blue", "vermilion", "green", "purple", "orange", "sky", "black"]

# Widths of a figure in inches: one column of a two-column page, and both.
COLUMN = 3.5
PAGE = 7.0

# What all styles share. Sizes of text are relative to the user's here.
_LOOK: Any = {
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in CYCLE]),
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "grid.color": "0.9",
    "grid.linewidth": 0.8,
    # Perceptually even, dark to light, readable in grey and by colour-blind people.
    "image.cmap": "cividis",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.7,
}


def _for_print(width: float) -> dict[str, Any]:
    """Text of 7 and 8 points, at the size at which it is printed, and lines to match."""
    return {
        **_LOOK,
        "axes.labelsize": 8,
        "axes.linewidth": 0.6,
        "axes.titlesize": 8,
        "figure.constrained_layout.use": True,
        "figure.figsize": (width, 0.62 * width),
        "figure.titlesize": 8,
        "font.size": 8,
        "grid.linewidth": 0.5,
        "legend.fontsize": 7,
        "legend.title_fontsize": 7,
        "lines.linewidth": 1.1,
        "lines.markersize": 4,
        # Text stays text in a PDF, in a kind of font that publishers accept.
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "savefig.dpi": 300,
        "xtick.labelsize": 7,
        "xtick.major.size": 2.5,
        "xtick.major.width": 0.6,
        "xtick.minor.size": 1.5,
        "xtick.minor.width": 0.5,
        "ytick.labelsize": 7,
        "ytick.major.size": 2.5,
        "ytick.major.width": 0.6,
        "ytick.minor.size": 1.5,
        "ytick.minor.width": 0.5,
    }


STYLES: dict[str, Any] = {"column": _for_print(COLUMN), "page": _for_print(PAGE)}
"""Parameters of matplotlib by style, for `matplotlib.rcParams.update`."""

# What `style` was last called with; before that, a name that it does not take.
_UNCHOSEN = "unchosen"
_chosen: str | None = _UNCHOSEN


def style(name: str | None) -> contextlib.ExitStack:
    """Chooses how pictures are drawn from here on, or inside a `with`.

    Without a call, pictures have the colours of Okabe and Ito, a faint grid and two spines, and
    matplotlib's parameters stay as they are. With one, pictures are drawn as the parameters say:

      * "column": for one column, 3.5 inches wide, with text of 7 and 8 points; "page": for two
        columns, 7 inches wide, with the same text. The style is written into
        `matplotlib.rcParams`, so that axes which you make have it too, and what you change there
        afterwards counts.
      * None: nothing is written. Colours, colour map, grid, spines, text and the size of new
        figures are your own.

    `rnn_jax.plotting.COLUMN` and `PAGE` are these widths in inches, `COLORS` are the colours by
    name, and `STYLES` the parameters of each style.

    Args:
      name: "column", "page" or None.

    Returns:
      A context manager that, like `plt.xkcd()`, may be ignored: leaving it brings back what was
      there before.

    Raises:
      ValueError: no such style.

    Example:
      >>> import rnn_jax.plotting as rp
      >>> with rp.style("column"):
      ...     ax = rp.plot_by_lag(rj.gradient_flow(cell, xs))
      >>> float(ax.figure.get_figwidth())
      3.5
    """
    if name is not None and name not in STYLES:
        raise ValueError(
            f"style must be one of {', '.join(map(repr, STYLES))} or None; got {name!r}. "
            "Pass None for your own matplotlib parameters."
        )
    undo = contextlib.ExitStack()
    undo.callback(_choose, _chosen)
    chosen = STYLES[name] if name is not None else {}
    # No `parameters` here: a generator that nobody keeps ends at once, and takes the style along.
    undo.callback(_update, _current(chosen))
    _update(chosen)
    _choose(name)
    return undo


def _choose(name: str | None) -> None:
    global _chosen
    _chosen = name


def is_chosen() -> bool:
    """Whether `style` was called, so that matplotlib's parameters say how to draw."""
    return _chosen != _UNCHOSEN


def is_off() -> bool:
    """Whether pictures are drawn with the user's own parameters."""
    return _chosen is None


@contextlib.contextmanager
def parameters(values: dict[str, Any]) -> Iterator[None]:
    """Parameters of matplotlib for a while; only they are brought back.

    `mpl.rc_context` brings back all. Among them is whether matplotlib is interactive, which a
    notebook's backend says when it draws its first figure: taken back, it would show no other.
    """
    before = _current(values)
    _update(values)
    try:
        yield
    finally:
        _update(before)


def _current(keys: Iterable[str]) -> dict[str, Any]:
    current: Any = mpl.rcParams
    return {key: current[key] for key in keys}


def _update(values: dict[str, Any]) -> None:
    current: Any = mpl.rcParams
    current.update(values)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The parameters that pictures are drawn with; decorates each function that draws one."""
    if is_chosen():
        yield
        return
    with parameters(_LOOK):
        yield
