"""Checks of what a task gives to a loop: whole batches, a loss with a gradient, scalars."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import kind_of
from rnn_jax.tasks.base import RESERVED, Batch, Metrics


def check_batch(batch: Any, batch_size: int, method: str) -> Any:
    """Returns what a task has drawn, if a loop can train on it.

    Args:
      batch: a `Batch`, or anything else with inputs (B, ...).
      batch_size: B, how many examples were asked for.
      method: of the task that has drawn it.

    Raises:
      TypeError: it has no array of inputs.
      ValueError: it does not have B examples.
    """
    inputs: Any = getattr(batch, "inputs", None)
    leaves = jax.tree.leaves(inputs)
    if not leaves or not all(map(_is_array, leaves)):
        got = kind_of(batch) if inputs is None else f"inputs of type {kind_of(inputs)}"
        raise TypeError(
            f"a task's {method} must return a batch with arrays inputs, targets and weights; got "
            f"{got}. Return rnn_jax.tasks.Batch(inputs, targets, weights)."
        )
    own = batch._asdict() if isinstance(batch, Batch) else {"inputs": inputs}
    for name, value in own.items():
        if value is None and name in Batch._field_defaults:
            continue
        for array in [value] if name != "inputs" else leaves:
            _check_part(name, array, batch_size, method)
    return batch


def _check_part(name: str, array: Any, batch_size: int, method: str) -> None:
    if not _is_array(array):
        raise TypeError(
            f"a task's {method} must return a batch of arrays; got {kind_of(array)} for "
            f"{name}. Pass jnp.ones(batch_size) as weights that count each target alike."
        )
    if array.shape[:1] != (batch_size,):
        raise ValueError(
            f"a task's {method} must draw as many examples as it was asked for, here "
            f"{batch_size}; got {name} of shape {array.shape}. Lead with an axis of batch_size."
        )


def check_loss(loss: Any) -> jax.Array:
    """Returns a task's loss, if it can be differentiated.

    Raises:
      TypeError: it is no array of floats.
      ValueError: it is no scalar.
    """
    if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            "the task's loss must be a JAX scalar of real floats that is computed from the "
            f"outputs; got {_kind_or_type(loss)}. Compute it with jax.numpy."
        )
    if loss.shape != ():
        raise ValueError(
            f"the task's loss must be a scalar; got shape {loss.shape}. Return a mean."
        )
    return loss


def check_metrics(metrics: Any, taken: Iterable[str] = ()) -> Metrics:
    """Returns a task's metrics, if a history can hold them.

    Args:
      metrics: what the task returned.
      taken: names that are given already, beside those that every history has.

    Raises:
      TypeError: no dict, names that are no strings, or values that are no numbers of JAX.
      ValueError: values that are no scalars, or names that are taken.
    """
    if not isinstance(metrics, dict):
        raise TypeError(
            f"the task's metrics must be a dict of scalars by name; got {kind_of(metrics)}. Return "
            'for example {"mse": loss}, or {} for none.'
        )
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a metric must be a string; got {name!r} of type {kind_of(name)}. "
                f'Name it, for example "{name}".'
            )
        if name in RESERVED or name in taken:
            raise ValueError(
                f"a metric must not be named {name!r}, which the history has already. Rename it."
            )
        if not _is_array(metric) or not _is_real(metric.dtype):
            raise TypeError(
                "each of the task's metrics must be a scalar of real numbers computed with "
                f"jax.numpy; got {_kind_or_type(metric)} for {name!r}. Pass it through "
                "jnp.asarray, or leave it out."
            )
        if metric.shape != ():
            raise ValueError(
                f"each of the task's metrics must be a scalar; got shape {metric.shape} for "
                f"{name!r}. Take a mean."
            )
    return metrics


def check_solved(solved: Any) -> jax.Array:
    """Returns a task's verdict as an array.

    Raises:
      TypeError: it is neither true nor false.
      ValueError: it is several.
    """
    if isinstance(solved, bool):
        return jnp.bool_(solved)
    if not _is_array(solved) or solved.dtype != jnp.bool_:
        raise TypeError(
            "the task's solved must return whether it is solved, a scalar of booleans; got "
            f'{_kind_or_type(solved)}. Return for example metrics["mse"] < 0.01, or False.'
        )
    if solved.shape != ():
        raise ValueError(
            f"the task's solved must return one scalar; got shape {solved.shape}. Reduce it, for "
            "example with jnp.all."
        )
    return jnp.asarray(solved)


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _kind_or_type(value: Any) -> str:
    """For messages."""
    return f"an array of {value.dtype}" if isinstance(value, jax.Array) else kind_of(value)
