"""Tasks of one's own that do not give what a loop needs: refused before anything is written."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from rnn_jax.tasks.base import RESERVED, Batch
from training import toys

PACE = {"steps": 3, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}


def fit(task=None, model=None, **options):
    task, model = task or toys.Mixing(), model or toys.linear()
    return rj.fit(model, task, optax.sgd(0.1), **{**PACE, **options})


def task_whose(method, change):
    """A task like `Mixing` with a method whose result is changed."""

    class Broken(toys.Mixing):
        pass

    def changed(self, *arguments):
        return change(getattr(toys.Mixing, method)(self, *arguments))

    setattr(Broken, method, changed)
    return Broken()


def held_out(change):
    class Broken(toys.Mixing):
        def sample_held_out(self, key, batch_size):
            return change(self.sample(key, batch_size))

    return Broken()


BATCHES = {
    "tuple": (tuple, TypeError, "must return a batch", "tuple", "Return rnn_jax.tasks.Batch"),
    "none": (lambda b: None, TypeError, "must return a batch", "NoneType", "Return"),
    "a dict": (lambda b: b._asdict(), TypeError, "must return a batch", "dict", "Return"),
    "no arrays": (
        lambda b: b._replace(inputs=[1.0, 2.0]),
        TypeError,
        "must return a batch",
        "inputs of type list",
        "Return",
    ),
    "no weights": (
        lambda b: b._replace(weights=None),
        TypeError,
        "must return a batch of arrays",
        "NoneType for weights",
        "jnp.ones",
    ),
    "too few": (
        lambda b: jax.tree.map(lambda a: a[1:], b),
        ValueError,
        "must draw as many examples",
        "inputs of shape",
        "Lead with",
    ),
    "none at all": (
        lambda b: jax.tree.map(lambda a: a[:0], b),
        ValueError,
        "must draw as many examples",
        "(0, 2, 2)",
        "Lead with",
    ),
    "time first": (
        lambda b: b._replace(inputs=b.inputs.swapaxes(0, 1)),
        ValueError,
        "must draw as many examples",
        "inputs of shape (2,",
        "Lead with",
    ),
    "too few targets": (
        lambda b: b._replace(targets=b.targets[:2]),
        ValueError,
        "must draw as many examples",
        "targets of shape (2, 2)",
        "Lead with",
    ),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("method", ["sample", "sample_held_out"])
def test_batches(name, method, tmp_path):
    change, error, rule, *words = BATCHES[name]
    task = held_out(change) if method == "sample_held_out" else task_whose(method, change)
    folder = tmp_path / "run"
    refuses(lambda: fit(task, directory=folder), error, f"a task's {method} {rule}", *words)
    assert not folder.exists()


def complex_of(value):
    return jax.lax.complex(value, value)


RESULTS = {
    "loss": {
        "a number": (
            lambda loss: 0.5,
            TypeError,
            "loss must be a JAX scalar",
            "float",
            "jax.numpy",
        ),
        "nan": (lambda loss: np.nan, TypeError, "loss must be a JAX scalar", "float", "jax.numpy"),
        "none": (lambda loss: None, TypeError, "loss must be", "NoneType", "jax.numpy"),
        "numpy": (
            lambda loss: np.float64(0.5),
            TypeError,
            "loss must be a JAX scalar",
            "jax.numpy",
        ),
        "whole": (
            lambda loss: loss.astype(int),
            TypeError,
            "loss must be",
            "an array of int64",
            "jax.numpy",
        ),
        "truth": (lambda loss: loss > 0, TypeError, "loss must be", "an array of bool"),
        "complex": (complex_of, TypeError, "loss must be", "an array of complex128"),
        "pair": (lambda loss: (loss, {}), TypeError, "loss must be", "tuple"),
        "several": (lambda loss: loss[None], ValueError, "loss must be a scalar", "(1,)", "Return"),
    },
    "metrics": {
        "none": (lambda m: None, TypeError, "metrics must be a dict", "NoneType", "Return"),
        "a tuple": (
            lambda m: tuple(m.values()),
            TypeError,
            "metrics must be a dict",
            "tuple",
            "Return",
        ),
        "an array": (lambda m: m["mse"], TypeError, "metrics must be a dict", "Tracer", "Return"),
        "a number": (
            lambda m: {**m, "own": 0.5},
            TypeError,
            "metrics must be a scalar of real numbers",
            "float for 'own'",
            "jnp.asarray",
        ),
        "nothing": (
            lambda m: {**m, "own": None},
            TypeError,
            "metrics must be",
            "NoneType",
            "leave",
        ),
        "complex": (
            lambda m: {**m, "own": complex_of(m["mse"])},
            TypeError,
            "metrics must be",
            "complex128",
            "'own'",
        ),
        "key": (
            lambda m: {**m, "own": jax.random.key(0)},
            TypeError,
            "metrics must be",
            "key",
            "'own'",
        ),
        "nested": (lambda m: {**m, "own": m}, TypeError, "metrics must be", "dict for 'own'"),
        "number as name": (
            lambda m: {**m, 3: m["mse"]},
            TypeError,
            "name of a metric must be a string",
            "3 of type int",
            "Name it",
        ),
        "several": (
            lambda m: {**m, "own": m["mse"][None]},
            ValueError,
            "metrics must be a scalar",
            "(1,) for 'own'",
            "Take a mean",
        ),
    },
    "solved": {
        "none": (lambda s: None, TypeError, "solved must return", "NoneType", "Return"),
        "a number": (lambda s: 1, TypeError, "solved must return", "int", "Return"),
        "numbers": (
            lambda s: s.astype(float),
            TypeError,
            "solved must return",
            "an array of float64",
            "Return",
        ),
        "text": (lambda s: "yes", TypeError, "solved must return", "str", "Return"),
        "several": (lambda s: s[None], ValueError, "solved must return one", "(1,)", "jnp.all"),
    },
}
ROWS = [(method, name) for method, rows in RESULTS.items() for name in rows]


@pytest.mark.parametrize(("method", "name"), ROWS)
def test_results(method, name, tmp_path):
    change, error, *words = RESULTS[method][name]
    folder = tmp_path / "run"
    refuses(lambda: fit(task_whose(method, change), directory=folder), error, *words)
    assert not folder.exists()


@pytest.mark.parametrize("name", [*RESERVED, "seen"])
def test_names_of_metrics_that_are_taken(name):
    """By a column of the history, or by a probe."""
    task = task_whose("metrics", lambda m: {**m, name: m["mse"]})
    words = ("a metric must not be named", repr(name), "already", "Rename")
    refuses(lambda: fit(task, probes=toys.Seen(1)), ValueError, *words)


def test_every_column_of_a_history_is_reserved():
    history = fit().history
    own = {name for name in dir(history) if not name.startswith("_")} - {"keys", "plot"}
    assert own | {"loss", "evaluation"} == set(RESERVED)
    assert history.keys() == ("step", "loss", "gradient_norm", "updates", "mse", "worst")


def test_truths_and_no_metrics_at_all_will_do():
    class Minimal(toys.Mixing):
        def metrics(self, outputs, batch):
            return {}

        def solved(self, metrics):
            return False

    result = fit(Minimal())
    assert set(result.history.metrics) == {"loss"}
    assert not result.history.solved
    counted = fit(task_whose("metrics", lambda m: {**m, "below": m["mse"] < 9}))
    assert counted.history.metrics["below"].tolist() in ([0.0], [1.0])


def test_a_batch_may_be_of_ones_own_kind():
    class Own:
        def __init__(self, batch):
            self.inputs, self.targets = batch.inputs, batch.targets

    jax.tree_util.register_pytree_node(
        Own, lambda own: ((own.inputs, own.targets), None), lambda _, two: Own(Batch(*two, None))
    )
    toys.identical(fit(task_whose("sample", Own)).model, fit().model)


@pytest.mark.parametrize("name", ["stop_when_solved", "resume", "progress", "tensorboard"])
@pytest.mark.parametrize("value", ["no", "False", 0, 1, None, [], np.array([True])], ids=repr)
def test_flags_are_true_or_false(name, value, tmp_path):
    words = (f"{name} must be True or False", "got", "Pass a bool")
    folder = tmp_path / "run"
    refuses(lambda: fit(directory=folder, **{name: value}), TypeError, *words)
    assert not folder.exists()


@pytest.mark.parametrize("every", [True, 0, -1, 1.5, "2", None], ids=repr)
def test_probes_of_ones_own_say_when(every):
    refuses(lambda: fit(probes=toys.Seen(every)), TypeError, "a probe must have", "Seen", "Pass")


FINDINGS = {
    "none": (lambda xs: None, "None"),
    "a list": (lambda xs: [jnp.sum(xs)], "float64"),
    "a name": (lambda xs: {3: jnp.sum(xs)}, "the name 3"),
    "text": (lambda xs: {"own": "much"}, "str for 'own'"),
    "nothing": (lambda xs: {"own": None}, "NoneType for 'own'"),
    "nested": (lambda xs: {"own": {"inner": jnp.sum(xs)}}, "dict for 'own'"),
    "complex": (lambda xs: {"own": complex_of(jnp.sum(xs))}, "complex128 for 'own'"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_probes_find(name, tmp_path):
    find, word = FINDINGS[name]

    class Broken(toys.Seen):
        def measure(self, model, xs):
            return find(xs)

    folder = tmp_path / "run"
    refuses(
        lambda: fit(probes=Broken(1), directory=folder),
        ValueError,
        "must return a dict of arrays by name",
        word,
    )
    assert not folder.exists()


def test_an_ensemble_that_does_not_know_it_is_one():
    for call in (
        lambda: fit(model=toys.linears(1, 2, 3)),
        lambda: rj.fit(
            toys.linears(1, 2),
            toys.Mixing(),
            optax.sgd,
            hyperparameters=[0.1, 0.2],
            **PACE,
        ),
    ):
        says = r"(?s)leading axis.*[Pp]ass members=[3E]"
        with pytest.raises((TypeError, ValueError), match=says):
            call()
    # What is wrong with the task is not blamed on the model's first axis.
    with pytest.raises(TypeError) as caught:
        fit(task_whose("loss", lambda loss: None))
    assert "members" not in str(caught.value)


class Gated(nnx.Module):
    """A gated cell of someone else's, which does not tell its gates."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones(()))

    def initialize_carry(self, shape):
        return jnp.zeros((*shape[:-1], 2))

    def __call__(self, carry, x):
        gate = jax.nn.sigmoid(x * self.kernel[...])
        state = gate * carry + (1 - gate) * x
        return state, state


class Telling(Gated):
    def gates(self, carry, x):
        return {"update": jax.nn.sigmoid(x * self.kernel[...])}


class Mumbling(Gated):
    def gates(self, carry, x):
        return jax.nn.sigmoid(x * self.kernel[...])


class Reading(nnx.Module):
    """A model of someone else's around a cell."""

    def __init__(self, cell):
        self.cell = cell

    def __call__(self, inputs):
        return rj.unroll(self.cell, inputs)[1][:, -1]


def test_gates_of_a_cell_of_ones_own():
    probe = rj.GateProbe(1, cell=lambda model: model.cell)
    words = ("needs a cell with gates", "Gated", "Use", "gates(carry, x)", "dict")
    refuses(lambda: fit(model=Reading(Gated()), probes=probe), ValueError, *words)
    words = ("gates of a cell must be a dict", "Mumbling", "Return")
    refuses(lambda: fit(model=Reading(Mumbling()), probes=probe), TypeError, *words)
    found = fit(model=Reading(Telling()), probes=probe).history.probes["gates"]
    assert set(found.values) == {"update_mean", "update_shut", "update_open"}
    assert np.all((found["update_mean"] > 0) & (found["update_mean"] < 1))
