"""The table of every cell: what does not depend on a machine is what the cells say today."""

import jax.numpy as jnp
import pytest
from flax import nnx

import rnn_jax as rj
from benchmarks import cells_page
from benchmarks.cell_products import Product, products_of
from benchmarks.cells import abstract_cells, every_cell, measure

ROWS = cells_page.written_rows()


def test_every_public_cell_is_on_the_page_and_nothing_else():
    assert list(ROWS) == list(every_cell())
    assert {"LSTMCell", "ClockworkRNNCell", "EchoStateCell", "MLSTMCell"} < set(ROWS)
    assert not {"RNNCell", "Zoneout", "LearnedCarry"} & set(ROWS)


def test_rows_say_what_the_cells_say():
    for name, cell in abstract_cells().items():
        row = dict(ROWS[name])
        for column in cells_page.MEASURED:
            assert row.pop(column)
        fix = "run python -m benchmarks.cells --describe"
        assert row == cells_page.description(cell), f"{name} has changed: {fix}"


def test_describing_keeps_what_is_measured(tmp_path, monkeypatch):
    page, cells = tmp_path / "cells.md", {"RNN": rj.SimpleRNNCell(2, 3, rngs=nnx.Rngs(0))}
    page.write_text(f"# Cells\n{cells_page.BEGIN}\n{cells_page.END}\nafter", encoding="utf-8")
    monkeypatch.setattr(cells_page, "PAGE", page)
    for _ in range(2):
        cells_page.write_page(cells)
        assert page.read_text(encoding="utf-8").count("| cell |") == 1
    values = {"RNN": dict(zip(cells_page.MEASURED, ("1.5", "3", "−0.1"), strict=True))}
    where = {"machine": "one core", "versions": "jax 1", "date": "today"}
    cells_page.write_page(cells, values, where)
    once = page.read_text(encoding="utf-8")
    assert "Measured on one core, with jax 1, on today" in once
    assert once.startswith("# Cells\n")
    assert once.endswith("\nafter")
    cells_page.write_page(cells)
    assert page.read_text(encoding="utf-8") == once
    row = cells_page.written_rows()["RNN"]
    assert row["λ₁"] == "−0.1"
    assert list(row)[-1] == "source"
    cells_page.write_page(cells | {"New": rj.GRUCell(2, 3, rngs=nnx.Rngs(0))})
    assert cells_page.written_rows()["New"]["horizon"] == "–"


def test_descriptions_count_what_is_there():
    cell = rj.SimpleRNNCell(2, 3, rngs=nnx.Rngs(0))
    assert cells_page.description(cell) == {
        "parameters": str(2 * 3 + 3 * 3 + 3),
        "carry": "h 3",
        "linear": "–",
        "diagonal": "–",
        "source": "Elman, 1990",
    }
    fixed = cells_page.description(rj.EchoStateCell(2, 40, rngs=nnx.Rngs(0)))
    assert fixed["parameters"] == "0 (1 720 fixed)"
    linear = cells_page.description(rj.LRUCell(2, 3, rngs=nnx.Rngs(0)))
    assert (linear["linear"], linear["carry"]) == ("complex", "real 3, imaginary 3")
    assert cells_page.source(rj.UnICORNNCell) == "Rusch and Mishra, 2021"
    with pytest.raises(ValueError, match="must name its source"):
        cells_page.source(rj.RNNCell)


def test_horizon_and_exponent_are_those_of_the_instrument(monkeypatch):
    monkeypatch.setattr(cells_page, "STEPS", 12)
    monkeypatch.setattr(cells_page, "WARMUP", 4)
    cell = rj.SimpleRNNCell(2, 4, activation="identity", rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = 0.25 * jnp.eye(4)
    # 0.25³ is above 1 %, 0.25⁴ below.
    assert cells_page.horizon_and_exponent(cell) == ("3", "−1.386")
    monkeypatch.setattr(cells_page, "_LARGE", 3)
    assert cells_page.horizon_and_exponent(cell) == ("≈ 3", "−1.386")
    cell.recurrent_kernel[...] = jnp.eye(4)
    assert cells_page.horizon_and_exponent(cell)[0] == "≥ 11"
    cell.recurrent_kernel[...] = jnp.zeros((4, 4))
    assert cells_page.horizon_and_exponent(cell) == ("≈ 0", "−∞")


@pytest.mark.parametrize(
    ("make", "recurrent", "readout"),
    [
        (rj.LEMCell, [(1, 8, 24), (1, 8, 8)], []),
        (rj.IndRNNCell, [], []),
        (rj.LRUCell, [], [(1, 16, 8)]),
        # Made of weights alone, once for all sequences: no product of a step.
        (rj.ScoRNNCell, [(1, 8, 8)], []),
    ],
)
def test_products_are_those_of_the_step(make, recurrent, readout):
    found = products_of(make(2, 8, rngs=nnx.Rngs(0)))
    assert found.recurrent == tuple(Product(*sizes) for sizes in recurrent)
    assert found.readout == tuple(Product(*sizes) for sizes in readout)
    assert found.is_trained


def test_heads_are_products_of_their_own():
    found = products_of(rj.SLSTMCell(2, 8, num_heads=2, rngs=nnx.Rngs(0)))
    assert found.recurrent == (Product(2, 4, 16),)
    assert str(found) == "2×4×16"
    assert not products_of(rj.EchoStateCell(2, 8, rngs=nnx.Rngs(0))).is_trained


def test_a_row_is_timed():
    cells = {"one": rj.SimpleRNNCell(2, 4, rngs=nnx.Rngs(0))}
    row = measure(cells, (2, 3, 2, 4), rounds=1)["one"]
    assert row["training step"].best > 0
    assert row["its products alone"].best > 0
    assert row["products with the state"] == "4×4"
