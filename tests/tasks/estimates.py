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
