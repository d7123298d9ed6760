"""How the tests run experiments: in which mode of JAX, and from which command line."""

import contextlib
import runpy
import sys
from pathlib import Path

import jax
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@contextlib.contextmanager
def ordinary_mode():
    """JAX's ordinary mode; optax does not pass the strict one."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def left_with(script, arguments, monkeypatch, capsys):
    """(status, all that is printed) of a script that ends before it measures anything.

    In this process, which has what the script imports; from a terminal it is run in
    `test_errors_experiments.py`.
    """
    file = EXPERIMENTS / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(file), run_name="__main__")
    printed = capsys.readouterr()
    return left.value.code, printed.out + printed.err
