"""What a run is, in plain words: enough to repeat it, and to tell it from another one."""

import dataclasses
import hashlib
import math
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import is_key
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.training.disk import source
from rnn_jax.training.disk.checkpoints import digest, named_leaves, to_arrays
from rnn_jax.training.disk.records import plain
from rnn_jax.training.optimizer import apply_optimizer, standard_promotion
from rnn_jax.training.plan import Plan
from rnn_jax.training.step import run_model
from rnn_jax.training.variables import split

_PACKAGES = ("rnn_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Packages of which another version may compute the same optimiser by another program.
_COMPILING = ("jax", "optax")

# Of the folder; a run of another one is refused, and not misread.
_FORMAT = 1

Description = dict[str, Any]


def describe(plan: Plan, model: Any, hyperparameters: Any, seed: int, user: Any) -> Description:
    """Everything that decides what a run computes, but for how long it runs and where.

    Args:
      plan: how to train.
      model: as it starts.
      hyperparameters: of the optimiser, or None.
      seed: of data and noise.
      user: what the caller wishes to be kept beside it, such as the options of a script.
    """
    return plain(
        {
            "config": _named(user),
            "task": _named(plan.task),
            "seed": seed,
            "batch_size": plan.batch_size,
            "evaluation_size": plan.evaluation_size,
            "evaluate_every": plan.evaluate_every,
            "stop_when_solved": plan.stop_when_solved,
            "on_nonfinite": plan.on_nonfinite,
            "probes": [_named(probe) for probe in plan.probes],
            "hyperparameters": jax.tree.map(np.asarray, hyperparameters),
            "optimizer": _fingerprint(plan, model, hyperparameters),
            "format": _FORMAT,
            "model": {
                "program": _model_program(plan, model),
                "structure": _without_addresses(str(jax.tree.structure(model))),
                "weights": {name: _weights(leaf) for name, leaf in named_leaves(model)},
            },
        }
    )


def differences(there: Description, here: Description) -> list[str]:
    """In which points two descriptions differ, in words; those of the start to rounding."""
    found = []
    for name in sorted(set(there) | set(here)):
        if name == "versions":
            continue
        before, now = there.get(name), here.get(name)
        if name == "model":
            found += _model_differences(before or {}, now or {})
        elif name == "optimizer":
            comparable = all(
                there.get("versions", {}).get(p) == here.get("versions", {}).get(p)
                for p in _COMPILING
            )
            if comparable and before != now:
                found.append("optimizer: another one, or other numbers in it")
        elif before != now:
            found += _inner_differences(name, before, now)
    return found


def surroundings() -> Description:
    """Versions, devices, the command and the state of the source: what else repeating takes."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "folder": str(Path.cwd()),
        "backend": jax.default_backend(),
        "devices": [f"{device.device_kind} {device.id}" for device in devices],
        "processes": jax.process_count(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": source.state(),
    }


def versions() -> dict[str, str]:
    """Of the packages that the numbers come from."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _named(value: Any) -> Any:
    """A dataclass as its name and fields; functions by name; the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _named(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): _named(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic)):
        return value
    if isinstance(value, jax.Array):
        return np.asarray(value)
    name = getattr(value, "__qualname__", None)
    if name is None and hasattr(value, "__dict__"):
        return {"kind": type(value).__name__, **_named(vars(value))}
    return _without_addresses(name or repr(value))


def _fingerprint(plan: Plan, model: Any, hyperparameters: Any) -> str:
    """A digest of the optimiser's own program: its rates and schedules are numbers in it."""
    first = None if hyperparameters is None else jax.tree.map(lambda a: a[0], hyperparameters)

    parameters, _ = split(model)

    def step(gradient: Any, parameters: Any) -> Any:
        optimizer = plan.optimizer_for(first)
        with standard_promotion():
            state = optimizer.init(parameters)
        return apply_optimizer(
            optimizer, state, parameters, jax.numpy.zeros(()), gradient, _sum_of_squares
        )

    program = jax.make_jaxpr(step)(parameters, parameters)
    return _digest_of(program)


def _sum_of_squares(parameters: Any) -> jax.Array:
    """A loss for optimisers that ask for one."""
    return 0.5 * sum(
        (jax.numpy.sum(jax.numpy.square(abs(leaf))) for leaf in jax.tree.leaves(parameters)),
        jax.numpy.zeros(()),
    )


def _model_program(plan: Plan, model: Any) -> str | None:
    """A digest of what a model computes, where its structure names only a function.

    That of this package's models is not asked: it is written in the structure, and the program
    that is chosen for it depends on the device.
    """
    if isinstance(model, SequenceModel):
        return None
    batch = jax.eval_shape(lambda: plan.task.sample(jax.random.key(0), 1))
    try:
        program = jax.make_jaxpr(lambda model, xs: run_model(model, xs, None))(model, batch.inputs)
    except (TypeError, ValueError):  # An ensemble of a model that does not know its own rank.
        return None
    return _digest_of(program)


def _digest_of(program: Any) -> str:
    """Of what a traced program does, and of the numbers that it closes over."""
    text = _without_addresses(str(program)) + digest(to_arrays(program.consts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights(leaf: Any) -> dict[str, Any]:
    """Form and a few sums that tell other numbers, or another order of them, from these."""
    bits = jax.random.key_data(leaf) if is_key(leaf) else leaf
    values = np.asarray(bits, np.float64).reshape(-1)
    return {
        "shape": list(leaf.shape),
        "dtype": str(leaf.dtype),
        "mean": float(values.mean()) if values.size else 0.0,
        "rms": float(np.sqrt(np.square(values).mean())) if values.size else 0.0,
        "projection": float((values * np.cos(np.arange(values.size))).sum()),
    }


def _model_differences(there: Description, here: Description) -> list[str]:
    if there.get("structure") != here.get("structure"):
        return ["model: another structure"]
    before, now = there["weights"], here["weights"]
    if set(before) != set(now):
        return [f"model: other arrays, {', '.join(sorted(set(before) ^ set(now)))}"]
    for name, first in before.items():
        second = now[name]
        if (first["shape"], first["dtype"]) != (second["shape"], second["dtype"]):
            return [
                f"model: {name} was {first['dtype']}{first['shape']}, "
                f"now {second['dtype']}{second['shape']}"
            ]
        # To rounding, because another device initialises to other last digits.
        scale = 1e-4 * max(float(first["rms"]), 1e-30)
        count = max(1, math.prod(first["shape"]))
        allowed = {"mean": scale, "rms": scale, "projection": scale * math.sqrt(count)}
        if not all(_close(first[key], second[key], allowed[key]) for key in allowed):
            return [f"model: {name} starts from other numbers, so from another seed"]
    return [] if there.get("program") == here.get("program") else ["model: another function"]


def _close(there: Any, here: Any, allowed: float) -> bool:
    """Numbers as JSON has them, where what is not finite is a string."""
    first, second = float(there), float(here)
    same = first == second or (math.isnan(first) and math.isnan(second))
    return same or abs(first - second) <= allowed


def _inner_differences(name: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for key in sorted(set(there) | set(here))
            if there.get(key) != here.get(key)
            for line in _inner_differences(f"{name}.{key}", there.get(key), here.get(key))
        ]
    return [f"{name}: {there!r} there, {here!r} here"]


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)
