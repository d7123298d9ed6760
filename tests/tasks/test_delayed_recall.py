"""Delayed recall: what it claims about its samples, its chance loss and its metrics."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import tasks

SAMPLES = 4000


@functools.partial(jax.jit, static_argnums=(0, 2))
def sample(task, key, batch_size):
    return task.sample(key, batch_size)


@pytest.fixture(
    scope="module",
    params=[(1, None), (1, 2), (4, None), (4, 5), (3, 11)],
    ids=lambda sizes: f"d{sizes[0]}_T{sizes[1]}",
)
def drawn(request):
    task = tasks.DelayedRecall(*request.param)
    return task, jax.tree.map(np.asarray, sample(task, jax.random.key(0), SAMPLES))


def test_the_target_is_what_was_shown_delay_steps_ago(drawn):
    task, batch = drawn
    assert batch.inputs.shape == (SAMPLES, task.steps, task.in_features)
    assert batch.targets.shape == (SAMPLES, task.steps, task.out_features)
    assert batch.weights.shape == (SAMPLES, task.steps)
    for step in range(task.steps):
        asked = step >= task.delay
        np.testing.assert_array_equal(batch.weights[:, step], float(asked))
        shown = batch.inputs[:, step - task.delay] if asked else 0.0
        np.testing.assert_array_equal(batch.targets[:, step], shown)


def test_a_sequence_is_three_delays_long_unless_told_otherwise():
    assert tasks.DelayedRecall(7).steps == 21
    assert tasks.DelayedRecall(7, length=8).steps == 8


def test_the_stream_is_uniform_and_no_step_tells_of_another(drawn):
    task, batch = drawn
    values = batch.inputs[..., 0]
    assert values.min() >= 0
    assert values.max() < 1
    deviation = 5 / np.sqrt(12 * values.size)
    assert abs(values.mean() - 0.5) < deviation
    assert abs(values.var() - 1 / 12) < deviation
    table = np.corrcoef(values, rowvar=False)
    assert np.abs(table - np.eye(task.steps)).max() < 5 / np.sqrt(SAMPLES)
    assert len(np.unique(values)) == values.size


def test_the_chance_loss_is_what_predicting_the_mean_costs(drawn):
    task, batch = drawn
    measured = task.loss(jnp.full(batch.targets.shape, 0.5), batch)
    # The squared error of a uniform number has the standard deviation √(1/180) = 0.0745.
    answers = SAMPLES * (task.steps - task.delay)
    assert abs(measured - task.chance_loss) < 5 * 0.0745 / np.sqrt(answers)
    for guess in (0.45, 0.55):
        assert task.loss(jnp.full(batch.targets.shape, guess), batch) > measured
    assert not task.solved({"mse": measured})
    # The step at hand is no help: the best line through it has the slope 0.
    shown, target = batch.inputs[:, task.delay :, 0], batch.targets[:, task.delay :, 0]
    assert abs(np.corrcoef(shown.ravel(), target.ravel())[0, 1]) < 5 / np.sqrt(answers)


def test_what_is_said_before_the_first_answer_costs_nothing(drawn):
    task, batch = drawn
    outputs = np.array(batch.targets)
    outputs[:, : task.delay] = 9.0
    np.testing.assert_array_equal(task.loss(jnp.asarray(outputs), batch), 0.0)
    outputs[:, task.delay] += 0.5
    np.testing.assert_allclose(
        task.loss(jnp.asarray(outputs), batch), 0.25 / (task.steps - task.delay), rtol=1e-12
    )


def test_the_loss_is_the_weighted_mean_over_rows_and_steps():
    task = tasks.DelayedRecall(2)
    batch = sample(task, jax.random.key(0), 5)
    rng = np.random.default_rng(0)
    outputs, weights = rng.normal(size=(5, 6, 1)), rng.uniform(size=(5, 6))
    weighted = batch._replace(weights=jnp.asarray(weights))
    errors = ((outputs - np.asarray(batch.targets)) ** 2)[..., 0]
    np.testing.assert_allclose(task.loss(outputs, weighted), np.average(errors, weights=weights))
    np.testing.assert_array_equal(
        task.metrics(outputs, weighted)["mse"], task.loss(outputs, weighted)
    )


def test_equal_keys_give_equal_batches_under_jit_and_vmap_too():
    task, key = tasks.DelayedRecall(2), jax.random.key(3)
    batch = task.sample(key, 4)
    chex.assert_trees_all_close(sample(tasks.DelayedRecall(2), key, 4), batch, rtol=1e-14)
    keys = jnp.stack([key, jax.random.key(4)])
    both = jax.jit(jax.vmap(lambda k: task.sample(k, 4)))(keys)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], both), batch, rtol=1e-14)
    assert not np.allclose(both.inputs[0], both.inputs[1])


def test_a_task_is_a_static_argument_that_compiles_once():
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def targets(task, key):
        return task.sample(key, 2).targets

    jitted = jax.jit(targets, static_argnums=0)
    jitted(tasks.DelayedRecall(5), jax.random.key(0))
    jitted(tasks.DelayedRecall(5), jax.random.key(1))


def test_solved_is_an_error_below_the_bound_of_the_task():
    batch = sample(tasks.DelayedRecall(2), jax.random.key(0), 5)
    near = batch.targets + 0.05  # an error of 0.0025
    for bound, solved in ((0.005, True), (0.002, False)):
        task = tasks.DelayedRecall(2, solved_below=bound)
        assert bool(task.solved(task.metrics(near, batch))) is solved


TASK = tasks.DelayedRecall(2)
KEY = jax.random.key(0)
SAMPLE = TASK.sample(KEY, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tasks.DelayedRecall(0), ValueError, "delay must be at least 1; got 0"),
        (lambda: tasks.DelayedRecall(2.5), TypeError, "delay must be a whole number; got 2.5"),
        (lambda: tasks.DelayedRecall("3"), TypeError, "delay must be a whole number; got '3'"),
        (lambda: tasks.DelayedRecall(4, 4), ValueError, "more than the delay, 4.*got 4.*length=12"),
        (lambda: tasks.DelayedRecall(4, 0), ValueError, "length must be at least 1; got 0"),
        (lambda: tasks.DelayedRecall(4, 9.0), TypeError, "length must be a whole number; got 9.0"),
        (
            lambda: tasks.DelayedRecall(4, solved_below=0.0),
            ValueError,
            "solved_below must be a positive error; got 0.0.*Pass",
        ),
        (
            lambda: tasks.DelayedRecall(4, solved_below="low"),
            TypeError,
            "solved_below must be a number; got 'low'",
        ),
        (lambda: TASK.sample(0, 3), TypeError, r"key must be a JAX random key.*jax\.random\.key"),
        (lambda: TASK.sample(KEY, 0), ValueError, "batch_size must be at least 1; got 0"),
        (
            lambda: TASK.loss(jnp.ones((3, 1)), SAMPLE),
            ValueError,
            r'shape of the targets, \(3, 6, 1\); got \(3, 1\).*readout="all"',
        ),
        (lambda: TASK.metrics(jnp.ones((3, 6, 2)), SAMPLE), ValueError, r"got \(3, 6, 2\)"),
        (lambda: TASK.loss(jnp.ones((3, 6)), SAMPLE), ValueError, r"got \(3, 6\)"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
