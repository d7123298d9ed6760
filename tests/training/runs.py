"""Small runs for the tests of training, and a process of its own for each that needs one."""

import dataclasses
import functools
import json
import multiprocessing
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from training import toys

# Whatever decides what the suite computes, for the processes that it starts.
_SETTINGS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_most_optimizations",
    "jax_compilation_cache_dir",
)
# Imported once, by a server that starts no backend and is forked for each process.
_PRELOADED = ["rnn_jax", "optax", "flax.nnx"]

SEQUENCES = rj.tasks.Adding(5)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A probe that costs little: the mean square of all weights."""

    every: int
    batch_size: int = 1
    name: str = "weights"

    def measure(self, model: Any, xs: jax.Array) -> dict[str, jax.Array]:
        squares = [jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(model)]
        return {"mean_square": jnp.stack(squares)}


def single(make_cell: Callable[..., Any], rngs: nnx.Rngs, **options: Any) -> rj.SequenceModel:
    """A small model with one layer, or two where `options` ask for dropout between them."""
    cells = [make_cell(2, 4, rngs=rngs)]
    if options:
        cells.append(make_cell(4, 3, rngs=rngs))
    return rj.SequenceModel(cells, 1, rngs=rngs, **options)


def lstm() -> rj.SequenceModel:
    return single(rj.LSTMCell, nnx.Rngs(0))


def noisy() -> rj.SequenceModel:
    return single(rj.SimpleRNNCell, nnx.Rngs(1), dropout=0.3)


def three_grus() -> rj.SequenceModel:
    return rj.ensemble(functools.partial(single, rj.GRUCell), seeds=3)


def _schedule() -> Any:
    rates = optax.cosine_decay_schedule(0.02, 60)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates))


def examples(count: int = 14) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, targets, lengths) of sequences of one's own, padded with NaN."""
    rng = np.random.default_rng(0)
    inputs, lengths = rng.normal(size=(count, 5, 2)), rng.integers(1, 6, count)
    targets = inputs[:, 0, :1] - inputs[:, 0, 1:]
    inputs[np.arange(5) >= lengths[:, None]] = np.nan
    return inputs, targets, lengths


def named(*parts: np.ndarray) -> dict[str, np.ndarray]:
    """Examples as a loader takes them."""
    return dict(zip(("inputs", "targets", "lengths"), parts, strict=True))


def batches(epoch: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of three of them, four in an epoch."""
    order = np.random.default_rng(epoch).permutation(14)
    for start in range(0, 12, 3):
        yield named(*(part[order[start : start + 3]] for part in examples()))


# (model, other arguments of fit): the latter are made where they are used, as they cannot travel.
CASES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "simple, dropout, loader": (
        noisy,
        lambda: {
            "task": rj.tasks.Loader(batches, validation=named(*examples(4))),
            "optimizer": _schedule(),
            "probes": Weights(every=2),
        },
    ),
    # The first learns nothing, the others until they are good enough.
    "gru, ensemble": (
        three_grus,
        lambda: {
            "task": rj.tasks.Adding(5, solved_below=0.4),
            "optimizer": optax.adam,
            "hyperparameters": [0.0, 0.03, 0.1],
            "probes": [Weights(every=5), Weights(every=2, name="again")],
        },
    ),
    "simple, breaking": (
        noisy,
        lambda: {"optimizer": optax.sgd(_breaking), "probes": Weights(every=2)},
    ),
}
BREAKS_AT = 5


def _breaking(step: jax.Array) -> jax.Array:
    """A learning rate that is no number at one of the steps."""
    return jnp.where(step == BREAKS_AT, jnp.nan, 0.05)


def fit(case: str, directory: Any, model: Any = None, **changes: Any) -> rj.FitResult:
    """One of the runs, with a checkpoint after each of its evaluations."""
    make_model, make_arguments = CASES[case]
    arguments = {
        "task": SEQUENCES,
        "steps": 48,
        "batch_size": 3,
        "seed": 7,
        "evaluate_every": 2,
        "evaluation_size": 4,
        "checkpoint_seconds": 0,
        **make_arguments(),
        **changes,
    }
    model = make_model() if model is None else model
    return rj.fit(model, directory=directory, **arguments)


# One object, so that a process compiles its program once.
_RATE = optax.sgd(0.1, momentum=0.9)


def toy(directory: Any, *, model: Any = None, **changes: Any) -> rj.FitResult:
    """A run that takes no time, with checkpoints after 2, 4, 6 and 8 steps."""
    arguments = {
        "task": toys.Mixing(),
        "optimizer": _RATE,
        "steps": 8,
        "batch_size": 3,
        "seed": 5,
        "evaluate_every": 2,
        "evaluation_size": 6,
        "checkpoint_seconds": 0,
        "probes": Weights(every=2),
        **changes,
    }
    return rj.fit(toys.linear() if model is None else model, directory=directory, **arguments)


class Enough(Exception):
    """What a caller of `fit` may raise in the middle of it."""


def leave_after(step: int) -> Callable[[dict[str, Any]], None]:
    """For `on_evaluation`."""

    def look(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Enough

    return look


def bits(tree: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every leaf, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = (str(array.dtype), array.shape, array.tobytes())
    return found


def result_bits(result: rj.FitResult) -> dict[str, Any]:
    """All that `fit` gave."""
    history = dataclasses.asdict(result.history)
    return bits({**result._asdict(), "history": history})


def records(directory: Path) -> dict[str, bytes]:
    """The files that must not depend on how a run was cut."""
    return {name: (directory / name).read_bytes() for name in ("metrics.jsonl", "probes.jsonl")}


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none if there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def sessions(directory: Path, event: str) -> list[dict[str, Any]]:
    """Starts, or ends, of the processes that worked in a directory."""
    return [row for row in rows(directory / "sessions.jsonl") if row["event"] == event]


def tree_of(directory: Path) -> dict[str, bytes | None]:
    """All that lies in a folder; None for a folder in it."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def start(work: Callable[..., Any], *arguments: Any) -> multiprocessing.Process:
    """A process that calls `work`, a function of a module, with what can be pickled."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(_PRELOADED)
    settings = {name: jax.config.values[name] for name in _SETTINGS}
    # Each of them compiles what the one before has compiled, and little else.
    settings["jax_persistent_cache_min_compile_time_secs"] = 0.0
    if settings["jax_compilation_cache_dir"] is not None:
        # What one process reads while another writes it would be warned of.
        settings["jax_compilation_cache_dir"] += "-processes"
    process = server.Process(target=_run, args=(settings, work, arguments), daemon=True)
    process.start()
    return process


def exit_status(process: multiprocessing.Process) -> int:
    """That of a process that is about to end; one that hangs is killed."""
    process.join(300)
    if process.is_alive():
        process.kill()
        raise TimeoutError("the process neither ended nor was ended")
    return process.exitcode


def start_fit(
    case: str, directory: Path, *, keep: Path | None = None, **changes: Any
) -> multiprocessing.Process:
    """A process that makes one of the runs; `keep` is where it leaves its `result_bits`."""
    return start(_fit_and_keep, case, weights_of(case), directory, keep, changes)


def start_toy(directory: Path, keep: Path | None, **changes: Any) -> multiprocessing.Process:
    """A process that makes a toy run; `keep` is where it leaves its `result_bits`."""
    return start(_toy_and_keep, directory, keep, changes)


def weights_of(case: str) -> list[np.ndarray]:
    """Those that a run begins with: drawing them would take a process longer than training."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(_built(CASES[case][0]))]


def fit_from(case: str, weights: list[np.ndarray], directory: Path, **changes: Any) -> rj.FitResult:
    """One of the runs, in a process that was given its weights."""
    structure = jax.tree.structure(jax.eval_shape(CASES[case][0]))
    return fit(case, directory, jax.tree.unflatten(structure, weights), **changes)


def _fit_and_keep(
    case: str, weights: Any, directory: Path, keep: Path | None, changes: dict[str, Any]
) -> None:
    found = result_bits(fit_from(case, weights, directory, **changes))
    if keep is not None:
        keep.write_bytes(pickle.dumps(found))


def _toy_and_keep(directory: Path, keep: Path | None, changes: dict[str, Any]) -> None:
    found = result_bits(toy(directory, **changes))
    if keep is not None:
        keep.write_bytes(pickle.dumps(found))


def kept(file: Path) -> dict[str, Any]:
    """The `result_bits` that a process has left."""
    return pickle.loads(file.read_bytes())


@functools.cache
def _built(make_model: Callable[[], Any]) -> Any:
    return make_model()


def _run(settings: dict[str, Any], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    warnings.simplefilter("error")
    warnings.filterwarnings("default", "member", RuntimeWarning)
    try:
        work(*arguments)
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
