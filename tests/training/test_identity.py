"""What a run is: other code, other data or another model in its folder is refused by name."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from rnn_jax.training.disk.configuration import read_config, write_config
from rnn_jax.training.disk.programs import program_digest
from rnn_jax.training.disk.values import described
from training import runs, toys

# Tasks whose code is another one by the same name.


def changed(name, method):
    """The class of tasks `toys.Mixing`, but for one of its methods."""
    return dataclasses.dataclass(frozen=True)(type("Mixing", (toys.Mixing,), {name: method}))


@jax.custom_jvp
def square(x):
    return jnp.square(x)


@square.defjvp
def _(primals, tangents):
    return square(*primals), 3.0 * primals[0] * tangents[0]


def reseeded(key):
    return jax.random.fold_in(key, 1)


CODES = {
    "task.sample": changed(
        "sample", lambda self, key, n: toys.Mixing.sample(self, reseeded(key), n)
    ),
    "task.loss": changed("loss", lambda self, ys, batch: 2.0 * toys.Mixing.loss(self, ys, batch)),
    "task.metrics": changed(
        "metrics", lambda self, ys, batch: {"mse": self.loss(ys, batch), "worst": jnp.max(ys)}
    ),
    "task.solved": changed("solved", lambda self, metrics: metrics["worst"] < self.solved_below),
    "task.sample_held_out": changed("sample_held_out", toys.Mixing.sample),
}
GRADIENTS = changed("loss", lambda self, ys, batch: jnp.mean(square(ys - batch.targets)))


@pytest.mark.parametrize("name", CODES)
def test_a_task_whose_code_changed_is_refused_by_the_method(name, tmp_path):
    runs.toy(tmp_path, steps=2)
    before = runs.tree_of(tmp_path)
    with pytest.raises(ValueError, match=f"another run.*: {name}: another program"):
        runs.toy(tmp_path, task=CODES[name]())
    assert runs.tree_of(tmp_path) == before


def test_a_loss_of_equal_values_and_other_gradients_is_another(tmp_path):
    runs.toy(tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"task\.loss: another program"):
        runs.toy(tmp_path, task=GRADIENTS())


def test_the_same_code_written_once_more_is_the_same_run(tmp_path):
    runs.toy(tmp_path, steps=2)
    same = changed("loss", lambda self, outputs, b: toys.Mixing.loss(self, outputs, b))
    assert runs.toy(tmp_path, task=same()).steps == 8


# Models. Who they are is told before the first step, and so none is made here: nothing compiles.


def model(activation="tanh", cell=rj.SimpleRNNCell, **options):
    options |= {"activation": activation} if cell is rj.SimpleRNNCell else {}
    rngs = nnx.Rngs(0)
    return rj.SequenceModel(cell(2, 3, rngs=rngs, **options), 2, rngs=rngs)


class Leaky(rj.GRUCell):
    """The same fields, and another step."""

    def step(self, carry, z):
        carry, y = super().step(carry, z)
        return 0.5 * carry, y


def scaled(factor):
    def function(x):
        return jnp.tanh(factor * x)

    return function


def affine(factor):
    def affine_last(weights, inputs):
        return factor * toys.affine_last(weights, inputs)

    return Partial(affine_last, *toys.linear().args)


# (the model that was trained, another one of equal arrays, what is said of it)
MODELS = {
    "activation": (
        model,
        functools.partial(model, "relu"),
        r"cells\.0\.activation\.name: 'tanh' there, 'relu' here",
    ),
    "function of one's own": (
        lambda: model(scaled(1.0)),
        lambda: model(scaled(2.0)),
        "model: another program",
    ),
    "step of a subclass": (
        lambda: model(cell=rj.GRUCell),
        lambda: model(cell=Leaky),
        r"cells\.0\.kind: 'GRUCell' there, 'Leaky' here",
    ),
    "a plain function": (
        functools.partial(affine, 1.0),
        functools.partial(affine, 2.0),
        "model: another program",
    ),
    "shapes": (
        model,
        lambda: rj.SequenceModel(rj.SimpleRNNCell(2, 4, rngs=nnx.Rngs(0)), 2, rngs=nnx.Rngs(0)),
        r"cells\.0\.recurrent_kernel is float64\[3, 3\] there, float64\[4, 4\] here",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_computes_otherwise_is_refused_by_fit_and_restore(name, tmp_path):
    make, make_other, words = MODELS[name]
    result = runs.toy(tmp_path, model=make(), steps=0, probes=())
    assert runs.bits(rj.restore(tmp_path, make())) == runs.bits(result.model)
    assert runs.toy(tmp_path, model=make(), steps=0, probes=()).steps == 0
    before = runs.tree_of(tmp_path)
    with pytest.raises(ValueError, match=f"(?s)another run.*{words}"):
        runs.toy(tmp_path, model=make_other(), probes=())
    with pytest.raises(ValueError, match=f"(?s)cannot be restored into this model: .*{words}"):
        rj.restore(tmp_path, make_other())
    assert runs.tree_of(tmp_path) == before


def test_an_ensemble_that_computes_otherwise_is_refused(tmp_path):
    relu, tanh = (
        rj.ensemble(lambda seed, name=name: model(name), seeds=2) for name in ("relu", "tanh")
    )
    runs.toy(tmp_path, model=relu, steps=0, probes=())
    with pytest.raises(ValueError, match=r"activation\.name: 'relu' there, 'tanh' here"):
        rj.restore(tmp_path, tanh)


# Where programs cannot be compared.


@pytest.fixture(scope="module")
def of_others(tmp_path_factory):
    """A run by whose description other programs were written, and by the same libraries."""
    directory = tmp_path_factory.mktemp("others")
    runs.toy(directory, model=model(scaled(1.0)), steps=0, probes=())
    run = read_config(directory)
    run["programs"] |= dict.fromkeys(set(run["programs"]) - {"optimizer"}, "another")
    write_config(directory, run)
    for call in (
        lambda: runs.toy(directory, model=model(scaled(1.0)), probes=()),
        lambda: rj.restore(directory, model(scaled(1.0))),
    ):
        with pytest.raises(ValueError, match="another program"):
            call()
    return directory


@pytest.mark.parametrize("name", ["jax", "flax", "optax", "rnn_jax", "backend"])
def test_where_something_else_wrote_the_programs_they_are_not_compared(name, of_others, tmp_path):
    shutil.copytree(of_others, tmp_path, dirs_exist_ok=True)
    run = read_config(tmp_path)
    if name == "backend":
        run["backend"] = "another"
    else:
        run["versions"][name] = "0"
    write_config(tmp_path, run)
    rj.restore(tmp_path, model(scaled(1.0)))
    # What is written in words can be compared all the same.
    with pytest.raises(ValueError, match="activation"):
        rj.restore(tmp_path, model("relu"))
    assert runs.toy(tmp_path, model=model(scaled(1.0)), steps=0, probes=()).steps == 0


def test_a_restored_model_of_another_precision_is_named(tmp_path):
    runs.toy(tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"bias is float64\[2\] there, float32\[2\] here"):
        rj.restore(tmp_path, toys.linear(dtype=jnp.float32))


# Digests.


def plus(constant):
    return lambda x: x + constant


ALIKE = {
    "a name": (lambda x: jnp.sin(x), lambda other: jnp.sin(other)),
    "an equal constant": (plus(np.arange(3.0)), plus(np.arange(3.0))),
    "a jitted function by another name": (jax.jit(jnp.sin), jax.jit(lambda x: jnp.sin(x))),
}
UNLIKE = {
    "an operation": (jnp.sin, jnp.cos),
    "a constant": (plus(np.arange(3.0)), plus(np.arange(1.0, 4.0))),
    "a constant in a jitted function": (
        jax.jit(plus(np.arange(3.0))),
        jax.jit(plus(np.arange(1.0, 4.0))),
    ),
    "a number": (plus(1.0), plus(2.0)),
    "an option": (lambda x: jnp.cumsum(x), lambda x: jnp.cumsum(x[::-1])[::-1]),
    "the order": (lambda x: x[0] - x[1], lambda x: x[1] - x[0]),
    "the length of a loop": tuple(
        lambda x, n=n: jax.lax.fori_loop(0, n, lambda _, c: c * x, x) for n in (3, 4)
    ),
}


@pytest.mark.parametrize("name", [*ALIKE, *UNLIKE])
def test_a_digest_is_of_what_is_computed_and_of_nothing_else(name):
    first, second = (program_digest(f, jnp.ones(3)) for f in {**ALIKE, **UNLIKE}[name])
    assert (first == second) == (name in ALIKE)


@pytest.mark.parametrize("mode", ["jax_disable_jit", "jax_debug_nans", "jax_check_tracer_leaks"])
def test_a_digest_does_not_depend_on_how_a_program_is_looked_into(mode):
    def loop(x):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.sin)(c), c), x, None, length=3)

    before = program_digest(loop, jnp.ones(3))
    jax.config.update(mode, True)
    try:
        assert program_digest(loop, jnp.ones(3)) == before
    finally:
        jax.config.update(mode, False)


# Data.


@dataclasses.dataclass(frozen=True, eq=False)
class Held(toys.Mixing):
    """A task with data of its own, of any kind."""

    data: object = None


NUMBERS = np.random.default_rng(0).normal(size=(300, 5))
DATA = {
    "array": NUMBERS,
    "key": jax.random.key(3),
    "bytes": NUMBERS.tobytes(),
    "bytearray": bytearray(NUMBERS.tobytes()),
    "text": "abc" * 3000,
    "list": NUMBERS[:, 0].tolist(),
    "nested tuple": tuple(map(tuple, NUMBERS.tolist())),
    "set": frozenset(NUMBERS[:, 0].tolist()),
    "dict of arrays": {"train": NUMBERS, "test": [NUMBERS, NUMBERS]},
    "dict of numbers": {str(index): float(x) for index, x in enumerate(NUMBERS.reshape(-1))},
    "bfloat16": jnp.asarray(NUMBERS, jnp.bfloat16),
}


def other(data):
    """Data of the same kind and size."""
    if isinstance(data, dict):
        return {name: other(held) for name, held in data.items()}
    if isinstance(data, list):
        return [*data[:-1], data[0] * 2 + 1]
    if isinstance(data, tuple):
        return (*data[:-1], data[0])
    if isinstance(data, frozenset):
        return frozenset([*sorted(data)[:-1], 100.0])
    if isinstance(data, (bytes, bytearray, str)):
        return type(data)(reversed(data)) if not isinstance(data, str) else data[::-1]
    if isinstance(data, float):
        return data + 1
    return jax.random.key(4) if data.ndim == 0 else data[::-1]


# Each kind in one of the two places, in turn; those that come in several kinds in both.
HELD = [
    (kind, place)
    for index, kind in enumerate(DATA)
    for place in ("task", "config")
    if kind in ("array", "bytes") or (place == "task") == (index % 2 == 0)
]


@pytest.mark.parametrize(("kind", "place"), HELD)
def test_data_stand_in_the_description_by_form_and_digest_and_are_told_apart(kind, place, tmp_path):
    def options(data):
        return {"task": Held(data=data)} if place == "task" else {"config": {"data": data}}

    runs.toy(tmp_path, steps=2, **options(DATA[kind]))
    found = json.loads((tmp_path / "config.json").read_text())["run"][place]["data"]
    assert len(json.dumps(found)) < 700
    assert "digest" in json.dumps(found)
    assert runs.toy(tmp_path, steps=4, **options(DATA[kind])).steps == 4
    with pytest.raises(ValueError, match=rf"holds another run.*{place}\.data.*digest"):
        runs.toy(tmp_path, steps=4, **options(other(DATA[kind])))


def test_what_is_small_is_written_out():
    values = {"rates": (0.1, 0.2), "width": np.int32(7), "name": "a", "on": True, "none": None}
    words = {"rates": [0.1, 0.2], "width": 7, "name": "a", "on": True, "none": None}
    assert described(values) == words


def test_what_an_object_computes_when_it_is_first_asked_for_is_not_of_its_description():
    class Lazy:
        def __init__(self):
            self.size = 3

        @functools.cached_property
        def table(self):
            return [1] * self.size

    lazy = Lazy()
    before = described(lazy)
    assert lazy.table == [1, 1, 1]
    assert described(lazy) == before == {"kind": "Lazy", "size": 3}


def test_an_object_that_holds_itself_or_a_module_can_be_described():
    class Odd:
        pass

    odd = Odd()
    odd.itself, odd.module = odd, np
    assert described(odd) == {"kind": "Odd", "itself": "Odd", "module": "numpy"}


def test_of_an_optimiser_only_its_numbers_count(tmp_path):
    runs.toy(tmp_path, steps=0, optimizer=optax.adamw(optax.linear_schedule(0.1, 0.0, 8)))
    again = optax.adamw(optax.linear_schedule(0.1, 0.0, 8))
    assert runs.toy(tmp_path, steps=0, optimizer=again).steps == 0
    with pytest.raises(ValueError, match="optimizer: another one, or other numbers in it"):
        runs.toy(tmp_path, optimizer=optax.adamw(optax.linear_schedule(0.1, 0.0, 9)))


def decaying(rate):
    """An optimiser whose count begins as a number of Python."""

    def update(gradient, count, parameters=None):
        return jax.tree.map(lambda g: -0.1 * rate**count * g, gradient), count + 1

    return optax.GradientTransformation(lambda parameters: 0, update)


def test_an_optimiser_is_what_it_does_at_any_step_and_not_at_its_first_alone(tmp_path):
    runs.toy(tmp_path, steps=0, optimizer=decaying(0.5))
    assert runs.toy(tmp_path, steps=0, optimizer=decaying(0.5)).steps == 0
    with pytest.raises(ValueError, match="optimizer: another one, or other numbers in it"):
        runs.toy(tmp_path, optimizer=decaying(0.9))


class Shouting:
    """Its address as some libraries write it."""

    __slots__ = ()

    def __repr__(self):
        return f"<Shouting at 0x{id(self):X}>"


# Each call gives other objects, as another process does.
SURROUNDINGS = {
    "a generator of NumPy": lambda: np.random.default_rng(0),
    "an address in capitals": Shouting,
    "functions as keys": lambda: {scaled(1.0): 1, scaled(2.0): 2},
    "objects as keys": lambda: {object(): 1, Shouting(): 2},
    "a complex number": lambda: np.complex64(1j),
    "a complex number of JAX": lambda: jnp.asarray(1j),
    "a long float": lambda: np.longdouble(1),
    "a day": lambda: np.datetime64("2020-01-01"),
    "bytes of NumPy": lambda: np.bytes_(b"x"),
    "a variable of nothing": lambda: nnx.Variable(None),
    "a variable of several": lambda: nnx.Variable({"a": np.zeros(2), "b": np.ones(2)}),
    "a long name of no encoding": lambda: "\udcff" * 5000,
}


def test_whatever_a_task_holds_can_be_said_and_is_the_same_in_another_process(tmp_path):
    # All alive at once, so at two addresses each. What differs is named by its kind.
    kept = [{kind: make() for kind, make in SURROUNDINGS.items()} for _ in range(2)]
    for steps, values in zip((2, 4), kept, strict=True):
        held = {"task": Held(data=values), "config": values}
        assert runs.toy(tmp_path, steps=steps, **held).steps == steps


def test_keys_that_read_alike_and_variables_of_several_arrays_lose_nothing():
    assert list(described({scaled(1.0): 1, scaled(2.0): 2}).values()) == [1, 2]
    first, second = (
        described(nnx.Variable({"a": np.zeros(2), "b": np.full(2, b)})) for b in (1.0, 2.0)
    )
    assert first != second
