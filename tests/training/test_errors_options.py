"""What `fit` refuses of its options, meshes and probes, and what it says.

Each row: a call, the exception, and distinctive words of the rule, of what arrived, and of the fix.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

import rnn_jax as rj
from refusing import refuses, table
from training import toys

PACE = {"steps": 3, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
ADDING = rj.tasks.Adding(5)


def fit(model=None, **options):
    model = toys.linear() if model is None else model
    return rj.fit(model, toys.Mixing(), optax.sgd(0.1), **{**PACE, **options})


TWO = {"model": toys.linears(1, 2), "members": 2}


@table(
    nonfinite=(
        lambda: fit(on_nonfinite="ignore"),
        ValueError,
        "on_nonfinite must be one of",
        "'ignore'",
    ),
    no_nonfinite=(
        lambda: fit(on_nonfinite=None),
        ValueError,
        "on_nonfinite must be one of",
        "None",
    ),
    seconds=(
        lambda: fit(checkpoint_seconds="10"),
        TypeError,
        "checkpoint_seconds must be",
        "'10'",
        "Pass",
    ),
    no_number=(
        lambda: fit(checkpoint_seconds=np.nan),
        ValueError,
        "checkpoint_seconds must",
        "nan",
        "Pass",
    ),
    back_in_time=(
        lambda: fit(checkpoint_seconds=-1),
        ValueError,
        "checkpoint_seconds must",
        "-1",
        "Pass",
    ),
    directory=(lambda: fit(directory=3), TypeError, "directory must be a path", "int", "Pass"),
    board=(lambda: fit(tensorboard=True), ValueError, "needs a directory", "Pass directory"),
    told=(lambda: fit(on_evaluation=3), TypeError, "on_evaluation must be", "int", "Pass"),
    far_seed=(lambda: fit(seed=2**70), ValueError, "seed must be at most", str(2**70), "Pass"),
)
def test_options_that_are_refused(call, error, words):
    refuses(call, error, *words)


def mesh(*names, shape=None):
    shape = shape or (1,) * len(names)
    return Mesh(np.array(jax.devices()[:1] * int(np.prod(shape))).reshape(shape), names)


@table(
    text=(lambda: fit(mesh="batch"), TypeError, "mesh must be a jax.sharding.Mesh", "str", "Pass"),
    devices=(lambda: fit(mesh=jax.devices()), TypeError, "mesh must be", "list", "Pass"),
    a_class=(lambda: fit(mesh=Mesh), TypeError, "mesh must be", "the class Mesh", "Pass"),
    names=(lambda: fit(mesh=mesh("model")), ValueError, '"ensemble" or "batch"', "'model'", "Pass"),
    one_too_many=(
        lambda: fit(mesh=mesh("batch", "model")),
        ValueError,
        "must be named",
        "'model'",
        "Pass",
    ),
    batch_twice=(lambda: fit(mesh=mesh("batch", "data")), ValueError, "must be", "'data'", "Pass"),
    single=(
        lambda: fit(mesh=mesh("ensemble")),
        ValueError,
        "needs a model with a leading axis",
        "single",
        "rnn_jax.ensemble",
    ),
    batch=(
        lambda: fit(mesh=mesh("batch", shape=(3,))),
        ValueError,
        "batch_size must be a multiple of the 3 devices",
        "got 4",
        "Pass 6",
    ),
    evaluation=(
        lambda: fit(mesh=mesh("batch", shape=(4,))),
        ValueError,
        "evaluation_size must be a multiple of the 4 devices",
        "got 6",
        "Pass 8",
    ),
    ensemble=(
        lambda: fit(**TWO, mesh=mesh("ensemble", shape=(3,))),
        ValueError,
        "the ensemble must be a multiple of the 3 devices",
        "got 2",
        "Pass 3",
    ),
)
def test_meshes_that_are_refused(call, error, words):
    refuses(call, error, *words)


def network():
    cell = rj.SimpleRNNCell(2, 3, rngs=nnx.Rngs(0))
    return rj.SequenceModel(cell, 1, rngs=nnx.Rngs(1))


def residual():
    rngs = nnx.Rngs(0)
    cells = [rj.GRUCell(2, 2, rngs=rngs), rj.GRUCell(2, 2, rngs=rngs)]
    return rj.SequenceModel(cells, 1, residual=True, rngs=rngs)


def probed(model, probe):
    return rj.fit(model, ADDING, optax.sgd(0.1), probes=probe, **PACE)


@table(
    no_pace=(lambda: rj.GateProbe(0), ValueError, "every must be at least 1", "0", "Pass"),
    negative=(lambda: rj.LyapunovProbe(-2), ValueError, "every must be", "-2", "Pass"),
    text=(lambda: rj.GradientFlowProbe("2"), TypeError, "every must be", "'2'", "Pass"),
    boolean=(lambda: rj.GradientFlowProbe(True), TypeError, "every must be", "True", "Pass"),
    nobody=(lambda: rj.GateProbe(1, batch_size=0), ValueError, "batch_size must be", "0", "Pass"),
    no_k=(lambda: rj.LyapunovProbe(1, k=0), ValueError, "k must be at least 1", "0", "Pass"),
    k=(lambda: rj.LyapunovProbe(1, k=1.5), TypeError, "k must be a whole", "1.5", "Pass"),
    warmup=(lambda: rj.LyapunovProbe(1, warmup=-1), ValueError, "warmup must be", "-1", "Pass"),
    wrt=(lambda: rj.GradientFlowProbe(1, wrt="y"), ValueError, "wrt must be one of", "'y'"),
    threshold=(
        lambda: rj.GradientFlowProbe(1, threshold=0.0),
        ValueError,
        "threshold must lie in (0, 1]",
        "0.0",
        "Pass",
    ),
    no_threshold=(
        lambda: rj.GradientFlowProbe(1, threshold="much"),
        TypeError,
        "threshold must",
        "much",
        "Pass",
    ),
    cell=(lambda: rj.GateProbe(1, cell=3), TypeError, "cell must be a function", "int", "Pass"),
    name=(lambda: rj.GateProbe(1, name=3), TypeError, "name must", "3", "Pass"),
    no_gates=(
        lambda: probed(network(), rj.GateProbe(1)),
        ValueError,
        "needs a cell with gates",
        "SimpleRNNCell",
        "Use",
    ),
    warmup_of_all_steps=(
        lambda: probed(network(), rj.LyapunovProbe(1, warmup=5)),
        ValueError,
        "warmup must",
        "5",
    ),
    twice=(
        lambda: fit(probes=[toys.Seen(1), toys.Seen(2)]),
        ValueError,
        "different names",
        "'seen' 2 times",
        "Pass",
    ),
    a_class=(lambda: fit(probes=rj.GateProbe), TypeError, "a probe must", "GateProbe", "Pass"),
    no_probe=(lambda: fit(probes=[toys.Seen(1), 3]), TypeError, "a probe must", "int", "Pass"),
    nothing=(lambda: fit(probes=None), TypeError, "a probe must", "NoneType", "Pass"),
    someone_elses_pace=(
        lambda: fit(probes=toys.Seen(0)),
        TypeError,
        "a probe must",
        "every",
        "Pass",
    ),
    no_names=(
        lambda: fit(probes=Nameless(1)),
        ValueError,
        "must return a dict of arrays by name",
        "float64",
    ),
)
def test_probes_that_are_refused(call, error, words):
    refuses(call, error, *words)


class Nameless(toys.Seen):
    """A probe whose findings have no names."""

    def measure(self, model, xs):
        return jnp.mean(xs)


def test_a_probe_must_know_where_the_cell_is():
    with pytest.raises(TypeError, match=r"only of a SequenceModel.*Partial.*Pass cell="):
        fit(probes=rj.LyapunovProbe(1))
    with pytest.raises(ValueError, match=r"simply stacked.*residual.*Pass cell="):
        probed(residual(), rj.LyapunovProbe(1))
