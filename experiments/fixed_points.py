"""Where does a network that remembers stand still?

Networks learn the flip-flop memory: several channels, each to hold the sign of its last pulse. A
network that holds b bits needs 2ᵇ states that stay; they are searched as fixed points under no
input, with the saddles between them, and everything found is proven where it can be. The same
starts are given to a plain loop over SciPy's solver, and a search from eight times as many starts
says what both have missed. Writes fixed_points.png and metrics.json.

    python experiments/fixed_points.py            # five minutes of computing
    python experiments/fixed_points.py --quick    # one bit, smaller networks, under a minute
"""

import dataclasses
import json
import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import rnn_jax as rj
from launching import RATE, SEED, SIZE, Range, check_ranges, display, fill_in, prepare, refusing
from launching import plain as plain_numbers
from resting.flip_flops import CELLS, Dissection, FlipFlopConfig, dissect, train
from resting.rest_picture import draw


@dataclass(frozen=True)
class Config:
    """Train networks to hold bits and find the fixed points that hold them."""

    out: Path = Path("results/fixed_points")
    """Folder for the picture and metrics.json; made if it does not exist."""
    quick: bool = False
    """Smaller everywhere, under a minute; options given by hand still win."""
    bits: int | None = None
    """Channels of the flip-flop (3, quick 1)."""
    hidden: int | None = None
    """H, hidden units (24, quick 8)."""
    trainings: int | None = None
    """Networks of each kind (5, quick 2)."""
    train_steps: int | None = None
    """Training steps (1000, quick 300)."""
    starts: int | None = None
    """Starts of the search (1000, quick 60)."""
    length: int | None = None
    """T, steps of a training sequence (40, quick 25)."""
    noise: float = 0.3
    """Standard deviation of what is added to the states that starts are drawn from."""
    learning_rate: float = 5e-3
    """Adam's rate."""
    batch_size: int = 64
    """Sequences in a training step."""
    seed: int = 0
    """Seed of weights, data and starts."""


_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "bits": (3, 1),
    "hidden": (24, 8),
    "trainings": (5, 2),
    "train_steps": (1000, 300),
    "starts": (1000, 60),
    "length": (40, 25),
}
_RANGES = {
    "bits": Range(1, 6),
    "hidden": SIZE,
    "trainings": SIZE,
    "train_steps": SIZE,
    "starts": SIZE,
    "length": Range(2),
    "noise": Range(0),
    "learning_rate": RATE,
    "batch_size": SIZE,
    "seed": SEED,
}
Results = dict[str, list[Dissection]]


def resolve(config: Config) -> Config:
    """Fills in the sizes that were left open.

    Raises:
      ValueError: a size or a rate that nothing can be measured with.
    """
    config = dataclasses.replace(config, **fill_in(config, _DEFAULTS))
    check_ranges(config, _RANGES)
    return config


def run(config: Config, progress: Progress) -> Results:
    """Trains and searches; `progress` shows how far it is."""
    names = [field.name for field in dataclasses.fields(FlipFlopConfig)]
    sizes = FlipFlopConfig(**{name: getattr(config, name) for name in names})
    results: Results = {}
    for kind in CELLS:
        bar = progress.add_task(f"training {kind}", total=sizes.train_steps)
        networks, losses = train(sizes, kind, config.seed, partial(progress.advance, bar))
        bar = progress.add_task(f"searching {kind}", total=sizes.trainings)
        results[kind] = []
        for number in range(sizes.trainings):
            network = rj.member(networks, number)
            found = dissect(sizes, network, float(losses[number]), config.seed + number)
            results[kind].append(found)
            progress.advance(bar)
    return results


def verdict(results: Results, bits: int) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    for kind, networks in results.items():
        right = sum(network.stable == 2**bits for network in networks)
        fixed = sum(network.fixed for network in networks)
        proven = sum(int(network.found.certified.sum()) for network in networks)
        known = sum(len(network.known) for network in networks)
        missed = np.sum([network.missed for network in networks], axis=0)
        faster = np.median([network.plain.seconds / network.seconds for network in networks])
        said.append(
            f"{kind}: {right} of {len(networks)} trainings have a stable fixed point for each of "
            f"the {2**bits} states; {proven} of {fixed} fixed points found are proven to exist."
        )
        said.append(
            f"{kind}: of {known} fixed points known in all, the search missed {missed[0]} and the "
            f"plain loop {missed[1]}; it took {faster:.1f} times as long."
        )
    return said


def save(config: Config, results: Results, said: list[str], seconds: float) -> None:
    """Writes the picture and the numbers."""
    draw(results, config.bits or 0).savefig(config.out / "fixed_points.png", dpi=150)
    numbers = {
        "machine": f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}",
        "seconds": round(seconds, 1),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "verdict": said,
        "networks": {
            kind: [
                {
                    "loss": network.loss,
                    "stable": network.stable,
                    "fixed": network.fixed,
                    "slow": int((~network.found.is_fixed).sum()),
                    "by_unstable_directions": network.by_directions(config.bits or 0),
                    "proven": int(network.found.certified.sum()),
                    "largest_radius": _largest(network.found.radius[network.found.certified]),
                    "largest_speed": _largest(network.found.speeds[network.found.is_fixed]),
                    "known": len(network.known),
                    "missed": network.missed[0],
                    "missed_by_plain_loop": network.missed[1],
                    "seconds": network.seconds,
                    "seconds_with_compilation": network.first_seconds,
                    "seconds_of_plain_loop": network.plain.seconds,
                }
                for network in networks
            ]
            for kind, networks in results.items()
        },
    }  # fmt: skip
    text = json.dumps(plain_numbers(numbers), indent=1, ensure_ascii=False)
    (config.out / "metrics.json").write_text(text, encoding="utf-8")


def _largest(values: np.ndarray) -> float:
    return float(np.max(values, initial=0.0))


def show(console: Console, config: Config, results: Results, said: list[str]) -> None:
    """Prints the table and the verdict."""
    table = Table(
        title=f"{config.bits} bits, H = {config.hidden}, {config.starts} starts",
        title_justify="left",
    )
    for name in ("", "loss", "stable", "fixed", "proven", "missed", "s", "loop s", "loop missed"):
        table.add_column(name)
    for kind, networks in results.items():
        for network in networks:
            table.add_row(
                kind,
                f"{network.loss:.4f}",
                str(network.stable),
                str(network.fixed),
                str(int(network.found.certified.sum())),
                str(network.missed[0]),
                f"{network.seconds:.2f}",
                f"{network.plain.seconds:.2f}",
                str(network.missed[1]),
            )
    console.print(table)
    for sentence in said:
        console.print(sentence, highlight=False)


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    console = Console()
    config = prepare(Config, resolve, console)
    start = time.perf_counter()
    with refusing(console), display(console) as progress:
        results = run(config, progress)
    said = verdict(results, config.bits or 0)
    save(config, results, said, time.perf_counter() - start)
    show(console, config, results, said)
    seconds = time.perf_counter() - start
    console.print(f"Picture and metrics.json: {config.out}   ({seconds:.0f} s)", highlight=False)


if __name__ == "__main__":
    main()
