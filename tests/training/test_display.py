"""What a run says while it trains, in a terminal and in a log, and to TensorBoard."""

import io
import re
import types

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

import rnn_jax as rj
from rnn_jax.training.display import LiveDisplay
from rnn_jax.training.plan import make_plan
from rnn_jax.training.report import NEVER, MemberStatus, Report

EVERY = 2


def maker(rngs):
    return rj.SequenceModel(rj.SimpleRNNCell(2, 3, rngs=rngs), 1, rngs=rngs)


def plan():
    return make_plan(
        rj.tasks.Adding(4),
        optax.sgd(0.1),
        batch_size=2,
        evaluation_size=4,
        evaluate_every=EVERY,
        stop_when_solved=True,
        on_nonfinite="stop",
        probes=(),
        hyperparameters=None,
    )


def report(loss, solved_at, failed_at):
    none, never = np.zeros_like(solved_at), np.full_like(solved_at, NEVER)
    status = MemberStatus(np.array(solved_at), np.array(failed_at), none, never, never, none)
    loss = np.array(loss)
    metrics = {"loss": loss, "mse": loss}
    return Report(loss, loss, np.full(loss.shape, EVERY), metrics, {}, status, {}, {})


def show(reports, steps=6, *, terminal):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with LiveDisplay("Adding", steps, plan(), console) as display:
        display.begin(0)
        for index, one in enumerate(reports):
            done = EVERY * (index + 1)
            display.update(done, one, finished=done == steps)
    return console.file.getvalue()


ENSEMBLE = [
    report([0.3, 0.2, np.nan], [NEVER] * 3, [NEVER, NEVER, 1]),
    report([0.2, np.nan, np.nan], [NEVER, 4, NEVER], [NEVER, NEVER, 1]),
    report([0.1, np.nan, np.nan], [NEVER, 4, NEVER], [NEVER, NEVER, 1]),
]


def test_a_log_has_a_plain_line_for_each_stage():
    lines = show(ENSEMBLE, terminal=False).splitlines()
    assert "\x1b" not in "".join(lines)
    text = " ".join(lines)
    assert "2/6 loss 0.25 (0.2–0.3) mse 0.25 (0.2–0.3) solved 0 of 3 not finite 1" in " ".join(
        text.split()
    )
    assert "1 still training" in text
    assert "done" in lines[-1]


def test_long_runs_have_a_few_lines_only():
    reports = [report(0.1, NEVER, NEVER)] * 500
    lines = show(reports, steps=1000, terminal=False).splitlines()
    assert 10 <= len(lines) <= 40


def test_a_terminal_of_80_columns_is_enough():
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(ENSEMBLE, terminal=True))
    assert max(map(len, text.splitlines())) <= 80
    text = " ".join(text.split())
    assert "6/6" in text
    assert "solved 1 of 3 not finite 1 1 still training" in text


def train(folder, steps, **options):
    return rj.fit(
        rj.ensemble(maker, 2),
        rj.tasks.Adding(4),
        optax.sgd(0.1),
        steps=steps,
        batch_size=2,
        seed=0,
        evaluate_every=EVERY,
        evaluation_size=4,
        directory=folder,
        **options,
    )


def scalars(folder):
    """(step, tag, value) of all events, in the order of the files; a purge hides what is later."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            if event.session_log.status == 1:
                found = [one for one in found if one[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_every_row_of_every_member(tmp_path, monkeypatch):
    writer = pytest.importorskip("tensorboardX.event_file_writer")
    # Its files are named by the second, and both parts of the run may fall into one.
    monkeypatch.setattr(writer, "time", types.SimpleNamespace(time=lambda: 1e9))
    result = train(tmp_path, 4, tensorboard=True)
    train(tmp_path, 6, tensorboard=True)
    found = scalars(tmp_path / "tensorboard")
    assert len(set(found)) == len(found)
    series = {step: value for step, tag, value in found if tag == "training/loss/1"}
    assert list(series) == [2, 4, 6]
    np.testing.assert_allclose([series[2], series[4]], result.history.loss[1], rtol=1e-6)
    assert {tag for _, tag, _ in found} == {
        f"{name}/{member}"
        for name in ("training/loss", "training/gradient_norm", "evaluation/loss", "evaluation/mse")
        for member in (0, 1)
    }


def test_tensorboard_needs_a_directory():
    with pytest.raises(ValueError, match="tensorboard=True needs a directory"):
        train(None, 2, tensorboard=True)


def test_progress_changes_nothing(tmp_path, capsys):
    quiet, loud = train(None, 4), train(None, 4, progress=True)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(quiet.model), nnx.state(loud.model))
    assert "4/4" in capsys.readouterr().err


def test_every_evaluation_is_told(tmp_path):
    rows = []
    result = train(None, 6, on_evaluation=rows.append)
    assert [row["step"] for row in rows] == [2, 4, 6]
    np.testing.assert_array_equal(np.array([row["loss"] for row in rows]).T, result.history.loss)
