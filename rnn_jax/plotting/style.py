"""Colours and axes that all pictures share."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

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

# Perceptually even, dark to light, readable in grey and by colour-blind people.
COLORMAP = "cividis"


def new_axes(ax: Axes | None, *, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax


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


def cycle_color(index: int) -> str:
    """The colour of the index-th series."""
    return COLORS[CYCLE[index % len(CYCLE)]]


def labelled(
    results: Any, colors: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Any, str]]:
    """(label, result, colour) of each series; what is no mapping is one series without a label."""
    named: Mapping[str, Any] = results if isinstance(results, Mapping) else {"": results}
    for index, (label, result) in enumerate(named.items()):
        yield label, result, (colors or {}).get(label, cycle_color(index))


def finish(ax: Axes, title: str | None = None) -> Axes:
    """Takes away what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    if title:
        ax.set_title(title, loc="left", fontsize="medium")
    return ax


def mark_float32_floor(ax: Axes, curves: Sequence[np.ndarray]) -> None:
    """A line where float32 reads 0, if a curve falls that far; named where there is room."""
    floor = math.log(float(np.finfo(np.float32).tiny))
    falling = [curve for curve in curves if (curve < floor).any()]
    if not falling:
        return
    ax.axhline(floor, color=COLORS["black"], linewidth=1.0, linestyle=(0, (1, 1.5)))
    right, above = _free_place(floor, curves, ax.get_ylim())
    ax.annotate(
        f"float32 reads 0 below −{-floor:.0f}",
        xy=(1.0 if right else 0.0, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-4 if right else 4, 3 if above else -3),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if above else "top",
        fontsize="small",
    )


def _free_place(
    level: float, curves: Sequence[np.ndarray], limits: tuple[float, float]
) -> tuple[bool, bool]:
    """(right or left, above or below): where a few words at a level hide the least of the curves.

    The words are taken for a third as wide as the axes and for an eleventh as high.
    """
    height = 0.09 * (limits[1] - limits[0])

    def hidden(place: tuple[bool, bool]) -> int:
        right, above = place
        low, high = (level, level + height) if above else (level - height, level)
        count = 0
        for curve in curves:
            third = max(len(curve) // 3, 1)
            part = curve[-third:] if right else curve[:third]
            count += int(((part >= low) & (part <= high)).sum())
        return count

    return min(((True, True), (False, True), (True, False), (False, False)), key=hidden)


def as_numpy(value: Any) -> np.ndarray:
    """A result on the host, in float64 for the drawing."""
    return np.asarray(value, dtype=np.float64)
