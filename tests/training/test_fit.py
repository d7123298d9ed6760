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

# Evaluations after 3, 6 and 7 steps: the last stretch is shorter than the others.
PACE = {"steps": 7, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
MOMENTS = [3, 6, 7]
TASK = toys.Mixing()


def _labels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "kernel" if "kernel" in jax.tree_util.keystr(path) else "rest", params
    )


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 8), momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.3),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05)),
    # Has a random key in its state.
    "noisy": lambda: optax.chain(optax.add_noise(0.5, 0.55, jax.random.key(3)), optax.sgd(0.05)),
    # Needs the loss of each step.
    "plateau": lambda: optax.chain(
        optax.sgd(0.3), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    ),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda count: jnp.where(count < 4, 0.125, 0.0625), momentum=0.5
    ),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(0.05, warmup_steps=3),
    "accumulated": lambda: optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
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
    "dropout between layers": lambda: _stack(rj.GRUCell, rj.SimpleRNNCell, dropout=0.5),
    "noise in the recurrence": lambda: _stack(_zoned),
    "residual and layer norm": lambda: _stack(
        rj.SimpleRNNCell, rj.SimpleRNNCell, layer_norm=True, residual=True
    ),
    "a dataclass with a key": lambda: Jittery(jnp.asarray([0.3, -0.2])),
}


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
def test_layers_and_their_noise_train_as_in_a_plain_loop(make_model):
    model, optimizer, task = make_model(), optax.adam(0.02), toys.Mixing(steps=4)
    told = toys.plain_loop(model, task, optimizer, takes_key=True, **PACE)
    agrees(rj.fit(model, task, optimizer, **PACE), told)


TASKS = {
    "an answer at every step": (rj.tasks.DelayedRecall(2), "all", 1, 1),
    "classes": (rj.tasks.Parity(4), "last", 1, 2),
    "classes at every step": (rj.tasks.Parity(4, readout="all"), "all", 1, 2),
}


@pytest.mark.parametrize(("task", "readout", "features", "outputs"), TASKS.values(), ids=TASKS)
def test_tasks_of_every_form_train_as_in_a_plain_loop(task, readout, features, outputs):
    assert (task.in_features, task.out_features) == (features, outputs)
    cell = rj.SimpleRNNCell(features, 3, rngs=nnx.Rngs(0))
    model = rj.SequenceModel(cell, outputs, readout=readout, rngs=nnx.Rngs(1))
    optimizer = optax.adam(0.02)
    told = toys.plain_loop(model, task, optimizer, **PACE)
    agrees(rj.fit(model, task, optimizer, **PACE), told)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_a_model_keeps_its_precision(dtype):
    model, optimizer = toys.linear(dtype=dtype), optax.adam(0.05)
    precision = {"rtol": 50 * float(jnp.finfo(dtype).eps), "atol": float(jnp.finfo(dtype).eps)}
    result = rj.fit(model, Coarse(dtype), optimizer, **PACE)
    told = toys.plain_loop(model, Coarse(dtype), optimizer, **PACE)
    leaves = jax.tree.leaves((result.model, result.best_model))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
    for a, b in zip(leaves, jax.tree.leaves((told.model, told.best_model)), strict=True):
        np.testing.assert_allclose(a.astype(float), b.astype(float), **precision)


@dataclasses.dataclass(frozen=True)
class Coarse(toys.Mixing):
    """All numbers in one precision, as they are where there is no float64."""

    dtype: Any = jnp.float32
    steps: int = 2

    def __init__(self, dtype):
        object.__setattr__(self, "dtype", dtype)

    def sample(self, key, batch_size):
        batch = super().sample(key, batch_size)
        return jax.tree.map(lambda a: a.astype(self.dtype), batch)


@pytest.mark.parametrize("evaluate_every", [1, 2, 7, 100])
def test_how_often_it_evaluates_changes_no_step(evaluate_every):
    optimizer = optax.adam(0.05)
    pace = {**PACE, "evaluate_every": evaluate_every}
    told = toys.plain_loop(toys.linear(), TASK, optimizer, **PACE)
    result = rj.fit(toys.linear(), TASK, optimizer, **pace)
    toys.same(result.model, told.model)
    np.testing.assert_array_equal(result.history.step, _moments(evaluate_every))
    expected = toys.means(told.losses, _moments(evaluate_every))
    np.testing.assert_allclose(result.history.loss, expected, rtol=1e-10)


def _moments(every):
    return sorted({*range(every, PACE["steps"], every), PACE["steps"]})


def test_a_longer_run_begins_as_a_shorter_one():
    short = rj.fit(toys.linear(), TASK, optax.sgd(0.05), **{**PACE, "steps": 3})
    long = rj.fit(toys.linear(), TASK, optax.sgd(0.05), **PACE)
    for name in short.history:
        np.testing.assert_array_equal(long.history[name][:1], short.history[name])


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


def test_the_best_model_is_that_of_the_smallest_loss_on_fresh_data():
    # Down the slope at first, then up again.
    optimizer = optax.sgd(lambda count: jnp.where(count < 4, 0.1, -0.1))
    pace = {**PACE, "evaluate_every": 1}
    told = toys.plain_loop(toys.linear(), TASK, optimizer, **pace)
    result = rj.fit(toys.linear(), TASK, optimizer, **pace)
    losses = result.history.metrics["loss"]
    best = result.history.step[np.argmin(losses)]
    assert 1 < best < PACE["steps"]
    toys.same(result.best_model, told.models[best])


def test_it_stops_when_an_evaluation_says_that_the_task_is_solved():
    easy = toys.Mixing(solved_below=1.0)
    optimizer = optax.adam(0.1)
    pace = {**PACE, "steps": 200, "evaluate_every": 10}
    result = rj.fit(toys.linear(), easy, optimizer, **pace)
    on = rj.fit(toys.linear(), easy, optimizer, stop_when_solved=False, **pace)
    first = on.history.step[np.flatnonzero(on.history["mse"] < easy.solved_below)[0]]
    assert 10 < first < 200
    assert result.steps == result.history.solved_at == result.history.step[-1] == first
    assert result.history.solved
    # The other run goes on, and says the same of when.
    assert on.steps == 200
    assert on.history.solved_at == first
    told = toys.plain_loop(toys.linear(), easy, optimizer, **{**pace, "steps": int(first)})
    toys.same(result.model, told.model)
    toys.same(result.best_model, told.best_model)


@dataclasses.dataclass(frozen=True)
class Finite(toys.Mixing):
    """A task that has examples which no training sees, and says what it was given."""

    def sample_held_out(self, key, batch_size):
        batch = self.sample(key, batch_size)
        return batch._replace(inputs=batch.inputs + 100.0)

    def metrics(self, outputs, batch):
        return {
            "mse": self.loss(outputs, batch),
            "size": jnp.asarray(len(batch.targets), outputs.dtype),
            "least": jnp.min(batch.inputs),
            "most": jnp.max(batch.inputs),
        }


def test_it_evaluates_on_held_out_examples_if_there_are_some():
    optimizer = optax.adam(0.02)
    result = rj.fit(toys.linear(), Finite(), optimizer, **PACE)
    agrees(result, toys.plain_loop(toys.linear(), Finite(), optimizer, **PACE))
    assert np.all(result.history["least"] > 50)
    # Trained on the others: the loss of the training is not that of numbers around a hundred.
    assert np.all(result.history.loss < result.history["mse"] / 100)


def test_it_evaluates_on_fresh_examples_each_time_if_there_are_none():
    result = rj.fit(toys.linear(), Fresh(), optax.sgd(0.0), **{**PACE, "evaluate_every": 1})
    assert len(np.unique(result.history["most"])) == PACE["steps"]
    assert np.all(result.history["most"] < 50)
    key = toys.member_key(PACE["seed"])
    batches = [toys.training_batch(Fresh(), key, step, 4)[0] for step in range(PACE["steps"])]
    trained_on = {float(jnp.max(batch.inputs)) for batch in batches}
    assert not trained_on & set(result.history["most"])


@dataclasses.dataclass(frozen=True)
class Fresh(toys.Mixing):
    """Examples without end, and a word on those it was given."""

    metrics = Finite.metrics


@pytest.mark.parametrize(
    ("batch_size", "evaluation_size", "expected"), [(4, 3, 3), (100, None, 300), (256, None, 256)]
)
def test_an_evaluation_has_as_many_examples_as_asked_for(batch_size, evaluation_size, expected):
    pace = {**PACE, "batch_size": batch_size, "evaluation_size": evaluation_size}
    result = rj.fit(toys.linear(), Fresh(), optax.sgd(0.1), **pace)
    np.testing.assert_array_equal(result.history["size"], expected)


def test_history_is_read_by_name():
    result = rj.fit(toys.linear(), TASK, optax.sgd(0.05), **PACE)
    history = result.history
    assert list(history) == ["step", "loss", "gradient_norm", "updates", "mse", "worst"]
    for name in ("step", "loss", "gradient_norm", "updates"):
        np.testing.assert_array_equal(history[name], getattr(history, name))
    np.testing.assert_array_equal(history["mse"], history.metrics["loss"])
    assert np.all(history["loss"] != history.metrics["loss"])
    with pytest.raises(KeyError, match=r"history has step, loss.*worst; got 'accuracy'"):
        history["accuracy"]


def test_each_evaluation_is_told_as_it_comes():
    told = []
    result = rj.fit(toys.linear(), TASK, optax.sgd(0.05), on_evaluation=told.append, **PACE)
    assert [row["step"] for row in told] == MOMENTS
    np.testing.assert_array_equal([row["loss"] for row in told], result.history.loss)


def test_showing_progress_changes_nothing(capsys):
    quiet = rj.fit(toys.linear(), TASK, optax.sgd(0.05), **PACE)
    assert capsys.readouterr() == ("", "")
    shown = rj.fit(toys.linear(), TASK, optax.sgd(0.05), progress=True, **PACE)
    toys.identical(shown.model, quiet.model)
    assert f"{PACE['steps']}/{PACE['steps']}" in capsys.readouterr().err


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
