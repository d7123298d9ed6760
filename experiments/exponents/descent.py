"""Gradient descent on what is no task, such as a penalty, for several networks in one program."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

# Steps at most for each call of the compiled loop: the granularity of progress and of the clock.
CHUNK = 50

Objective = Callable[[Any, jax.Array], jax.Array]


class Descent(NamedTuple):
    """What a descent did.

    Attributes:
      networks: as they came out, with a leading axis for the seeds.
      values: of the objective, before each step, (seeds, steps).
      seconds: that one step took for all seeds together, compilation left out.
    """

    networks: Any
    values: np.ndarray
    seconds: float


def descend(
    objective: Objective, learning_rate: float
) -> Callable[[Any, jax.Array, int, Callable[[int], None]], Descent]:
    """A function (networks, keys, steps, on_chunk) -> Descent, compiled once for equal shapes.

    Adam, gradients clipped at a global norm of 1. Equal keys mean equal data.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))

    def update(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        network, memory = state
        value, gradient = jax.value_and_grad(objective)(network, key)
        updates, memory = optimizer.update(gradient, memory, network)
        return (optax.apply_updates(network, updates), memory), value

    @jax.jit
    @jax.vmap
    def advance(state: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(update, state, keys)

    def run(networks: Any, keys: jax.Array, steps: int, on_chunk: Callable[[int], None]) -> Descent:
        state = (networks, jax.vmap(optimizer.init)(networks))
        step_keys = jax.vmap(lambda key: jax.random.split(key, steps))(keys)
        values, clock = [], []
        chunk = max(1, min(CHUNK, steps // 4))
        for first in range(0, steps, chunk):
            start = time.perf_counter()
            state, found = advance(state, step_keys[:, first : first + chunk])
            values.append(np.asarray(found))
            clock.append((time.perf_counter() - start) / values[-1].shape[1])
            on_chunk(values[-1].shape[1])
        # The first call compiles, and so does a last one of another length: not the median one.
        return Descent(state[0], np.concatenate(values, axis=1), float(np.median(clock)))

    return run
