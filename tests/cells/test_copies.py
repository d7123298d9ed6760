"""A copy, however it is made, is the same thing: one structure, one program, the same fast path."""

import copy
import functools
import math
import operator
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax._functions import value_of
from rnn_jax.activations import ACTIVATIONS
from rnn_jax.cells.claims import CLAIMS, makes_claim
from rnn_jax.cells.structure import fused_form
from rnn_jax.cells.wrappers.wrapper import CellWrapper
from rnn_jax.initializers import identity, orthogonal

IN, H = 2, 3
XS = jnp.asarray(np.random.default_rng(0).normal(size=(4, IN)))


def pickled(value):
    return pickle.loads(pickle.dumps(value))


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "tree_map": lambda value: jax.tree.map(lambda leaf: leaf, value),
    "unflatten": lambda value: jax.tree.unflatten(*reversed(jax.tree.flatten(value))),
    "nnx_clone": nnx.clone,
    "nnx_split_merge": lambda value: nnx.merge(*nnx.split(value)),
    "through_jit": jax.jit(lambda value: value),
}


def squashed(x):
    """An activation that can be imported."""
    return x / (1 + jnp.abs(x))


@jax.jit
def compiled(x):
    return x / (1 + jnp.abs(x))


@jax.custom_jvp
def straight(x):
    return jnp.sign(x)


straight.defjvp(lambda at, along: (jnp.sign(*at), along[0]))


class Smooth:
    """An activation that is an object, compared by value."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return jnp.tanh(self.rate * x)

    def __eq__(self, other):
        return isinstance(other, Smooth) and self.rate == other.rate

    def __hash__(self):
        return hash(self.rate)


def simple(activation, seed=0):
    return rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(seed))


def lstm(seed=0, in_features=IN):
    return zoo.CELLS["lstm"](in_features, H, seed)


OWN = {
    "function": squashed,
    "compiled": compiled,
    "custom_jvp": straight,
    "jax": jax.nn.swish,
    "numpy_function": jnp.cbrt,
    "partial": functools.partial(jax.nn.leaky_relu, negative_slope=0.3),
    "partial_of_builtin": functools.partial(operator.mul, 0.5),
    "object": Smooth(0.5),
    "stated": rj.Activation("squashed", squashed, (0.0, 1.0)),
    "stated_compiled": rj.Activation("compiled", compiled, (0.0, 1.0)),
    "leaky": rj.leaky_relu(0.2),
}
MODULES = {
    **{name: functools.partial(make, IN, H, 0) for name, make in zoo.CELLS.items()},
    **{f"named_{name}": functools.partial(simple, name) for name in ACTIVATIONS},
    **{f"own_{name}": functools.partial(simple, value) for name, value in OWN.items()},
    "wrapper": lambda: CellWrapper(lstm()),
    "zoneout": lambda: rj.Zoneout(lstm(), {"c": 0.3}),
    "recurrent_dropout": lambda: rj.RecurrentDropout(simple("relu"), 0.3, 0.1),
    "learned_carry": lambda: rj.LearnedCarry(lstm(), rngs=nnx.Rngs(0)),
    "stack": lambda: rj.StackedCell([lstm(), simple_on_top()]),
    "bidirectional": lambda: rj.Bidirectional(simple("tanh"), simple("tanh", 1)),
    "model": lambda: rj.SequenceModel(simple("tanh"), 1, rngs=nnx.Rngs(0)),
    "deep_model": lambda: rj.SequenceModel(
        [lstm(), simple_on_top()],
        2,
        readout="all",
        residual=True,
        layer_norm=True,
        dropout=0.1,
        rngs=nnx.Rngs(0),
    ),
    "ensemble": lambda: rj.ensemble(
        lambda rngs: rj.SequenceModel(
            rj.SimpleRNNCell(IN, H, rngs=rngs, activation=lambda x: jnp.tanh(2 * x)), 1, rngs=rngs
        ),
        2,
    ),
}
NOT_PICKLED = {"ensemble"}  # Its activation is a lambda, which Python cannot pickle.


def simple_on_top():
    return rj.SimpleRNNCell(H, H, activation=squashed, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("name", MODULES)
def test_a_copy_of_a_module_is_the_same_thing(name):
    original = MODULES[name]()
    structure, leaves = jax.tree.structure(original), jax.tree.leaves(original)
    program = jax.jit(lambda module: jax.tree.map(jnp.negative, jax.tree.leaves(module)))
    program(original)
    claims = {said for said in CLAIMS if makes_claim(original, said)}
    for way, make in COPIES.items():
        if way == "pickle" and name in NOT_PICKLED:
            continue
        again = make(original)
        assert type(again) is type(original)
        assert jax.tree.structure(again) == structure, way
        assert hash(jax.tree.structure(again)) == hash(structure), way
        for one, other in zip(jax.tree.leaves(again), leaves, strict=True):
            np.testing.assert_array_equal(one, other)
        program(again)
        assert program._cache_size() == 1, way
        assert {said for said in CLAIMS if makes_claim(again, said)} == claims, way
        assert (fused_form(again) is None) == (fused_form(original) is None), way


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "nnx_clone"])
def test_a_deep_copy_has_weights_of_its_own(way):
    original = simple("tanh")
    again, before = COPIES[way](original), np.asarray(original.kernel[...])
    again.kernel[...] = again.kernel[...] + 1
    np.testing.assert_array_equal(original.kernel[...], before)


@jax.jit
def measured(cell):
    return rj.unroll(cell, XS)[1]


def test_copies_of_a_simple_cell_share_one_compiled_program():
    original = simple("relu")
    ys = measured(original)
    size = measured._cache_size()
    for make in COPIES.values():
        np.testing.assert_array_equal(measured(make(original)), ys)
    assert measured._cache_size() == size


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), *map(OWN.get, ("stated", "leaky"))])
def test_a_copy_of_an_activation_is_equal(activation):
    for make in (copy.copy, copy.deepcopy, pickled):
        again = make(activation)
        assert again == activation
        assert hash(again) == hash(activation)
        assert rj.activation_slope_range(again) == activation.slope_range
        np.testing.assert_array_equal(again(XS), activation(XS))


class Steeper(rj.Activation):
    """Computes something else with the same function."""

    def __call__(self, x):
        return 2 * self.function(x)


def test_an_activation_of_another_class_is_not_equal():
    own, steeper = ACTIVATIONS["tanh"], Steeper("tanh", jnp.tanh, (0.0, 1.0))
    assert steeper != own
    assert own != steeper
    assert pickled(copy.deepcopy(steeper))(XS).tolist() == (2 * jnp.tanh(XS)).tolist()
    cells = simple(own), simple(steeper)
    assert fused_form(cells[0]) is not None
    assert fused_form(cells[1]) is None
    one, other = (measured(cell) for cell in cells)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(other, measured(simple(lambda x: 2 * jnp.tanh(x))), rtol=1e-12)


def test_an_activation_of_a_lambda_is_copied_but_not_pickled():
    mine = rj.Activation("mine", lambda x: x**3, (0.0, math.inf))
    assert copy.deepcopy(mine) == mine
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(mine)


@pytest.mark.parametrize("make", [orthogonal, identity])
def test_a_copy_of_an_initializer_is_equal(make):
    original = make(0.5)
    for again in (*(way(original) for way in (copy.copy, copy.deepcopy, pickled)), make(0.5)):
        assert again == original
        drawn = [f(jax.random.key(0), (H, H), jnp.float64) for f in (original, again)]
        np.testing.assert_array_equal(*drawn)
    assert make(0.25) != original


# Functions that are built anew


def scaled(scale):
    return lambda x: scale * jnp.tanh(x)


def through(inner):
    return lambda x: inner(x)


def with_default(scale):
    def function(x, scale=scale, *, more=(scale, [scale])):
        return scale * x + more[0]

    return function


def with_attribute(scale):
    def function(x):
        return function.scale * x

    function.scale = scale
    return function


def with_count():
    count = 0

    def function(x):
        nonlocal count
        count += 1
        return count * x

    return function


class Pair(NamedTuple):
    low: float
    high: float


MADE = {
    "float": lambda: scaled(0.5),
    "nan": lambda: scaled(math.nan),
    "array": lambda: scaled(np.arange(3.0)),
    "jax_array": lambda: scaled(jnp.arange(3.0)),
    "numpy_scalar": lambda: scaled(np.float32(0.5)),
    "tuple": lambda: scaled((1, (2.0, "a"))),
    "named_tuple": lambda: scaled(Pair(1.0, 2.0)),
    "dict": lambda: scaled({"a": [1.0, {2}]}),
    "dtype": lambda: scaled(jnp.dtype("float32")),
    "function": lambda: through(scaled(0.5)),
    "activation": lambda: through(rj.Activation("mine", scaled(0.5), (0.0, 0.5))),
    "jax_function": lambda: through(jnp.tanh),
    "defaults": lambda: with_default(0.5),
    "recursive": lambda: with_attribute(0.5),
    "partial": lambda: functools.partial(jax.nn.leaky_relu, negative_slope=0.5),
    "partial_of_closure": lambda: functools.partial(scaled(0.5)),
    "lambda": lambda: lambda x: x**3,
    "method": lambda: OWN["object"].__call__,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_functions_of_equal_code_and_equal_values_are_equal(make):
    one, other = make(), make()
    assert one is not other
    assert value_of(one) == value_of(other)
    assert hash(value_of(one)) == hash(value_of(other))
    activations = [rj.Activation("mine", f, (0.0, 1.0)) for f in (one, other)]
    assert activations[0] == activations[1]
    assert jax.tree.structure(simple(one)) == jax.tree.structure(simple(other))


UNEQUAL = {
    "float": (scaled(0.5), scaled(0.25)),
    "sign_of_zero": (scaled(0.0), scaled(-0.0)),
    "type_of_number": (scaled(1), scaled(1.0)),
    "bool": (scaled(1), scaled(True)),
    "precision": (scaled(np.float32(1)), scaled(np.float64(1))),
    "array": (scaled(np.arange(3.0)), scaled(np.arange(3.0) + 1)),
    "array_type": (scaled(np.arange(3)), scaled(np.arange(3.0))),
    "array_kind": (scaled(np.ones(3)), scaled(jnp.ones(3))),
    "order": (scaled({"a": 1, "b": 2}), scaled({"b": 2, "a": 1})),
    "inner": (through(scaled(0.5)), through(scaled(0.25))),
    "defaults": (with_default(0.5), with_default(0.25)),
    "attribute": (with_attribute(0.5), with_attribute(0.25)),
    "code": (lambda x: x + 1, lambda x: x + 2),
    "partial": (functools.partial(scaled(0.5)), functools.partial(scaled(0.25))),
    "partial_keywords": tuple(
        functools.partial(jax.nn.leaky_relu, negative_slope=slope) for slope in (0.5, 0.25)
    ),
    "compiled_anew": (jax.jit(scaled(0.5)), jax.jit(scaled(0.5))),
    "many": (scaled([0] * 2000), scaled([0] * 2000)),
    "opaque": (scaled(object()), scaled(object())),
    "iterator": (scaled(iter([1.0])), scaled(iter([1.0]))),
    "globals": (
        eval("lambda x: rate * x", {"rate": 0.5}),
        eval("lambda x: rate * x", {"rate": 0.25}),
    ),
}


@pytest.mark.parametrize(("one", "other"), UNEQUAL.values(), ids=UNEQUAL)
def test_functions_that_may_differ_are_not_equal(one, other):
    assert value_of(one) == value_of(one)
    assert value_of(one) != value_of(other)
    assert jax.tree.structure(simple(one)) != jax.tree.structure(simple(other))


@pytest.mark.parametrize("change", ["closure", "list", "array"])
def test_what_has_changed_since_is_equal_to_nothing_built_anew(change):
    values = {"closure": 1.0, "list": [1.0], "array": np.ones(2)}[change]

    def build():
        held = values

        def hold(value):
            nonlocal held
            held = value

        return rj.Activation("mine", lambda x: held * x, None), hold

    (one, hold), (other, _) = build(), build()
    assert one == other
    if change == "closure":
        hold(2.0)
    else:
        values[0] = 2.0
    assert one == one
    assert one != other
    assert one != build()[0]


def test_a_traced_value_is_itself_alone():
    @jax.jit
    def check(scale):
        assert value_of(scaled(scale)) == value_of(scaled(scale))
        assert value_of(scaled(scale)) != value_of(scaled(scale + 0))
        return scale

    check(1.0)


def test_members_of_an_ensemble_may_build_the_same_activation_each():
    def make(rngs):
        cell = rj.SimpleRNNCell(IN, H, activation=scaled(0.5), rngs=rngs)
        return rj.SequenceModel(cell, 1, rngs=rngs)

    models = rj.ensemble(make, 3)
    out = jax.vmap(lambda model: model(XS))(models)
    for index in range(3):
        np.testing.assert_allclose(out[index], rj.member(models, index)(XS), rtol=1e-12)
    with pytest.raises(ValueError, match="member 1 differs"):
        rj.ensemble(
            lambda seed: simple(scaled(0.5 + seed), seed),
            2,
        )


# Results


def results():
    cell = simple("tanh")

    def loss(ys):
        return jnp.sum(ys)

    return {
        "linearization": rj.linearize(cell, XS),
        "flow": rj.gradient_flow(cell, XS, loss=loss),
        "spectrum": rj.lyapunov_exponents(cell, XS),
        "covariant": rj.covariant_lyapunov_vectors(cell, XS),
        "local": rj.LocalLyapunovExponents(jnp.zeros((3, 2)), window=2, start=1),
        "attribution": rj.attribution(cell, XS),
        "operator": rj.jacobian_operator(cell, XS),
        "estimate": rj.estimate_jacobian_log_norms(cell, XS, key=jax.random.key(0)),
        "signal": rj.backprop_signal(loss, cell, XS),
    }


def test_a_copy_of_a_result_is_the_same_result():
    for name, result in results().items():
        for way in ("copy", "deepcopy", "pickle", "tree_map"):
            again = COPIES[way](result)
            assert type(again) is type(result)
            assert jax.tree.structure(again) == jax.tree.structure(result), (name, way)
            pairs = zip(jax.tree.leaves(again), jax.tree.leaves(result), strict=True)
            for one, other in pairs:
                np.testing.assert_array_equal(one, other)
            if name == "flow":
                assert again.summary() == result.summary()
