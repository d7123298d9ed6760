"""What the experiments share: open options filled in, numbers for JSON, kept programs."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import launching

EXPERIMENTS = Path(launching.__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    quick: bool = False
    steps: int | None = None
    sizes: tuple[int, ...] = ()


DEFAULTS = {"steps": (100, 10), "sizes": ((1, 2), (3,))}


def test_what_is_open_is_filled_in_and_what_is_given_stays():
    assert launching.fill_in(Options(), DEFAULTS) == {"steps": 100, "sizes": (1, 2)}
    assert launching.fill_in(Options(quick=True), DEFAULTS) == {"steps": 10, "sizes": (3,)}
    given = Options(quick=True, steps=7, sizes=(5,))
    assert launching.fill_in(given, DEFAULTS) == {"steps": 7, "sizes": (5,)}


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "rule"),
    [
        (launching.Range(5), [5, 10**9], [4, -1], "at least 5"),
        (launching.Range(1, 3), [1, 3], [0, 4], "between 1 and 3"),
        (launching.RATE, [1e-30, 1e30], [0.0, -1.0, np.nan, np.inf], "a number above 0"),
        (launching.Range(0), [0.0], [np.nan, np.inf, -np.inf], "at least 0"),
    ],
)
def test_a_range_holds_what_it_says(allowed, good, bad, rule):
    ranges = {"steps": allowed, "sizes": allowed}
    launching.check_ranges(Options(steps=None, sizes=tuple(good)), ranges)
    for value in bad:
        for given in ({"steps": value, "sizes": (good[0],)}, {"sizes": (good[0], value)}):
            name = next(iter(given))
            with pytest.raises(ValueError, match=f"--{name} must be {rule}; got {value}. Pass"):
                launching.check_ranges(Options(**given), ranges)
    with pytest.raises(ValueError, match=r"--sizes must be one or more numbers; got none\. Pass"):
        launching.check_ranges(Options(steps=good[0]), ranges)


def test_numbers_become_json_and_what_is_not_finite_null():
    numbers = {
        "a": np.asarray([[1.23456789, np.nan]]),
        "b": (np.float32(-np.inf), 3),
        "c": Options(),
    }
    text = json.dumps(launching.plain(numbers))
    assert json.loads(text) == {
        "a": [[1.23457, None]],
        "b": [None, 3],
        "c": {"quick": False, "steps": None, "sizes": []},
    }


@pytest.mark.parametrize("given", [False, True])
def test_compiled_programs_are_kept_where_the_user_says_or_in_the_users_cache(given, tmp_path):
    code = (
        "import launching, jax; launching.use_compilation_cache(); "
        "jax.jit(lambda x: x + 1)(1.0); print(jax.config.jax_compilation_cache_dir)"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(EXPERIMENTS)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    if given:
        env["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "given")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / ("given" if given else "home/rnn_jax"))
