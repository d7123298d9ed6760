"""What every task keeps."""

import dataclasses
import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.base import CrossEntropy
from tasks.zoo import TASKS, name

# Enough that no answer is the right one for all of them.
SIZE = 16
KEYS = [jax.random.key(seed) for seed in (0, 1)]

every_task = pytest.mark.parametrize("task", TASKS, ids=name)
# The first instance of each, for what takes long to compile.
KINDS = list({type(task): task for task in reversed(TASKS)}.values())[::-1]
every_kind = pytest.mark.parametrize("task", KINDS, ids=lambda task: type(task).__name__)


@functools.partial(jax.jit, static_argnums=0)
def judge(task, outputs, batch):
    """(loss, its gradient, metrics, whether it is solved): for all tests of a task, one program."""
    loss, slope = jax.value_and_grad(task.loss)(outputs, batch)
    metrics = task.metrics(outputs, batch)
    return loss, slope, metrics, task.solved(metrics)


@functools.partial(jax.jit, static_argnums=0)
def compiled(task, key):
    return task.sample(key, SIZE)


@functools.partial(jax.jit, static_argnums=0)
def mapped(task, keys):
    return jax.vmap(lambda key: task.sample(key, SIZE))(keys)


@functools.cache
def batches(task):
    """One batch from each key, drawn compiled and all at once."""
    both = jax.tree.map(np.asarray, mapped(task, jnp.stack(KEYS)))
    return [jax.tree.map(lambda leaf, r=row: leaf[r], both) for row in range(len(KEYS))]


def perfect(task, batch):
    """What a network that has solved the task says."""
    if isinstance(task, CrossEntropy):
        return 100.0 * np.eye(task.out_features)[batch.targets]
    return batch.targets


@every_task
def test_shapes_are_those_the_task_names(task):
    drawn = batches(task)[:1]
    if hasattr(task, "sample_held_out"):
        drawn.append(task.sample_held_out(KEYS[0], SIZE))
    for batch in drawn:
        inputs, targets, weights = batch[:3]
        assert batch.lengths is batch.mask is None
        assert inputs.shape == (SIZE, task.steps, task.in_features)
        answers = {"last": (SIZE,), "all": (SIZE, task.steps)}[task.readout]
        assert weights.shape == answers
        classes = isinstance(task, CrossEntropy)
        assert targets.shape == (answers if classes else (*answers, task.out_features))


@pytest.mark.parametrize("x64", [True, False])
@every_task
def test_numbers_are_of_the_default_type(task, x64):
    with jax.enable_x64(x64):
        draw = functools.partial(task.sample, batch_size=SIZE)
        inputs, targets, weights, *_ = jax.eval_shape(draw, jax.random.key(0))
    number, whole = (jnp.float64, jnp.int64) if x64 else (jnp.float32, jnp.int32)
    assert inputs.dtype == weights.dtype == number
    assert targets.dtype == (whole if isinstance(task, CrossEntropy) else number)


@every_task
def test_equal_keys_give_equal_batches_and_others_others(task):
    twice = jax.tree.map(np.asarray, mapped(task, jnp.stack([KEYS[0], KEYS[0]])))
    first, other = batches(task)
    for row in range(2):
        jax.tree.map(
            lambda left, right, r=row: np.testing.assert_array_equal(left[r], right), twice, first
        )
    assert not np.array_equal(first.inputs, other.inputs)


@every_kind
def test_compiled_and_mapped_over_keys_a_batch_is_what_each_key_alone_gives(task):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    for key, batch in zip(KEYS, batches(task), strict=True):
        jax.tree.map(close, compiled(task, key), batch)
    # One operation after another, without compiling.
    jax.tree.map(close, task.sample(KEYS[0], SIZE), batches(task)[0])


@every_task
def test_all_is_finite_classes_exist_and_some_answer_counts(task):
    for batch in batches(task):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(batch))
        weights = batch.weights
        assert (weights >= 0).all()
        assert (weights.reshape(SIZE, -1).sum(axis=1) > 0).all()
        if isinstance(task, CrossEntropy):
            assert np.isin(batch.targets, np.arange(task.out_features)).all()


@every_task
def test_equal_tasks_are_one_static_argument(task):
    same = dataclasses.replace(task)
    assert same == task
    assert hash(same) == hash(task)
    traced = []
    count = jax.jit(lambda t, x: (traced.append(t), x)[1], static_argnums=0)
    count(task, 1.0)
    count(same, 1.0)
    assert len(traced) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.readout = "first"


@every_task
def test_what_must_be_given_comes_first_and_a_size_must_be(task):
    first, *rest = dataclasses.fields(task)
    assert all(field.default is not dataclasses.MISSING for field in rest)
    # Images have the size they have.
    sized = {field.name for field in (first, *rest)} & {"length", "delay"}
    if sized:
        assert first.name in sized
        assert first.default is dataclasses.MISSING
        assert task.steps >= getattr(task, first.name)


@every_task
def test_the_fields_can_be_given_on_a_command_line(task):
    tyro = pytest.importorskip("tyro")
    told = []
    for field in dataclasses.fields(task):
        value = getattr(task, field.name)
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            told.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, tuple):
            told += [flag, *map(str, value)]
        else:
            told += [flag, str(value)]
    assert tyro.cli(type(task), args=told) == task


@every_task
def test_the_loss_is_finite_and_has_a_gradient_where_answers_count(task):
    batch = batches(task)[0]
    outputs = np.random.default_rng(0).normal(size=perfect(task, batch).shape)
    loss, slope, *_ = judge(task, outputs, batch)
    assert loss.shape == ()
    assert np.isfinite(loss)
    assert loss > 0
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(np.any(np.asarray(slope) != 0, axis=-1), batch.weights > 0)


@every_task
def test_the_right_answers_cost_nothing_and_solve_it(task):
    batch = batches(task)[0]
    loss, _, metrics, solved = judge(task, perfect(task, batch), batch)
    assert all(value.shape == () for value in metrics.values())
    assert abs(loss) < 1e-12
    assert solved.shape == ()
    assert solved


@every_task
def test_the_same_answer_everywhere_does_not_solve_it(task):
    batch = batches(task)[0]
    *_, solved = judge(task, np.zeros_like(perfect(task, batch)), batch)
    assert not solved


@every_task
def test_the_chance_loss_lies_between_the_right_answers_and_ignorance(task):
    assert isinstance(task.chance_loss, float)
    assert 0 < task.chance_loss < math.inf
    if isinstance(task, CrossEntropy):
        assert task.chance_loss <= math.log(task.out_features) + 1e-12


@every_task
def test_outputs_of_another_shape_are_refused(task):
    batch = batches(task)[0]
    right = perfect(task, batch)
    wrong = [np.concatenate([right, right], axis=-1), right[..., 0], right[:1], right[None]]
    wrong.append(right[:, -1] if task.readout == "all" else np.stack([right, right], axis=1))
    for outputs in wrong:
        for call in (task.loss, task.metrics):
            with pytest.raises(ValueError, match=r"outputs must have the shape.*readout="):
                call(outputs, batch)


@every_task
def test_a_wrong_key_or_batch_size_is_named(task):
    with pytest.raises(TypeError, match=r"key must be a JAX random key.*jax\.random\.key"):
        task.sample(0, SIZE)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        task.sample(KEYS[0], 0)


@every_kind
def test_the_docstring_says_sources_and_every_field(task):
    text = inspect.getdoc(type(task))
    assert "References:" in text
    for field in dataclasses.fields(task):
        assert f"\n  {field.name}: " in text, field.name
    assert "Returns:" in inspect.getdoc(task.sample)
