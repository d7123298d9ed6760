"""Tasks and models that compile at once, and the training loop in plain Python."""

import contextlib
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from rnn_jax.tasks.base import Batch, Metrics

# What an optimiser and a loop have to go through, and no more: two features, no recurrence.
MIXTURE = ((1.0, -2.0), (0.5, 3.0))


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Say a fixed mixture of a sequence's last inputs; only what `fit` needs of a task."""

    solved_below: float = 0.0
    steps: int = 2

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        key_inputs, key_noise = jax.random.split(key)
        inputs = jax.random.normal(key_inputs, (batch_size, self.steps, 2))
        clean = inputs[:, -1] @ jnp.asarray(MIXTURE, inputs.dtype)
        targets = clean + 0.1 * jax.random.normal(key_noise, clean.shape)
        return Batch(inputs, targets, jnp.ones(batch_size))

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return jnp.mean(jnp.square(outputs - batch.targets))

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        return {"mse": self.loss(outputs, batch), "worst": jnp.max(abs(outputs - batch.targets))}

    def solved(self, metrics: Metrics) -> jax.Array:
        return metrics["mse"] < self.solved_below


def affine_last(weights: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """An affine function of each sequence's last step."""
    last = inputs[:, -1].astype(weights["kernel"].dtype)
    return last @ weights["kernel"] + weights["bias"][None]


def linear(seed: int = 0, dtype: Any = float) -> Partial:
    """A model that is a function with arrays, and not one of this package."""
    rng = np.random.default_rng(seed)
    weights = {"kernel": rng.normal(size=(2, 2)), "bias": rng.normal(size=2)}
    return Partial(affine_last, jax.tree.map(lambda a: jnp.asarray(a, dtype), weights))


def linears(*seeds: int) -> Partial:
    """Several of them with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(linear, seeds))


class Told(NamedTuple):
    """What the plain loop saw.

    Attributes:
      losses, norms: of every step whose update was made.
      evaluations: metrics by training steps done.
      models: by training steps done, the starting one at 0.
      optimizer_states: likewise.
    """

    losses: list[float]
    norms: list[float]
    evaluations: dict[int, dict[str, float]]
    models: dict[int, Any]
    optimizer_states: dict[int, Any]

    @property
    def model(self) -> Any:
        """The last one."""
        return self.models[max(self.models)]

    @property
    def best_model(self) -> Any:
        """Of the evaluation with the smallest loss."""
        return self.models[min(self.evaluations, key=lambda n: self.evaluations[n]["loss"])]


def plain_loop(
    model: Any,
    task: Any,
    optimizer: Any,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    evaluate_every: int,
    evaluation_size: int,
    stream: int = 0,
    takes_key: bool = False,
) -> Told:
    """Training step by step: a batch, its gradient, optax's update, and that again.

    Args:
      model, task, optimizer, steps, batch_size, seed, evaluate_every, evaluation_size: as for
        `fit`; one model.
      stream: the member that it is.
      takes_key: whether the model is called with a key in training.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    batches = functools.partial(training_batch, task, seed, stream, size=batch_size)

    @jax.jit
    def judged(model: Any, step: int) -> Any:
        batch, noise_key = batches(step)
        options = {"key": noise_key} if takes_key else {}
        return jax.value_and_grad(lambda m: task.loss(m(batch.inputs, **options), batch))(model)

    @jax.jit
    def updated(gradient: Any, state: Any, model: Any, loss: jax.Array) -> Any:
        with relaxed():
            updates, state = optimizer.update(gradient, state, model, value=loss)
            return optax.apply_updates(model, updates), state

    @jax.jit
    def evaluated(model: Any, done: int) -> Metrics:
        batch = evaluation_batch(task, seed, stream, done, size=evaluation_size)
        outputs = model(batch.inputs)
        return {**task.metrics(outputs, batch), "loss": task.loss(outputs, batch)}

    with relaxed():
        state = optimizer.init(model)
    told = Told([], [], {}, {0: model}, {0: state})
    for step in range(steps):
        loss, gradient = judged(model, step)
        model, state = updated(gradient, state, model, loss)
        done = step + 1
        told.losses.append(float(loss))
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
        told.norms.append(float(np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))))
        told.models[done], told.optimizer_states[done] = model, state
        if done % evaluate_every == 0 or done == steps:
            found = evaluated(model, done)
            told.evaluations[done] = {name: float(value) for name, value in found.items()}
    return told


def training_batch(task: Any, seed: int, stream: int, step: Any, *, size: int) -> Any:
    """(batch, noise key) of one step of one member."""
    key = jax.random.fold_in(_member_key(seed, stream), 0)
    data_key, noise_key = jax.random.split(jax.random.fold_in(key, step))
    return task.sample(data_key, size), noise_key


def evaluation_batch(task: Any, seed: int, stream: int, done: Any, *, size: int) -> Batch:
    """What one member is evaluated on after so many steps."""
    key = jax.random.fold_in(_member_key(seed, stream), 1)
    draw = getattr(task, "sample_held_out", task.sample)
    return draw(jax.random.fold_in(key, done), size)


def _member_key(seed: int, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.split(jax.random.key(seed))[0], stream)


@contextlib.contextmanager
def relaxed():
    """optax does not pass JAX's strict mode."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def means(values: list[float], at: Any) -> np.ndarray:
    """Means of a series by step between the moments `at`."""
    edges = [0, *at]
    return np.array([np.mean(values[a:b]) for a, b in itertools.pairwise(edges)])


def same(actual: Any, expected: Any, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    """Two pytrees of one structure, equal to rounding; keys and whole numbers exactly."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = _numbers(a), _numbers(b)
        assert a.dtype == b.dtype
        if np.issubdtype(a.dtype, np.floating):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(a, b)


def identical(actual: Any, expected: Any) -> None:
    """Two pytrees of one structure, equal bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = _numbers(a), _numbers(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def _numbers(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)
