r"""Trains recurrent networks on a task: all seeds and learning rates in one program.

The folder holds all of the run (config.json, metrics.jsonl, checkpoints/, picture); the same line
goes on where a run was killed, and ends bit for bit where it would have ended.

    python experiments/train.py --cell lstm --task adding --task.length 200 --seeds 8 \
        --steps 3000 --out runs/adding-lstm
    python experiments/train.py --cell gru --cell.recurrent-init "critical(tanh)" \
        --cell.bias-init "chrono(1, 200)" --task adding --task.length 200 --out runs/adding-gru
    python experiments/train.py --cell cornn --task copy-memory --help
"""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

import rnn_jax as rj
from launching import RATE, SEED, SIZE, Range, check_ranges, parse, refusing, settle
from learning.cell_options import checked, options_of
from learning.choices import CELLS, TASKS, choose, make_model


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train recurrent networks on a task; --cell and --task choose what, and have own options."""

    out: Path
    """Folder of the run; made if it does not exist, gone on with if it does."""
    steps: int = 3000
    """Training steps; a finished run goes on if there are more now."""
    seeds: int = 1
    """Networks, from seeds 0, 1, …, trained in one program."""
    hidden: int = 32
    """H, hidden units of each layer."""
    layers: int = 1
    """Layers of cells."""
    batch_size: int = 64
    """Sequences of each training step and network."""
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Of optax."""
    learning_rates: tuple[float, ...] = (3e-3,)
    """With several, every seed is trained with each."""
    clip: float = 1.0
    """Largest global norm of a gradient; 0 does not clip."""
    seed: int = 0
    """Of the data."""
    evaluate_every: int = 100
    """Steps between evaluations on fresh data."""
    evaluation_size: int | None = None
    """Sequences in each evaluation (256, rounded up to a multiple of the batch)."""
    after_solved: Literal["stop", "go-on"] = "stop"
    """What a network does that has solved the task."""
    on_nonfinite: Literal["stop", "skip", "raise"] = "stop"
    """What a network does whose loss or update is not finite."""
    probe_every: int = 0
    """Steps between measurements of gradient flow and exponents; 0 measures nothing."""
    checkpoint_seconds: float = 10.0
    """Least time between two checkpoints."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard."""
    x64: bool = False
    """Train in float64."""
    split: Literal["nothing", "batch", "ensemble"] = "nothing"
    """What is split over all devices."""
    coordinator: str | None = None
    """host:port of the first process, where several train together."""
    processes: int = 1
    """How many processes there are."""
    process: int = 0
    """Which one this is, from 0."""


RANGES = {
    "steps": SIZE,
    "seeds": SIZE,
    "hidden": SIZE,
    "layers": SIZE,
    "batch_size": SIZE,
    "learning_rates": RATE,
    "clip": Range(0),
    "seed": SEED,
    "evaluate_every": SIZE,
    "evaluation_size": SIZE,
    "probe_every": Range(0),
    "checkpoint_seconds": Range(0),
    "processes": SIZE,
    "process": Range(0),
}


def main() -> None:
    console = Console(stderr=True)
    with refusing(console):
        options = read_command_line(sys.argv[1:])
        settle(console)
        if options.x64:
            jax.config.update("jax_enable_x64", True)
        if options.coordinator is not None:
            jax.distributed.initialize(options.coordinator, options.processes, options.process)
        result = train(options, console)
        if jax.process_index() == 0:
            report(options, result, console)


def read_command_line(arguments: list[str]) -> Any:
    """The options, with those of the chosen cell and task as fields `cell` and `task`.

    Raises:
      ValueError, TypeError: an unknown name or option, a value out of range, or options of which
        no cell can be built.
    """
    names = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    names.add_argument("--cell", default="lstm")
    names.add_argument("--task", default="adding")
    try:
        chosen, rest = names.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}. See --help.") from error
    cell = options_of(choose("cell", chosen.cell, CELLS))
    task = choose("task", chosen.task, TASKS)
    options = dataclasses.make_dataclass(
        "Options", [("cell", cell), ("task", task)], bases=(Options,), frozen=True, kw_only=True
    )
    options.__doc__ = (
        f"{Options.__doc__}\n\n--cell is one of {', '.join(sorted(CELLS))} (now {chosen.cell}); "
        f"--task is one of {', '.join(sorted(TASKS))} (now {chosen.task})."
    )
    parsed: Any = parse(options, rest)
    check_ranges(parsed, RANGES)
    check_processes(parsed)
    make = make_model(parsed.cell, parsed.task, parsed.hidden, parsed.layers)
    checked(parsed.cell, lambda: make(nnx.Rngs(0)))
    return dataclasses.replace(parsed, out=parsed.out.expanduser())


def check_processes(options: Options) -> None:
    """Several processes must find each other, and each must be one of them.

    Raises:
      ValueError: they would not.
    """
    together = f"--processes {options.processes}"
    if options.processes > 1 and options.coordinator is None:
        raise ValueError(
            f"{together} need --coordinator, where they meet; got none. Pass --coordinator "
            "host:port, the same in all of them, or leave --processes out to train in one."
        )
    if options.process >= options.processes:
        raise ValueError(
            f"--process must be below --processes, {options.processes}; got {options.process}. "
            "Number the processes from 0, and pass how many there are to each."
        )
    if options.coordinator is None:
        return
    host, _, port = options.coordinator.rpartition(":")
    if not host or not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"--coordinator must be host:port; got {options.coordinator!r}. Pass the address of "
            "the first process and a free port there, such as 10.0.0.1:1234."
        )


def train(options: Any, console: Console) -> rj.FitResult:
    """Trains all networks."""
    make = make_model(options.cell, options.task, options.hidden, options.layers)
    rates = np.repeat(np.asarray(options.learning_rates, float), options.seeds)
    models = rj.ensemble(make, list(range(options.seeds)) * len(options.learning_rates))
    probes: tuple[rj.Probe, ...] = ()
    if options.probe_every:
        probes = (
            rj.GradientFlowProbe(every=options.probe_every),
            rj.LyapunovProbe(every=options.probe_every),
        )
    return rj.fit(
        models,
        options.task,
        lambda rate: optimizer(options, rate),
        hyperparameters=rates,
        steps=options.steps,
        batch_size=options.batch_size,
        seed=options.seed,
        directory=options.out,
        probes=probes,
        mesh=mesh(options.split),
        evaluate_every=options.evaluate_every,
        evaluation_size=options.evaluation_size,
        stop_when_solved=options.after_solved == "stop",
        on_nonfinite=options.on_nonfinite,
        checkpoint_seconds=options.checkpoint_seconds,
        tensorboard=options.tensorboard,
        progress=True,
        config=identity(options),
    )


def optimizer(options: Any, rate: Any) -> optax.GradientTransformation:
    """The chosen one at a rate, behind the clipping."""
    chosen = getattr(optax, options.optimizer)(rate)
    if not options.clip:
        return chosen
    return optax.chain(optax.clip_by_global_norm(options.clip), chosen)


def mesh(split: str) -> Mesh | None:
    """All devices along one axis."""
    return None if split == "nothing" else Mesh(np.array(jax.devices()), (split,))


def identity(options: Any) -> dict[str, Any]:
    """The options that make a run what it is, beside those that `fit` knows by itself."""
    names = ("hidden", "layers", "seeds", "optimizer", "learning_rates", "clip", "x64")
    cell = {"kind": type(options.cell).__name__, **dataclasses.asdict(options.cell)}
    return {"cell": cell, **{name: getattr(options, name) for name in names}}


def report(options: Any, result: rj.FitResult, console: Console) -> None:
    """A table of all networks, and the picture."""
    history = result.history
    names = [name for name in history.metrics if name != "loss"] or ["loss"]
    table = Table(title=f"{type(options.task).__name__}, {result.steps} training steps")
    for column in ("learning rate", "seed", *names, "solved at", "not finite at"):
        table.add_column(column, justify="right")
    rates = np.repeat(np.asarray(options.learning_rates), options.seeds)
    for index, rate in enumerate(rates):
        table.add_row(
            f"{rate:g}",
            str(index % options.seeds),
            *(f"{history.metrics[name][index, -1]:.4g}" for name in names),
            *(_step(steps[index]) for steps in (history.solved_at, history.failed_at)),
        )
    picture = options.out / "training.png"
    chance = getattr(options.task, "chance_loss", None)
    try:
        history.plot(chance=chance).savefig(picture, dpi=150)
    except OSError as error:
        raise OSError(
            f"the picture could not be written to {picture}: {error.strerror}. The run itself is "
            "complete; make room or access, and run the same command again."
        ) from error
    Console().print(table)
    console.print(f"All of it is in {options.out}; the picture is {picture}.", soft_wrap=True)


def _step(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"


if __name__ == "__main__":
    main()
