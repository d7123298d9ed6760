"""`fit` against a loop in plain Python, on the very batches and with the very noise."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from training import toys

# Two stretches of one length, and so one program.
PACE = {"steps": 6, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
MOMENTS = [3, 6]
TASK = toys.Mixing()


def _labels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" if "kernel" in jax.tree_util.keystr(path) else "rest", params
    )


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 8), momentum=0.9, nesterov=True),
    # Has a random key in its state.
    "noisy": lambda: optax.chain(optax.add_noise(0.5, 0.55, jax.random.key(3)), optax.sgd(0.05)),
    # Needs the norm of the whole gradient, the parameters, and the loss of each step.
    "clipped, decayed, plateau": lambda: optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(0.05, weight_decay=0.3),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=1),
    ),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda count: jnp.where(count < 4, 0.125, 0.0625), momentum=0.5
    ),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(0.05, warmup_steps=3),
    "partitioned": lambda: optax.multi_transform(
        {"kernel": optax.sgd(0.1), "rest": optax.lion(0.02)}, _labels
    ),
}


def agrees(result, told, moments=MOMENTS, **tolerance):
    """All that `fit` gave is what the plain loop saw."""
    assert result.steps == max(told.models)
    toys.same(result.model, told.model, **tolerance)
    toys.same(result.best_model, told.best_model, **tolerance)
    toys.same(result.optimizer_state, told.optimizer_states[result.steps], **tolerance)
    close = {"rtol": tolerance.get("rtol", 1e-10)}
    history = result.history
    np.testing.assert_array_equal(history.step, moments)
    np.testing.assert_allclose(history.loss, toys.means(told.losses, moments), **close)
    np.testing.assert_allclose(history.gradient_norm, toys.means(told.norms, moments), **close)
    np.testing.assert_array_equal(history.updates, np.diff([0, *moments]))
    assert sorted(told.evaluations) == moments
    assert set(history.metrics) == set(told.evaluations[moments[0]])
    for name, series in history.metrics.items():
        expected = [told.evaluations[moment][name] for moment in moments]
        np.testing.assert_allclose(series, expected, **close)
    assert history.skipped == 0
    assert np.isnan(history.failed_at)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_trains_as_in_a_plain_loop(make):
    model, optimizer = toys.linear(), make()
    told = toys.plain_loop(model, TASK, optimizer, **PACE)
    agrees(rj.fit(model, TASK, optimizer, **PACE), told)
    # The optimiser has done something, or agreeing would say nothing.
    assert told.losses[-1] != told.losses[0]


def test_a_random_key_in_an_optimizer_is_kept_in_checkpoints(tmp_path):
    make = OPTIMIZERS["noisy"]
    whole = rj.fit(toys.linear(), TASK, make(), **PACE)
    shorter = {**PACE, "steps": PACE["evaluate_every"], "directory": tmp_path}
    rj.fit(toys.linear(), TASK, make(), **shorter)
    resumed = rj.fit(toys.linear(), TASK, make(), directory=tmp_path, **PACE)
    toys.identical((resumed.model, resumed.optimizer_state), (whole.model, whole.optimizer_state))


@dataclasses.dataclass
class Jittery:
    """A model of someone else's whose call takes a key."""

    scale: Any

    def __call__(self, xs, *, key=None):
        noise = 0.0 if key is None else jax.random.normal(key, xs[:, -1].shape)
        return (xs[:, -1] + noise) * self.scale[None]


jax.tree_util.register_dataclass(Jittery, ["scale"], [])


def _stack(*cells, **options):
    rngs = nnx.Rngs(0)
    layers = [make(3 if depth else 2, 3, rngs=rngs) for depth, make in enumerate(cells)]
    return rj.SequenceModel(layers, 2, rngs=rngs, **options)


def _zoned(*sizes, rngs):
    return rj.Zoneout(rj.LSTMCell(*sizes, rngs=rngs), {"c": 0.5, "h": 0.1})


MODELS = {
    "dropout, residual and layer norm": lambda: _stack(
        rj.SimpleRNNCell, rj.SimpleRNNCell, dropout=0.5, layer_norm=True, residual=True
    ),
    "noise in the recurrence": lambda: _stack(_zoned),
    "a dataclass with a key": lambda: Jittery(jnp.asarray([0.3, -0.2])),
}


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_layers_and_their_noise_train_as_in_a_plain_loop(make_model):
    model, optimizer, task = make_model(), optax.adam(0.02), toys.Mixing(steps=4)
    told = toys.plain_loop(model, task, optimizer, takes_key=True, **PACE)
    agrees(rj.fit(model, task, optimizer, **PACE), told)


def test_a_task_of_classes_at_every_step_trains_as_in_a_plain_loop():
    task = rj.tasks.Parity(4, readout="all")
    assert (task.in_features, task.out_features) == (1, 2)
    cell = rj.SimpleRNNCell(1, 3, rngs=nnx.Rngs(0))
    model = rj.SequenceModel(cell, 2, readout="all", rngs=nnx.Rngs(1))
    optimizer = optax.adam(0.02)
    told = toys.plain_loop(model, task, optimizer, **PACE)
    agrees(rj.fit(model, task, optimizer, **PACE), told)


def test_a_model_keeps_its_precision():
    dtype = jnp.bfloat16
    model, optimizer = toys.linear(dtype=dtype), optax.adam(0.05)
    precision = {"rtol": 50 * float(jnp.finfo(dtype).eps), "atol": float(jnp.finfo(dtype).eps)}
    result = rj.fit(model, Coarse(dtype), optimizer, **PACE)
    told = toys.plain_loop(model, Coarse(dtype), optimizer, **PACE)
    leaves = jax.tree.leaves((result.model, result.best_model))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
    for a, b in zip(leaves, jax.tree.leaves((told.model, told.best_model)), strict=True):
        np.testing.assert_allclose(a.astype(float), b.astype(float), **precision)


def test_without_double_precision_it_trains_alike():
    with jax.enable_x64(False):
        model, optimizer = _stack(rj.SimpleRNNCell, rj.SimpleRNNCell, dropout=0.5), optax.adam(0.02)
        told = toys.plain_loop(model, TASK, optimizer, takes_key=True, **PACE)
        agrees(rj.fit(model, TASK, optimizer, **PACE), told, rtol=2e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Coarse(toys.Mixing):
    """All numbers in one precision, as they are where there is no float64."""

    dtype: Any = jnp.bfloat16
    steps: int = 2

    def __init__(self, dtype):
        object.__setattr__(self, "dtype", dtype)

    def sample(self, key, batch_size):
        batch = super().sample(key, batch_size)
        return jax.tree.map(lambda a: a.astype(self.dtype), batch)


def test_the_same_call_gives_the_same_bits_and_another_seed_other_data():
    first, second = (rj.fit(toys.linear(), TASK, optax.sgd(0.05), **PACE) for _ in range(2))
    toys.identical(first.model, second.model)
    other = rj.fit(toys.linear(), TASK, optax.sgd(0.05), **{**PACE, "seed": 6})
    assert not np.any(first.history.loss == other.history.loss)


def test_the_model_that_was_passed_in_is_left_as_it_was():
    model = _stack(rj.SimpleRNNCell)
    before = jax.tree.map(np.array, model)
    result = rj.fit(model, TASK, optax.sgd(0.05), **PACE)
    toys.identical(model, before)
    assert np.any(result.model.bias[...] != model.bias[...])


def test_no_steps_leave_everything_as_it_was():
    optimizer = optax.adam(0.05)
    result = rj.fit(toys.linear(), TASK, optimizer, **{**PACE, "steps": 0})
    toys.identical((result.model, result.best_model), (toys.linear(), toys.linear()))
    toys.identical(result.optimizer_state, optimizer.init(toys.linear()))
    assert result.steps == 0
    assert result.history.step.shape == result.history.loss.shape == (0,)
    assert not result.history.solved
    assert np.isnan(result.history.failed_at)
    several = rj.fit(toys.linears(1, 2), TASK, optimizer, members=2, **{**PACE, "steps": 0})
    assert several.history.loss.shape == (2, 0)
    np.testing.assert_array_equal(several.history.solved, [False, False])


def test_a_run_of_any_length_is_traced_as_often_as_a_short_one():
    @functools.cache
    def traces(steps):
        counted = []

        def call(weights, inputs):
            counted.append(inputs.shape)
            return toys.affine_last(weights, inputs)

        model = Partial(call, *toys.linear().args, **toys.linear().keywords)
        rj.fit(model, TASK, optax.sgd(0.05), **{**PACE, "steps": steps})
        return len(counted)

    assert traces(30) == traces(3) < 10


def test_a_network_learns_to_add():
    cell = rj.SimpleRNNCell(2, 8, rngs=nnx.Rngs(0))
    model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(1))
    task = rj.tasks.Adding(3)
    result = rj.fit(model, task, optax.adam(0.02), steps=2000, batch_size=32, seed=0)
    assert result.history.solved
    # On data of another key than any that `fit` knows.
    batch = task.sample(jax.random.key(12345), 1000)
    chex.assert_shape(result.model(batch.inputs), (1000, 1))
    assert task.loss(result.best_model(batch.inputs), batch) < 2 * task.solved_below
