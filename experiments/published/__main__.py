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

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console
from rich.progress import Progress

# This is run as a module of the checkout; its neighbours are imported as those of a script.
sys.path.insert(0, str(Path(__file__).parents[1]))

from launching import display, parse, prepare, refusing
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
    """Tiny forms that take seconds."""


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
    """Refuses what there is not.

    Raises:
      ValueError: an unknown name, no time, or a device that is not here.
    """
    if config.budget is not None:
        minutes_of(config.budget)
    for name in config.only:
        if not any(result.name.startswith(name) for result in RESULTS):
            choose("result", name, {result.name: result for result in RESULTS})
    return config


def asked_for(config: Config) -> list[Result]:
    """The results that are named, or all that the device can do."""
    if config.only:
        return [r for r in RESULTS if any(r.name.startswith(name) for name in config.only)]
    return [r for r in RESULTS if config.device == "gpu" or r.device == "cpu"]


def to_run(config: Config) -> list[Result]:
    """Of what is asked for, what has no outcome yet, or all of it again, as far as time allows.

    Raises:
      ValueError: none of it fits into the budget, or a kept outcome cannot be read.
    """
    found = [
        result
        for result in asked_for(config)
        if config.again or running.kept(result, protocol_of(result, config), config.out) is None
    ]
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
        only_list = parse(Config, sys.argv[1:], PROGRAM).list
    if only_list:
        reporting.list_results(console, RESULTS)
        return
    config = prepare(Config, resolve, console, PROGRAM)
    with refusing(console):
        use(config.device)
        records = run_all(config, to_run(config), console)
        running.write_all(records, config.out)
        reporting.write_report(config.out / "report.html", RESULTS, records)
        reporting.write_table(config.out / "table.md", RESULTS, records)
    reporting.show(console, RESULTS, records)
    console.print(f"Report: {config.out / 'report.html'}", highlight=False)


def run_all(config: Config, results: list[Result], console: Console) -> list[running.Record]:
    """Measures `results`, one after another; every outcome that there is then."""
    with display(console) as progress:
        for result in results:
            running.keep(measure(result, protocol_of(result, config), progress), config.out)
    return running.all_kept(RESULTS, config.quick, config.out)


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
