"""Published results: every one runs, every criterion can fail, and nothing is measured twice."""

import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest
from modes import ordinary_mode

import launching
from published import __main__ as script
from published import running
from published.record import Finding, Outcome
from published.table import RESULTS

ROOT = Path(launching.__file__).parents[1]
# Measured in no time.
FEW = ("lstm_memory_path", "ganguli2008_fisher_memory")
measure = running.run  # Also where a test puts another one in its place.
# The tests of a result follow one another, so that one worker measures it for all of them.
each = pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.name, scope="module")


def quiet(what, share):
    assert isinstance(what, str)
    assert 0 <= share <= 1


class Measured(dict):
    """The tiny form of every result by its name, each measured when it is first asked for."""

    def __missing__(self, name):
        result = next(result for result in RESULTS if result.name == name)
        with ordinary_mode(), pytest.MonkeyPatch.context() as patch:
            # What one result compiles of small programs, the next one has too.
            patch.setattr(jax, "clear_caches", lambda: None)
            self[name] = measure(result, result.quick, quiet)
        return self[name]


@pytest.fixture(scope="module")
def records():
    return Measured()


def right(finding):
    """A number that meets the criterion."""
    far = 1 + abs(finding.published)
    return finding.published + {"within": 0, "at most": -far, "below": -far}.get(
        finding.relation, far
    )


def wrong(finding):
    """One that does not, by as little as 2 times the tolerance."""
    past = 2 * finding.slack + 1e-3 * (1 + abs(finding.published))
    return finding.published + past * (-1 if finding.relation in ("at least", "above") else 1)


def with_numbers(outcome, numbers):
    findings = tuple(
        dataclasses.replace(finding, measured=number)
        for finding, number in zip(outcome.findings, numbers, strict=True)
    )
    return dataclasses.replace(outcome, findings=findings)


@each
def test_every_criterion_can_fail(result, records):
    outcome = records[result.name].outcome
    good = [right(finding) for finding in outcome.findings]
    assert with_numbers(outcome, good).verdict in ("reproduced", "reproduced with a condition")
    for index, finding in enumerate(outcome.findings):
        for bad in (wrong(finding), math.nan):
            numbers = [*good[:index], bad, *good[index + 1 :]]
            assert with_numbers(outcome, numbers).verdict == "not reproduced", finding.quantity


@each
def test_a_result_says_what_it_is_and_keeps_what_it_found(result, records, tmp_path):
    assert sys.modules[result.run.__module__].__name__.endswith(result.name)
    assert result.source
    assert result.says.endswith(".")
    assert dataclasses.is_dataclass(result.protocol)
    assert type(result.protocol) is type(result.quick)
    record = records[result.name]
    assert record.outcome.findings
    running.keep(record, tmp_path)
    kept = running.kept(RESULTS, tmp_path)[result.name]
    assert running.is_of(kept, result.quick)
    assert kept.outcome.findings == record.outcome.findings or "nan" in str(record.outcome.findings)
    assert kept.outcome.verdict == record.outcome.verdict
    assert not running.is_of(kept, result.protocol)
    figure = result.draw(kept.outcome)
    figure.canvas.draw()
    plt.close(figure)
    written({result.name: record}, {}, tmp_path)


def written(there, missing, folder):
    """(page, rows of the table) of a report, which holds what is there and needs no network."""
    script.write(folder, there, missing)
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in there:
        assert f'<section id="{name}">' in page
    assert "http" not in page.replace("http-equiv", "")
    rows = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    findings = sum(len(record.outcome.findings) for record in there.values())
    assert sum(row.startswith("| `") for row in rows) == len(there) + findings
    outcomes = json.loads((folder / "outcomes.json").read_text())
    assert [outcome["name"] for outcome in outcomes] == list(there)
    return page, rows


def test_a_report_says_why_results_are_missing(records, tmp_path):
    first, *late = (result.name for result in RESULTS if result.name not in FEW)
    missing = {first: "wants <two> suns"} | dict.fromkeys(late, "is late")
    page, rows = written({name: records[name] for name in FEW}, missing, tmp_path)
    assert f"No outcome of {first}: wants &lt;two&gt; suns." in page
    last = f"No outcome of {', '.join(late)}: is late."
    assert last in page
    assert rows[-2:] == [f"No outcome of {first}: wants <two> suns.", last]


@pytest.mark.parametrize(
    ("relation", "tolerance", "measured", "holds"),
    [
        ("within", 0.2, 1.1, True),
        ("within", 0.2, 1.3, False),
        ("within", 0.2, math.inf, False),
        ("within a factor of", 3.0, 2.9, True),
        ("within a factor of", 3.0, 0.34, True),
        ("within a factor of", 3.0, 3.1, False),
        ("within a factor of", 3.0, 0.33, False),
        ("within a factor of", 3.0, -1.0, False),
        ("within a factor of", 3.0, 0.0, False),
        ("within a factor of", 3.0, math.nan, False),
        ("at most", 0.2, 1.2, True),
        ("at most", 0.2, 1.3, False),
        ("at least", 0.2, 0.8, True),
        ("at least", 0.2, 0.7, False),
        ("below", 0.2, 1.25, False),
        ("above", 0.2, 0.75, False),
        ("at most", 0.2, math.nan, False),
    ],
)
def test_a_criterion(relation, tolerance, measured, holds):
    assert Finding("q", 1.0, measured, relation, tolerance).holds is holds


def test_no_findings_reproduce_nothing():
    assert Outcome(()).verdict == "not reproduced"


@pytest.mark.parametrize("budget", ["10", "m", "-1m", "0s", "ten minutes"])
def test_what_is_no_time_is_refused(budget):
    with pytest.raises(ValueError, match=r"^--budget must be .*; got .*Pass"):
        script.resolve(script.Config(budget=budget))


def test_unknown_names_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=f"unknown result 'nobody'.*{RESULTS[0].name}"):
        script.resolve(script.Config(only=("nobody",)))


def test_a_budget_takes_the_shortest_that_fit(tmp_path):
    budget = sum(sorted(result.minutes for result in RESULTS)[:3]) + 0.01
    config = script.Config(budget=f"{budget:f}m", device="gpu", out=tmp_path)
    chosen = script.to_run(config, ())
    assert len(chosen) >= 3
    assert sum(result.minutes for result in chosen) <= budget + 1e-9


def test_a_budget_is_of_what_has_no_outcome_yet(tmp_path):
    config = script.Config(budget="0.15m", quick=True, out=tmp_path)
    first = script.to_run(config, ())
    assert first
    done = {result.name for result in first}
    assert not set(first) & set(script.to_run(dataclasses.replace(config, budget="1m"), done))
    again = dataclasses.replace(config, budget="1m", again=True)
    assert set(first) <= set(script.to_run(again, done))


def test_a_budget_that_nothing_fits_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^--budget must be long .*; got 1s, .*Pass for"):
        script.to_run(script.Config(budget="1s", out=tmp_path), ())


def left_by(arguments, monkeypatch, capsys):
    """Status and words of the program, run in this process."""
    monkeypatch.setattr(sys, "argv", ["published", *arguments])
    with pytest.raises(SystemExit) as leaving:
        script.main()
    return leaving.value.code, capsys.readouterr().out


def test_an_error_ends_one_result_alone(records, monkeypatch, capsys, tmp_path):
    first, second, third = RESULTS[:3]

    def broken(result, protocol, progress):
        if result is first:
            raise RuntimeError("the first\nis broken")
        return records[result.name]

    monkeypatch.setattr(running, "run", broken)
    monkeypatch.setattr(script, "use", lambda device: None)
    monkeypatch.setattr(script, "settle", lambda console: None)
    line = ["--quick", "--out", str(tmp_path), "--only", first.name, second.name]
    status, said = left_by(line, monkeypatch, capsys)
    assert status == 1
    assert f"error: {first.name}: RuntimeError: the first is broken" in " ".join(said.split())
    error = tmp_path / "quick" / "outcomes" / f"{first.name}.error.txt"
    assert 'raise RuntimeError("the first' in error.read_text()
    table = (tmp_path / "quick" / "table.md").read_text()
    assert f"| `{second.name}` | " in table
    assert f"No outcome of {first.name}: ended with RuntimeError: the first is broken." in table
    # Mended, it is the only one that is left; its error goes with it.
    monkeypatch.setattr(running, "run", lambda result, *_: records[result.name])
    kept = tmp_path / "quick" / "outcomes" / f"{second.name}.json"
    stamp = kept.stat().st_mtime_ns
    script.main()
    assert not error.exists()
    assert kept.stat().st_mtime_ns == stamp
    # An outcome of another protocol is not shown as this one's, nor kept back in silence.
    stale = dataclasses.replace(records[third.name], config={"seed": -1})
    running.keep(stale, tmp_path / "quick")
    script.main()
    table = (tmp_path / "quick" / "table.md").read_text()
    assert f"No outcome of {third.name}: its protocol has changed since it was run." in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nobody"], "unknown result 'nobody'"),
        (["--budget", "10"], "--budget must be a number above 0 with s, m or h"),
        (["--out", "/dev/null/x"], "--out must be a folder that can be written; got /dev/null/x"),
        # There, and not writable, for root either.
        (["--out", "/proc"], "--out must be a folder that can be written; got /proc ("),
        (["--steps", "3"], "--steps"),
    ],
)
def test_bad_options_end_in_one_line(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, said = left_by(arguments, monkeypatch, capsys)
    assert status == 2
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU is here")
def test_a_gpu_that_is_not_here_is_said(tmp_path):
    line = [sys.executable, "-m", "experiments.published", "--device", "gpu"]
    line += ["--quick", "--only", "ganguli2008", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--device gpu must be a device that JAX finds; got none here." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_list_shows_every_name_whole_and_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["published", "--list"])
    script.main()
    said = capsys.readouterr().out
    assert all(result.name in said for result in RESULTS)
    assert not list(tmp_path.iterdir())


def test_what_is_damaged_is_said_before_anything_is_measured(
    records, monkeypatch, capsys, tmp_path
):
    kept, damaged = FEW
    for name in (kept, damaged):
        running.keep(records[name], tmp_path / "quick")
    files = tmp_path / "quick" / "outcomes"
    stamp = (files / f"{kept}.json").stat().st_mtime_ns
    (files / f"{damaged}.json").write_text("{")
    # It is not asked for.
    line = ["--quick", "--again", "--out", str(tmp_path), "--only", kept]
    status, said = left_by(line, monkeypatch, capsys)
    assert status == 2
    assert f"{damaged}.json must hold the outcome" in " ".join(said.split())
    assert "Traceback" not in said
    assert (files / f"{kept}.json").stat().st_mtime_ns == stamp


def test_a_killed_run_keeps_what_it_had(tmp_path):
    first, second = "lstm_memory_path", "ganguli2008_fisher_memory"
    line = [sys.executable, "-m", "experiments.published", "--quick", "--out", str(tmp_path)]
    line += ["--only", first, second]
    outcomes = tmp_path / "quick" / "outcomes"
    # What a full run has left is not touched by tiny forms.
    full = tmp_path / "outcomes" / f"{first}.json"
    full.parent.mkdir()
    full.write_text("full")
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while not (outcomes / f"{first}.json").exists():
            assert process.poll() is None, "ended before its first outcome"
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "quick" / "report.html").exists()
    stamp = (outcomes / f"{first}.json").stat().st_mtime_ns
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr + again.stdout
    assert (outcomes / f"{first}.json").stat().st_mtime_ns == stamp
    written = json.loads((tmp_path / "quick" / "outcomes.json").read_text())
    assert [outcome["name"] for outcome in written] == [first, second]
    assert full.read_text() == "full"
