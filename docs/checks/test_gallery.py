"""The gallery shows every picture: each public function that draws one, and each `plot` method."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import rnn_jax as rj
import rnn_jax.plotting as rp

PAGE = (Path(__file__).parents[1] / "gallery.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", flags=re.S | re.M)
CELL = re.compile(r"^```\{code-cell\}\n(.*?)^```", flags=re.S | re.M)

FUNCTIONS = [n for n in rp.__all__ if inspect.isfunction(getattr(rp, n)) and n != "style"]
METHODS = {
    f"{name}.plot": getattr(rj, name).plot
    for name in rj.__all__
    if inspect.isclass(getattr(rj, name)) and hasattr(getattr(rj, name), "plot")
}


def shown(page):
    """By the function that heads each section, the attributes that its code calls, and its text."""
    found = {}
    for name, text in SECTION.findall(page):
        code = ast.parse("\n".join(body for body in CELL.findall(text)))
        calls = [node.func for node in ast.walk(code) if isinstance(node, ast.Call)]
        found[name] = {c.attr for c in calls if isinstance(c, ast.Attribute)}, text
    return found


def missing(page, functions, methods):
    """What the page has no picture of, or no word on."""
    sections = shown(page)
    common = page[: page.index("## Styles")]
    lacking = []
    for name in functions:
        calls, text = sections.get(name, (set(), ""))
        if not {name, "plot"} & calls:
            lacking.append(f"a picture by {name}")
        words = common + text
        lacking += [
            f"{option} of {name}"
            for option in list(inspect.signature(getattr(rp, name)).parameters)[1:]
            if not re.search(rf"`{option}\b|\b{option}=", words)
        ]
    for name in methods:
        if not any(f"`{name}`" in text and "plot" in calls for calls, text in sections.values()):
            lacking.append(f"a picture by {name}")
    return lacking


def test_every_picture_and_option_is_shown():
    assert not missing(PAGE, FUNCTIONS, METHODS)


def test_there_is_a_section_for_nothing_else():
    assert set(shown(PAGE)) == set(FUNCTIONS)


def test_all_that_can_be_chosen_is_named():
    for name in set(rp.__all__) - set(FUNCTIONS):
        assert re.search(rf"`{name}`|\brp\.{name}\b", PAGE), name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rp.plot_terms(", "print(", ["a picture by plot_terms"]),
        ("### `plot_terms`", "### `plot_words`", ["a picture by plot_terms"]),
        ("`trajectories`", "paths", []),  # Its call names it.
        ("`lowest` is", "it is", []),
        ("`directions=False`", "an option", ["directions of plot_fixed_points"]),
        ("`CovariantLyapunovVectors.plot`", "It", ["a picture by CovariantLyapunovVectors.plot"]),
    ],
)
def test_what_is_left_out_is_found(old, new, expected):
    assert old in PAGE
    assert missing(PAGE.replace(old, new), FUNCTIONS, METHODS) == expected
