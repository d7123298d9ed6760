"""What the present says of the future, estimated otherwise than the tasks do."""

import numpy as np


def neighbour_variance(present, future):
    """E Var(future | present): half the squared difference of the futures of like presents.

    The pairs are put in order of the present and each compared with the next but nine, which comes
    from another sequence as a rule.
    """
    order = np.argsort(present, axis=None)
    y = future.ravel()[order]
    return np.mean((y[10:] - y[:-10]) ** 2) / 2


def counted(task, batch):
    """The first and the last step that count."""
    weights = np.asarray(batch.weights[0])
    first = int(np.argmax(weights > 0))
    expected = np.broadcast_to(np.arange(task.steps) >= first, batch.weights.shape)
    np.testing.assert_array_equal(batch.weights, expected)
    return first, task.steps - 1


def assert_left_open(task, batch, at_one_step):
    """That the chance loss is what the step at hand leaves open of a series that is at rest.

    It is to 5 % over all steps that count, and to the share `at_one_step` at the first and last.
    """
    first, last = counted(task, batch)
    assert first == task.length // 4
    # The same at every step, so all that count may be put together.
    left = neighbour_variance(batch.inputs[:, first:], batch.targets[:, first:])
    assert abs(left - task.chance_loss) < 0.05 * task.chance_loss
    for step in (first, last):
        left = neighbour_variance(batch.inputs[:, step], batch.targets[:, step])
        assert abs(left - task.chance_loss) < at_one_step * task.chance_loss
