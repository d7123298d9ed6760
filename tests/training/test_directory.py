"""What lies in a run's directory, what is refused there, and what comes back from it."""

import dataclasses
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import rnn_jax as rj
from training import runs, toys

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory, result) of a run of 8 steps."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, runs.toy(directory)


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


# What is written.


def test_config_says_what_the_run_is_and_what_it_ran_on(tmp_path):
    arguments = {
        "task": toys.Mixing(steps=3),
        "batch_size": 4,
        "seed": 11,
        "evaluate_every": 3,
        "evaluation_size": 5,
        "on_nonfinite": "skip",
        "config": {"note": "première", "rates": (0.1, np.float64(0.2)), "width": np.int32(7)},
    }
    runs.toy(tmp_path, steps=3, **arguments)
    run, surroundings = config_of(tmp_path)["run"], config_of(tmp_path)["surroundings"]
    assert run["task"] == {"kind": "Mixing", **dataclasses.asdict(arguments["task"])}
    for name in ("batch_size", "seed", "evaluate_every", "evaluation_size", "on_nonfinite"):
        assert run[name] == arguments[name]
    assert run["config"] == {"note": "première", "rates": [0.1, 0.2], "width": 7}
    assert run["probes"] == [{"kind": "Weights", **dataclasses.asdict(runs.Weights(every=2))}]
    for package in ("jax", "jaxlib", "flax", "optax", "numpy"):
        assert run["versions"][package] == version(package)
    assert surroundings["python"] == platform.python_version()
    assert surroundings["backend"] == jax.default_backend()
    assert len(surroundings["devices"]) == jax.device_count()
    assert surroundings["x64"] is True
    assert surroundings["folder"] == os.getcwd()
    assert surroundings["command"] == [sys.executable, *sys.orig_argv[1:]]


SCRIPT = """
import os, sys
import jax.numpy as jnp, optax
from jax.tree_util import Partial
import rnn_jax as rj
from .saying import say
rj.fit(
    Partial(say, jnp.ones((2, 1))), rj.tasks.Adding(3), optax.sgd(float(sys.argv[1])), steps=2,
    batch_size=2, seed=int(sys.argv[2]), evaluate_every=1, evaluation_size=2,
    directory=os.environ["RUN"],
)
"""
SAY = "def say(kernel, xs): return xs[:, -1] @ kernel"


def test_the_command_in_config_repeats_the_run(tmp_path):
    """Of a module in a package, which is no script that could be called by its path."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "saying.py").write_text(SAY)
    (package / "run.py").write_text(SCRIPT)

    def execute(command, folder, name):
        cache = f"{jax.config.values['jax_compilation_cache_dir']}-processes"
        kept = {"JAX_COMPILATION_CACHE_DIR": cache}
        kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        environment = {**os.environ, **kept, "RUN": str(tmp_path / name)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    command = [sys.executable, "-m", "package.run", "0.25", "3"]
    first = execute(command, tmp_path, "first")
    surroundings = config_of(first)["surroundings"]
    assert surroundings["command"] == command
    again = execute(surroundings["command"], surroundings["folder"], "again")
    assert runs.records(again) == runs.records(first)
    assert config_of(again)["run"] == config_of(first)["run"]


def test_metrics_and_probes_are_on_the_disk_as_soon_as_an_evaluation_is_done(tmp_path):
    seen = []

    def look(row):
        seen.append(row)
        assert runs.rows(tmp_path / "metrics.jsonl") == seen
        measured = [found["step"] for found in runs.rows(tmp_path / "probes.jsonl")]
        assert measured[: len(seen)] == [row["step"] - 2 for row in seen]

    result = runs.toy(tmp_path, on_evaluation=look)
    assert [row["step"] for row in seen] == result.history.step.tolist()


def test_files_hold_the_numbers_of_the_history_bit_for_bit(whole):
    directory, result = whole
    rows = runs.rows(directory / "metrics.jsonl")
    for name in ("loss", "gradient_norm", "updates", "step"):
        np.testing.assert_array_equal([row[name] for row in rows], result.history[name])
    for name, values in result.history.metrics.items():
        np.testing.assert_array_equal([row["evaluation"][name] for row in rows], values)
    found = runs.rows(directory / "probes.jsonl")
    record = result.history.probes["weights"]
    np.testing.assert_array_equal([row["step"] for row in found], record.step)
    measured = [row["values"]["mean_square"] for row in found]
    np.testing.assert_array_equal(measured, record["mean_square"])


def test_without_a_directory_nothing_is_written_and_the_result_is_the_same(
    whole, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs.result_bits(runs.toy(None)) == runs.result_bits(whole[1])
    assert runs.tree_of(tmp_path) == {}


def test_a_directory_may_be_named_as_one_names_it_to_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/a/b", "c", Path("d") / ".." / "e"):
        runs.toy(name, steps=2)
    for name in ("a/b", "c", "e"):
        assert [row["step"] for row in runs.rows(tmp_path / name / "metrics.jsonl")] == [2]
    assert not (tmp_path / "~").exists()


NAMES = [
    "lr=[0.1,0.2]",
    "a*b?",
    "$HOME",
    "with  spaces ",
    "-rf",
    "ünïcode ☃",
    "~nobody-of-this-name",
    "two\nlines",
    "%41",
    "back\\slash",
    "checkpoints",
    "x" * 200,
]


# In turn the name by itself and below another one: what begins with a dash or a tilde by itself.
DIRECTORIES = [Path("runs") / name if index % 2 else name for index, name in enumerate(NAMES)]


@pytest.mark.parametrize("directory", DIRECTORIES, ids=NAMES)
def test_a_name_is_taken_literally(directory, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.toy(directory, steps=4)
    assert runs.result_bits(runs.toy(directory)) == runs.result_bits(whole[1])
    assert runs.records(tmp_path / directory) == runs.records(whole[0])
    assert runs.sessions(tmp_path / directory, "start")[-1]["from_step"] == 4
    toys.identical(rj.restore(directory, toys.linear()), whole[1].model)
    *above, own = Path(directory).parts
    for folder, only in ((Path(*above), own), (Path(), [*above, own][0])):
        assert [path.name for path in (tmp_path / folder).iterdir()] == [only]


def test_a_relative_name_stays_where_it_was_when_the_caller_moves(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    result = runs.toy("run", on_evaluation=lambda row: os.chdir("/"), tensorboard=True)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path / "run") == runs.records(whole[0])
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_links_are_followed(whole, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    (tmp_path / "large").mkdir()
    runs.toy(tmp_path / "run", steps=4)
    (tmp_path / "disk" / "checkpoints").rename(tmp_path / "large" / "moved")
    (tmp_path / "disk" / "checkpoints").symlink_to("../large/moved")
    assert runs.result_bits(runs.toy(tmp_path / "disk")) == runs.result_bits(whole[1])
    assert (tmp_path / "large" / "moved" / "8.ckpt").is_file()


def test_the_clock_of_the_wall_may_jump(whole, tmp_path, monkeypatch):
    ticks = itertools.count()
    wall = time.time
    jumps = lambda: wall() + 1e6 * (-1) ** next(ticks)  # noqa: E731
    monkeypatch.setattr(time, "time", jumps)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * jumps()))
    assert runs.result_bits(runs.toy(tmp_path)) == runs.result_bits(whole[1])
    assert runs.records(tmp_path) == runs.records(whole[0])


# What is refused.


class Other(toys.Mixing):
    """The same, by another name."""


OTHERS = {
    "batch_size": ({"batch_size": 4}, "batch_size: 3 there, 4 here"),
    "seed": ({"seed": 6}, "seed: 5 there, 6 here"),
    "evaluate_every": ({"evaluate_every": 4}, "evaluate_every: 2 there, 4 here"),
    "evaluation_size": ({"evaluation_size": 9}, "evaluation_size: 6 there, 9 here"),
    "stop_when_solved": ({"stop_when_solved": False}, "stop_when_solved"),
    "on_nonfinite": ({"on_nonfinite": "skip"}, "on_nonfinite: 'stop' there, 'skip' here"),
    "length": ({"task": toys.Mixing(steps=3)}, "task.steps: 2 there, 3 here"),
    "task": ({"task": Other(steps=2)}, "task.kind: 'Mixing' there, 'Other' here"),
    "rate": ({"optimizer": optax.sgd(0.2, momentum=0.9)}, "optimizer"),
    "rate_by_a_hair": ({"optimizer": optax.sgd(0.1 + 1e-9, momentum=0.9)}, "optimizer"),
    "momentum": ({"optimizer": optax.sgd(0.1, momentum=0.8)}, "optimizer"),
    "schedule": (
        {"optimizer": optax.sgd(optax.linear_schedule(0.1, 0.0, 8), momentum=0.9)},
        "optimizer",
    ),
    "optimizer": ({"optimizer": optax.adam(0.1)}, "optimizer"),
    "weights": (
        {"model": toys.linear(1)},
        "model: .* starts from other numbers, so from another seed",
    ),
    "structure": (
        {"model": runs.lstm(), "task": rj.tasks.Adding(5)},
        "model.kind: 'Partial' there, 'SequenceModel' here",
    ),
    "members": (
        {"model": toys.linears(0, 1), "members": 2},
        r"model: .*float64\[2\] there, float64\[2, 2\] here",
    ),
    "probe": ({"probes": runs.Weights(every=4)}, "probes.0.every: 2 there, 4 here"),
    "no_probe": ({"probes": []}, "probes"),
    "config": ({"config": {"note": "another"}}, "config.note: 'one' there, 'another' here"),
}


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """The directory of a run of 2 steps that holds a note."""
    directory = tmp_path_factory.mktemp("noted")
    runs.toy(directory / "run", steps=2, config={"note": "one"})
    return directory


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_by_what_it_differs_in_and_touches_nothing(name, noted):
    before = runs.tree_of(noted)
    changes, words = OTHERS[name]
    with pytest.raises(ValueError, match=f"(?s)holds another run.*{words}"):
        runs.toy(noted / "run", **{"steps": 4, "config": {"note": "one"}, **changes})
    assert runs.tree_of(noted) == before


def test_an_ensemble_with_its_members_in_another_order_is_refused(tmp_path):
    runs.toy(tmp_path, steps=0, model=toys.linears(0, 1), members=2)
    with pytest.raises(ValueError, match=r"holds another run.*model"):
        runs.toy(tmp_path, steps=4, model=toys.linears(1, 0), members=2)


@pytest.mark.parametrize("rates", [[0.2, 0.1], [0.1, 0.1]])
def test_an_ensemble_with_other_hyperparameters_is_refused(rates, tmp_path):
    ensemble = {"model": toys.linears(0, 1), "members": 2, "optimizer": optax.sgd}
    runs.toy(tmp_path, steps=0, hyperparameters=[0.1, 0.2], **ensemble)
    with pytest.raises(ValueError, match=r"holds another run.*hyperparameters"):
        runs.toy(tmp_path, steps=4, hyperparameters=rates, **ensemble)


def test_what_does_not_decide_the_numbers_may_change(whole, tmp_path):
    runs.toy(tmp_path, steps=4, config={"rates": (1, 2)})
    result = runs.toy(
        tmp_path,
        optimizer=optax.sgd(0.1, momentum=0.9),
        model=toys.linear(),
        probes=[runs.Weights(every=2)],
        checkpoint_seconds=60,
        config={"rates": [1, 2]},
        on_evaluation=lambda row: None,
    )
    assert runs.result_bits(result) == runs.result_bits(whole[1])


def test_a_run_that_is_there_is_refused_where_none_is_to_be_resumed(tmp_path):
    directory = tmp_path / "run"
    runs.toy(directory, steps=2, resume=False)
    before = runs.tree_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a run\. Pass resume=True"):
        runs.toy(directory, resume=False)
    assert runs.tree_of(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_directory_is_named(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"{tmp_path / place} cannot be"):
        runs.toy(tmp_path / place)
    assert runs.tree_of(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("directory", ["", "gs://bucket/run", "null\0byte"])
def test_what_names_no_folder_is_refused(directory):
    with pytest.raises(ValueError, match="directory must be a folder of this machine"):
        runs.toy(directory)


@pytest.mark.parametrize("directory", [3, True, b"run", ["run"]])
def test_what_is_no_path_is_refused(directory):
    with pytest.raises(TypeError, match="directory must be a path"):
        runs.toy(directory)
    with pytest.raises(TypeError, match="directory must be a path"):
        rj.restore(directory, toys.linear())


def test_a_working_folder_that_was_deleted_is_no_reason_to_fail(whole, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = runs.toy(tmp_path / "run")
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert config_of(tmp_path / "run")["surroundings"]["folder"] is None


def test_other_files_in_the_directory_are_left_alone(whole, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = runs.toy(tmp_path)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert (tmp_path / "notes.txt").read_text() == "mine"
