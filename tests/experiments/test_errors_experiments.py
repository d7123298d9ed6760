"""Every number on every script's command line, out of its range: one line, with rule and fix."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import compare
import flossing
import launching
import lyapunov
import train
import vanishing_gradient
from learning.cell_options import options_of
from learning.choices import CELLS, TASKS

EXPERIMENTS = Path(launching.__file__).parent
# By script: its options, what they may be, and what checks a command line.
SCRIPTS = {
    "vanishing_gradient": (
        vanishing_gradient.Config,
        vanishing_gradient._RANGES,
        vanishing_gradient.resolve,
    ),
    "lyapunov": (lyapunov.Config, lyapunov._RANGES, lyapunov.resolve),
    "flossing": (flossing.Config, flossing._RANGES, flossing.resolve),
    "compare": (compare.Config, compare.RANGES, compare.resolve),
    "train": (train.Options, train.RANGES, None),
}
# The task is the least that `train` must be told.
TOLD = ["--out", "nowhere", "--task.length", "5"]


def kinds(hint):
    """The types that a hint names."""
    inside = typing.get_args(hint)
    return set().union(*map(kinds, inside)) if inside else {hint}


def numbers(options):
    """{name: whether it is a whole number} of the fields that hold numbers."""
    hints = typing.get_type_hints(options)
    found = {field.name: kinds(hints[field.name]) for field in dataclasses.fields(options)}
    return {name: int in held for name, held in found.items() if held & {int, float}}


def outside(allowed, whole):
    """Values that a range does not hold."""
    low, high = allowed.low, allowed.high
    values = [low if allowed.above else low - 1, -(10**12)]
    if high < np.inf:
        values.append(high + 1)
    return [int(value) if whole else value for value in values] + (
        [] if whole else [np.nan, np.inf]
    )


def read(script, arguments):
    """What the script does with a command line before it measures anything."""
    if script == "train":
        return train.read_command_line([*TOLD, *arguments])
    config, _, resolve = SCRIPTS[script]
    return resolve(launching.parse(config, arguments))


CASES = [
    (script, name, value)
    for script, (options, ranges, _) in SCRIPTS.items()
    for name, whole in numbers(options).items()
    if name in ranges
    for value in outside(ranges[name], whole)
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_number_has_a_range(script):
    options, ranges, _ = SCRIPTS[script]
    assert set(numbers(options)) == set(ranges)


@pytest.mark.parametrize(("script", "name", "value"), CASES)
def test_a_number_out_of_range_is_refused_with_rule_arrival_and_fix(script, name, value):
    flag = launching.flag(name)
    with pytest.raises(ValueError, match=f"^{flag} must be .*; got ") as refused:
        read(script, [flag, str(value)])
    said = str(refused.value)
    assert f"got {value}" in said or f"got {float(value)}" in said
    assert re.search("Pass|Number", said)
    assert "\n" not in said


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("word", ["many", "1e", "1.5"])
def test_what_is_no_number_is_refused_in_one_line(script, word):
    name = next(name for name, whole in numbers(SCRIPTS[script][0]).items() if whole)
    with pytest.raises(ValueError, match=r"See --help\.$") as refused:
        read(script, [launching.flag(name), word])
    assert "\n" not in str(refused.value)


def numbers_of(kinds_by_name):
    return [(kind, field) for kind, options in kinds_by_name.items() for field in numbers(options)]


def required(kind):
    """What a task must be told, with something that it takes."""
    fields = [f for f in dataclasses.fields(TASKS[kind]) if f.default is dataclasses.MISSING]
    return [word for f in fields for word in (f"--task.{f.name.replace('_', '-')}", "16")]


@pytest.mark.parametrize(("task", "name"), numbers_of(TASKS))
def test_a_task_refuses_numbers_that_it_cannot_be_made_of(task, name):
    flag = f"--task.{name.replace('_', '-')}"
    line = ["--task", task, "--out", "nowhere", *required(task)]
    several = typing.get_origin(typing.get_type_hints(TASKS[task])[name]) is tuple
    # The last of two wins; some fields are pairs.
    line += [flag, *["-1000000000000"] * (2 if several else 1)]
    with pytest.raises(ValueError, match=r"got \(?-1000000000000|got -1e\+?12") as refused:
        train.read_command_line(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_cell_refuses_numbers_that_it_cannot_be_made_of(cell):
    for name, whole in numbers(options_of(CELLS[cell])).items():
        flag, value = f"--cell.{name.replace('_', '-')}", "-1000000000000" if whole else "nan"
        said = rf"{flag}\b.*must .*; got .*{value}.* Pass "
        with pytest.raises(ValueError, match=said) as refused:
            train.read_command_line(["--cell", cell, *TOLD, f"{flag}={value}"])
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("script", "line"), [("train", [*TOLD, "--processes", "2"]), ("compare", ["--hidden", "0"])]
)
def test_from_a_terminal_it_is_one_line_and_status_two(script, line, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / f"{script}.py"), *line],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert (done.stdout + done.stderr).startswith("error: --")
    assert (done.stdout + done.stderr).count("\n") == 1
    assert not list(tmp_path.iterdir())
