"""The benchmarks for a GPU, rehearsed on a CPU: what they find out, keep and show."""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import accuracy, candidates, floor, modes, recurrences
from benchmarks.gpu.candidates import Candidate, nothing
from benchmarks.gpu.page import page
from benchmarks.gpu.results import Results, Table
from benchmarks.gpu.rounds import Effort, Measured, measure

ONCE = Effort(rounds=1, at_least=0)


@pytest.fixture(autouse=True)
def _one_thread_of_torch():
    # Else its threads wait for one another where several processes share the cores.
    if candidates.torch is not None:
        candidates.torch.set_num_threads(1)


@pytest.mark.parametrize("kind", candidates.KINDS)
def test_all_libraries_compute_the_same_gradient(kind):
    cells = recurrences.measure_row(kind, recurrences.TINY[0], True, ONCE).cells
    assert list(cells) == list(candidates.candidates(kind))
    # On a CPU there are no kernels, and what they say of it is no time.
    absent = ("kernel",) if candidates.torch else ("kernel", "PyTorch")
    working = {name: cell for name, cell in cells.items() if "error" not in cell}
    assert set(cells) - set(working) == {name for name in cells if name.startswith(absent)}
    for name, cell in working.items():
        assert cell["best"] > 0, name
        assert cell["deviation"] < 1e-5, name


def test_what_is_compared_is_float32_with_biases():
    """A library that has lost a bias would not be found out by one of 0."""
    cell, xs = candidates.problem("GRU", recurrences.TINY[0], gradient=False)[1:3]
    assert np.all(cell.bias[...] != 0)
    assert np.all(cell.candidate_recurrent_bias[...] != 0)
    assert {leaf.dtype for leaf in (*jax.tree.leaves(cell), xs)} == {jnp.dtype(jnp.float32)}


def test_accuracy_is_that_of_float32():
    cells = accuracy.measure_row("simple RNN", accuracy.TINY[0], ONCE).cells
    for error in map(float, cells["scan"]["text"].split(" / ")):
        assert 1e-9 < error < 1e-6


def test_a_mode_of_differentiation_is_that_of_the_scan():
    cells = modes.measure_row("simple RNN", "reverse over forward", modes.TINY, ONCE).cells
    assert cells["scan, highest"]["deviation"] == 0
    assert cells["scan"]["deviation"] < 1e-5


def makes(value, *, precision="highest", run=lambda times: None):
    """What makes a candidate of this value."""
    return lambda: Candidate(nothing, lambda: {"outputs": np.asarray(value)}, run, precision)


def test_a_wrong_candidate_is_not_timed():
    good = np.array([3.0, 4.0])
    cells = measure(
        {
            "first": makes(good),
            "rounded": makes(good * 1.01, precision="default"),
            "not rounded": makes(good * 1.01),
            "wrong": makes(good[::-1], precision="default"),
            "not finite": makes([3.0, np.nan]),
            "other shape": makes([3.0]),
        },
        ONCE,
    ).cells
    assert [name for name, cell in cells.items() if "best" in cell] == ["first", "rounded"]
    assert cells["wrong"]["error"] == "deviates by 2.8e-01 from first"
    assert cells["not finite"]["error"] == "deviates by nan from first"
    assert cells["other shape"]["error"] == "deviates by inf from first"


def fails_after(count):
    """A run that fails when there have been so many."""
    runs = []

    def run(times):
        runs.extend([None] * times)
        if len(runs) > count:
            raise MemoryError("out of memory | after a while\nand more")

    return run


def test_a_failing_candidate_leaves_its_error_and_the_others_go_on():
    def cannot_be_made():
        raise ValueError("H is too large.\nSecond line")

    good = np.ones(2)
    cells = measure(
        {
            "not made": cannot_be_made,
            "good": makes(good),
            "late": makes(good, run=fails_after(4)),
            "early": makes(good, run=fails_after(0)),
        },
        Effort(rounds=3, at_least=0),
    ).cells
    assert cells["not made"] == {"error": "ValueError: H is too large."}
    # What is compared with is the first one that works.
    assert cells["good"]["deviation"] == 0
    assert cells["good"]["best"] >= 0
    for name in ("late", "early"):
        assert cells[name] == {"error": "MemoryError: out of memory | after a while"}


def test_runs_are_repeated_as_the_quickest_and_the_slowest_allow(monkeypatch):
    now = [0.0]

    def takes(milliseconds):
        def run(times):
            now[0] += times * milliseconds / 1000

        return makes(np.ones(1), run=run)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    alone = measure({"quick": takes(1)}, Effort(2, at_least=9.5, at_most=100))
    assert alone.repeats == 10
    assert alone.cells["quick"]["best"] == pytest.approx(1)
    both = {"quick": takes(1), "slow": takes(40)}
    assert measure(both, Effort(2, at_least=9.5, at_most=90)).repeats == 2
    assert measure(both, Effort(2, at_least=9.5, at_most=30)).repeats == 1


def table(rows):
    return Table("Rows", "Of a test.", ("one", "two"), rows)


def row(calls, name, cells, effort):
    calls.append(name)
    if isinstance(cells, BaseException):
        raise cells
    return Measured(cells, 7)


def run(monkeypatch, out, contents, *options):
    """Runs the command on rows of these cells; the names of those that it measured."""
    calls = []
    rows = {name: functools.partial(row, calls, name, cells) for name, cells in contents.items()}
    monkeypatch.setattr(command, "all_tables", lambda tiny: [table(rows)])
    command.main(["--platform", "cpu", "--tiny", "--out", str(out), *options])
    return calls


def test_a_killed_run_goes_on(monkeypatch, tmp_path):
    timed = {"one": {"best": 0.5, "median": 0.75}}
    rows = {"a": timed, "b": timed, "c": {"two": {"error": "ValueError: x | y"}}}
    out = tmp_path / "page.md"
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, out, rows | {"b": KeyboardInterrupt()})
    assert "| a | 0.500 (0.750) | 7 |" in out.read_text()
    assert "| b | not measured |" in out.read_text()
    kept = out.with_suffix(".jsonl")
    with kept.open("a") as file:  # As if it had been killed while it wrote a row.
        file.write('{"table": "Rows", "ro')
    assert run(monkeypatch, out, rows) == ["b", "c"]
    lines = kept.read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == ["a", "b", "c"]
    assert "| c | – | failed (1) | 7 |" in out.read_text()
    assert "1. ValueError: x \\| y" in out.read_text()
    # A failure is a result, unless one asks.
    assert run(monkeypatch, out, rows) == []
    assert run(monkeypatch, out, rows, "--retry") == ["c"]
    assert run(monkeypatch, out, rows | {"d": timed}, "--only", "c, Rows: d, ") == ["d"]
    monkeypatch.setattr(command, "version", lambda name: "0")
    with pytest.raises(SystemExit, match="rows of one machine"):
        run(monkeypatch, out, rows)


def test_a_file_that_is_damaged_is_not_written_over(tmp_path):
    kept = tmp_path / "page.jsonl"
    kept.write_text('no JSON\n{"table": "Rows", "row": "a"}\n')
    with pytest.raises(SystemExit, match="line 1 is none"):
        Results(kept)


def test_a_budget_leaves_rows_for_the_next_call(monkeypatch, tmp_path, capsys):
    rows = {name: {"one": {"text": "x"}} for name in "abc"}
    out = tmp_path / "page.md"
    assert run(monkeypatch, out, rows, "--budget", "1s") == []
    assert "3 of 3 rows are left" in capsys.readouterr().out
    assert run(monkeypatch, out, rows, "--budget", "1m") == ["a", "b", "c"]
    for wrong in ("soon", "-1m"):
        with pytest.raises(SystemExit):
            run(monkeypatch, out, rows, f"--budget={wrong}")


def test_without_a_gpu_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(SystemExit) as end:
        command.main(["--out", str(tmp_path / "page.md")])
    assert end.value.code == 2
    assert "need an NVIDIA GPU; JAX found cpu alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--platform", "cpu"], ["--tiny"], ["--rounds", "0"]])
def test_what_would_give_no_result_is_refused(options, capsys):
    with pytest.raises(SystemExit):
        command.main(options)
    assert "must" in capsys.readouterr().err


def test_the_committed_page_says_what_was_measured():
    """It is what its rows give, so that no figure in it was written by hand."""
    results = Results(command.OUT.with_suffix(".jsonl"))
    assert command.OUT.read_text(encoding="utf-8") == page(command.all_tables(False), results)


def test_names_of_rows_are_their_own():
    for tiny in (False, True):
        titles = [table.title for table in command.all_tables(tiny)]
        assert len(set(titles)) == len(titles)


def test_the_floor_of_a_step_by_hand():
    """B = 16, I = 2, H = 128, by pencil and paper."""
    shape = (16, 1000, 2, 128)
    assert floor.flops("LSTM", shape, gradient=False) == 2 * 16 * 130 * 512
    assert floor.flops("LSTM", shape, gradient=True) == 2 * 16 * (130 + 128 + 130) * 512
    assert floor.traffic("simple RNN", shape, gradient=False) == 4 * 16 * 130
    # One array saved, one of cotangents, each written and read; outputs and inputs read again.
    assert floor.traffic("simple RNN", shape, gradient=True) == 4 * 16 * (130 + 4 * 128 + 130)
    assert floor.weight_bytes("GRU", shape) == 4 * 128 * 384
    assert floor.peaks_of("NVIDIA H100 80GB HBM3", "9.0").bandwidth == 3.35
    assert floor.peaks_of("NVIDIA H200", "9.0").bandwidth == 4.8
    assert floor.peaks_of("NVIDIA H100 80GB HBM3", "8.0") is None


def test_the_floor_stands_beside_what_was_measured(tmp_path):
    results = Results(tmp_path / "rows.jsonl")
    label = recurrences.label("LSTM", (64, 200, 2, 128))
    timed = {"kernel": {"best": 0.9, "median": 1.0}}
    results.add({"table": recurrences.GRADIENT, "row": label, "cells": timed})
    peaks = floor.peaks_of("NVIDIA H100 80GB HBM3", "9.0")
    [cells] = floor.rows(results, peaks).values()
    assert dict(zip(floor.COLUMNS, cells, strict=True))["exchange"] == "not measured"
    # 256 KiB of weights need two blocks of 227.
    handed = {"one tile": {"best": 7.5, "median": 8.0, "microseconds": 1.5}}
    results.add({"table": "Exchange", "row": "2 blocks", "cells": handed})
    [cells] = floor.rows(results, peaks).values()
    shown = dict(zip(floor.COLUMNS, cells, strict=True))
    assert (shown["kernel"], shown["exchange"]) == ("4.50", "3.00")
    # Two exchanges and 4 · 64 · (130 + 18 · 128 + 130) bytes at 3.35 TB/s.
    assert shown["floor"] == "3.20"
