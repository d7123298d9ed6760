"""What `fit` refuses of sizes, models, tasks and optimisers, and what it says.

Each row: a call, the exception, and distinctive words of the rule, of what arrived, and of the fix.
(The rest of it: test_errors_options; `ensemble` and `member`: test_ensemble.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refuses, table
from training import toys

PACE = {"steps": 3, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
TASK = toys.Mixing()
ADDING = rj.tasks.Adding(5)


def fit(model=None, task=TASK, optimizer=None, **options):
    model = toys.linear() if model is None else model
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return rj.fit(model, task, optimizer, **{**PACE, **options})


def network(in_features=2, out_features=1, readout="last"):
    cell = rj.SimpleRNNCell(in_features, 3, rngs=nnx.Rngs(0))
    return rj.SequenceModel(cell, out_features, readout=readout, rngs=nnx.Rngs(1))


SIZES = {
    "steps": 0,
    "seed": 0,
    "batch_size": 1,
    "evaluation_size": 1,
    "evaluate_every": 1,
    "members": 1,
}


@pytest.mark.parametrize(("name", "least"), SIZES.items())
def test_sizes_that_are_too_small_are_refused(name, least):
    for size in (least - 1, -7, np.int64(-1)):
        words = (f"{name} must be at least {least}", f"got {size}", "Pass")
        refuses(lambda given=size: fit(**{name: given}), ValueError, *words)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), 2.0, "2", [2], np.array([2]), int], ids=repr
)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_are_no_whole_numbers_are_refused(name, value):
    words = (f"{name} must be a whole number", "got", "Pass an int")
    refuses(lambda: fit(**{name: value}), TypeError, *words)


@pytest.mark.parametrize("name", sorted(set(SIZES) - {"evaluation_size", "members"}))
def test_sizes_must_be_given(name):
    refuses(lambda: fit(**{name: None}), TypeError, f"{name} must be a whole number", "None")


def test_numbers_of_numpy_are_numbers():
    plain = fit()
    numpy = fit(**{name: np.int32(value) for name, value in PACE.items()})
    toys.identical(plain.model, numpy.model)


class Many(toys.Mixing):
    """A task with a metric for each example."""

    def metrics(self, outputs, batch):
        return {"errors": jnp.sum(jnp.square(outputs - batch.targets), axis=1)}

    def solved(self, metrics):
        return jnp.all(metrics["errors"] < 0)


class Spread(toys.Mixing):
    """A task with a loss for each example."""

    def loss(self, outputs, batch):
        return jnp.sum(jnp.square(outputs - batch.targets), axis=1)


class OnlySamples:
    """No task."""

    sample = toys.Mixing.sample


def with_leaf(leaf):
    return Partial(toys.affine_last, {**toys.linear().args[0], "other": leaf})


def pair(weights, inputs):
    return toys.affine_last(weights, inputs), inputs


@table(
    no_model=(lambda: fit(3), TypeError, "model must be callable", "int", "Pass"),
    a_class=(
        lambda: fit(rj.SequenceModel),
        TypeError,
        "model must be callable",
        "the class SequenceModel",
        "Pass",
    ),
    nothing_to_train=(
        lambda: fit(Partial(lambda inputs: inputs[:, -1])),
        TypeError,
        "must have arrays to train",
        "Partial",
        "Pass",
    ),
    a_function=(lambda: fit(jnp.sum), TypeError, "array of floats", "function", "Partial"),
    whole_numbers=(
        lambda: fit(with_leaf(jnp.arange(3))),
        TypeError,
        "every leaf of a model must be an array of floats",
        "int64",
        "other",
        "Close over",
    ),
    truth=(lambda: fit(with_leaf(jnp.array(True))), TypeError, "must be", "bool", "other"),
    random_key=(lambda: fit(with_leaf(jax.random.key(0))), TypeError, "must be", "key", "other"),
    number=(lambda: fit(with_leaf(1.0)), TypeError, "must be", "float", "other"),
    text=(lambda: fit(with_leaf("much")), TypeError, "must be", "str", "other"),
    two_outputs=(
        lambda: fit(Partial(pair, *toys.linear().args)),
        TypeError,
        "must",
        "tuple",
    ),
    inputs=(lambda: fit(network(3), ADDING), ValueError, "in_features", "3", "2"),
    outputs=(
        lambda: fit(network(2, 2), ADDING),
        ValueError,
        "outputs must have the shape of the targets",
        "(4, 1)",
        "(4, 2)",
        "out_features=1",
    ),
    readout=(
        lambda: fit(network(readout="all"), ADDING),
        ValueError,
        "outputs must have the shape of the targets",
        "(4, 5, 1)",
        'readout="last"',
    ),
)
def test_models_that_are_refused(call, error, words):
    refuses(call, error, *words)


@table(
    no_task=(lambda: fit(task="adding"), TypeError, "task must have sample", "str", "Pass"),
    batches=(
        lambda: fit(task=[(np.ones((4, 2, 2)), np.ones((4, 2)))], batch_size=None),
        TypeError,
        "task must have sample",
        "list",
        "rnn_jax.tasks.Loader",
    ),
    a_class=(
        lambda: fit(task=rj.tasks.Adding),
        TypeError,
        "task must have sample",
        "the class Adding",
        "Pass",
    ),
    half_a_task=(
        lambda: fit(task=OnlySamples()),
        TypeError,
        "task must have sample, loss, metrics and solved",
        "OnlySamples",
    ),
    several_losses=(lambda: fit(task=Spread()), ValueError, "loss must be a scalar", "(4,)"),
    several_numbers=(
        lambda: fit(task=Many()),
        ValueError,
        "metrics must be a scalar",
        "(6,)",
        "errors",
        "Take",
    ),
)
def test_tasks_that_are_refused(call, error, words):
    refuses(call, error, *words)


TWO = {"model": toys.linears(1, 2), "members": 2}


@table(
    none=(
        lambda: rj.fit(toys.linear(), TASK, None, **PACE),
        TypeError,
        "optimizer must be",
        "NoneType",
        "Pass",
    ),
    rate=(lambda: fit(optimizer=0.1), TypeError, "optimizer must be an optax", "float", "Pass"),
    maker=(
        lambda: fit(optimizer=optax.adam),
        TypeError,
        "optimizer must be",
        "function",
        "hyperparameters=",
    ),
    ready=(
        lambda: fit(**TWO, hyperparameters=[0.1, 0.2]),
        TypeError,
        "optimizer must be a function from one member's hyperparameters",
        "GradientTransformation",
        "Pass",
    ),
    no_maker=(
        lambda: fit(**TWO, optimizer=0.1, hyperparameters=[0.1, 0.2]),
        TypeError,
        "optimizer must be a function",
        "float",
        "Pass",
    ),
    makes_none=(
        lambda: fit(**TWO, optimizer=lambda rate: rate, hyperparameters=[0.1, 0.2]),
        TypeError,
        "optimizer must",
        "Pass",
    ),
    too_few=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=[0.1]),
        ValueError,
        "hyperparameters must have one value for each of the 2 members",
        "(1,)",
        "Pass 2",
    ),
    too_many=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=np.ones(3)),
        ValueError,
        "must have one value for each",
        "(3,)",
        "Pass 2",
    ),
    one_for_all=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=0.1),
        TypeError,
        "hyperparameters must be an array or a list of numbers",
        "float",
        "Pass",
    ),
    a_scalar=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=jnp.asarray(0.1)),
        ValueError,
        "must have one value for each",
        "()",
        "Pass 2",
    ),
    by_name=(
        lambda: fit(
            **TWO, optimizer=lambda own: optax.sgd(own["rate"]), hyperparameters={"rate": [0.1]}
        ),
        ValueError,
        "rate must have one value for each",
        "(1,)",
        "Pass 2",
    ),
    words=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=["slow", "fast"]),
        TypeError,
        "hyperparameters must be an array or a list of numbers",
        "slow",
    ),
    words_of_numpy=(
        lambda: fit(**TWO, optimizer=optax.sgd, hyperparameters=np.array(["slow", "fast"])),
        TypeError,
        "hyperparameters must be",
        "Pass",
    ),
    # Or is it (1, 3) for the first member?
    two_lists=(
        lambda: fit(**TWO, optimizer=pair, hyperparameters=([1.0, 2.0], [3.0, 4.0])),
        TypeError,
        "hyperparameters must be an array or a list of numbers",
        "go into a dict",
    ),
    a_dict_in_a_dict=(
        lambda: fit(**TWO, optimizer=pair, hyperparameters={"sgd": {"rate": [0.1, 0.2]}}),
        TypeError,
        "sgd must be an array or a list of numbers",
        "dict",
    ),
    other_members=(
        lambda: fit(toys.linears(1, 2), members=3),
        ValueError,
        "must have a leading axis of 3",
        "(2, 2)",
        "leave members out",
    ),
    members_of_a_single_model=(
        lambda: fit(network(), ADDING, members=2),
        ValueError,
        "must have a leading axis of 2",
        "(1,)",
        "leave members out",
    ),
)
def test_optimizers_and_hyperparameters_that_are_refused(call, error, words):
    refuses(call, error, *words)


def test_hyperparameters_are_of_an_ensemble():
    with pytest.raises(ValueError, match=r"need a model with a leading axis.*single.*ensemble"):
        fit(optimizer=optax.sgd, hyperparameters=[0.1])
