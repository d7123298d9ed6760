"""Weights from Keras and back, as arrays: against its equations. No Keras is needed here."""

import sys

import chex
import keras_equations
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refused

IN, H, T, B = 3, 4, 5, 2
XS = np.random.default_rng(0).normal(size=(B, T, IN))
CLOSE = {"rtol": 1e-12, "atol": 1e-13}

KINDS = {
    "rnn": ("rnn", {}, keras_equations.rnn),
    "lstm": ("lstm", {}, keras_equations.lstm),
    "gru": ("gru", {}, keras_equations.gru),
    "gru, reset before": ("gru", {"reset_after": False}, keras_equations.gru),
}


def both_rows(run, arrays, xs):
    return np.stack([run(arrays, row) for row in xs])


def assert_bit_for_bit(found, expected):
    """Equal arrays; of a GRU's gates, the sum of the two biases."""
    for one, other in zip(found, expected, strict=True):
        if one.ndim == 2 and len(one) == 2 and one.shape == expected[-1].shape:
            other = np.stack([other[0] + other[1], np.zeros_like(other[0])])
            other[:, 2 * H :] = expected[-1][:, 2 * H :]
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", KINDS)
def test_arrays_make_the_network_of_keras_equations(name):
    kind, options, run = KINDS[name]
    arrays = keras_equations.draw(kind, IN, H, 1, **options)
    model = rj.convert.from_keras(arrays)
    assert model.readout == "all"
    np.testing.assert_allclose(model(XS), both_rows(run, arrays, XS), **CLOSE)
    back = rj.convert.to_keras(model, layer=False)
    assert_bit_for_bit(back, arrays)
    chex.assert_trees_all_equal(rj.convert.from_keras(back, kind=kind), model)
    chex.assert_trees_all_equal(rj.convert.to_keras(model.cells[0], layer=False), back)


@pytest.mark.parametrize("name", KINDS)
def test_without_a_bias_there_is_none(name):
    kind, options, _ = KINDS[name]
    kernel, recurrent, bias = keras_equations.draw(kind, IN, H, 2, **options)
    said = {"reset_after": options.get("reset_after", True)} if kind == "gru" else {}
    model = rj.convert.from_keras([kernel, recurrent], **said)
    with_zeros = rj.convert.from_keras([kernel, recurrent, np.zeros_like(bias)])
    assert model.cells[0].bias is None
    np.testing.assert_array_equal(model(XS), with_zeros(XS))
    for one, other in zip(
        rj.convert.to_keras(model, layer=False), (kernel, recurrent), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    filled = rj.convert.to_keras(model, layer=False, bias=True)
    chex.assert_trees_all_equal(rj.convert.from_keras(filled), with_zeros)


def test_two_directions_and_several_layers():
    forward, backward = (keras_equations.draw("gru", IN, H, seed) for seed in (1, 2))
    upper = keras_equations.draw("lstm", 2 * H, 3, 3)
    model = rj.convert.from_keras([[*forward, *backward], upper])
    one = both_rows(keras_equations.gru, forward, XS)
    other = both_rows(keras_equations.gru, backward, XS[:, ::-1])[:, ::-1]
    below = np.concatenate([one, other], axis=-1)
    np.testing.assert_allclose(model(XS), both_rows(keras_equations.lstm, upper, below), **CLOSE)
    back = rj.convert.to_keras(model, layer=False)
    assert [len(arrays) for arrays in back] == [6, 3]
    chex.assert_trees_all_equal(rj.convert.from_keras(back), model)


def test_the_activation_of_a_simple_layer_is_what_is_said():
    arrays = keras_equations.draw("rnn", IN, H, 1)
    model = rj.convert.from_keras(arrays, activation="relu")
    expected = [keras_equations.rnn(arrays, row, lambda z: np.maximum(z, 0)) for row in XS]
    np.testing.assert_allclose(model(XS), np.stack(expected), **CLOSE)


# ---- What is refused.


def arrays(kind="lstm", **changes):
    named = dict(
        zip(("kernel", "recurrent", "bias"), keras_equations.draw(kind, IN, H, 1), strict=True)
    )
    return list((named | changes).values())


BAD_INPUT = {
    "no keras": (lambda: 3, {}, TypeError, "a layer must be a keras SimpleRNN", "int"),
    "nothing": (list, {}, ValueError, "needs a layer", "none"),
    "one array": (lambda: arrays()[:1], {}, ValueError, "got 1 arrays", "get_weights()"),
    "of another kind": (
        lambda: arrays("gru"),
        {"kind": "lstm"},
        ValueError,
        "kind 'lstm'",
        "(4, 12)",
        "'gru'",
    ),
    "of no kind": (
        lambda: arrays(recurrent=np.ones((4, 9))),
        {},
        ValueError,
        "(H, 3 H) for a GRU",
        "(4, 9)",
    ),
    "of another size": (
        lambda: arrays(kernel=np.ones((IN, 12))),
        {},
        ValueError,
        "kernel must have shape (3, 16)",
        "(3, 12)",
    ),
    "bias": (lambda: arrays(bias=np.ones(15)), {}, ValueError, "bias must have shape (16,)"),
    "bias of a GRU": (
        lambda: arrays("gru"),
        {"reset_after": False},
        ValueError,
        "bias must have shape (12,)",
        "(2, 12)",
    ),
    "no matrix": (lambda: arrays(kernel=np.ones(16)), {}, ValueError, "must be matrices"),
    "gru without bias": (
        lambda: arrays("gru")[:2],
        {},
        ValueError,
        "where its reset gate acts",
        "Pass reset_after=True",
    ),
    "two kinds in one layer": (
        lambda: [*arrays("lstm"), *arrays("gru")],
        {},
        ValueError,
        "kind 'lstm'",
    ),
    "layers that do not fit": (
        lambda: [arrays("lstm"), arrays("lstm")],
        {},
        ValueError,
        "each layer must take what the one below gives",
    ),
    "whole numbers": (
        lambda: arrays(bias=np.ones(16, int)),
        {},
        TypeError,
        "bias of type int64",
    ),
    "activation": (
        lambda: arrays("rnn"),
        {"activation": "swish"},
        ValueError,
        "activation must be one of",
        "'swish'",
    ),
    "no such kind": (arrays, {"kind": "LSTM"}, ValueError, "kind must be one of", "'LSTM'"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_what_does_not_fit_is_refused(name):
    make, options, error, *words = BAD_INPUT[name]
    says = refused(lambda: rj.convert.from_keras(make(), **options), error)
    for word in words:
        assert word in says


def cell(make=rj.LSTMCell, **options):
    return make(IN, H, rngs=nnx.Rngs(0), **options)


CANNOT_GO = {
    "projection": (lambda: cell(projection=2), {}, "projection=2", "to_torch"),
    "gates": (lambda: cell(gate_fn="relu"), {}, "gate_fn='sigmoid'", "'relu'"),
    "coupled": (lambda: cell(coupled=True), {}, "coupled=True"),
    "bias": (cell, {"bias": False}, "bias=False leaves the biases out"),
    "readout": (
        lambda: rj.SequenceModel(cell(), 2, rngs=nnx.Rngs(0)),
        {},
        "a dense readout",
        "model.cells",
    ),
}


@pytest.mark.parametrize("name", CANNOT_GO)
def test_what_keras_does_not_have_is_refused(name):
    make, options, *words = CANNOT_GO[name]
    says = refused(lambda: rj.convert.to_keras(make(), layer=False, **options), ValueError)
    for word in words:
        assert word in says


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("keras", lambda: rj.convert.to_keras(cell())),
        ("torch", lambda: rj.convert.to_torch(cell())),
    ],
)
def test_without_the_library_there_are_arrays(library, call, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    refused(call, ImportError, "needs", "cannot be imported", "=False")
