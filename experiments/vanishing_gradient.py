"""Why do simple recurrent networks forget, and what cures it? Ten claims, each one measured.

Prints a verdict for each claim and writes, into the output folder, report.html (one file, opens
anywhere), the pictures, and metrics.json with every number behind them.

    python experiments/vanishing_gradient.py            # under five minutes on two CPU cores
    python experiments/vanishing_gradient.py --quick    # smaller; half a minute the second time
"""

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress

from launching import SEED, SIZE, Range, check_ranges, display, fill_in, prepare, refusing
from vanishing import measure
from vanishing.chain import worked_examples
from vanishing.claims import Claim, judge
from vanishing.networks import COMPARED, CONTROLS, SIMPLE
from vanishing.pictures import draw
from vanishing.report import print_table, write_report
from vanishing.results import Results
from vanishing.training import TrainingConfig, time_per_step, train


@dataclass(frozen=True)
class Config:
    """Measure ten claims about gradients through time and write a report."""

    out: Path = Path("results/vanishing_gradient")
    """Folder for report.html, the pictures and metrics.json; made if it does not exist."""
    quick: bool = False
    """Smaller everywhere: about a minute and a half, and half a minute once its programs are
    compiled and kept; options given by hand still win."""
    steps: int | None = None
    """T, steps of the sequence along which Jacobians are measured (1000, quick 200)."""
    hidden: int | None = None
    """H, hidden units of the networks whose Jacobians are measured (64, quick 32)."""
    weight_seeds: int | None = None
    """Draws of the weights over which the spread of the decay rate is taken (3, quick 1)."""
    train_length: int | None = None
    """T of the adding problem, in steps (60, quick 30)."""
    train_steps: int | None = None
    """Training steps at most; a network that solves the task stops earlier (1500, quick 600)."""
    train_seeds: int | None = None
    """Networks of each kind trained at once (3, quick 2)."""
    seed: int = 0
    """Seed of weights, inputs and batches."""


_DEFAULTS = {
    "steps": (1000, 200),
    "hidden": (64, 32),
    "weight_seeds": (3, 1),
    "train_length": (60, 30),
    "train_steps": (1500, 600),
    "train_seeds": (3, 2),
}
_RANGES = {
    "steps": Range(20),
    "hidden": SIZE,
    "weight_seeds": SIZE,
    "train_length": Range(2),
    "train_steps": SIZE,
    "train_seeds": SIZE,
    "seed": SEED,
}


def resolve(config: Config) -> Config:
    """Fills in the sizes that were left open.

    Raises:
      ValueError: a size that nothing can be measured with.
    """
    config = dataclasses.replace(config, **fill_in(config, _DEFAULTS))
    check_ranges(config, _RANGES)
    return config


def run(config: Config, progress: Progress) -> Results:
    """Takes every measurement; `progress` shows how far it is."""
    steps, hidden, seed = config.steps or 0, config.hidden or 0, config.seed
    task = TrainingConfig(
        length=config.train_length or 0,
        hidden=32,
        batch_size=64,
        steps=config.train_steps or 0,
        seeds=config.train_seeds or 0,
    )
    bar = progress.add_task("", total=len(COMPARED) + len(CONTROLS) + 4)

    def say(what: str) -> None:
        progress.update(bar, advance=1, description=what)

    say("worked examples, slopes and bounds")
    chains = worked_examples()
    slopes = {name: measure.slopes(name, hidden, steps, seed) for name in SIMPLE}
    decay = measure.decay(hidden, steps, seed)
    reach = {}
    for name in (*COMPARED, *CONTROLS):
        say(f"Jacobians over {steps} steps: {name}")
        reach[name] = measure.reach(name, hidden, steps, seed, config.weight_seeds or 1)
    say("weight gradient and error signal by step")
    length = min(100, steps)
    shares = {name: measure.weight_shares(name, hidden, length, seed) for name in COMPARED}
    signal = {name: measure.input_signal(name, hidden, 50, seed) for name in COMPARED}
    say("rate against the scale of the weights")
    gains = measure.gain_sweep(hidden, min(200, steps), seed, np.linspace(0.5, 2.0, 31))
    say("time of a training step")
    seconds = time_per_step(("GRU", "LSTM, forget bias 1", "tanh"), task, seed, rounds=5)

    training = {}
    for name in COMPARED:
        bar = progress.add_task(f"training, T = {task.length}: {name}", total=task.steps)
        training[name] = train(name, task, seed, partial(progress.advance, bar))
        found = f"{training[name].solved} of {task.seeds} seeds solved"
        progress.update(bar, completed=task.steps, description=f"trained {name}: {found}")
    return Results(
        steps=steps,
        hidden=hidden,
        seed=seed,
        chains=chains,
        slopes=slopes,
        decay=decay,
        reach=reach,
        shares=shares,
        signal=signal,
        gains=gains,
        dead=measure.dead_units(slopes["ReLU"].values, hidden),
        seconds=seconds,
        training_config=task,
        training=training,
    )


def save(config: Config, results: Results, claims: list[Claim], seconds: float) -> Path:
    """Writes the pictures, the numbers and the page; returns the page's path."""
    figures = draw(results)
    for name, figure in figures.items():
        figure.savefig(config.out / f"{name}.png", dpi=150)
    machine = f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}"
    numbers = {
        "machine": machine,
        "seconds": round(seconds, 1),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "training": dataclasses.asdict(results.training_config),
        "claims": {claim.number: dataclasses.asdict(claim) for claim in claims},
        "networks": {
            name: {
                "rate": reach.rate,
                "rate_spread": reach.spread,
                "horizon": reach.horizon,
                "float32_zero_lag": reach.zero_lag,
                "parameters": reach.parameters,
                "operations_per_step": reach.operations,
                "log_norm_by_lag": [round(float(v), 4) for v in reach.flow.by_lag()],
            }
            for name, reach in results.reach.items()
        },
    }
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    (config.out / "metrics.json").write_text(text, encoding="utf-8")
    page = config.out / "report.html"
    write_report(page, results, claims, figures, machine)
    return page


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    console = Console()
    config = prepare(Config, resolve, console)
    start = time.perf_counter()
    with refusing(console), display(console) as progress:
        results = run(config, progress)
    claims = judge(results)
    page = save(config, results, claims, time.perf_counter() - start)
    print_table(console, claims)
    console.print(f"Report: {page}   ({time.perf_counter() - start:.0f} s)", highlight=False)


if __name__ == "__main__":
    main()
