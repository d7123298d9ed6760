"""What a cell tells of itself counts for the mathematics that it runs.

Every method of every cell and wrapper is overridden in every way that Python has, and what the
package computes is then held against the plain call of the cell. Run step by step
(`jax.disable_jit`), where hundreds of classes would each be compiled.
"""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claiming import (
    CLOSE,
    IN,
    WRAPPERS,
    XS,
    H,
    Leaky,
    Named,
    assert_runs_its_own_call,
    built,
    by_hand,
    claims_of,
    jacobian,
    random_carry,
)
from flax import nnx
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
import zoo
from refusing import refuses
from rnn_jax.cells.claims import CLAIMS, NOISE, claim


def methods_of(cls):
    """Functions of this package's classes that a step of `cls` may use, by introspection."""
    apart = CLAIMS | NOISE | {"__init__", "num_feature_axes", "initialize_carry", "_initial_part"}
    own = [base for base in cls.__mro__ if base.__module__.startswith("rnn_jax")]
    names = {n for base in own for n, v in vars(base).items() if isinstance(v, types.FunctionType)}
    return sorted(names - apart - {"__init_subclass__"})


def changed(function):
    """Another version of a function: what it returns, a little smaller."""

    @functools.wraps(function)
    def smaller(*args, **kwargs):
        return jax.tree.map(lambda leaf: 0.9 * leaf, function(*args, **kwargs))

    return smaller


def recast(cell, cls):
    """An object of another class with all that the cell holds."""
    other = object.__new__(cls)
    vars(other).update(vars(cell))
    return other


def override(cell, way, name, monkeypatch):
    """The cell with another version of a method, by one of the ways that Python has."""
    cls = type(cell)
    other = changed(getattr(cls, name))
    if way == "object":
        cell = recast(cell, cls)
        setattr(cell, name, types.MethodType(other, cell))
    elif way == "on_the_class":
        monkeypatch.setattr(cls, name, other)
    elif way == "subclass":
        return recast(cell, type("Changed", (cls,), {name: other}))
    elif way == "grandchild":
        child = type("Changed", (cls,), {name: other})
        return recast(cell, type("Grandchild", (child,), {}))
    else:
        mixin = type("Mixin", (), {name: other})
        return recast(cell, type("Mixed", (mixin, cls), {}))
    return cell


BARE = ("simple_tanh", "lstm", "lstm_peephole", "gru_reset_after", "gru_reset_before", "min_gru")
SWEPT = [(name, "plain") for name in BARE] + [
    ("lstm", wrap) for wrap in WRAPPERS if wrap != "plain"
]
WAYS = ("grandchild", "mixin", "object", "on_the_class")
# Which no step computes with, but what a cell says of it.
BESIDE_STEPS = ("_bias_row", "_check_input", "_whole_kernel", "transition_kernel")
# Each method of each class by a subclass and by one of the other ways, in turn. What it then
# computes is looked at in the calls and steps of all, and in every third other method.
OVERRIDDEN = [
    (name, wrap, method, way, way in looked_at)
    for i, (name, wrap) in enumerate(SWEPT)
    for j, method in enumerate(methods_of(type(built(name, wrap))))
    for looked_at in [
        ("subclass",) * (method in ("__call__", "step") or (i + j) % 3 == 0)
        + ("object",) * (name == "simple_tanh")
        if method not in BESIDE_STEPS
        else ()
    ]
    for way in ("subclass", WAYS[(i + j) % len(WAYS)])
    # Python looks special methods up on the class alone.
    if (method, way) != ("__call__", "object")
]


@pytest.mark.parametrize(("name", "wrap", "method", "way", "looked_at"), OVERRIDDEN)
def test_another_version_of_a_method_voids_every_claim(
    name, wrap, method, way, looked_at, monkeypatch
):
    assert claims_of(built(name, wrap))
    cell = override(built(name, wrap), way, method, monkeypatch)
    assert not claims_of(cell)
    if looked_at:
        assert_runs_its_own_call(cell)


def beside(cell, method):
    """The cell, as one of a class that inherits from its own and from a sibling of that."""
    cls = type(cell)
    base = cls.__mro__[1]
    sibling = type("Sibling", (base,), {method: changed(getattr(base, method))})
    return recast(cell, type("Both", (cls, sibling), {}))


@pytest.mark.parametrize(
    ("name", "wrap", "method"),
    [
        (name, wrap, method)
        for name, wrap in SWEPT
        for method in methods_of(type(built(name, wrap)).__mro__[1])
    ],
)
def test_a_sibling_that_comes_between_a_class_and_its_base_voids_every_claim(name, wrap, method):
    cell = beside(built(name, wrap), method)
    assert not claims_of(cell)
    if wrap == "plain" and method in ("project", "_product", "__call__"):
        assert_runs_its_own_call(cell)


def test_a_sibling_that_has_no_part_in_a_step_leaves_claims_as_they_are():
    cell = beside(built("lstm"), "initialize_carry")
    assert claims_of(cell) == claims_of(built("lstm"))


# Each wrapper and each method with every second of the others.
@pytest.mark.parametrize(
    ("method", "wrap"),
    [
        (method, wrap)
        for i, method in enumerate(["step", "__call__", "_product"])
        for j, wrap in enumerate(sorted(set(WRAPPERS) - {"plain"}))
        if (i + j) % 2 == 0
    ],
)
def test_a_cell_with_another_step_is_taken_at_its_step_inside_wrappers(wrap, method, monkeypatch):
    inner = override(zoo.CELLS["lstm"](IN, H, 1), "subclass", method, monkeypatch)
    plain = zoo.CELLS["lstm"](IN, H, 1)
    cell = WRAPPERS[wrap](inner)
    assert not claims_of(cell) & {"fused_form", "diagonal_part", "slopes", "jacobian_bound"}
    carry = random_carry(cell)
    of_inner = carry[0] if wrap == "stack" else carry
    after, _ = cell(carry, XS[0])
    alone = inner(of_inner, XS[0])[0]
    assert not np.allclose(ravel_pytree(alone)[0], ravel_pytree(plain(of_inner, XS[0])[0])[0])
    expected = jax.tree.map(
        lambda old, new: 0.3 * old + 0.7 * new if wrap == "zoneout" else new, of_inner, alone
    )
    chex.assert_trees_all_close(after[0] if wrap == "stack" else after, expected, **CLOSE)
    assert_runs_its_own_call(cell)


@pytest.mark.parametrize("method", ["step", "_product", "project", "__call__"])
def test_a_model_is_trained_through_the_methods_that_were_overridden(method, monkeypatch):
    cell = override(zoo.CELLS["gru_reset_after"](IN, H, 1), "subclass", method, monkeypatch)
    model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))

    def by_model(model):
        return jnp.sum(model(XS))

    def by_call(model):
        _, _, ys = by_hand(model.cells[0], XS, jnp.zeros(H))
        return jnp.sum(ys[-1] @ model.kernel[...] + model.bias[...])

    with jax.disable_jit():
        chex.assert_trees_all_close(jax.grad(by_model)(model), jax.grad(by_call)(model), **CLOSE)


def test_a_leaky_subclass_has_none_of_its_parents_explanations():
    cell = Leaky(IN, H, activation="sigmoid", rngs=nnx.Rngs(0))
    flow = rj.gradient_flow(cell, XS)
    assert flow.bound is None
    found = flow.attribution
    assert (found.slopes, found.slope_log, found.recurrent_log) == (None, None, None)
    assert not found.gates
    assert not found.paths
    carries, _, _ = by_hand(cell, XS, jnp.zeros(H))
    norms = [np.linalg.norm(jacobian(cell, *at)) for at in zip(carries, XS, strict=True)]
    np.testing.assert_allclose(found.step_log_norms, np.log(norms), **CLOSE)
    refuses(lambda: rj.jacobian_log_bound(cell, 5), ValueError, "one recurrent kernel", "Leaky")


def clipped(u):
    """Mixes units only where they are large."""
    return u / jnp.maximum(1.0, jnp.linalg.norm(u) / 10)


class Weighed(nnx.Module):
    """Has weights, which are no numbers while it is traced."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(H))

    def __call__(self, u):
        return jnp.tanh(self.weight[...] * (u - jnp.mean(u)))


@pytest.mark.parametrize(
    ("activation", "by_element"),
    [
        (lambda u: u**3, True),
        (lambda u: jnp.where(u > 0, u, 0.1 * u), True),
        (functools.partial(jax.nn.leaky_relu, negative_slope=0.3), True),
        (lambda u: jnp.arange(1.0, H + 1) * jnp.tanh(u), True),
        (jax.nn.softmax, False),
        (lambda u: jnp.tanh((u - jnp.mean(u)) / jnp.std(u)), False),
        (lambda u: jnp.roll(jnp.tanh(u), 1), False),
        (clipped, False),
        (Weighed(), False),
    ],
)
def test_an_activation_that_mixes_units_has_no_slopes(activation, by_element):
    cell = rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(0))
    found = rj.attribution(cell, XS, jnp.ones(H))
    assert (found.slopes is not None) == by_element
    if by_element:
        whole = found.slope_log + found.recurrent_log
        np.testing.assert_allclose(whole, found.step_log_norms, **CLOSE)
    else:
        assert (found.slope_log, found.recurrent_log) == (None, None)


def test_a_class_with_another_step_may_make_claims_anew():
    cell = Named(IN, H, activation="sigmoid", rngs=nnx.Rngs(0))
    assert claims_of(cell) == {"memory_path", "jacobian_bound"}
    flow = rj.gradient_flow(cell, XS, wrt="state")
    assert list(flow.attribution.paths) == ["h"]
    assert flow.bound is not None
    by_lag = np.asarray(flow.by_lag())
    assert (np.asarray(flow.bound)[1:] >= by_lag[1:] - 0.5 * np.log(H)).all()


class Chattier(rj.LSTMCell):
    """More than its parent in what no step reads."""

    greeting = "hello"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.note = "here"

    def __repr__(self):
        return "Chattier"

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jax.tree.map(
            lambda part: part + 1, super().initialize_carry(input_shape, rngs, carry_init)
        )

    def average_gate(self, carry, x):
        return jax.tree.map(jnp.mean, self.gates(carry, x))

    def gates(self, carry, x):
        return {**super().gates(carry, x), "none": carry[1]}


def test_what_has_no_part_in_a_step_may_differ():
    cell = Chattier(IN, H, rngs=nnx.Rngs(0))
    assert claims_of(cell) == claims_of(built("lstm"))
    assert set(claim(cell, "gates")(random_carry(cell), XS[0])) >= {"none", "forget"}
    chex.assert_trees_all_equal(
        claim(cell, "memory_path")(random_carry(cell), XS[0]),
        {"c": claim(cell, "gates")(random_carry(cell), XS[0])["forget"]},
    )


@pytest.mark.parametrize("where", ["class", "object"])
def test_other_names_for_the_parts_void_what_is_said_in_these_names(where):
    cell = recast(built("lstm"), rj.LSTMCell)
    if where == "class":
        cell = recast(cell, type("Swapped", (rj.LSTMCell,), {"carry_parts": ("h", "c")}))
    else:
        cell.carry_parts = ("h", "c")
    assert not claims_of(cell)


class Normed(rj.SimpleRNNCell):
    """Weights that are computed from others: data, which step and claim read alike."""

    @property
    def recurrent_kernel(self):
        return nnx.Param(self.raw[...] / jnp.linalg.norm(self.raw[...]))

    @recurrent_kernel.setter
    def recurrent_kernel(self, value):
        self.raw = value


def test_claims_are_about_the_weights_that_the_step_uses():
    cell = Normed(IN, H, rngs=nnx.Rngs(0))
    assert claims_of(cell) == claims_of(built("simple_tanh"))
    assert_runs_its_own_call(cell)
    slope, kernel = claim(cell, "jacobian_bound")()
    np.testing.assert_allclose(slope * np.linalg.norm(kernel), 1.0, rtol=1e-12)


def test_the_call_of_a_cell_as_a_function_is_the_cell():
    cell = built("lstm")
    chex.assert_trees_all_close(rj.unroll(cell.__call__, XS), rj.unroll(cell, XS), **CLOSE)
