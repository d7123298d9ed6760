"""Several processes as one: the first one owns the disk, and the others hear of it."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process owns the disk."""
    return jax.process_index() == 0


def largest(number: int) -> int:
    """The largest of the numbers of all processes; all must ask."""
    if jax.process_count() == 1:
        return int(number)
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def only_first(action: Callable[[], Any]) -> Any:
    """Runs `action` in the first process, and gives its result, as JSON has it, to all.

    Raises:
      RuntimeError: in the other processes, if it raised in the first.
    """
    if jax.process_count() == 1:
        return action()
    outcome, error = None, None
    if is_first():
        try:
            outcome = action()
        except Exception as raised:  # Again below, once the others know of it.
            error = raised
    message = {"value": outcome, "error": None if error is None else str(error)}
    received = _from_first(message)
    if error is not None:
        raise error
    if received["error"] is not None:
        raise RuntimeError(f"the first process stopped: {received['error']}")
    return received["value"]


def arrays_from_first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first process's arrays; the others pass some of equal shapes and types."""
    if jax.process_count() == 1:
        return arrays
    return {
        name: np.asarray(value)
        for name, value in multihost_utils.broadcast_one_to_all(arrays).items()
    }


def _from_first(value: Any) -> Any:
    """A value of JSON from the first process."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = text
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
    return json.loads(received.tobytes().decode())
