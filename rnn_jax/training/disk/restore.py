"""A trained model back from the folder of its run."""

from pathlib import Path
from typing import TypeVar

import jax

from rnn_jax.checks import check_choice
from rnn_jax.training.disk.checkpoints import Checkpoints, from_arrays

M = TypeVar("M")


def restore(directory: str | Path, model: M, *, which: str = "last") -> M:
    """The model of a run's last checkpoint, without going on with the run.

    Args:
      directory: that `fit` was given.
      model: of the same structure and shapes, such as the one the run began with; only its form
        is used.
      which: "last", the model as it was then, or "best", that of the evaluation with the smallest
        loss (for each member its own).

    Returns:
      A model like `model`.

    Raises:
      FileNotFoundError: no run, or no checkpoint yet.
      ValueError: a damaged checkpoint, or one of another model.
    """
    check_choice("which", which, ("last", "best"))
    folder = Path(directory).expanduser().absolute() / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{directory} holds no checkpoints. Pass the directory of a run.")
    checkpoints = Checkpoints(folder, read_only=True)
    steps = checkpoints.steps()
    if not steps:
        raise FileNotFoundError(f"{directory} holds no complete checkpoint yet.")
    try:
        arrays, _ = checkpoints.read(steps[0])
        prefix = "model." if which == "last" else "best_model."
        own = {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        return jax.tree.map(jax.numpy.asarray, from_arrays(own, model))
    except ValueError as error:
        raise ValueError(
            f"the checkpoint of step {steps[0]} in {directory} cannot be restored: {error}. Pass "
            "a model of the structure that was trained."
        ) from error
    finally:
        checkpoints.close()
