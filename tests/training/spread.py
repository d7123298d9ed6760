"""Runs on several devices and in several processes; each process of them runs this module."""

import dataclasses
import functools
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils

import compiling
import rnn_jax as rj
from training import toys

PACE = {"steps": 9, "batch_size": 16, "seed": 5, "evaluate_every": 3, "evaluation_size": 16}
# What these processes compute by, as the suite itself does.
_SETTINGS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_most_optimizations",
    "jax_persistent_cache_min_compile_time_secs",
)
# Seconds, far more than it takes: who is not done by then waits for something that never comes.
PATIENCE = 240


def network(rngs: nnx.Rngs) -> rj.SequenceModel:
    cells = [rj.SimpleRNNCell(2, 3, rngs=rngs), rj.SimpleRNNCell(3, 2, rngs=rngs)]
    return rj.SequenceModel(cells, 2, rngs=rngs, dropout=0.3)


class Standardized(nnx.Module):
    """A model with state: averages over its batches, dropout, and a counter."""

    def __init__(self, seed: int):
        rngs = nnx.Rngs(seed)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, 2)))
        self.mean = nnx.BatchStat(jnp.zeros(2))
        self.calls = nnx.Variable(jnp.int32(0))
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        last = inputs[:, -1]
        mean = 0.9 * self.mean[...] + 0.1 * jnp.mean(last, axis=0)
        self.mean[...] = jax.lax.stop_gradient(mean)
        self.calls[...] = self.calls[...] + 1
        return self.dropout((last - mean[None]) @ self.kernel[...])


def looking(weights: Any, inputs: jax.Array) -> jax.Array:
    """A model that notes how much of a batch each device is given."""
    jax.debug.inspect_array_sharding(
        jax.lax.stop_gradient(inputs),
        callback=lambda sharding: SEEN.add(sharding.shard_shape(inputs.shape)),
    )
    return toys.affine_last(weights, inputs)


SEEN: set[tuple[int, ...]] = set()


def jittery(weights: Any, inputs: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
    """A model whose training has noise, from the key that it is given."""
    outputs = toys.affine_last(weights, inputs)
    return outputs if key is None else outputs + jax.random.normal(key, outputs.shape)


def one() -> Any:
    return jax.tree_util.Partial(jittery, *toys.linear().args)


def eight() -> Any:
    return jax.tree_util.Partial(jittery, *toys.linears(*range(8)).args)


def own_data() -> rj.tasks.Arrays:
    """Of which the last part of an evaluation is filled up."""
    inputs, targets, *_ = toys.batch(0, 40)
    held_out, targets_held_out, *_ = toys.batch(1, 21)
    return rj.tasks.Arrays(inputs, targets, validation=(held_out, targets_held_out))


def _noisy() -> optax.GradientTransformation:
    return optax.chain(optax.add_noise(0.5, 0.55, jax.random.key(3)), optax.sgd(0.05))


# What is trained, with what is not as for the others.
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "jittery": lambda: {"model": one(), "probes": toys.Seen(2)},
    "looking": lambda: {"model": jax.tree_util.Partial(looking, *toys.linear().args)},
    "network": lambda: {"model": network(nnx.Rngs(0)), "probes": toys.Seen(2)},
    "solved": lambda: {
        "model": toys.linear(),
        "task": toys.Mixing(solved_below=1.0),
        "optimizer": optax.adam(0.1),
        "steps": 300,
        "evaluate_every": 20,
        "evaluation_size": None,
    },
    "states": lambda: {"model": rj.ensemble(Standardized, 8), "members": 8},
    # Random keys in the optimiser's state, and for each call of the models.
    "noisy": lambda: {
        "model": eight(),
        "members": 8,
        "optimizer": _noisy(),
        "probes": toys.Seen(2),
    },
    "breaking": lambda: {
        "model": eight(),
        "members": 8,
        "optimizer": toys.breaking,
        "hyperparameters": [-1.0, 4.0, *[-1.0] * 6],
    },
    "arrays": lambda: {"model": eight(), "members": 8, "task": own_data()},
    "loader": lambda: {
        "model": toys.linear(),
        "task": toys.loader([toys.batch(seed, 16) for seed in range(4)]),
    },
    # Goes on until it is told to leave, by the program of another case.
    "endless": lambda: {**_arguments("noisy"), "steps": 10**9},
}


# One object each for a whole process, so that equal runs are compiled once.
ADAM = optax.adam(0.05)


@functools.cache
def _arguments(case: str) -> dict[str, Any]:
    return CASES[case]()


def train(case: str, mesh: Any = None, **options: Any) -> dict[str, Any]:
    """All that a run gives, as plain numbers.

    Args:
      case: one of `CASES`.
      mesh: (shape, names) or (shape, names, type of its axes), or None.
      options: others of `fit`.
    """
    arguments = {"task": toys.Mixing(), "optimizer": ADAM, **PACE, **_arguments(case)}
    if mesh is not None:
        shape, names, *kind = mesh
        kinds = (getattr(jax.sharding.AxisType, kind[0]),) * len(shape) if kind else None
        devices = jax.devices()[: int(np.prod(shape))]
        options["mesh"] = jax.make_mesh(tuple(shape), tuple(names), kinds, devices=devices)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "member .* not finite", RuntimeWarning)
        result = rj.fit(**{**arguments, **options})
    models = (result.model, result.best_model)
    trees = {"history": dataclasses.asdict(result.history), "models": models}
    trees["optimizer"] = result.optimizer_state
    return {
        "steps": result.steps,
        "numbers": {
            jax.tree_util.keystr(path): _whole(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(trees)
        },
        "seen": SEEN.copy(),
        "failed_at": result.history.failed_at,
        "devices": {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(models)},
        "shares": {leaf.addressable_shards[0].data.shape for leaf in jax.tree.leaves(models)},
    }


def _whole(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, np.ndarray) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def attempt(case: str, *, full_at: int | None = None, **work: Any) -> dict[str, Any]:
    """What a run gives, or the error that it ends with.

    Args:
      case, work: as for `train`.
      full_at: bytes that a file of the first process may have.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if full_at is not None and jax.process_index() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (full_at, before[1]))
    try:
        return train(case, **work)
    except (Exception, rj.Terminated) as error:
        code = getattr(error, "code", None)
        return {
            "error": f"{type(error).__name__}: {error}",
            "code": code,
            "trace": traceback.format_exc(),
        }
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start(
    folder: Path, works: list[dict[str, Any]], *, devices: int = 1, rank: int = 0, port: int = 0
) -> subprocess.Popen:
    """A process that makes some runs; what they give is in `folder`, see `outcomes`.

    Args:
      folder: of its own.
      works: arguments of `train`, each as JSON has them.
      devices: how many it pretends to have.
      rank: which of two processes it is, if there is a port.
      port: where they meet; 0 for a process that is alone.
    """
    folder.mkdir(parents=True)
    settings = {name: jax.config.values[name] for name in _SETTINGS}
    cache = jax.config.values["jax_compilation_cache_dir"]
    # Programs are files, too, and on a full disk there is no room for them.
    if cache is not None and not any("full_at" in work for work in works):
        # What one process reads while another writes it would be warned of.
        settings["jax_compilation_cache_dir"] = f"{cache}-{devices}-{rank if port else 'alone'}"
    job = {"works": works, "settings": settings, "rank": rank, "port": port}
    (folder / "job.json").write_text(json.dumps(job))
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "training.spread", str(folder)]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def start_two(folder: Path, works: list[dict[str, Any]]) -> list[subprocess.Popen]:
    """Two processes that make some runs together."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [start(folder / str(rank), works, rank=rank, port=port) for rank in range(2)]


def outcomes(folder: Path, process: subprocess.Popen) -> list[dict[str, Any]]:
    """What the runs of a process gave, once it has ended; one that hangs is ended."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    found = [pickle.loads(file.read_bytes()) for file in sorted(folder.glob("*.pickle"))]
    works = json.loads((folder / "job.json").read_text())["works"]
    if len(found) < len(works):
        log = (folder / "log").read_text()[-3000:]
        left = {"error": f"not done, exit status {process.returncode}", "trace": log}
        found += [left] * (len(works) - len(found))
    return found


def outcomes_of_two(
    folder: Path, processes: list[subprocess.Popen]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What each run gave in the first process and in the second."""
    found = [outcomes(folder / str(rank), process) for rank, process in enumerate(processes)]
    return list(zip(*found, strict=True))


def main(folder: Path) -> None:
    """Makes the runs that the job in the folder names."""
    compiling.for_small_programs()
    job = json.loads((folder / "job.json").read_text())
    for name, value in job["settings"].items():
        jax.config.update(name, value)
    if job["port"]:
        jax.distributed.initialize(
            f"127.0.0.1:{job['port']}",
            2,
            job["rank"],
            heartbeat_timeout_seconds=20,
            shutdown_timeout_seconds=20,
        )
    warnings.simplefilter("error")
    for number, work in enumerate(job["works"]):
        found = attempt(**work)
        (folder / f"{number:02d}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
