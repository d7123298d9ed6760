"""Weights from Keras' own layers and back, beside Keras on its JAX backend.

That backend computes activations in float32 whatever is asked, so to float32's rounding; beside
Keras' equations in float64 see `test_from_keras.py`.
"""

import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refused

# Read when Keras is imported; without it, it looks for TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
layers = keras.layers

# Its variables have an __array__ of before NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IN, H, T, B = 3, 4, 5, 2
XS = np.random.default_rng(0).normal(size=(B, T, IN)).astype(np.float32)
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
EVERY_STEP = {"return_sequences": True}


@pytest.fixture(autouse=True)
def _as_keras_computes():
    """In float32, and leaving promotion of types and ranks to JAX."""
    promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(False), promotion[0], promotion[1]:
        yield


def built(layer, features=IN):
    """The layer with weights none of which is 0."""
    layer.build((None, None, features))
    rng = np.random.default_rng(1)
    layer.set_weights([0.5 * rng.normal(size=array.shape) for array in layer.get_weights()])
    return layer


def both(layer):
    return layers.Bidirectional(layer)


LAYERS = {
    "simple": lambda: layers.SimpleRNN(H, **EVERY_STEP),
    "softsign": lambda: layers.SimpleRNN(H, activation="softsign", **EVERY_STEP),
    "lstm": lambda: layers.LSTM(H, **EVERY_STEP),
    "gru": lambda: layers.GRU(H, **EVERY_STEP),
    "gru, reset before": lambda: both(layers.GRU(H, reset_after=False, **EVERY_STEP)),
    "no bias": lambda: layers.GRU(H, use_bias=False, **EVERY_STEP),
    "last step": lambda: both(layers.LSTM(H)),
}
BACK = {"simple": layers.SimpleRNN, "lstm": layers.LSTM, "gru": layers.GRU}


def call(layer, weights, xs):
    return layer.stateless_call(weights, layer.non_trainable_variables, xs)[0]


def derivatives(function):
    """Value and gradients by weights and inputs, by one program."""
    return jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_layer(name):
    layer = built(LAYERS[name]())
    model = rj.convert.from_keras(layer)
    weights = [jnp.asarray(array) for array in layer.get_weights()]

    def ours(model, xs):
        ys = model(xs)
        return jnp.sum(jnp.sin(3 * ys)), ys

    def theirs(weights, xs):
        ys = call(layer, weights, xs)
        return jnp.sum(jnp.sin(3 * ys)), ys

    (_, ys), (by_model, by_xs) = derivatives(ours)(model, XS)
    (_, k_ys), (by_weights, k_xs) = derivatives(theirs)(weights, jnp.asarray(XS))
    np.testing.assert_allclose(ys, k_ys, **CLOSE)
    np.testing.assert_allclose(by_xs, k_xs, **CLOSE)
    found = rj.convert.to_keras(by_model, layer=False)
    expected = [np.array(array) for array in by_weights]
    if name == "gru":  # Keras has two biases where ours is one, but for the candidate.
        np.testing.assert_allclose(expected[2][0, : 2 * H], expected[2][1, : 2 * H], **CLOSE)
        expected[2][1, : 2 * H] = 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("name", LAYERS)
def test_round_trips_are_bit_for_bit(name):
    layer = built(LAYERS[name]())
    model = rj.convert.from_keras(layer)
    there = rj.convert.to_keras(model)
    assert type(there) is type(layer)
    assert there.return_sequences is (name != "last step")
    again = rj.convert.from_keras(there)
    chex.assert_trees_all_equal(again, model)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    if name != "last step":
        from_arrays = rj.convert.from_keras(
            layer.get_weights(),
            activation=name if name == "softsign" else "tanh",
            reset_after=True if name == "no bias" else None,
        )
        chex.assert_trees_all_equal(from_arrays, model)
    for one, other in zip(there.get_weights(), layer.get_weights(), strict=True):
        if one.ndim == 2 or "gru" not in name:
            if name == "gru" and len(one) == 2:  # The sum of two biases.
                one, other = one.sum(axis=0), other.sum(axis=0)
            np.testing.assert_array_equal(one, other)


def test_several_layers_are_a_sequential_model_and_back():
    lower, upper = built(both(LAYERS["gru"]())), built(LAYERS["lstm"](), 2 * H)
    source = keras.Sequential([keras.Input((None, IN)), lower, upper])
    model = rj.convert.from_keras(source)
    assert len(model.cells) == 2
    chex.assert_trees_all_equal(rj.convert.from_keras([lower, upper]), model)
    there = rj.convert.to_keras(model)
    assert isinstance(there, keras.Sequential)
    chex.assert_trees_all_equal(rj.convert.from_keras(there), model)
    in_one = layers.RNN([layers.LSTMCell(H), layers.GRUCell(2)], **EVERY_STEP)
    stacked = rj.convert.from_keras(built(in_one))
    np.testing.assert_allclose(
        stacked(XS), call(in_one, in_one.get_weights(), jnp.asarray(XS)), **CLOSE
    )


def test_a_cell_gives_a_cell():
    cell = rj.GRUCell(IN, H, reset_after=False, rngs=nnx.Rngs(0))
    there = rj.convert.to_keras(cell)
    assert isinstance(there, layers.GRUCell)
    chex.assert_trees_all_equal(rj.convert.from_keras(there), cell)


def unusual(make=None, **options):
    return lambda: built((make or layers.LSTM)(H, **EVERY_STEP | options))


BAD_INPUT = {
    "not built": (lambda: layers.LSTM(H), ValueError, "must be built", "layer.build"),
    "other layer": (lambda: layers.Dense(3), TypeError, "got Dense", "get_weights"),
    "gate": (unusual(recurrent_activation="hard_sigmoid"), ValueError, "one of", "hard_sigmoid"),
    "activation": (unusual(activation="relu"), ValueError, "tanh and recurrent", "got relu"),
    "dropout": (unusual(dropout=0.5), ValueError, "without dropout", "RecurrentDropout"),
    "backwards": (unusual(go_backwards=True), ValueError, "go_backwards", "reverse=True"),
    "stateful": (unusual(stateful=True), ValueError, "stateful=True"),
    "merged otherwise": (
        lambda: built(layers.Bidirectional(layers.GRU(H, **EVERY_STEP), merge_mode="sum")),
        ValueError,
        "merge_mode='concat'",
        "'sum'",
    ),
    "last step below": (
        lambda: [built(layers.GRU(H)), built(LAYERS["gru"](), H)],
        ValueError,
        "must return every step",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_what_does_not_fit_is_refused(name):
    make, error, *words = BAD_INPUT[name]
    says = refused(lambda: rj.convert.from_keras(make()), error)
    for word in words:
        assert word in says


def test_a_layer_says_itself_what_it_is():
    layer = built(LAYERS["gru"]())
    for options in ({"kind": "gru"}, {"reset_after": True}, {"activation": "relu"}):
        (name,) = options
        says = refused(lambda o=options: rj.convert.from_keras(layer, **o), ValueError)
        assert name in says
    own = rj.SimpleRNNCell(2, 2, activation=jnp.sin, rngs=nnx.Rngs(0))
    refused(lambda: rj.convert.to_keras(own), ValueError, "activations", "layer=False")
