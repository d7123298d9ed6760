"""The cell that README.md writes down in fifteen lines gets everything, as it stands there."""

import inspect
import re
import unittest.mock
from pathlib import Path

import jax
import numpy as np

import rnn_jax as rj

README = Path(__file__).parents[2] / "README.md"


def test_the_cell_of_the_readme_gets_everything(monkeypatch):
    text = README.read_text(encoding="utf-8")
    (block,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
        if "rj.testing.check_cell(" in block
    )
    (definition,) = re.findall(r"^class .*?(?=^\S)", block.split("\n", 2)[2], flags=re.S | re.M)
    assert len([line for line in definition.splitlines() if line.strip()]) <= 15
    fit, reports = rj.fit, []

    def briefly(*args, steps, **options):
        return fit(*args, steps=min(steps, 4), **options)

    def checked(cell, **options):
        # Claims of its own it has none, and types are held to in the sweep of our cells.
        reports.append(check_cell(cell, **options))
        return reports[-1]

    check_cell = rj.testing.check_cell
    monkeypatch.setattr(rj, "fit", briefly)
    monkeypatch.setattr(rj.testing, "check_cell", checked)
    scope = {"__name__": "readme"}
    # In the types and with the promotion that JAX has unless it is told otherwise.
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        unittest.mock.patch("builtins.print"),
    ):
        exec(compile(block, str(README), "exec"), scope)
    assert not reports[0].names("broken")
    assert len(reports[0].names("holds")) == 21
    assert scope["ys"].shape == (100, 4)
    assert np.isfinite(scope["result"].history.loss).all()
    assert inspect.isclass(scope["PendulumCell"])
