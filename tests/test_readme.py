"""What the README says is true: its code runs, its links lead somewhere, its numbers were measured.

The pages of docs/ are run by `make docs`; the README is not among them.
"""

import re
import unittest.mock
from pathlib import Path

import jax
import pytest

import rnn_jax as rj

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.S | re.M)
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.S | re.M)
STEPS = 4


def briefly(model, task, optimizer, *, steps, **options):
    """`rj.fit`, over before it has learnt anything."""
    options = {**options, "evaluate_every": STEPS}
    return rj_fit(model, task, optimizer, steps=min(steps, STEPS), **options)


rj_fit = rj.fit


@pytest.mark.parametrize("number", range(3))
@pytest.mark.filterwarnings("default")
def test_the_code_of_the_readme_runs(number, tmp_path, monkeypatch):
    assert len(BLOCKS) == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rj, "fit", briefly)
    with (
        # In the types and with the promotion that JAX has by default.
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        unittest.mock.patch("builtins.print"),
    ):
        exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


def test_it_is_read_in_one_sitting():
    assert len(TEXT.splitlines()) < 200


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", PROSE))))
def test_a_link_leads_somewhere(target):
    assert (ROOT / target).is_file()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"experiments/\w+\.py", TEXT))))
def test_an_experiment_is_there(script):
    assert (ROOT / script).is_file()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([\w-]+)", TEXT))))
def test_a_target_of_make_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)


MEASURED = "\n".join(
    path.read_text(encoding="utf-8")
    for folder, pattern in (
        ("docs/measured", "*.md"),
        ("benchmarks", "RESULTS*.md"),
        ("experiments", "RESULTS*.md"),
    )
    for path in (ROOT / folder).glob(pattern)
)
# Decimals, percentages and exponents of e; versions are no results.
NUMBER = r"(?<![\d.])(?<!Python )(?<!jax )−?\d+\.\d+(?!\d|\.\d)|\b\d+ %|(?<=e\^)−\d+"


def test_numbers_are_those_of_committed_results():
    measured = MEASURED.replace("−", "-")
    numbers = [number.replace("−", "-") for number in re.findall(NUMBER, PROSE)]
    assert len(numbers) > 20
    missing = [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", measured)]
    assert not missing


def test_published_results_are_counted_as_they_came_out():
    text = (ROOT / "experiments/RESULTS_PUBLISHED.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+` \|.*\| ([a-z ]+) \| \d+ \|$", text, flags=re.M)
    verdicts = ("reproduced", "reproduced with a condition", "not reproduced")
    assert set(rows) <= set(verdicts)
    words = " ".join(TEXT.split())
    stated = re.search(
        r"Of (\d+) results .*? (\d+) are reproduced, (\d+) with a condition that is stated, "
        r"(\d+) are not, and (\d+) have not been run",
        words,
    )
    total, *counts, waiting = map(int, stated.groups())
    assert counts == [rows.count(verdict) for verdict in verdicts]
    table = (ROOT / "experiments/published/table.py").read_text(encoding="utf-8")
    assert total == table.count(".RESULT,") == sum(counts) + waiting
