"""Every task, compiled for devices that are not here: a batch, its loss, and what judges it."""

import jax
import jax.numpy as jnp
import numpy as np
import platforms
import pytest
from calls_over_time import KEY

from rnn_jax import tasks
from tasks.test_laws import KINDS
from tasks.test_mnist import contents, write

platforms.require()
as_a_user = platforms.as_a_user

SIZE = 4
TASKS = {
    **{type(task).__name__: lambda _, task=task: task for task in KINDS},
    "SequentialDigits": lambda _: tasks.SequentialDigits(),
    "SequentialMNIST": lambda folder: mnist(folder),
    "Arrays": lambda _: tasks.Arrays(np.zeros((6, 5, 2)), np.zeros((6, 1)), lengths=np.full(6, 3)),
}
# Of the host, or what others inherit.
NO_PROGRAMS = {"Batch", "CrossEntropy", "Loader", "SquaredError", "Task"}


def mnist(folder):
    write(folder, contents())
    return tasks.SequentialMNIST(str(folder))


def test_every_task_is_compiled():
    assert set(TASKS) | NO_PROGRAMS == set(tasks.__all__)


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_compiles(name, platform, tmp_path):
    task = TASKS[name](tmp_path)
    drawn = jax.eval_shape(lambda key: task.sample(key, SIZE), KEY)
    answers = drawn.weights.shape

    def judge(key, outputs):
        batch = task.sample(key, SIZE)
        metrics = task.metrics(outputs, batch)
        return batch, jax.grad(task.loss)(outputs, batch), metrics, task.solved(metrics)

    outputs = jax.ShapeDtypeStruct((*answers, task.out_features), jnp.float32)
    platforms.compiled_for(platform, judge, KEY, outputs)
