"""Axes, colours, lines and legends that all pictures share."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from rnn_jax.plotting.styles import drawing, is_chosen, is_off

Size = tuple[float, float]

DOTTED = (0, (1, 1.5))

# Mean width of a letter, as a part of the size of the font.
_LETTER = 0.56


def new_axes(ax: Axes | None, figsize: Size | None = None, *, natural: Size = (6.4, 4.0)) -> Axes:
    """The axes given, or those of a new figure.

    Args:
      ax: the axes given.
      figsize: of a new figure, inches; None has the width of the style and a height to match.
      natural: the size without a style, inches; its proportions are kept in each width.

    Raises:
      ValueError: both axes and a figsize, or a figsize that is not two positive numbers.
    """
    if ax is not None:
        if figsize is not None:
            raise ValueError(
                f"figsize is the size of a new figure; got figsize={figsize!r} beside ax. Leave "
                "one of them out, or set the size where the axes are made."
            )
        return ax
    if figsize is not None:
        size = check_figsize(figsize)
    else:
        size = mpl.rcParams["figure.figsize"] if is_off() else styled_figsize(natural)
    return plt.subplots(figsize=size, layout="constrained")[1]


def styled_figsize(natural: Size) -> Size:
    """The size of a new figure, inches: as wide as the style, as high as the drawing needs."""
    if not is_chosen():
        return natural
    width = float(mpl.rcParams["figure.figsize"][0])
    return width, width * natural[1] / natural[0]


def check_figsize(figsize: tuple[float, float]) -> tuple[float, float]:
    """Width and height of a figure in inches.

    Raises:
      ValueError: they are not two positive, finite numbers.
    """
    try:
        width, height = (float(inches) for inches in figsize)
    except (TypeError, ValueError):
        width = height = math.nan
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(
            f"figsize must be two positive numbers, width and height in inches; got {figsize!r}. "
            "Pass for example figsize=(12, 8), or leave it out."
        )
    return width, height


@drawing()
def cycle_color(index: int) -> str:
    """The colour of the index-th series in the style that is drawn in."""
    colors: Sequence[str] = mpl.rcParams["axes.prop_cycle"].by_key().get("color", ["black"])
    return colors[index % len(colors)]


def ink() -> str:
    """The colour of frames, for lines and marks that belong to no series."""
    color: str = mpl.rcParams["axes.edgecolor"]
    return color


def line_width(part: float = 1.0) -> float:
    """Points: a part of the width of a curve."""
    return part * float(mpl.rcParams["lines.linewidth"])


def named_series(
    results: Any, labels: str | Sequence[str] | None, colors: Mapping[str, str] | None
) -> Iterator[tuple[str, Any, str]]:
    """(label, result, colour) of each series; what is no mapping is one series without a label."""
    named: Mapping[str, Any] = results if isinstance(results, Mapping) else {"": results}
    shown = check_labels(labels, list(named))
    for index, (name, result) in enumerate(named.items()):
        yield shown[index], result, (colors or {}).get(name, cycle_color(index))


def check_labels(labels: str | Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """Labels in place of names, one each; none at all for an empty sequence.

    Raises:
      ValueError: another number of labels than of names.
    """
    if labels is None:
        return list(names)
    given = [labels] if isinstance(labels, str) else list(labels)
    if not given:
        return [""] * len(names)
    if len(given) != len(names):
        known = ", ".join(map(repr, filter(None, names)))
        raise ValueError(
            f"labels must have one name for each of the {len(names)} in this picture"
            f"{f' ({known})' if known else ''}; got {len(given)}: {given!r}. Pass () for no legend."
        )
    return given


def log_norm_label(wrt: str | None, source: str) -> str:
    """What is measured: ln‖∂y_t/∂x‖ or ln‖∂carry_t/∂carry‖ by a source step, in nats."""
    if wrt is None:
        return r"$\ln$ of the norm  (nats)"
    of, by = ("y", "x") if wrt == "input" else ("c", "c")
    return rf"$\ln\,\Vert\partial {of}_t / \partial {by}_{{{source}}}\Vert$  (nats)"


def add_legend(ax: Axes, **options: Any) -> None:
    """A legend, if anything on the axes has a name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**options)


@drawing()
def finish(ax: Axes, title: str | None = None, *, grid: bool = True) -> Axes:
    """Takes away what carries no information, unless the style is the user's own."""
    if not is_off():
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(visible=False)
        if grid:
            # Named here, as ticks and their lines are made when they are drawn.
            width = mpl.rcParams["grid.linewidth"]
            ax.grid(axis="y", color=mpl.rcParams["grid.color"], linewidth=width)
            ax.set_axisbelow(True)
    if title:
        ax.set_title(title)
    return ax


def make_room_above(ax: Axes, lines: int) -> None:
    """Room for a legend of so many lines above the curves."""
    _, height = points_of(ax)
    part = min((1.65 * lines + 1) * font_points("legend.fontsize") / height, 0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(low, low + (high - low) / (1 - part))


def points_of(ax: Axes) -> np.ndarray:
    """Width and height of axes in points, as far as they are known before a layout."""
    return 72 * np.asarray(ax.get_window_extent().size) / float(ax.figure.dpi)


def font_points(key: str) -> float:
    """The size of text of a kind in points, by its key in matplotlib's parameters."""
    parameters: Any = mpl.rcParams
    return float(FontProperties(size=parameters[key]).get_size_in_points())


def text_points(words: str, key: str) -> float:
    """About how wide words are in points, by the key of their size in matplotlib's parameters."""
    return _LETTER * len(words) * font_points(key)


def add_headline(figure: Figure, text: str, size: str | float, weight: str = "normal") -> None:
    """Words above all of a figure, from its left edge on, in as many lines as they need."""
    points = FontProperties(size=size).get_size_in_points()
    letters = int(0.97 * 72 * figure.get_figwidth() / (_LETTER * points))
    wide = letters if weight == "normal" else int(0.88 * letters)
    lines = [textwrap.fill(line, max(wide, 1)) for line in text.split("\n")]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=size, fontweight=weight)


def mark_level(ax: Axes, level: float) -> None:
    """A dotted line across, for a level that curves are read against."""
    ax.axhline(level, color=ink(), linewidth=line_width(0.6), linestyle=DOTTED)


def mark_float32_floor(
    ax: Axes, curves: Sequence[np.ndarray], others: Sequence[np.ndarray] = ()
) -> None:
    """A line where float32 reads 0, if a curve falls that far; named where there is room.

    Args:
      ax: where to draw.
      curves: of gradients.
      others: lines that the name must not hide either.
    """
    floor = math.log(float(np.finfo(np.float32).tiny))
    falling = [curve for curve in curves if (curve < floor).any()]
    if not falling:
        return
    mark_level(ax, floor)
    words, size = f"float32 reads 0 below −{-floor:.0f}", "legend.fontsize"
    width, height = points_of(ax)
    room = text_points(words, size) / width, 1.6 * font_points(size) / height
    right, above = _free_place(floor, [*curves, *others], ax.get_ylim(), room)
    ax.annotate(
        words,
        xy=(1.0 if right else 0.0, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-4 if right else 4, 3 if above else -3),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if above else "top",
        fontsize=font_points(size),
    )


def _free_place(
    level: float,
    curves: Sequence[np.ndarray],
    limits: tuple[float, float],
    room: tuple[float, float],
) -> tuple[bool, bool]:
    """(right or left, above or below): where a few words at a level hide the least of the curves.

    The words need this room: a part of the width of the axes, and of their height.
    """
    height = room[1] * (limits[1] - limits[0])

    def hidden(place: tuple[bool, bool]) -> int:
        right, above = place
        low, high = (level, level + height) if above else (level - height, level)
        count = 0
        for curve in curves:
            beside = max(math.ceil(room[0] * len(curve)), 1)
            part = curve[-beside:] if right else curve[:beside]
            count += int(((part >= low) & (part <= high)).sum())
        return count

    return min(((True, True), (False, True), (True, False), (False, False)), key=hidden)


def as_numpy(value: Any) -> np.ndarray:
    """A result on the host, in float64 for the drawing."""
    return np.asarray(value, dtype=np.float64)
