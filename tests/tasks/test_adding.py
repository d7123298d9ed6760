"""The adding problem: what it claims about its samples, its chance loss and its metrics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import tasks

SAMPLES = 20_000


@functools.partial(jax.jit, static_argnums=(0, 2))
def sample(task, key, batch_size):
    return task.sample(key, batch_size)


@pytest.fixture(scope="module", params=[2, 7, 10], ids=lambda length: f"T{length}")
def drawn(request):
    task = tasks.Adding(request.param)
    return task, jax.tree.map(np.asarray, sample(task, jax.random.key(0), SAMPLES))


def test_the_target_is_the_sum_of_the_marked_numbers(drawn):
    task, batch = drawn
    values, marks = batch.inputs[..., 0], batch.inputs[..., 1]
    assert batch.inputs.shape == (SAMPLES, task.length, task.in_features)
    expected = [value[mark == 1].sum() for value, mark in zip(values, marks, strict=True)]
    np.testing.assert_allclose(batch.targets[:, 0], expected, rtol=1e-14)
    np.testing.assert_array_equal(batch.weights, 1.0)


def test_each_half_has_one_mark_and_all_its_places_are_as_likely(drawn):
    task, batch = drawn
    marks = batch.inputs[..., 1]
    assert np.isin(marks, [0.0, 1.0]).all()
    half = task.length // 2
    for part in (marks[:, :half], marks[:, half:]):
        np.testing.assert_array_equal(part.sum(axis=1), 1.0)
        share = part.mean(axis=0)
        p = 1 / part.shape[1]
        # Five standard deviations of a share among this many draws.
        assert np.abs(share - p).max() <= 5 * np.sqrt(p * (1 - p) / SAMPLES)


def test_the_numbers_are_uniform_and_do_not_depend_on_the_marks(drawn):
    _, batch = drawn
    values, marks = batch.inputs[..., 0], batch.inputs[..., 1]
    assert values.min() >= 0
    assert values.max() < 1
    for chosen in (values[marks == 1], values[marks == 0]):
        if not chosen.size:
            continue
        deviation = 5 / np.sqrt(12 * chosen.size)
        assert abs(chosen.mean() - 0.5) < deviation
        assert abs(chosen.var() - 1 / 12) < deviation


def test_the_chance_loss_is_what_predicting_the_mean_costs(drawn):
    task, batch = drawn
    measured = task.loss(jnp.ones((SAMPLES, 1)), batch)
    # The squared error of a sum of two uniforms has the standard deviation 0.197.
    assert abs(measured - task.chance_loss) < 5 * 0.197 / np.sqrt(SAMPLES)
    for guess in (0.9, 1.1):
        assert task.loss(jnp.full((SAMPLES, 1), guess), batch) > measured
    assert not task.solved(task.metrics(jnp.ones((SAMPLES, 1)), batch))


def test_no_number_but_the_marked_ones_tells_anything_about_the_target(drawn):
    task, batch = drawn
    values, marks = batch.inputs[..., 0], batch.inputs[..., 1]
    if task.length == 2:
        np.testing.assert_array_equal(marks, 1.0)
        return
    rows = np.arange(SAMPLES)
    unmarked = values[rows, np.argmin(marks, axis=1)]
    assert abs(np.corrcoef(unmarked, batch.targets[:, 0])[0, 1]) < 5 / np.sqrt(SAMPLES)
    marked = values[rows, np.argmax(marks, axis=1)]
    # One of two independent equal terms of the sum: correlation 1/√2.
    assert abs(np.corrcoef(marked, batch.targets[:, 0])[0, 1] - np.sqrt(0.5)) < 0.02


def test_the_rows_of_a_batch_are_independent(drawn):
    _, batch = drawn
    assert len(np.unique(batch.inputs[..., 0])) == batch.inputs[..., 0].size
    targets = batch.targets[:, 0]
    assert abs(np.corrcoef(targets[1:], targets[:-1])[0, 1]) < 5 / np.sqrt(SAMPLES)


def test_equal_keys_give_equal_batches_under_jit_and_vmap_too():
    task, key = tasks.Adding(6), jax.random.key(3)
    batch = task.sample(key, 4)
    chex.assert_trees_all_close(sample(tasks.Adding(6), key, 4), batch, rtol=1e-14)
    chex.assert_trees_all_equal(sample(task, key, 4), sample(task, key, 4))
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
    jitted(tasks.Adding(5), jax.random.key(0))
    jitted(tasks.Adding(5), jax.random.key(1))


def test_the_loss_is_the_weighted_mean_of_the_rows_own_losses():
    task = tasks.Adding(6)
    batch = sample(task, jax.random.key(0), 5)
    rng = np.random.default_rng(0)
    outputs, weights = rng.normal(size=(5, 1)), rng.uniform(size=5)
    batch = jax.tree.map(np.asarray, batch)
    alone = [
        task.loss(outputs[row : row + 1], jax.tree.map(lambda a, r=row: a[r : r + 1], batch))
        for row in range(5)
    ]
    np.testing.assert_allclose(alone, ((outputs - batch.targets) ** 2)[:, 0], rtol=1e-13)
    weighted = batch._replace(weights=jnp.asarray(weights))
    np.testing.assert_allclose(task.loss(outputs, weighted), np.average(alone, weights=weights))
    np.testing.assert_array_equal(
        task.metrics(outputs, weighted)["mse"], task.loss(outputs, weighted)
    )


def test_solved_is_an_error_below_the_bound_of_the_task():
    batch = sample(tasks.Adding(6), jax.random.key(0), 5)
    near = batch.targets + 0.05  # an error of 0.0025
    for bound, solved in ((0.01, True), (0.002, False)):
        task = tasks.Adding(6, solved_below=bound)
        assert bool(task.solved(task.metrics(near, batch))) is solved
