"""One network on one task: its learning rate, how it learns, how far its gradients reach."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnn_jax as rj
from family.networks import parameter_count
from family.training import steps_or_more
from launching import plain
from learning.contenders import NETWORKS
from learning.keeping import Kept

# By name, from T.
TASKS: dict[str, Callable[[int], Any]] = {
    "adding": rj.tasks.Adding,
    "temporal order": rj.tasks.TemporalOrder,
    "selective copy": lambda steps: rj.tasks.SelectiveCopy(steps, symbols=3, alphabet=4),
}
SHORTEST = 10
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
# Seeds of networks that only the search of a learning rate sees, and how many for each rate.
_SEARCHED, _TRIALS = 100_000, 2


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
      hidden: H.
      batch_size: sequences of each step.
      steps: at most.
      seeds: networks trained at once.
      seed: of the data.
    """

    hidden: int
    batch_size: int
    steps: int
    seeds: int
    seed: int


@dataclass(frozen=True)
class Learnt:
    """What came of training; lists have one entry for each seed.

    Attributes:
      solved_at: training steps until it was solved; None if it was not.
      loss: on fresh data at the end, as a share of what is lost without memory; None if it is not
        finite.
    """

    solved_at: list[int | None]
    loss: list[float | None]


@dataclass(frozen=True)
class Search:
    """Which learning rate is taken.

    Attributes:
      rate: with the smallest score.
      scores: of each of `RATES`, see `family.training.steps_or_more`.
      seconds: of the processor.
    """

    rate: float
    scores: list[float]
    seconds: float


@dataclass(frozen=True)
class Reach:
    """Of untrained networks along sequences of the task; lists have one entry for each seed.

    Attributes:
      reach: ln norm at lag T/2, less that at lag 0, nats; None is −∞ or not a number.
      horizon: largest lag with 1 % of the gradient at lag 0, at most T − 1.
      exponent: λ₁, nats a step; None is −∞ or not a number.
      seconds: of the processor.
    """

    reach: list[float | None]
    horizon: list[float]
    exponent: list[float | None]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One network on one task and length.

    Attributes:
      network, cell, kind, task: names.
      length: T.
      steps: training steps at most.
      rate: of Adam.
      parameters: how many numbers are trained.
      solved_at, loss: as of `Learnt`.
      reach, horizon, exponent: as of `Reach`.
      seconds: of the processor, for the training of this outcome.
    """

    network: str
    cell: str
    kind: str
    task: str
    length: int
    steps: int
    rate: float
    parameters: int
    solved_at: list[int | None]
    loss: list[float | None]
    reach: list[float | None]
    horizon: list[float]
    exponent: list[float | None]
    seconds: float

    @property
    def score(self) -> float:
        """Of `family.training.steps_or_more`: the smaller the better."""
        return steps_or_more(self.solved_at, self.loss, self.steps)

    @property
    def solved(self) -> int:
        """How many seeds have solved it."""
        return sum(at is not None for at in self.solved_at)


def search(network: str, task_name: str, length: int, training: Training, kept: Kept) -> Search:
    """The learning rate for a network and a task, by two seeds for each rate at one length."""
    settings = {**asdict(training), "length": length, "rates": list(RATES)}

    def measure() -> Search:
        start = time.process_time()
        seeds = range(_SEARCHED, _SEARCHED + _TRIALS * len(RATES))
        rates = np.repeat(RATES, _TRIALS)
        learnt, _ = _train(network, task_name, length, training, seeds, rates, training.seed + 1)
        scores = [
            steps_or_more(
                learnt.solved_at[first : first + _TRIALS],
                learnt.loss[first : first + _TRIALS],
                training.steps,
            )
            for first in range(0, rates.size, _TRIALS)
        ]
        rate = RATES[int(np.argmin(scores))]
        return Search(rate, scores, time.process_time() - start)

    return kept.result(f"{_name(task_name, network)}-rate", settings, Search, measure)


def reach(
    network: str,
    task_name: str,
    lengths: Sequence[int],
    measured_steps: int,
    training: Training,
    kept: Kept,
) -> dict[int, Reach]:
    """How far gradients of the untrained networks reach, by length T.

    All are measured along sequences of the task with `measured_steps` steps, and read at the lags
    of each T, so that one program serves all lengths.
    """
    found = {}
    for length in lengths:
        settings = {
            "hidden": training.hidden,
            "seeds": training.seeds,
            "seed": training.seed,
            "length": length,
            "measured_steps": measured_steps,
        }

        def measure(length: int = length) -> Reach:
            start = time.process_time()
            networks = _networks(network, task_name, length, training, range(training.seeds))
            inputs = TASKS[task_name](measured_steps).sample(
                jax.random.key(training.seed + 2), training.seeds
            )
            curves, exponents = _measure(networks, inputs.inputs)
            curves = [_beyond_nearest(np.asarray(curve)[:length]) for curve in curves]
            return Reach(
                reach=[float(curve[length // 2]) for curve in curves],
                horizon=[_horizon(curve) for curve in curves],
                exponent=[float(exponent) for exponent in exponents],
                seconds=time.process_time() - start,
            )

        name = f"{_name(task_name, network)}-{length}-reach"
        found[length] = kept.result(name, settings, Reach, measure)
    return found


def train(
    network: str, task_name: str, length: int, training: Training, rate: float, kept: Kept
) -> tuple[Learnt, int, float]:
    """What all seeds learn in one program; how many parameters; seconds of the processor."""
    settings = {**asdict(training), "length": length, "rate": rate}

    def measure() -> dict[str, Any]:
        start = time.process_time()
        rates = np.full(training.seeds, rate)
        seeds = range(training.seeds)
        learnt, count = _train(network, task_name, length, training, seeds, rates, training.seed)
        seconds = time.process_time() - start
        return {"learnt": asdict(learnt), "parameters": count, "seconds": seconds}

    name = f"{_name(task_name, network)}-{length}"
    found: dict[str, Any] = kept.result(name, settings, dict, measure)
    return Learnt(**found["learnt"]), found["parameters"], found["seconds"]


def _networks(
    network: str, task_name: str, length: int, training: Training, seeds: Sequence[int]
) -> Any:
    make = NETWORKS[network].network(training.hidden, task_name, TASKS[task_name](length))
    return rj.ensemble(make, seeds)


def _train(
    network: str,
    task_name: str,
    length: int,
    training: Training,
    seeds: Sequence[int],
    rates: np.ndarray,
    seed: int,
) -> tuple[Learnt, int]:
    """Rates are arguments of the program, so that a search and a training share it."""
    task = TASKS[task_name](length)
    networks = _networks(network, task_name, length, training, seeds)
    history = rj.fit(
        networks,
        task,
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        steps=training.steps,
        batch_size=training.batch_size,
        seed=seed,
        members=len(seeds),
        hyperparameters=rates,
        evaluate_every=min(50, training.steps),
        evaluation_size=128,
    ).history
    learnt = Learnt(
        solved_at=[None if np.isnan(at) else int(at) for at in history.solved_at],
        loss=[float(loss) for loss in history.metrics["loss"][:, -1] / task.chance_loss],
    )
    learnt = Learnt(**plain(learnt))
    return learnt, parameter_count(rj.member(networks, 0))


@jax.jit
@jax.vmap
def _measure(network: Any, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(ln‖∂y_t/∂x_s‖ by lag, λ₁) of the recurrent cell along what it is fed."""
    if isinstance(network, rj.SequenceModel):
        (cell,) = network.cells
    else:
        (cell,) = network.recurrence.cells
        xs = jax.nn.gelu(network.before(xs))
    lin = rj.linearize(cell, xs)
    # All exponents: where units do not mix, a single direction would stay that of the first unit.
    spectrum = rj.lyapunov_exponents(lin, warmup=xs.shape[0] // 10)
    return rj.by_lag(rj.jacobian_log_norms(lin)), jnp.max(spectrum.exponents)


def _beyond_nearest(curve: np.ndarray) -> np.ndarray:
    """By lag, less what is at the nearest lag that is not exactly 0; −∞ where nothing arrives."""
    alive = np.isfinite(curve)
    if not alive.any():
        return np.full_like(curve, -np.inf)
    return np.where(alive, curve - curve[np.argmax(alive)], -np.inf)


def _horizon(curve: np.ndarray) -> float:
    """The largest lag with at least 1 % of the nearest, as of `rj.GradientFlow.horizon`."""
    enough = np.flatnonzero(curve >= np.log(0.01))
    return float(enough[-1]) if enough.size else 0.0


def _name(task_name: str, network: str) -> str:
    return re.sub(r"[(),]", "", f"{task_name}-{network}").replace(" ", "-")
