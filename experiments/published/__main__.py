"""Published results on recurrent networks, run again: does the number of the paper come out?

Each file of this folder is one result: its protocol, the number that was published, and when the
two count as the same. Outcomes are kept as they come, so that the same line goes on where it was
stopped. Writes report.html (one file, opens anywhere), table.md and outcomes.json.

    python -m experiments.published                       # all that a CPU can do, within an hour
    python -m experiments.published --list
    python -m experiments.published --only pascanu2013_bounds zucchet2024_curse_of_memory
    python -m experiments.published --budget 10m          # as many as fit
    python -m experiments.published --quick               # tiny forms; no verdict is meant
"""

import dataclasses
import re
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

# This is run as a module of the checkout; its neighbours are imported as those of a script.
sys.path.insert(0, str(Path(__file__).parents[1]))

from launching import display, make_folder, parse, refusing, resumable, settle
from learning.choices import choose
from published import reporting, running
from published.record import Result
from published.table import RESULTS


@dataclass(frozen=True)
class Config:
    """Run published results again."""

    out: Path = Path("results/published")
    """Folder of report.html, outcomes.json and outcomes one by one; made if it does not exist."""
    list: bool = False
    """Only list what there is, with sources and minutes."""
    only: tuple[str, ...] = ()
    """Names of results, or beginnings of names; all if there are none."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What to run on; with cpu, those that want a GPU are left out unless they are named."""
    budget: str | None = None
    """Time such as 90s, 10m or 1h: of what has no outcome yet, as many as fit, the shortest
    first."""
    again: bool = False
    """Also run what has an outcome."""
    quick: bool = False
    """Tiny forms that take seconds, kept in the folder "quick" inside; no verdict is meant."""


# Outcomes by the names of their results.
Records = dict[str, running.Record]

PROGRAM = "python -m experiments.published"
_UNITS = {"s": 1 / 60, "m": 1.0, "h": 60.0}


def minutes_of(budget: str) -> float:
    """A time such as 10m, in minutes.

    Raises:
      ValueError: it is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if match is None or float(match[1]) == 0:
        raise ValueError(
            f"--budget must be a number above 0 with s, m or h behind it; got {budget!r}. Pass for "
            "example 10m."
        )
    return float(match[1]) * _UNITS[match[2]]


def resolve(config: Config) -> Config:
    """Refuses what there is not; tiny forms must not take the place of outcomes.

    Raises:
      ValueError: an unknown name, or no time.
    """
    if config.budget is not None:
        minutes_of(config.budget)
    for name in config.only:
        if not any(result.name.startswith(name) for result in RESULTS):
            choose("result", name, {result.name: result for result in RESULTS})
    out = config.out.expanduser()
    return dataclasses.replace(config, out=out / "quick" if config.quick else out)


def asked_for(config: Config) -> list[Result]:
    """The results that are named, or all that the device can do."""
    if config.only:
        return [r for r in RESULTS if any(r.name.startswith(name) for name in config.only)]
    return [r for r in RESULTS if config.device == "gpu" or r.device == "cpu"]


def to_run(config: Config, done: Container[str]) -> list[Result]:
    """Of what is asked for, what is not done yet, or all of it again, as far as time allows.

    Raises:
      ValueError: none of it fits into the budget.
    """
    found = [result for result in asked_for(config) if config.again or result.name not in done]
    if config.budget is None:
        return found
    fitting = running.choose_within(found, minutes_of(config.budget))
    if found and not fitting:
        shortest = min(found, key=lambda result: result.minutes)
        raise ValueError(
            f"--budget must be long enough for one result; got {config.budget}, and the shortest "
            f"that is left, {shortest.name}, takes {shortest.minutes:g} minutes. Pass for example "
            f"{shortest.minutes + 1:.0f}m."
        )
    return fitting


def protocol_of(result: Result, config: Config) -> Any:
    """The protocol that is meant, of the paper or tiny."""
    return result.quick if config.quick else result.protocol


def use(device: str) -> None:
    """Makes JAX compute on a CPU or a GPU.

    Raises:
      ValueError: JAX finds no such device.
    """
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda,cpu"}[device])
    try:
        found = jax.default_backend()
    # A CUDA that is not installed is an AssertionError.
    except (RuntimeError, AssertionError):
        found = "none"
    if found != device:
        raise ValueError(
            f"--device {device} must be a device that JAX finds; got none here. Pass --device cpu, "
            "or install JAX for the GPU of this machine: pip install '.[cuda]'."
        )


def main() -> None:
    """Parses the command line, runs what has no outcome yet, prints and writes."""
    console = Console()
    with refusing(console):
        config = resolve(parse(Config, sys.argv[1:], PROGRAM))
        if config.list:
            reporting.list_results(console, RESULTS)
            return
        make_folder(config.out)
        settle(console)
        use(config.device)
        # Also of what is not asked for: a damaged one would end the run after all is measured.
        kept = running.kept(RESULTS, config.out)
        records = of_this_protocol(kept, config)
        errors = run_all(config, to_run(config, records), records, console)
        missing = why_missing(config, kept, records, errors)
        write(config.out, records, missing)
    reporting.show(console, RESULTS, records, missing)
    console.print(f"Report: {config.out / 'report.html'}", highlight=False)
    if errors:
        sys.exit(1)


def of_this_protocol(kept: Mapping[str, running.Record], config: Config) -> Records:
    """What is kept of the protocols that are meant now."""
    return {
        result.name: kept[result.name]
        for result in RESULTS
        if result.name in kept and running.is_of(kept[result.name], protocol_of(result, config))
    }


def why_missing(
    config: Config, kept: Container[str], records: Container[str], errors: Mapping[str, str]
) -> dict[str, str]:
    """Why a result has no outcome, for each that has none."""

    def why(result: Result) -> str:
        if result.name in errors:
            return f"ended with {errors[result.name]}"
        if result.name in kept:
            return "its protocol has changed since it was run"
        if result.device == "gpu" and config.device == "cpu":
            return "wants a GPU"
        return "not run yet"

    return {result.name: why(result) for result in RESULTS if result.name not in records}


def write(folder: Path, records: Records, missing: Mapping[str, str]) -> None:
    """The report, the table and all numbers."""
    running.write_all([record for _, record in reporting.pair(RESULTS, records)], folder)
    reporting.write_report(folder / "report.html", RESULTS, records, missing)
    reporting.write_table(folder / "table.md", RESULTS, records, missing)


def run_all(
    config: Config, results: list[Result], records: Records, console: Console
) -> dict[str, str]:
    """Measures `results`, one after another, and puts what comes out among `records`.

    Returns:
      The error of each that one ended, by name; the others go on.
    """
    errors = {}
    with resumable(console), display(console) as progress:
        for result in results:
            try:
                record = measure(result, protocol_of(result, config), progress)
            # Whatever it is, it must not cost the others their time.
            except Exception as error:
                path = running.keep_error(result.name, error, config.out)
                errors[result.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                line = f"{result.name}: {errors[result.name]} ({path})"
                console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
            else:
                running.keep(record, config.out)
                records[result.name] = record
    return errors


def measure(result: Result, protocol: Any, progress: Progress) -> running.Record:
    """One outcome, with a bar of its own."""
    bar = progress.add_task(result.name, total=1.0)

    def advance(what: str, share: float) -> None:
        progress.update(bar, completed=share, description=f"{result.name}: {what}")

    record = running.run(result, protocol, advance)
    progress.update(bar, completed=1.0, description=f"{result.name}: {record.outcome.verdict}")
    return record


if __name__ == "__main__":
    main()
