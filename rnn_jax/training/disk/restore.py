"""A trained model back from the folder of its run."""

from pathlib import Path
from typing import TypeVar

import jax

from rnn_jax.checks import check_choice
from rnn_jax.training.disk.checkpoints import Arrays, Checkpoints, from_arrays
from rnn_jax.training.disk.configuration import Description, model_differences, read_config
from rnn_jax.training.disk.files import folder_of

M = TypeVar("M")

# How often a run that goes on may drop the checkpoint that was about to be read.
_TRIES = 10


def restore(directory: str | Path, model: M, *, which: str = "last") -> M:
    """The model of a run's last checkpoint, without going on with the run.

    Args:
      directory: that `fit` was given.
      model: built as the one that was trained, such as the one the run began with: equal
        structure, shapes and functions. Its numbers are not used.
      which: "last", the model as it was then, or "best", that of the best evaluation (for each
        member its own), which is that with the smallest loss if `fit` was told no other metric.

    Returns:
      A model like `model`.

    Raises:
      FileNotFoundError: no run, or no checkpoint yet.
      ValueError: a damaged checkpoint, or one of a model that is built or computes otherwise.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> task = rj.tasks.Adding(20)
      >>> _ = rj.fit(
      ...     model, task, optax.adam(1e-2), steps=20, batch_size=8, seed=0, directory="run"
      ... )
      >>> trained = rj.restore("run", model)
      >>> trained(xs).shape
      (1,)
    """
    check_choice("which", which, ("last", "best"))
    folder = folder_of(directory)
    checkpoints = Checkpoints(folder / "checkpoints")
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"{directory} holds no run. Pass the directory of one.")
    run = _description(folder, directory)
    step, arrays = _last(checkpoints, directory)
    unlike = model_differences(run, model)
    if unlike:
        raise ValueError(
            f"the checkpoint of step {step} in {directory} cannot be restored into this model: "
            f"{'; '.join(unlike)}. Pass a model of the structure that was trained."
        )
    prefix = "model." if which == "last" else "best_model."
    own = {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    return jax.tree.map(jax.numpy.asarray, from_arrays(own, model))


def _description(folder: Path, directory: str | Path) -> Description:
    try:
        return read_config(folder)
    except FileNotFoundError:
        pass
    if (folder / "checkpoints").exists():
        raise ValueError(
            f"{directory} holds checkpoints but no config.json, so which model they are of is not "
            "known. Bring it back."
        )
    raise FileNotFoundError(f"{directory} holds no run. Pass the directory of one.")


def _last(checkpoints: Checkpoints, directory: str | Path) -> tuple[int, Arrays]:
    """(step, arrays) of the latest checkpoint."""
    for _ in range(_TRIES):
        steps = checkpoints.steps()
        if not steps:
            raise FileNotFoundError(f"{directory} holds no complete checkpoint yet.")
        try:
            return steps[0], checkpoints.read(steps[0])[0]
        except FileNotFoundError:  # A run that goes on has dropped it, and has later ones.
            continue
        except ValueError as error:
            raise ValueError(
                f"the checkpoint of step {steps[0]} in {directory} cannot be restored: {error}. "
                "The call of fit that made it goes on from the one before, if that is whole."
            ) from error
    raise FileNotFoundError(f"{directory} drops its checkpoints faster than they can be read.")
