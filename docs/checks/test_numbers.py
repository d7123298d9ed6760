"""No number of a page is merely typed: an assertion of its notebook, or a results file, holds it.

A number is held if it stands in the text by the role `eval`, or in a line of a code cell of the
page that asserts, comments aside. Numbers in code and in formulas are no claims.
"""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1]
NOT_WRITTEN = {"_build", "reference", "jupyter_execute", "measured"}
WRITTEN = sorted(
    page for page in DOCS.rglob("*.md") if not NOT_WRITTEN & set(page.relative_to(DOCS).parts)
)
CELL = re.compile(r"^(`{3,}|~{3,})\{code-cell\}.*?\n(.*?)^\1", flags=re.S | re.M)
APART = [  # What is no prose.
    re.compile(r"\A---\n.*?\n---\n", flags=re.S),
    re.compile(r"^(`{3,}|~{3,}).*?^\1", flags=re.S | re.M),
    re.compile(r"\{eval\}`[^`]*`"),
    re.compile(r"`+[^`]*`+"),
    re.compile(r"\$\$.*?\$\$", flags=re.S),
    re.compile(r"\$[^$\n]*\$"),
    re.compile(r"\]\([^)]*\)"),
    # Tables that a benchmark writes into a page are themselves results.
    re.compile(r"<!-- written by python .*?<!-- end of the table -->", flags=re.S),
    re.compile(r"<!--.*?-->", flags=re.S),
    re.compile(r"(Python|jax|flax|PyTorch|Keras|version|CFF|Apache-) ?\d+\.\d+(\.\d+)?"),
]
# Decimals, percentages, powers of e or ten, and so many times.
NUMBER = re.compile(
    r"[−-]?\d+\.\d+|\d+ ?%|e\^?[−⁻-][\d⁰¹²³⁴-⁹]+|10[⁻⁰¹²³⁴-⁹]+|\b\d+ times\b|\b\d+ (?:ms|GiB|MiB)\b"
)
PLAIN = str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789")


def typed_numbers(text):
    """The numbers in the prose of a page that none of its assertions holds."""
    held = {
        float(number)
        for cell in CELL.finditer(text)
        for line in cell[2].splitlines()
        if "assert" in line
        for number in re.findall(r"(?<![\w.])[\d_]*\.?\d+(?:e-?\d+)?", line.split("#")[0])
    }
    for pattern in APART:
        text = pattern.sub(" ", text)
    return [n for n in NUMBER.findall(text) if not held & meanings(n)]


def meanings(number):
    """What code may have for a number of the text, without its sign: 0.02 or 2 for 2 %."""
    plain = re.sub(r"^-|\^| |times|ms|GiB|MiB", "", number.translate(PLAIN))
    if plain.startswith("10-"):
        return {float(f"1e{plain[2:]}")}
    value = float(re.sub(r"^e-?|%", "", plain))
    return {value, value / 100} if "%" in plain else {value}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_number_is_held(page):
    typed = typed_numbers(page.read_text(encoding="utf-8"))
    assert not typed, (
        f"{page.relative_to(DOCS)} states {typed}: assert each in a code cell of the page, or read "
        "it from a results file and put it in with the role eval."
    )


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_cell_is_run(page):
    """Sphinx runs a removed cell before the next that stays; after the last one it runs none."""
    cells = [cell[2] for cell in CELL.finditer(page.read_text(encoding="utf-8"))]
    assert not cells or "[remove-cell]" not in cells[-1], (
        f"the last cell of {page.relative_to(DOCS)} is tagged remove-cell, so it is never run: tag "
        "it remove-input."
    )


def test_a_typed_number_is_found():
    page = "The rate is −0.41, of 1.5.\n\n```{code-cell}\nassert abs(rate + 1.5) < 0.1\n```\n"
    assert typed_numbers(page) == ["−0.41"]
    assert typed_numbers(page.replace("1.5)", "1.5 + 0.41)")) == []
    assert typed_numbers(page.replace("0.1\n", "0.1  # 0.41\n")) == ["−0.41"]
    assert typed_numbers(page.replace("1.5)", "1.5 + 10.415)")) == ["−0.41"]


def test_a_share_is_held_by_its_hundredth():
    page = "Left are 2 %, at most 10⁻¹³.\n\n```{code-cell}\nassert gap < 0.02 + 1e-13\n```\n"
    assert typed_numbers(page) == []
