"""Lyapunov exponents of systems, networks and cells: numbers that make sense, and files."""

import io
import json
import math

import jax
import numpy as np
import pytest
from modes import left_with, ordinary_mode
from rich.console import Console
from rich.progress import Progress

import lyapunov
from exponents.gain import mean_field, tanh

TINY = {
    "system_steps": 500,
    "gains": (0.5, 0.9, 3.0),
    "spectrum_gains": (0.5, 3.0),
    "size": 24,
    "spectrum_size": 8,
    "draws": 2,
    "steps": 120,
    "hidden": 4,
    "delay": 2,
    "train_steps": 8,
    "seeds": 2,
}


@pytest.fixture(scope="module")
def measured():
    config = lyapunov.resolve(lyapunov.Config(cell="simple", **TINY))
    with ordinary_mode():
        return lyapunov.run(config, Progress(disable=True))


def test_known_systems_are_within_their_errors(measured):
    assert len(measured.systems) == 11
    for row in measured.systems:
        if math.isnan(row.error):
            assert abs(row.measured - row.known) < 0.05
        else:
            assert row.deviation < 4
            assert 0 < row.error < 0.5


def test_networks_at_rest_follow_the_spectral_radius_and_chaotic_ones_grow(measured):
    found = measured.transition
    assert found.exponents.shape == (3, 2)
    np.testing.assert_allclose(found.exponents[:2], found.radii[:2], atol=0.02)
    assert (found.exponents[2] > 0.05).all()
    np.testing.assert_allclose(found.spread, found.exponents.std(axis=1, ddof=1), rtol=1e-6)
    quiet, loud = measured.spectra
    assert quiet.dimension == quiet.entropy == 0
    assert loud.exponents[0] > quiet.exponents[0]
    assert (np.diff(loud.exponents) <= 0).all()


def test_the_mean_field_theory_has_its_known_values():
    for gain, value in ((1.5, 0.065), (2.0, 0.155), (3.0, 0.310), (5.0, 0.532)):
        assert mean_field(gain) == pytest.approx(value, abs=6e-4)
    assert mean_field(0.8) == pytest.approx(math.log(0.8))
    assert 0 < mean_field(1.01) < 1e-3


def test_the_slope_of_tanh_survives_saturation():
    x = np.float32(15.0)
    np.testing.assert_allclose(jax.grad(tanh)(x), 1 / np.cosh(15.0) ** 2, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(tanh)(np.float64(0.3)), 1 - np.tanh(0.3) ** 2, rtol=1e-14)


def test_a_cell_is_measured_before_and_after_training(measured):
    assert set(measured.cells) == {"simple"}
    cell = measured.cells["simple"]
    assert cell.before.shape == cell.after.shape == cell.normal.shape == (2, 4)
    assert (cell.before[:, 0] < 0).all()
    assert not np.allclose(cell.before, cell.after)
    assert 0 < cell.error < 0.5
    assert (cell.loss < 1).all()


def test_files_and_tables(measured, tmp_path):
    with ordinary_mode():
        lyapunov.save(lyapunov.Config(out=tmp_path), measured, 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "transition.png",
        "spectra.png",
        "cells.png",
        "metrics.json",
    }
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    first = float(measured.transition.exponents[0, 0])
    assert metrics["transition"]["exponents"][0][0] == pytest.approx(first, rel=1e-5)
    assert metrics["systems"][2]["error"] is None
    console = Console(width=80, record=True, file=io.StringIO())
    lyapunov.show(console, measured)
    printed = console.export_text()
    assert "0.41922" in printed
    assert f"{measured.transition.theory[2]:.4f}" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_quick_is_smaller_and_options_win():
    quick = lyapunov.resolve(lyapunov.Config(quick=True, hidden=7))
    full = lyapunov.resolve(lyapunov.Config())
    assert (quick.hidden, full.hidden) == (7, 64)
    assert quick.size < full.size
    with pytest.raises(ValueError, match=r"--gains must be a number above 0; got -1"):
        lyapunov.resolve(lyapunov.Config(gains=(1.0, -1.0)))
    with pytest.raises(ValueError, match=r"--cell is for --study cells; got --study gain"):
        lyapunov.resolve(lyapunov.Config(study="gain", cell="gru"))


def test_bad_options_end_in_one_line_and_a_non_zero_exit(monkeypatch, capsys):
    status, said = left_with("lyapunov", ["--steps", "3"], monkeypatch, capsys)
    assert status == 2
    assert "--steps must be at least 40; got 3" in said
    assert said.count("\n") == 1
