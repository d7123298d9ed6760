"""Does gradient flossing bring Lyapunov exponents to zero, and does that help to learn?

A tanh network is asked for the number that it was shown `delay` steps ago. Before training, some of
the networks are flossed: a few Adam steps on the mean square of their k leading exponents. Others
are flossed at every tenth step of their training instead, by one argument of `fit`. All start from
equal weights and see equal data. One more start, orthogonal recurrent weights, is there as a
control: it is free. Writes flossing.png and metrics.json.

Training is Adam at one rate for every arm: of 3e-4, 1e-3, 3e-3 and 1e-2 the one at which the
networks that are *not* flossed did best (4 seeds, 1200 steps: errors of 0.072, 0.053, 0.058 and
0.085).

    python experiments/flossing.py            # under four minutes on two CPU cores
    python experiments/flossing.py --quick    # smaller, under a minute
"""

import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from exponents.arms import Arm, ArmsConfig, compare
from exponents.floss_picture import draw
from launching import RATE, SEED, SIZE, check_ranges, display, fill_in, plain, prepare, refusing


@dataclass(frozen=True)
class Config:
    """Floss recurrent networks before training and see whether they learn better."""

    out: Path = Path("results/flossing")
    """Folder for the picture and metrics.json; made if it does not exist."""
    quick: bool = False
    """Smaller everywhere, under a minute; options given by hand still win."""
    hidden: int | None = None
    """H, hidden units (64, quick 32)."""
    delay: int | None = None
    """Steps back that have to be recalled (40, quick 12)."""
    directions: tuple[int, ...] = ()
    """k, leading exponents that are flossed; one arm for each (8 24 48, quick 4 20)."""
    floss_steps: int | None = None
    """Steps of flossing before training (100, quick 60)."""
    train_steps: int | None = None
    """Training steps (1500, quick 300)."""
    seeds: int | None = None
    """Networks in each arm (5, quick 3)."""
    gain: float = 1.0
    """Recurrent weights start as N(0, gain²/H)."""
    learning_rate: float = 1e-3
    """Adam's rate of the training, for every arm."""
    floss_learning_rate: float = 3e-3
    """Adam's rate of the flossing."""
    seed: int = 0
    """Seed of weights and data."""


_DEFAULTS: dict[str, tuple[Any, Any]] = {
    "hidden": (64, 32),
    "delay": (40, 12),
    "directions": ((8, 24, 48), (4, 20)),
    "floss_steps": (100, 60),
    "train_steps": (1500, 300),
    "seeds": (5, 3),
}
_RANGES = {
    "hidden": SIZE,
    "delay": SIZE,
    "directions": SIZE,
    "floss_steps": SIZE,
    "train_steps": SIZE,
    "seeds": SIZE,
    "gain": RATE,
    "learning_rate": RATE,
    "floss_learning_rate": RATE,
    "seed": SEED,
}


def resolve(config: Config) -> Config:
    """Fills in the sizes that were left open.

    Raises:
      ValueError: a size or a rate that nothing can be measured with.
    """
    config = dataclasses.replace(config, **fill_in(config, _DEFAULTS))
    check_ranges(config, _RANGES)
    if max(config.directions) > (config.hidden or 0):
        listed = " ".join(map(str, config.directions))
        raise ValueError(
            f"--directions must lie between 1 and --hidden, {config.hidden}; got {listed}. Pass "
            "fewer directions, or more hidden units."
        )
    return config


def run(config: Config, progress: Progress) -> tuple[ArmsConfig, list[Arm]]:
    """Flosses and trains; `progress` shows how far it is."""
    arms_config = ArmsConfig(
        hidden=config.hidden or 0,
        gain=config.gain,
        delay=config.delay or 0,
        directions=config.directions,
        floss_steps=config.floss_steps or 0,
        train_steps=config.train_steps or 0,
        seeds=config.seeds or 0,
        learning_rate=config.learning_rate,
        floss_learning_rate=config.floss_learning_rate,
    )

    def on_arm(what: str) -> Callable[[int], None]:
        floss = what.startswith("flossing")
        total = arms_config.floss_steps if floss else arms_config.train_steps
        return partial(progress.advance, progress.add_task(what, total=total))

    return arms_config, compare(arms_config, config.seed, on_arm)


def verdict(arms: list[Arm]) -> list[str]:
    """What the numbers say, in sentences."""
    plain, flossed, control = arms[0], arms[1:-1], arms[-1]
    said = []
    for arm in flossed:
        if arm.in_training:
            said.append(_of_flossing_in_training(arm, plain))
            continue
        said.append(
            f"{arm.title}: flossing made the mean square of its exponents "
            f"{np.median(arm.factors):.0f} times smaller (least {arm.factors.min():.0f}), and took "
            f"as much time as {arm.floss_cost:.0f} training steps."
        )
        ours, theirs = float(np.median(arm.final)), float(np.median(plain.final))
        equal = _final_in_equal_time(arm)
        word = "helped" if ours < theirs else "did not help"
        if ours < theirs <= equal:
            word = "helped, if its own time is not counted,"
        said.append(
            f"{arm.title}: it {word} here: error {ours:.4f} against {theirs:.4f} not flossed "
            f"(with that time taken off the training {equal:.4f}); better for "
            f"{(arm.final < plain.final).sum()} of {len(plain.final)} seeds."
        )
    best = min(arms[:-1], key=lambda arm: float(np.median(arm.final)))
    ahead = float(np.median(control.final)) < float(np.median(best.final))
    said.append(
        f"Orthogonal weights, which cost nothing, end at {np.median(control.final):.4f}: "
        f"{'better than' if ahead else 'not as good as'} the best of the others ({best.title})."
    )
    return said


def _of_flossing_in_training(arm: Arm, plain: Arm) -> str:
    ours, theirs = float(np.median(arm.final)), float(np.median(plain.final))
    return (
        f"{arm.title}: it {'helped' if ours < theirs else 'did not help'} here: error {ours:.4f} "
        f"against {theirs:.4f} not flossed; better for {(arm.final < plain.final).sum()} of "
        f"{len(plain.final)} seeds. A training step took "
        f"{arm.step_seconds / plain.step_seconds:.1f} times as long."
    )


def _final_in_equal_time(arm: Arm) -> float:
    """The median error if the time for flossing is taken off the training; inf if none is left."""
    steps = int(arm.at[-1])
    left = steps - arm.floss_cost
    window = arm.loss[:, (arm.at <= left) & (arm.at > left - max(arm.at[0], steps / 10))]
    return float(np.median(window.mean(axis=1))) if window.size else math.inf


def save(
    config: Config, arms_config: ArmsConfig, arms: list[Arm], said: list[str], seconds: float
) -> None:
    """Writes the picture and the numbers."""
    draw(arms, arms_config).savefig(config.out / "flossing.png", dpi=150)
    threshold = arms_config.task.solved_below
    numbers = {
        "machine": f"{jax.devices()[0].device_kind} ({platform.machine()}), jax {jax.__version__}",
        "seconds": round(seconds, 1),
        "config": {**dataclasses.asdict(config), "out": str(config.out)},
        "training": dataclasses.asdict(arms_config),
        "chance_loss": arms_config.task.chance_loss,
        "verdict": said,
        "arms": {
            arm.title: {
                "directions": arm.directions,
                "factors": plain(arm.factors) if arm.directions else None,
                "floss_cost_in_training_steps": round(arm.floss_cost, 1),
                "step_seconds": arm.step_seconds,
                "final_loss": plain(arm.final),
                "solved": arm.solved(threshold),
                "exponents_at_start": plain(arm.start),
                "exponents_before_training": plain(arm.ready),
                "exponents_after_training": plain(arm.end),
                "loss_at": plain(arm.at),
                "loss": plain(arm.loss),
            }
            for arm in arms
        },
    }
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    (config.out / "metrics.json").write_text(text, encoding="utf-8")


def show(console: Console, arms_config: ArmsConfig, arms: list[Arm], said: list[str]) -> None:
    """Prints the table and the verdict."""
    task = arms_config.task
    table = Table(
        title=f"Recall after {task.delay} steps, chance {task.chance_loss:.4f}, "
        f"{arms_config.seeds} seeds, {arms_config.train_steps} training steps",
        title_justify="left",
    )
    names = ("", "start λ₁", "flossed", "trained", "Σλ² ÷", "error", "worst", "solved")
    for name in names:
        table.add_column(name, min_width=10 if name == "" else None)
    for arm in arms:
        first = [f"{np.median(t[:, 0]):.3f}" for t in (arm.start, arm.ready, arm.end)]
        table.add_row(
            arm.title,
            first[0],
            first[1] if arm.directions and not arm.in_training else "",
            first[2],
            f"{np.median(arm.factors):.0f}" if arm.directions else "",
            f"{np.median(arm.final):.4f}",
            f"{arm.final.max():.4f}",
            f"{arm.solved(task.solved_below)} of {arms_config.seeds}",
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
        arms_config, arms = run(config, progress)
    said = verdict(arms)
    save(config, arms_config, arms, said, time.perf_counter() - start)
    show(console, arms_config, arms, said)
    seconds = time.perf_counter() - start
    console.print(f"Picture and metrics.json: {config.out}   ({seconds:.0f} s)", highlight=False)


if __name__ == "__main__":
    main()
