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

from launching import display, prepare, refusing
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
    """Time for all that is run, such as 90s, 10m or 1h: as many as fit, the shortest first."""
    again: bool = False
    """Also run what has an outcome."""
    quick: bool = False
    """Tiny forms that take seconds."""


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


def chosen(config: Config) -> list[Result]:
    """The results that are asked for."""
    if config.only:
        found = [r for r in RESULTS if any(r.name.startswith(name) for name in config.only)]
    else:
        found = [r for r in RESULTS if config.device == "gpu" or r.device == "cpu"]
    if config.budget is None:
        return found
    return running.choose_within(found, minutes_of(config.budget))


def main() -> None:
    """Parses the command line, runs what has no outcome yet, prints and writes."""
    console = Console()
    config = prepare(Config, resolve, console)
    if config.list:
        reporting.list_results(console, RESULTS)
        return
    with refusing(console):
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[config.device])
        records = run_all(config, chosen(config), console)
        running.write_all(records, config.out)
        reporting.write_report(config.out / "report.html", RESULTS, records)
        reporting.write_table(config.out / "table.md", RESULTS, records)
    reporting.show(console, RESULTS, records)
    console.print(f"Report: {config.out / 'report.html'}", highlight=False)


def run_all(config: Config, results: list[Result], console: Console) -> list[running.Record]:
    """Every outcome there is, those of `results` measured where they are not kept."""
    with display(console) as progress:
        for result in results:
            protocol = result.quick if config.quick else result.protocol
            if config.again or running.kept(result, protocol, config.out) is None:
                running.keep(measure(result, protocol, progress), config.out)
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
