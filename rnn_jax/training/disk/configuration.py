"""What a run is, in plain words: enough to repeat it, and to tell it from another one."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import is_key
from rnn_jax.tasks.base import Batch
from rnn_jax.training.data.batches import batch_form
from rnn_jax.training.disk import source
from rnn_jax.training.disk.checkpoints import Form, form_differences, form_of, named_leaves
from rnn_jax.training.disk.files import reason, write_whole
from rnn_jax.training.disk.programs import model_digest, program_digests
from rnn_jax.training.disk.records import plain
from rnn_jax.training.disk.surroundings import surroundings, versions
from rnn_jax.training.disk.values import described, described_form
from rnn_jax.training.parameters.variables import trained_leaves
from rnn_jax.training.plan import Plan

# Of the folder; a run of another one is refused, and not misread.
FORMAT = 3

# Of programs, the versions and the backend for which the same source may give another program;
# where one of them changed, programs cannot be compared.
_WRITERS = {
    "optimizer": ("jax", "optax", "rnn_jax"),
    "model": ("jax", "flax", "optax", "rnn_jax", "backend", "x64"),
    "task": ("jax", "flax", "optax", "rnn_jax", "backend", "x64"),
    "objective": ("jax", "flax", "optax", "rnn_jax", "backend", "x64"),
}
# Longest text of a value in a message.
_SHOWN = 200

Description = dict[str, Any]


def describe(
    plan: Plan, model: Any, members: int | None, hyperparameters: Any, seed: int, user: Any
) -> Description:
    """Everything that decides what a run computes, but for how long it runs and where.

    Args:
      plan: how to train.
      model: as it starts.
      members: E of an ensemble, or None.
      hyperparameters: of the optimiser, or None.
      seed: of data and noise.
      user: what the caller wishes to be kept beside it, such as the options of a script.
    """
    first = None if hyperparameters is None else jax.tree.map(lambda a: a[0], hyperparameters)
    numbers = jax.tree.map(lambda a: np.asarray(a).tolist(), hyperparameters)
    batch = batch_form(plan)
    return plain(
        {
            **_circumstances(),
            "format": FORMAT,
            "config": described(user),
            "task": described(plan.task),
            "seed": seed,
            "batch_size": plan.batch_size,
            "evaluation_size": plan.evaluation_size,
            "evaluate_every": plan.evaluate_every,
            "stop_when_solved": plan.stop_when_solved,
            "on_nonfinite": plan.on_nonfinite,
            "probes": [described(probe) for probe in plan.probes],
            "objective": None if plan.objective is None else described(plan.objective.given),
            "frozen": _frozen(plan, model),
            "hyperparameters": described(numbers),
            "members": members,
            "selection": described(plan.selection),
            "inputs": _form_in_words(batch.inputs),
            "lengths": _form_in_words(getattr(batch, "lengths", None)),
            "mask": _form_in_words(getattr(batch, "mask", None)),
            "model": {
                "structure": described_form(model),
                "weights": {name: _weights(leaf) for name, leaf in named_leaves(model)},
            },
            "programs": program_digests(plan, _one_member(model, members), first),
        }
    )


def differences(there: Description, here: Description) -> list[str]:
    """In which points two runs differ, in words; those of the start to rounding."""
    beside = {"versions", "backend", "programs", "model"}
    found = [
        line
        for name in sorted({*there, *here} - beside)
        for line in _value_differences(name, there.get(name), here.get(name))
    ]
    before, now = there["model"]["weights"], here["model"]["weights"]
    unlike = _form_differences(before, now) or _weight_differences(before, now)
    found += unlike + _structure_differences(there, here)
    return found or [
        line
        for name in sorted({*there["programs"], *here["programs"]})
        for line in _program_differences(name, there, here)
    ]


def model_differences(there: Description, model: Any) -> list[str]:
    """In which points a model is not that of a run, in words, whatever its weights."""
    forms = {name: form_of(leaf) for name, leaf in named_leaves(model)}
    weights = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in forms.items()}
    here: Description = plain(
        {**_circumstances(), "model": {"structure": described_form(model), "weights": weights}}
    )
    found = _form_differences(there["model"]["weights"], weights)
    found += _structure_differences(there, here)
    if found or not _comparable("model", there, here):
        return found
    inputs, lengths, mask = (_form_of_words(there[name]) for name in ("inputs", "lengths", "mask"))
    if inputs is None:  # Of a pytree of inputs there is no form in words to build one from.
        return found
    batch: Any = Batch(inputs, None, None, lengths, mask)  # type: ignore[arg-type]
    here["programs"] = {"model": model_digest(_one_member(model, there["members"]), batch)}
    return _program_differences("model", there, here)


def write_config(folder: Path, description: Description) -> None:
    """Writes config.json, and what the source of the run was, all at once.

    Raises:
      OSError: the disk is full, or cannot be written.
    """
    config = {"run": description, "digest": _digest(description), "surroundings": surroundings()}
    try:
        for repository, patch in source.uncommitted().items():
            name = os.fsencode(repository)[:100].decode(errors="surrogateescape")
            write_whole(folder / f"uncommitted-{name}.diff", [patch])
        text = json.dumps(plain(config), indent=2) + "\n"
        write_whole(folder / "config.json", [text.encode()])
    except OSError as error:
        raise OSError(
            f"the description of the run could not be written to {folder}: {reason(error)}. Make "
            "room or access, and run the same command again."
        ) from error


def read_config(folder: Path) -> Description:
    """The description of the run that lies in a folder.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: it is damaged, or of another format.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged: {error}. Bring it back, or pass another directory."
        ) from error
    run = config.get("run") if isinstance(config, dict) else None
    run = run if isinstance(run, dict) else {}
    found = run.get("format")
    if isinstance(found, int) and found != FORMAT:
        age, fix = ("an older", "Go on with") if found < FORMAT else ("a newer", "Update to")
        raise ValueError(
            f"{folder} holds a run of format {found}, that of {age} version of this package; "
            f"this one reads and writes format {FORMAT}. {fix} the version that wrote it, or pass "
            "another directory."
        )
    if found is None or config.get("digest") != _digest(run):
        raise ValueError(
            f"{file} is damaged: it does not describe the run as it was written. Bring it back, or "
            "pass another directory."
        )
    return run


def _digest(description: Description) -> str:
    text = json.dumps(plain(description), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _circumstances() -> Description:
    return {
        "versions": versions(),
        "backend": jax.default_backend(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
    }


def _form_in_words(form: Any) -> Any:
    if form is None or hasattr(form, "shape"):
        return None if form is None else {"shape": form.shape, "dtype": str(form.dtype)}
    leaves = {name: _form_in_words(leaf) for name, leaf in named_leaves(form)}
    return {"structure": str(jax.tree.structure(form)), "leaves": leaves}


def _form_of_words(words: Any) -> Any:
    if not isinstance(words, dict) or {*words} != {"shape", "dtype"}:
        return None
    return jax.ShapeDtypeStruct(tuple(words["shape"]), words["dtype"])


def _frozen(plan: Plan, model: Any) -> Any:
    """The parameters that are not trained, by name; None for none."""
    if plan.trained is None:
        return None
    leaves = zip(named_leaves(model), trained_leaves(model), plan.trained, strict=True)
    return described([name for (name, _), is_one, is_trained in leaves if is_one > is_trained])


def _one_member(model: Any, members: int | None) -> Any:
    """The forms of a model's arrays, or of one member's."""
    axes = 0 if members is None else 1
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), model)


def _weights(leaf: Any) -> Description:
    """Form and a few sums that tell other numbers, or another order of them, from these."""
    values, (dtype, shape) = _reals(leaf), form_of(leaf)
    return {
        "shape": list(shape),
        "dtype": dtype,
        "mean": float(values.mean()) if values.size else 0.0,
        "rms": float(np.sqrt(np.square(values).mean())) if values.size else 0.0,
        "projection": float((values * np.cos(np.arange(values.size))).sum()),
    }


def _reals(leaf: Any) -> np.ndarray:
    """The numbers of an array of any type, one after the other."""
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).reshape(-1)
    if np.iscomplexobj(array):
        array = np.concatenate([array.real, array.imag])
    return array.astype(np.float64)


def _form_differences(there: Description, here: Description) -> list[str]:
    def forms(weights: Description) -> dict[str, Form]:
        return {name: (own["dtype"], tuple(own["shape"])) for name, own in weights.items()}

    return [f"model: {line}" for line in form_differences(forms(there), forms(here))]


def _weight_differences(there: Description, here: Description) -> list[str]:
    """Of arrays of equal names and forms; to rounding, as another device initialises otherwise."""
    for name, first in there.items():
        second = here[name]
        scale = 1e-4 * max(float(first["rms"]), 1e-30)
        count = max(1, math.prod(first["shape"]))
        allowed = {"mean": scale, "rms": scale, "projection": scale * math.sqrt(count)}
        if not all(_close(first[key], second[key], allowed[key]) for key in allowed):
            return [f"model: {name} starts from other numbers, so from another seed"]
    return []


def _close(there: Any, here: Any, allowed: float) -> bool:
    """Numbers as JSON has them, where what is not finite is a string."""
    first, second = float(there), float(here)
    same = first == second or (math.isnan(first) and math.isnan(second))
    return same or abs(first - second) <= allowed


def _structure_differences(there: Description, here: Description) -> list[str]:
    """Other fields than in another version of this package mean nothing, other values do."""
    before, now = there["model"]["structure"], here["model"]["structure"]
    return _value_differences("model", before, now, common=not _same(there, here, "rnn_jax"))


def _program_differences(name: str, there: Description, here: Description) -> list[str]:
    before, now = there["programs"].get(name), here["programs"].get(name)
    if before == now or not _comparable(name.partition(".")[0], there, here):
        return []
    if name == "optimizer":
        return ["optimizer: another one, or other numbers in it"]
    return [f"{name}: another program, or other numbers in it"]


def _comparable(part: str, there: Description, here: Description) -> bool:
    return all(_same(there, here, name) for name in _WRITERS[part])


def _same(there: Description, here: Description, name: str) -> bool:
    before, now = ({**own["versions"], **own}.get(name) for own in (there, here))
    return before == now


def _value_differences(name: str, there: Any, here: Any, *, common: bool = False) -> list[str]:
    """In which inner values two differ; with `common`, in those alone that both have."""
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        names = {*there} & {*here} if common else {*there, *here}
        return [
            line
            for key in sorted(names)
            for line in _value_differences(
                f"{name}.{key}", there.get(key), here.get(key), common=common
            )
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        return [
            line
            for index, pair in enumerate(zip(there, here, strict=True))
            for line in _value_differences(f"{name}.{index}", *pair, common=common)
        ]
    return [f"{name}: {_shown(there)} there, {_shown(here)} here"]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
