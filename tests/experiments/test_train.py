"""`experiments/train.py`: the command line, the files that it leaves, and what it refuses."""

import dataclasses
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import rnn_jax as rj
import train
from learning.choices import TASKS

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, str(ROOT / "experiments" / "train.py")]
SMALL = shlex.split(
    "--task.length 4 --hidden 3 --batch-size 4 --seeds 2 --evaluate-every 2 --steps 6"
)
PROBED = shlex.split("--cell gru --learning-rates 1e-3 1e-2 --probe-every 3 --evaluation-size 8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole small run: (options, result, folder, what it said)."""
    out = tmp_path_factory.mktemp("train") / "missing" / "run"
    options = train.read_command_line([*SMALL, *PROBED, "--out", str(out)])
    console = Console(file=io.StringIO(), width=80)
    result = train.train(options, console)
    train.report(options, result, console)
    return options, result, out


def test_it_leaves_a_run_with_a_picture(finished):
    _, result, out = finished
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    np.testing.assert_array_equal(result.history.loss, np.array([r["loss"] for r in rows]).T)
    assert (out / "training.png").stat().st_size > 10_000
    assert set(result.history.probes) == {"gradient_flow", "lyapunov"}


def test_every_seed_is_trained_at_every_rate(finished):
    _, result, _ = finished
    loss = result.history.loss
    assert loss.shape == (4, 3)
    assert np.unique(loss[:, -1]).size == 4
    assert result.history.metrics["mse"].shape == (4, 3)


def test_the_same_line_again_changes_nothing(finished):
    options, result, out = finished
    before = (out / "metrics.jsonl").read_bytes()
    again = train.train(options, Console(file=io.StringIO()))
    assert (out / "metrics.jsonl").read_bytes() == before
    np.testing.assert_array_equal(again.history.loss, result.history.loss)


def test_another_line_in_the_same_folder_is_refused(finished):
    options, _, _ = finished
    other = dataclasses.replace(options, learning_rates=(1e-3, 2e-2))
    with pytest.raises(ValueError, match=r"holds another run.*learning_rates"):
        train.train(other, Console(file=io.StringIO()))


def test_config_holds_the_line_that_repeats_it(finished):
    options, _, out = finished
    config = json.loads((out / "config.json").read_text())
    assert config["run"]["config"]["learning_rates"] == list(options.learning_rates)
    assert config["run"]["config"]["cell"]["kind"] == "GRUOptions"
    assert config["run"]["task"]["length"] == 4
    assert config["surroundings"]["command"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_can_be_asked_for_help(name, capsys):
    with pytest.raises(SystemExit) as leaving:
        train.read_command_line(["--task", name, "--help"])
    assert not leaving.value.code
    first = dataclasses.fields(TASKS[name])[0].name.replace("_", "-")
    assert f"--task.{first}" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--cell.recurrent-init", "--cell.recurrent-kernel-init"])
def test_an_initialiser_is_typed_as_it_is_written_in_a_constructor(flag):
    line = ["--cell", "lstm", flag, "gaussian(1.5)", "--cell.bias-init", "chrono(1, 9)"]
    cell = train.read_command_line([*line, *SMALL, "--out", "x"]).cell.build(2, 3, nnx.Rngs(0))
    same = rj.LSTMCell(
        2, 3, recurrent_kernel_init="gaussian(1.5)", bias_init="chrono(1, 9)", rngs=nnx.Rngs(0)
    )
    for one, other in zip(jax.tree.leaves(cell), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--cell nothing", "unknown cell 'nothing'; there are antisymmetricrnn, cfc"),
        ("--task.length 5 --cell.forget-bias nan", "^--cell.forget-bias must be finite; got nan"),
        ("--task.length 5 --cell.kernel-init chrono(1,9)", "^--cell.kernel-init must.*matrix"),
        (
            "--task.length 5 --cell.recurrent-init sparse(2)",
            "^--cell.recurrent-kernel-init=.*got 2",
        ),
        ("--task.length 5 --cell slstm --cell.num-heads 5", "--cell.num-heads.*got"),
        ("--task nothing", "unknown task 'nothing'; there are adding"),
        ("--task adding", "Missing.*--task.length"),
        ("--task.length 0", "length must be at least 1; got 0"),
        ("--task.length 5 --stepps 5", "Unrecognized options: --stepps"),
        ("--task.length five", "--task.length.*'five'"),
        ("--task.length 5 --on-nonfinite shrug", "invalid choice 'shrug'"),
        ("--cell", "--cell: expected one argument"),
        ("--task.length 5 --learning-rates", "--learning-rates"),
        ("--task.length 5 --processes 2", "--processes 2 need --coordinator.*got none.*host:port"),
        ("--task.length 5 --processes 2 --process 2", "--processes 2 need --coordinator"),
        ("--task.length 5 --process 1", "--process must be below --processes, 1; got 1. Number"),
        (
            "--task.length 5 --processes 2 --process 2 --coordinator a:1",
            "--process must be below --processes, 2; got 2",
        ),
        *(
            (f"--task.length 5 --coordinator {where}", "must be host:port; got.*Pass the address")
            for where in ("here", ":12", "here:", "here:0", "here:65536", "here:-1", "here:1.5")
        ),
    ],
)
def test_a_bad_line_is_answered_by_one(line, said, tmp_path):
    with pytest.raises(ValueError, match=said) as refused:
        train.read_command_line([*line.split(), "--out", str(tmp_path)])
    assert "\n" not in str(refused.value)
    assert not re.search("[─-╿]", str(refused.value))


def test_a_file_in_the_way_is_one_line_and_no_traceback(tmp_path):
    (tmp_path / "file").write_text("mine")
    done = subprocess.run(
        [*SCRIPT, *SMALL, "--out", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "cannot be made a directory" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


# A script, after how many bytes its files may have.
WITH_LITTLE_ROOM = """
import resource, runpy, sys
room = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("room", "what"), [(100, "the description of the run"), (10_000, "a checkpoint")]
)
def test_a_full_disk_is_said_in_one_line(room, what, tmp_path):
    line = [SCRIPT[1], *SMALL, "--hidden", "16", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_ROOM, str(room), *line],
        capture_output=True,
        text=True,
        check=False,
        # Without git: a patch of the source, if there is one, would be what finds no room.
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0", "PATH": ""},
    )
    assert done.returncode == 2, done.stderr
    said = f"error: {what} could not be written to .* run the same command again\\.\n"
    assert re.fullmatch(said, done.stderr), done.stderr


def test_sigterm_saves_and_the_same_line_goes_on(tmp_path):
    line = [*SCRIPT, *SMALL, "--steps", "1000000", "--out", str(tmp_path / "run")]
    line += ["--after-solved", "go-on"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
            assert process.poll() is None, process.stderr.read()
        os.kill(process.pid, signal.SIGTERM)
        said = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    steps = len(metrics.read_text().splitlines()) * 2
    assert f"after step {steps}, and the same call goes on" in said
    assert (tmp_path / "run" / "checkpoints" / f"{steps}.ckpt").is_file()
