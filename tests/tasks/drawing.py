"""Batches of a task as NumPy arrays, and the best that can be said of them without memory."""

import functools

import jax
import numpy as np

sample = jax.jit(lambda task, key, size: task.sample(key, size), static_argnums=(0, 2))


@functools.lru_cache(maxsize=32)
def draw(task, size, seed=0):
    return jax.tree.map(np.asarray, sample(task, jax.random.key(seed), size))


def tokens(batch):
    """The (B, T) places of the ones in one-hot inputs."""
    np.testing.assert_array_equal(np.sum(batch.inputs == 1, axis=-1), 1)
    np.testing.assert_array_equal(np.sum(batch.inputs == 0, axis=-1), batch.inputs.shape[-1] - 1)
    return np.argmax(batch.inputs, axis=-1)


def memoryless_loss(task, size):
    """Cross-entropy of a predictor that sees a step's input and its index, and nothing before.

    It answers by the shares of the classes among the steps of one batch that look the same to it,
    and is scored on another. It needs discrete inputs.

    Returns the loss, and a bound on how far it lies off for want of data. With d the free shares,
    (classes − 1) for each way that a step can look, what it adds to the sum of the losses over all
    steps is about d / 2 on average, with a standard deviation of about √(3 d / 2).
    """
    fitted, fresh = draw(task, size, 1), draw(task, size, 2)
    looks = [_looks(task, batch) for batch in (fitted, fresh)]
    kinds, looks = np.unique(np.concatenate(looks), return_inverse=True)
    fitted_looks, fresh_looks = looks.reshape(2, -1)
    counts = np.full((kinds.size, task.out_features), 0.5)
    np.add.at(counts, (fitted_looks, fitted.targets.ravel()), fitted.weights.ravel())
    shares = counts / counts.sum(axis=1, keepdims=True)
    losses = -np.log(shares[fresh_looks, fresh.targets.ravel()])
    weights = fresh.weights.ravel()
    free = np.unique(fresh_looks[weights > 0]).size * (task.out_features - 1)
    bound = (free + 6 * np.sqrt(free)) / weights.sum()
    return np.average(losses, weights=weights), bound


def _looks(task, batch):
    inputs = batch.inputs[:, -1:] if task.readout == "last" else batch.inputs
    steps = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape[:2])
    shown = inputs[..., 0] if inputs.shape[-1] == 1 else np.argmax(inputs, axis=-1)
    return (1000 * steps + shown).ravel()
