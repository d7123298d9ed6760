"""What tasks refuse, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np

from refusing import refuses, table
from rnn_jax import tasks

KEY = jax.random.key(0)
ADDING = tasks.Adding(4)
SAMPLE = ADDING.sample(KEY, 3)


@table(
    one=(lambda: tasks.Adding(1), ValueError, "length must be at least 2", "got 1", "length=2"),
    zero=(lambda: tasks.Adding(0), ValueError, "length must be at least 1", "got 0", "Pass"),
    fraction=(lambda: tasks.Adding(2.5), TypeError, "length must be a whole number", "2.5", "Pass"),
    truth=(lambda: tasks.Adding(True), TypeError, "length must be a whole number", "True"),
    string=(lambda: tasks.Adding("10"), TypeError, "length must be a whole number", "'10'"),
    none=(lambda: tasks.Adding(None), TypeError, "length must be a whole number", "None"),
    bound_string=(
        lambda: tasks.Adding(4, solved_below="0.1"),
        TypeError,
        "solved_below must be a number",
        "'0.1'",
        "Pass a float",
    ),
    bound_negative=(
        lambda: tasks.Adding(4, solved_below=-1.0),
        ValueError,
        "solved_below must be a positive error",
        "-1.0",
        "Pass",
    ),
    bound_nan=(
        lambda: tasks.Adding(4, solved_below=float("nan")),
        ValueError,
        "solved_below must be finite",
        "nan",
    ),
    key_number=(
        lambda: ADDING.sample(0, 3),
        TypeError,
        "key must be a JAX random key",
        "got int",
        "jax.random.key(0)",
    ),
    key_none=(lambda: ADDING.sample(None, 3), TypeError, "key must be a JAX random key", "None"),
    key_floats=(
        lambda: ADDING.sample(np.ones(5), 3),
        TypeError,
        "key must be a JAX random key",
        "ndarray",
    ),
    keys=(
        lambda: ADDING.sample(jax.random.split(KEY, 3), 3),
        ValueError,
        "key must be a single random key",
        "(3,)",
        "jax.vmap",
    ),
    batch_zero=(
        lambda: ADDING.sample(KEY, 0),
        ValueError,
        "batch_size must be at least 1",
        "got 0",
    ),
    batch_float=(lambda: ADDING.sample(KEY, 3.0), TypeError, "batch_size must be a whole", "3.0"),
    loss_flat=(
        lambda: ADDING.loss(jnp.ones(3), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3,)",
        'readout="last"',
    ),
    loss_all=(
        lambda: ADDING.metrics(jnp.ones((3, 4, 1)), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3, 4, 1)",
    ),
    loss_wide=(
        lambda: ADDING.loss(jnp.ones((3, 2)), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3, 2)",
    ),
)
def test_tasks(call, error, words):
    refuses(call, error, *words)


def test_an_old_style_key_is_a_key():
    np.testing.assert_array_equal(
        ADDING.sample(jax.random.PRNGKey(0), 3).inputs, ADDING.sample(KEY, 3).inputs
    )
