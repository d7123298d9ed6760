"""How a model is called with a batch: what it takes beside the inputs is asked of its signature."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.checks import kind_of


def run_model(model: Any, batch: Any, key: jax.Array | None) -> jax.Array:
    """The model's outputs for a batch.

    The key goes to models that take one, for dropout and noise, and lengths and mask to all.
    """
    taken = _parameters_of(model)
    options = _validity(batch, taken, model)
    if key is not None and "key" in taken:
        options["key"] = key
    outputs = model(batch.inputs, **options)
    if not hasattr(outputs, "shape"):
        raise TypeError(
            f"a model must return one array of outputs; got {type(outputs).__name__}. Return what "
            "the task's loss takes."
        )
    return outputs


def _parameters_of(model: Any) -> set[str]:
    try:
        return set(inspect.signature(model).parameters)
    except (TypeError, ValueError):  # Built-in callables may have no signature to look at.
        return set()


def _validity(batch: Any, taken: set[str], model: Any) -> dict[str, jax.Array]:
    """Which steps of a batch are valid, as the model takes it.

    Raises:
      TypeError: it takes neither, and would read padding as if it were data.
    """
    lengths, mask = getattr(batch, "lengths", None), getattr(batch, "mask", None)
    if lengths is not None and "lengths" in taken:
        return {"lengths": lengths}
    if lengths is not None and "mask" in taken:
        steps = jax.tree.leaves(batch.inputs)[0].shape[1]
        mask = jnp.arange(steps)[None, :] < lengths[:, None]
    if mask is not None and "mask" in taken:
        return {"mask": mask}
    if lengths is None and mask is None:
        return {}
    given = "mask" if lengths is None else "lengths"
    raise TypeError(
        f"a model must take {given}= in its call where the data have {given}, or it would read "
        f"padding as data; got {kind_of(model)}, which does not. Give it that argument, as "
        "SequenceModel has it; or where padding comes last and an answer never looks ahead, leave "
        f"{given} out and give steps beyond the end weights of 0."
    )
