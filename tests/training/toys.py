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

from rnn_jax import tasks
from rnn_jax.tasks.base import Batch, Metrics

# What an optimiser and a loop have to go through, and no more: two features, no recurrence.
MIXTURE = ((1.0, -2.0), (0.5, 3.0))


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Say a fixed mixture of a sequence's last inputs; only what `fit` needs of a task."""

    solved_below: float = 0.0
    steps: int = 2

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        # One draw for inputs and noise: random numbers are most of what a small program compiles.
        drawn = jax.random.normal(key, (batch_size, self.steps + 1, 2))
        inputs, noise = drawn[:, :-1], drawn[:, -1]
        targets = inputs[:, -1] @ jnp.asarray(MIXTURE, inputs.dtype) + 0.1 * noise
        return Batch(inputs, targets, jnp.ones(batch_size))

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        return jnp.mean(jnp.square(outputs - batch.targets))

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        return {"mse": self.loss(outputs, batch), "worst": jnp.max(abs(outputs - batch.targets))}

    def solved(self, metrics: Metrics) -> jax.Array:
        return metrics["mse"] < self.solved_below


def batch(seed: int, size: int = 3) -> Batch:
    """A batch of the mixture, on the host."""
    drawn = Mixing().sample(jax.random.key(seed), size)
    return jax.tree.map(np.asarray, drawn)


def loader(source: Any, **options: Any) -> tasks.Loader:
    """The mixture from batches of the host."""
    return tasks.Loader(source, validation=batch(100, 5), **options)


def affine_last(weights: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """An affine function of each sequence's last step."""
    kernel = weights["kernel"]
    bias = weights["bias"].astype(kernel.dtype)
    return inputs[:, -1].astype(kernel.dtype) @ kernel + bias[None]


def linear(seed: int = 0, dtype: Any = float) -> Partial:
    """A model that is a function with arrays, and not one of this package."""
    rng = np.random.default_rng(seed)
    weights = {"kernel": rng.normal(size=(2, 2)), "bias": rng.normal(size=2)}
    return Partial(affine_last, jax.tree.map(lambda a: jnp.asarray(a, dtype), weights))


def linears(*seeds: int) -> Partial:
    """Several of them with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(linear, seeds))


@dataclasses.dataclass(frozen=True)
class Seen:
    """A probe of someone else's: the sequences that it was shown, and the weights."""

    every: int
    batch_size: int = 3
    name: str = "seen"

    def measure(self, model: Any, xs: jax.Array) -> dict[str, jax.Array]:
        flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(model)]
        return {"xs": xs, "weights": jnp.concatenate(flat)}


def breaking(at: Any, value: float = np.nan) -> optax.GradientTransformation:
    """An optimiser that descends, but for its update number `at`."""

    def update(gradient: Any, count: jax.Array, params: Any = None) -> Any:
        factor = jnp.where(count == at, value, -0.05)
        return jax.tree.map(lambda g: factor * g, gradient), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), float), update)


class Told(NamedTuple):
    """What the plain loop saw.

    Attributes:
      losses, norms: of every step, NaN where it was left out.
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
    skips: bool = False,
) -> Told:
    """Training step by step: a batch, its gradient, optax's update, and that again.

    Args:
      model, task, optimizer, steps, batch_size, seed, evaluate_every, evaluation_size: as for
        `fit`; one model.
      stream: the member that it is.
      takes_key: whether the model is called with a key in training.
      skips: leave out steps whose loss, gradient or update is not finite.
    """
    key = member_key(seed, stream)
    with relaxed():
        state = optimizer.init(model)
    told = Told([], [], {}, {0: model}, {0: state})
    for step in range(steps):
        loss, gradient = _judged(task, batch_size, takes_key, model, key, step)
        after = _updated(optimizer, gradient, state, model, loss)
        done = step + 1
        if skips and not all_finite((loss, gradient, after[0])):
            told.losses.append(np.nan)
            told.norms.append(np.nan)
        else:
            model, state = after
            leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
            told.losses.append(float(loss))
            told.norms.append(float(np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))))
        told.models[done], told.optimizer_states[done] = model, state
        if done % evaluate_every == 0 or done == steps:
            found = _evaluated(task, evaluation_size, model, key, done)
            told.evaluations[done] = {name: float(value) for name, value in found.items()}
    return told


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _judged(task: Any, size: int, takes_key: bool, model: Any, key: jax.Array, step: int) -> Any:
    batch, noise_key = training_batch(task, key, step, size)
    options = {"key": noise_key} if takes_key else {}
    return jax.value_and_grad(lambda m: task.loss(m(batch.inputs, **options), batch))(model)


@functools.partial(jax.jit, static_argnums=0)
def _updated(optimizer: Any, gradient: Any, state: Any, model: Any, loss: jax.Array) -> Any:
    with relaxed():
        update = optax.with_extra_args_support(optimizer).update
        updates, state = update(gradient, state, model, value=loss)
        return optax.apply_updates(model, updates), state


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluated(task: Any, size: int, model: Any, key: jax.Array, done: int) -> Metrics:
    batch = evaluation_batch(task, key, done, size)
    outputs = model(batch.inputs)
    return {**task.metrics(outputs, batch), "loss": task.loss(outputs, batch)}


def member_key(seed: int, stream: int = 0) -> jax.Array:
    """From which one member draws all that it sees."""
    return jax.random.fold_in(jax.random.split(jax.random.key(seed))[0], stream)


def training_batch(task: Any, key: jax.Array, step: Any, size: int) -> tuple[Batch, jax.Array]:
    """(batch, noise key) of one step of the member with this key."""
    data_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 0), step))
    return task.sample(data_key, size), noise_key


def evaluation_batch(task: Any, key: jax.Array, done: Any, size: int) -> Batch:
    """What the member with this key is evaluated on after so many steps."""
    draw = getattr(task, "sample_held_out", task.sample)
    return draw(jax.random.fold_in(jax.random.fold_in(key, 1), done), size)


@contextlib.contextmanager
def relaxed():
    """optax does not pass JAX's strict mode."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def means(values: list[float], at: Any) -> np.ndarray:
    """Means of a series by step between the moments `at`, without what is NaN."""
    return np.array([np.mean(known) if len(known) else np.nan for known in _known(values, at)])


def counts(values: list[float], at: Any) -> np.ndarray:
    """How many numbers of a series by step between the moments `at` are not NaN."""
    return np.array([len(known) for known in _known(values, at)])


def _known(values: list[float], at: Any) -> list[np.ndarray]:
    stretches = [np.asarray(values[a:b]) for a, b in itertools.pairwise([0, *at])]
    return [stretch[~np.isnan(stretch)] for stretch in stretches]


def all_finite(tree: Any) -> bool:
    """Whether all numbers of a pytree are."""
    return all(np.all(np.isfinite(np.asarray(leaf, float))) for leaf in jax.tree.leaves(tree))


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
