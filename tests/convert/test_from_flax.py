"""Weights from Flax (NNX, fused and gate by gate, and Linen) and back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refused

IN, H, T, B = 3, 4, 5, 2
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
WEIGHTS = {
    "param_dtype": jnp.float64,
    "bias_init": nnx.initializers.normal(0.5),
}

CELLS = {
    "simple": lambda n=IN, **o: nnx.SimpleCell(
        n, H, dtype=jnp.float64, rngs=nnx.Rngs(1), **WEIGHTS | o
    ),
    "relu": lambda n=IN: CELLS["simple"](n, activation_fn=jax.nn.relu),
    "lstm": lambda n=IN, **o: nnx.LSTMCell(n, H, rngs=nnx.Rngs(2), **WEIGHTS | o),
    "optimized": lambda n=IN: nnx.OptimizedLSTMCell(n, H, rngs=nnx.Rngs(3), **WEIGHTS),
    "gru": lambda n=IN, **o: nnx.GRUCell(n, H, rngs=nnx.Rngs(4), **WEIGHTS | o),
}
LINEN = {
    "SimpleCell": linen.SimpleCell,
    "GRUCell": linen.GRUCell,
    "LSTMCell": linen.LSTMCell,
    "OptimizedLSTMCell": linen.OptimizedLSTMCell,
}


def start(cell):
    rng = np.random.default_rng(3)
    zeros = cell.initialize_carry((B, IN))
    return jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), zeros)


def loss(cell, xs, carry):
    ys = rj.unroll(cell, xs, carry)[1]
    return jnp.sum(jnp.sin(3 * ys)), ys


measured = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def assert_same_network(ours, theirs, back):
    """Outputs and gradients, those by the weights as `back` brings them to the other's layout."""
    carry = start(ours)
    (_, ys), (by_cell, *by_rest) = measured(ours, XS, carry)
    (_, their_ys), (by_theirs, *by_their_rest) = measured(theirs, XS, carry)
    np.testing.assert_allclose(ys, their_ys, **CLOSE)
    chex.assert_trees_all_close(by_rest, by_their_rest, **CLOSE)
    found, expected = jax.tree.leaves(back(by_cell)), jax.tree.leaves(by_theirs)
    chex.assert_trees_all_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", CELLS)
def test_an_nnx_cell_is_the_same_network(name):
    theirs = CELLS[name]()
    ours = rj.convert.from_flax(theirs)
    assert isinstance(ours, rj.RNNCell)

    def back(gradient):
        if name == "gru":  # Where Flax has no weight, the gradient is its own.
            gradient.candidate_recurrent_bias[...] = jnp.zeros(H)
        return rj.convert.to_flax(gradient, optimized=name != "lstm")

    assert_same_network(ours, theirs, back)
    there = back(ours)
    assert type(there) is type(theirs)
    chex.assert_trees_all_equal(jax.tree.leaves(there), jax.tree.leaves(theirs))
    again = rj.convert.from_flax(there)
    assert jax.tree.structure(again) == jax.tree.structure(ours)
    chex.assert_trees_all_equal(again, ours)


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_cell_is_the_same_network(name):
    cell = LINEN[name](H, **WEIGHTS)
    zeros = jnp.zeros(H)
    carry = (zeros, zeros) if "LSTM" in name else zeros
    params = cell.init(jax.random.key(0), carry, XS[0, 0])["params"]
    ours = rj.convert.from_flax(cell, params)

    def back(gradient):
        return rj.convert.to_flax(gradient, api="linen", optimized="Optimized" in name)[1]

    assert_same_network(ours, Partial(cell.apply, {"params": params}), back)
    there, variables = rj.convert.to_flax(ours, api="linen", optimized="Optimized" in name)
    assert type(there) is type(cell)
    chex.assert_trees_all_equal(variables, {"params": params})
    for source in (name, LINEN[name], there):
        chex.assert_trees_all_equal(rj.convert.from_flax(source, variables), ours)


def test_layers_are_models_and_models_layers():
    lower = nnx.Bidirectional(nnx.RNN(CELLS["lstm"]()), nnx.RNN(CELLS["gru"]()))
    upper = nnx.RNN(CELLS["optimized"](2 * H))
    source = nnx.Sequential(lower, upper)
    model = rj.convert.from_flax(source)
    assert isinstance(model, rj.SequenceModel)
    assert model.readout == "all"
    np.testing.assert_allclose(model(XS), source(XS), **CLOSE)
    chex.assert_trees_all_equal(rj.convert.from_flax([lower, upper]), model)
    there = rj.convert.to_flax(model)
    np.testing.assert_allclose(there(XS), source(XS), **CLOSE)
    chex.assert_trees_all_equal(rj.convert.from_flax(there), model)
    one = rj.convert.to_flax(rj.convert.from_flax(upper))
    assert isinstance(one, nnx.RNN)
    both = rj.convert.to_flax(rj.convert.from_flax(lower))
    assert isinstance(both, nnx.Bidirectional)
    np.testing.assert_allclose(both(XS), lower(XS), **CLOSE)


def test_an_activation_known_here_stays_known_and_another_goes_along():
    relu = rj.convert.from_flax(CELLS["relu"]())
    assert rj.activation_slope_range(relu.activation) == (0.0, 1.0)

    def own(x):
        return jnp.sin(x) + x

    theirs = CELLS["simple"](activation_fn=own)
    ours = rj.convert.from_flax(theirs)
    carry = start(ours)
    np.testing.assert_allclose(rj.unroll(ours, XS, carry)[1], rj.unroll(theirs, XS, carry)[1])
    assert rj.convert.to_flax(ours).activation_fn is own


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_other_gates_go_along_and_come_back(name):
    theirs = CELLS[name](gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.relu)
    ours = rj.convert.from_flax(theirs)
    carry = start(ours)
    expected = rj.unroll(theirs, XS, carry)[1]
    np.testing.assert_allclose(rj.unroll(ours, XS, carry)[1], expected, **CLOSE)
    back = rj.convert.to_flax(ours)
    assert (back.gate_fn, back.activation_fn) == (jax.nn.hard_sigmoid, jax.nn.relu)
    linen_cell, variables = rj.convert.to_flax(ours, api="linen")
    chex.assert_trees_all_equal(rj.convert.from_flax(linen_cell, variables), ours)


def test_the_type_that_is_computed_in_goes_along():
    theirs = CELLS["gru"](dtype=jnp.float32, param_dtype=jnp.float32)
    ours = rj.convert.from_flax(theirs)
    assert (ours.dtype, ours.param_dtype) == (jnp.float32, jnp.float32)
    assert rj.convert.to_flax(ours).dtype == jnp.float32


# ---- What is refused.


class Own(nnx.GRUCell):
    def __call__(self, carry, inputs):
        return super().__call__(2 * carry, inputs)


def gru_params(**changes):
    cell = rj.GRUCell(IN, H, rngs=nnx.Rngs(0))
    whole = rj.convert.to_flax(cell, api="linen")[1]["params"] | changes
    return {key: value for key, value in whole.items() if value is not None}


BAD_INPUT = {
    "no cell": (lambda: (3,), TypeError, "nnx.RNN", "int"),
    "other cell": (lambda: ([nnx.RNN(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))],), TypeError, "Linear"),
    "own call": (lambda: (Own(IN, H, rngs=nnx.Rngs(0)),), TypeError, "Own", "__call__"),
    "our cell": (lambda: (rj.GRUCell(2, 2, rngs=nnx.Rngs(0)),), TypeError, "must be an nnx"),
    "residual": (
        lambda: (CELLS["simple"](residual=True),),
        ValueError,
        "residual=True",
        "identity",
    ),
    "reverse": (
        lambda: (nnx.RNN(CELLS["gru"](), reverse=True),),
        ValueError,
        "reverse=True",
        "rnn_jax.unroll",
    ),
    "merged otherwise": (
        lambda: (
            nnx.Bidirectional(nnx.RNN(CELLS["gru"]()), nnx.RNN(CELLS["lstm"]()), merge_fn=jnp.add),
        ),
        ValueError,
        "side by side",
        "merge",
    ),
    "no layer": (lambda: ([],), ValueError, "needs a layer", "none"),
    "linen alone": (lambda: (linen.GRUCell(H),), TypeError, "with its parameters", "GRUCell"),
    "a name alone": (lambda: ("GRUCell",), TypeError, "with its parameters"),
    "other linen cell": (lambda: (linen.MGUCell(H), {}), TypeError, "one of SimpleCell", "MGUCell"),
    "other name": (lambda: ("GRU", {}), TypeError, "one of SimpleCell", "got GRU"),
    "no dict": (lambda: ("GRUCell", 3), TypeError, "params must be a dict", "int"),
    "unknown": (
        lambda: ("GRUCell", gru_params(ix={"kernel": jnp.ones((IN, H))})),
        ValueError,
        "ix/kernel unknown",
    ),
    "missing": (lambda: ("GRUCell", gru_params(hn=None)), ValueError, "hn/kernel, hn/bias missing"),
    "of another cell": (lambda: ("LSTMCell", gru_params()), ValueError, "LSTM cell", "unknown"),
    "of another size": (
        lambda: ("GRUCell", gru_params(hz={"kernel": jnp.ones((H, 3))})),
        ValueError,
        "hz/kernel must have shape (4, 4)",
        "(4, 3)",
    ),
    "whole numbers": (
        lambda: ("GRUCell", gru_params(hz={"kernel": jnp.ones((H, H), int)})),
        TypeError,
        "hz/kernel of type int",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_what_does_not_fit_is_refused(name):
    make, error, *words = BAD_INPUT[name]
    says = refused(lambda: rj.convert.from_flax(*make()), error)
    for word in words:
        assert word in says


def cell(make=rj.LSTMCell, **options):
    return make(IN, IN, rngs=nnx.Rngs(0), **options)


def gru_with_a_bias_within():
    gru = cell(rj.GRUCell)
    gru.candidate_recurrent_bias[...] = jnp.ones(IN)
    return gru


CANNOT_GO = {
    "projection": (lambda: cell(projection=2), {}, ValueError, "projection=2", "to_torch"),
    "peephole": (lambda: cell(peephole=True), {}, ValueError, "peephole=True"),
    "reset before": (
        lambda: cell(rj.GRUCell, reset_after=False),
        {},
        ValueError,
        "reset_after=False",
        "to_keras",
    ),
    "bias within": (gru_with_a_bias_within, {}, ValueError, "candidate_recurrent_bias", "linen"),
    "linen layers": (lambda: [cell()], {"api": "linen"}, ValueError, "converts one cell"),
    "no such api": (cell, {"api": "haiku"}, ValueError, "api must be one of", "'haiku'"),
    "dropout": (
        lambda: rj.SequenceModel([cell(), cell()], readout="all", dropout=0.5),
        {},
        ValueError,
        "dropout=0.5",
        "nnx.Dropout",
    ),
    "last step": (
        lambda: rj.SequenceModel([cell()]),
        {},
        ValueError,
        "readout='all'",
        "readout='last'",
    ),
}


@pytest.mark.parametrize("name", CANNOT_GO)
def test_what_flax_does_not_have_is_refused(name):
    make, options, error, *words = CANNOT_GO[name]
    says = refused(lambda: rj.convert.to_flax(make(), **options), error)
    for word in words:
        assert word in says


def test_weights_under_a_transformation_are_refused():
    @jax.jit
    def convert(theirs):
        return rj.convert.from_flax("GRUCell", theirs)

    refused(lambda: convert(gru_params()), TypeError, "must be numbers", "traced", "outside")
