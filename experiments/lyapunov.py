"""How fast do perturbations grow or shrink? Lyapunov exponents of systems, networks and cells.

`systems` compares with what is known: Hénon's map, Lorenz's flow, products of Gaussian matrices.
`gain` takes random tanh networks through their transition to chaos, beside theory. `cells` shows
what training does to the exponents of the package's cells. Writes pictures and metrics.json.

    python experiments/lyapunov.py                 # all three, under five minutes on two CPU cores
    python experiments/lyapunov.py --quick         # smaller, under a minute
    python experiments/lyapunov.py --study cells --cell lstm
"""

import dataclasses
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from exponents.cells import CELLS, TITLES, CellConfig, CellResult, measure_cell
from exponents.gain import Spectrum, Transition, spectra, transition
from exponents.pictures import draw_cells, draw_spectra, draw_transition
from exponents.systems import Known, known_systems
from launching import (
    RATE,
    SEED,
    SIZE,
    Range,
    check_ranges,
    display,
    fill_in,
    plain,
    prepare,
    refusing,
)


@dataclass(frozen=True)
class Config:
    """Measure Lyapunov exponents and compare them with what is known."""

    out: Path = Path("results/lyapunov")
    """Folder for the pictures and metrics.json; made if it does not exist."""
    study: Literal["systems", "gain", "cells", "all"] = "all"
    """What to measure."""
    cell: Literal["simple", "lstm", "gru"] | None = None
    """One kind of cell alone, for the study of cells."""
    quick: bool = False
    """Smaller everywhere, under a minute; options given by hand still win."""
    system_steps: int | None = None
    """Steps of the known systems; five times as many of the flow (100000, quick 10000)."""
    gains: tuple[float, ...] = (0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
    """g of the random networks whose leading exponent is measured."""
    spectrum_gains: tuple[float, ...] = (0.8, 1.2, 1.5, 2.0, 3.0, 5.0)
    """g of those whose whole spectrum is measured."""
    size: int | None = None
    """N of the networks whose leading exponent is measured (1024, quick 256)."""
    spectrum_size: int | None = None
    """N of those whose whole spectrum is measured (256, quick 64)."""
    draws: int | None = None
    """Random matrices for each gain (4, quick 2)."""
    steps: int | None = None
    """Steps to average over, of networks and cells; a quarter is added as warm-up (2000, quick
    600)."""
    hidden: int | None = None
    """H of the cells (64, quick 16)."""
    delay: int | None = None
    """Steps that the cells learn to recall (10, quick 4)."""
    train_steps: int | None = None
    """Training steps (1000, quick 300)."""
    seeds: int | None = None
    """Networks of each kind of cell (3, quick 2)."""
    seed: int = 0
    """Seed of matrices, weights and streams."""


_DEFAULTS = {
    "system_steps": (100_000, 10_000),
    "size": (1024, 256),
    "spectrum_size": (256, 64),
    "draws": (4, 2),
    "steps": (2000, 600),
    "hidden": (64, 16),
    "delay": (10, 4),
    "train_steps": (1000, 300),
    "seeds": (3, 2),
}
_RANGES = {
    "system_steps": Range(400),
    "gains": RATE,
    "spectrum_gains": RATE,
    "size": Range(2),
    "spectrum_size": Range(2),
    "draws": SIZE,
    "steps": Range(40),
    "hidden": Range(2),
    "delay": SIZE,
    "train_steps": SIZE,
    "seeds": SIZE,
    "seed": SEED,
}


@dataclass(frozen=True)
class Results:
    """What was measured; None for a study that was left out."""

    systems: list[Known] | None = None
    transition: Transition | None = None
    spectra: list[Spectrum] | None = None
    cells: dict[str, CellResult] | None = None
    cell_config: CellConfig | None = None


def resolve(config: Config) -> Config:
    """Fills in the sizes that were left open.

    Raises:
      ValueError: a size is too small to measure anything with, or options contradict each other.
    """
    config = dataclasses.replace(config, **fill_in(config, _DEFAULTS))
    check_ranges(config, _RANGES)
    if config.cell is not None and config.study not in ("cells", "all"):
        raise ValueError(
            f"--cell is for --study cells; got --study {config.study}. Leave one of them out."
        )
    return config


def run(config: Config, progress: Progress) -> Results:
    """Takes the measurements; `progress` shows how far it is."""
    steps, seed = config.steps or 0, config.seed
    results = Results()
    if config.study in ("systems", "all"):
        bar = progress.add_task("known systems", total=1)
        systems = known_systems(config.system_steps or 0, seed)
        results = dataclasses.replace(results, systems=systems)
        progress.advance(bar)
    if config.study in ("gain", "all"):
        draws = config.draws or 0
        bar = progress.add_task("random networks", total=len(config.gains) * draws)
        tick = partial(progress.advance, bar)
        leading = transition(config.gains, config.size or 0, draws, steps, seed, tick)
        bar = progress.add_task("whole spectra", total=len(config.spectrum_gains))
        tick = partial(progress.advance, bar)
        whole = spectra(config.spectrum_gains, config.spectrum_size or 0, steps, seed, tick)
        results = dataclasses.replace(results, transition=leading, spectra=whole)
    if config.study in ("cells", "all"):
        cell_config = CellConfig(
            config.hidden or 0, steps, config.delay or 0, config.train_steps or 0, config.seeds or 0
        )
        found = {}
        for name in CELLS if config.cell is None else (config.cell,):
            bar = progress.add_task(f"training: {TITLES[name]}", total=cell_config.train_steps)
            found[name] = measure_cell(name, cell_config, seed, partial(progress.advance, bar))
        results = dataclasses.replace(results, cells=found, cell_config=cell_config)
    return results


def save(config: Config, results: Results, seconds: float) -> None:
    """Writes the pictures and the numbers."""
    figures: dict[str, Figure] = {}
    numbers: dict[str, object] = {
        "machine": f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}",
        "seconds": round(seconds, 1),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
    }
    if results.systems is not None:
        numbers["systems"] = [dataclasses.asdict(row) for row in results.systems]
    if results.transition is not None and results.spectra is not None:
        figures["transition"] = draw_transition(results.transition)
        figures["spectra"] = draw_spectra(results.spectra)
        numbers["transition"] = {
            **dataclasses.asdict(results.transition),
            "mean": results.transition.mean,
            "mean_error": results.transition.mean_error,
            "spread": results.transition.spread,
        }
        numbers["spectra"] = [dataclasses.asdict(spectrum) for spectrum in results.spectra]
    if results.cells is not None and results.cell_config is not None:
        figures["cells"] = draw_cells(results.cells, results.cell_config)
        numbers["cell_config"] = dataclasses.asdict(results.cell_config)
        numbers["cells"] = {name: dataclasses.asdict(one) for name, one in results.cells.items()}
    for name, figure in figures.items():
        figure.savefig(config.out / f"{name}.png", dpi=150)
    text = json.dumps(plain(numbers), indent=1, ensure_ascii=False)
    (config.out / "metrics.json").write_text(text, encoding="utf-8")


def show(console: Console, results: Results) -> None:
    """Prints a table for each study."""
    if results.systems is not None:
        rows = [
            (
                row.system,
                row.quantity,
                _with(row.measured, row.error),
                f"{row.known:.5f}",
                row.source,
            )
            for row in results.systems
        ]
        _table(console, "Known systems", ("system", "", "measured", "known", "source"), rows)
    if results.transition is not None and results.spectra is not None:
        _show_gain(console, results.transition, results.spectra)
    if results.cells is not None and results.cell_config is not None:
        _show_cells(console, results.cells, results.cell_config)


def _show_gain(console: Console, leading: Transition, whole: list[Spectrum]) -> None:
    rows = []
    for i, gain in enumerate(leading.gains):
        radius = f"{leading.radii[i].mean():.4f}" if gain < 1 else ""
        mean = _with(leading.mean[i], leading.mean_error[i])
        rows.append(
            (f"{gain:g}", mean, f"{leading.spread[i]:.4f}", radius, f"{leading.theory[i]:.4f}")
        )
    title = f"Random tanh networks, N = {leading.size}: leading exponent"
    _table(console, title, ("g", "λ₁", "sd over draws", "ln radius of J", "N → ∞"), rows)
    whole_rows = [
        (f"{s.gain:g}", f"{s.exponents[0]:.4f}", f"{s.dimension:.4f}", f"{s.entropy:.5f}")
        for s in whole
    ]
    title = f"Whole spectra, N = {len(whole[0].exponents)}"
    _table(console, title, ("g", "λ₁", "dimension / N", "entropy rate / N"), whole_rows)


def _show_cells(console: Console, cells: dict[str, CellResult], config: CellConfig) -> None:
    rows = []
    for name, cell in cells.items():
        first = [np.median(table[:, 0]) for table in (cell.normal, cell.before, cell.after)]
        tenth = [_mean_of_ten(table) for table in (cell.before, cell.after)]
        rows.append(
            (
                TITLES[name],
                f"{first[0]:.3f} ± {cell.error:.3f}",
                f"{first[1]:.3f} → {first[2]:.3f}",
                f"{tenth[0]:.3f} → {tenth[1]:.3f}",
                f"{np.median(cell.loss):.4f}",
            )
        )
    title = f"Cells, H = {config.hidden}, before → after learning to recall {config.delay} steps"
    columns = ("cell", "λ₁, normal inputs", "λ₁, task", "mean of the ten leading", "error")
    _table(console, title, columns, rows)


def _mean_of_ten(table: np.ndarray) -> float:
    return float(np.median(table[:, :10].mean(axis=1)))


def _with(value: float, error: float) -> str:
    return f"{value:.5f} ± {error:.5f}" if math.isfinite(error) else f"{value:.5f}"


def _table(
    console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    console = Console()
    config = prepare(Config, resolve, console)
    start = time.perf_counter()
    with refusing(console), display(console) as progress:
        results = run(config, progress)
    save(config, results, time.perf_counter() - start)
    show(console, results)
    seconds = time.perf_counter() - start
    console.print(f"Pictures and metrics.json: {config.out}   ({seconds:.0f} s)", highlight=False)


if __name__ == "__main__":
    main()
