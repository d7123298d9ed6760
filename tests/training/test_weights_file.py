"""`save` and `load`: one file for any pytree, bit for bit, and what is refused."""

import errno
import functools
import os

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refused
from rnn_jax.training.disk import files


class Everything(nnx.Module):
    """A module with variables of every kind."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.cell = rj.LSTMCell(2, 3, param_dtype=jnp.float32, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.count = nnx.Variable(jnp.asarray(seed))
        self.half = nnx.Param(jnp.full(3, seed + 0.1, jnp.bfloat16))

    def __call__(self, x):
        return self.norm(x) + self.half[...]


def model(seed=0, size=3, activation="tanh"):
    rngs = nnx.Rngs(seed)
    cells = [
        rj.Bidirectional(rj.GRUCell(2, size, rngs=rngs), rj.LSTMCell(2, size, rngs=rngs)),
        rj.SimpleRNNCell(2 * size, size, activation=activation, rngs=rngs),
    ]
    return rj.SequenceModel(cells, 1, layer_norm=True, rngs=rngs)


def step(weights, carry, x):
    h = jnp.tanh(x @ weights["in"] + carry)
    return h, h


def odd_leaves(seed):
    return {
        "complex": jnp.full((2, 2), 1 + 2j * seed),
        "narrow": jnp.full(3, seed, jnp.int4),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "": jnp.asarray(seed),
        "__metadata__": jnp.full((2, 1), seed),
        "a": {"b": jnp.zeros(2)},
        "a.b": jnp.full(2, seed, bool),
        "keys": jax.random.split(jax.random.key(seed), 2),
        "no keys": jax.random.split(jax.random.key(seed, impl="rbg"), 2)[:0],
        "raw key": jax.random.PRNGKey(seed),
    }


ADAM = optax.adam(1.0).init(jnp.zeros(3))

MODELS = {
    "model": model,
    "every variable of NNX": Everything,
    "ensemble": lambda seed: rj.ensemble(
        lambda key: rj.GRUCell(2, 3, rngs=nnx.Rngs(key)), [seed, seed + 1]
    ),
    "partial": lambda seed: Partial(step, {"in": jnp.full((2, 3), seed)}),
    "flax": lambda seed: nnx.OptimizedLSTMCell(2, 3, rngs=nnx.Rngs(seed)),
    "equinox": lambda seed: eqx.nn.GRUCell(2, 3, key=jax.random.key(seed)),
    "optimiser": lambda seed: jax.tree.map(lambda leaf: jnp.full_like(leaf, seed), ADAM),
    "odd leaves": odd_leaves,
    "NumPy's": lambda seed: {"big end first": np.full((2, 1), seed, ">f8"), "b": np.int8(seed)},
    "one array": lambda seed: jnp.arange(3) + seed,
}


def bits(tree):
    """Type, shape and bytes of each leaf."""
    found = []
    for leaf in jax.tree.leaves(tree):
        kind = leaf.dtype
        if jnp.issubdtype(kind, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.append((kind, leaf.shape, np.asarray(leaf).tobytes()))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_is_what_was_saved_bit_for_bit(name, tmp_path):
    make, path = MODELS[name], tmp_path / "model.safetensors"
    saved, like = make(1), make(2)
    before = bits(like)
    rj.save(path, saved)
    assert os.listdir(tmp_path) == [path.name]
    loaded = rj.load(path, like)
    assert bits(loaded) == bits(saved) != before
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    assert bits(like) == before
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(saved)):
        abstract = jax.eval_shape(lambda: make(2))
        assert bits(rj.load(str(path), abstract)) == bits(saved)


def test_a_loaded_model_computes_what_the_saved_one_does_and_is_trained_on(tmp_path):
    saved, like = (rj.GRUCell(2, 3, rngs=nnx.Rngs(seed)) for seed in (1, 2))
    rj.save(tmp_path / "model", saved)
    loaded = rj.load(tmp_path / "model", like)

    @jax.jit
    @jax.value_and_grad
    def measured(cell):
        return jnp.sum(rj.unroll(cell, jnp.ones((4, 2)))[1])

    chex.assert_trees_all_equal(measured(loaded), measured(saved))


@given(
    arrays=st.lists(
        hnp.arrays(
            st.sampled_from(["f2", "f4", "f8", "i1", "u2", "i8", "?", "c8", "c16"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
        max_size=4,
    ),
    names=st.lists(st.text(max_size=4), min_size=4, max_size=4, unique=True),
)
def test_any_dict_of_arrays_comes_back(tmp_path_factory, arrays, names):
    path = tmp_path_factory.mktemp("any") / "file"
    tree = dict(zip(names, arrays, strict=False))
    rj.save(path, tree)
    like = jax.tree.map(np.zeros_like, tree)
    assert bits(rj.load(path, like)) == bits(tree)


def test_the_file_is_read_by_plain_safetensors(tmp_path):
    saved, path = model(1), tmp_path / "model.safetensors"
    rj.save(path, saved)
    with safetensors.safe_open(path, "np") as file:
        kernel = file.get_tensor("cells.0.forward.kernel")
        np.testing.assert_array_equal(kernel, saved.cells[0].forward.kernel[...])
        assert "bias" in file.keys()  # noqa: SIM118
        assert len(list(file.keys())) == len(jax.tree.leaves(saved))
        assert set(file.metadata()) == {"rnn_jax"}


def test_two_saves_of_equal_models_are_equal_files(tmp_path):
    for name in "ab":
        rj.save(tmp_path / name, model(1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


OTHER = {
    "sizes": (
        lambda: model(2, size=4),
        "cells.0.backward.bias is float64[12] there, float64[16] here",
        "and",
        "more",
    ),
    "missing": (
        lambda: rj.SequenceModel(model(2).cells, rngs=nnx.Rngs(0)),
        "bias is float64[1] there, missing here",
    ),
    "kind": (lambda: model(2, activation="relu"), "tanh there", "relu here"),
    "unknown": (lambda: {"w": model(2)}, "w.bias is missing there"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_structure_is_refused(name, tmp_path):
    make, *words = OTHER[name]
    rj.save(tmp_path / "model", model(1))
    says = refused(lambda: rj.load(tmp_path / "model", make()), ValueError, "must be built as")
    for word in words:
        assert word in says


def test_a_model_in_evaluation_is_loaded_into_one_in_training(tmp_path):
    saved, like = Everything(1), Everything(2)
    saved.eval()
    rj.save(tmp_path / "model", saved)
    loaded = rj.load(tmp_path / "model", like)
    assert bits(loaded) == bits(saved)
    assert not loaded.norm.use_running_average


def test_another_type_or_kind_of_key_is_refused(tmp_path):
    path = tmp_path / "model"
    rj.save(path, {"w": jnp.ones(2, jnp.float32), "key": jax.random.key(0)})
    like = {"w": jnp.ones(2, jnp.float64), "key": jax.random.key(0)}
    refused(lambda: rj.load(path, like), ValueError, r"w is float32\[2\] there, float64\[2\] here")
    like = {"w": jnp.ones(2, jnp.float32), "key": jax.random.key(0, impl="rbg")}
    refused(lambda: rj.load(path, like), ValueError, r"key is key<fry>\[\] there, key<rbg>\[\] h")


def test_a_model_of_which_more_is_said_since_is_still_read(tmp_path):
    class Cell(rj.GRUCell):
        pass

    rj.save(tmp_path / "model", cell := Cell(2, 3, rngs=nnx.Rngs(1)))
    like = Cell(2, 3, rngs=nnx.Rngs(2))
    like.said_since = "something"
    assert bits(rj.load(tmp_path / "model", like)) == bits(cell)


@functools.cache
def whole():
    """The bytes of a small file."""
    from rnn_jax.training.disk import weights_file

    written = []
    original = weights_file.write_whole
    weights_file.write_whole = lambda path, pieces: written.extend(pieces)
    try:
        rj.save("nowhere", {"w": jnp.arange(4.0)})
    finally:
        weights_file.write_whole = original
    return b"".join(written)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_a_damaged_file_is_refused(share, tmp_path):
    path, content = tmp_path / "model", whole()
    at = min(int(share * len(content)), len(content) - 1)
    for damaged in (
        content[:at],
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        content + b"x",
    ):
        path.write_bytes(damaged)
        says = refused(lambda: rj.load(path, {"w": jnp.zeros(4)}), ValueError, "a file must")
        assert str(path) in says


def test_files_of_others_are_told_apart(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(b"no such format")
    refused(lambda: rj.load(path, {}), ValueError, "format of safetensors", "rnn_jax.save")
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(1)}, {"format": "pt"}))
    refused(lambda: rj.load(path, {}), ValueError, "says none", "safe_open")


def test_what_was_there_stays_if_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "model"
    rj.save(path, {"w": jnp.zeros(4)})
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    refused(lambda: rj.save(path, {"w": jnp.ones(4)}), OSError, "No space left", "as it was")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda at: rj.save(3, {}), TypeError, ["path must be a path", "int", "str or Path"]),
        (lambda at: rj.load(None, {}), TypeError, ["path must be a path", "NoneType"]),
        (lambda at: rj.save(at, {}), IsADirectoryError, ["directory", "pass a file"]),
        (lambda at: rj.save(at / "no" / "file", {}), FileNotFoundError, ["folder that exists"]),
        (lambda at: rj.load(at / "nothing", {}), FileNotFoundError, ["no such file", "save"]),
        (lambda at: rj.load(at, {}), IsADirectoryError, ["could not be loaded", "directory"]),
        (lambda at: rj.save(at / "x", {"w": 3.0}), TypeError, ["must be an array", "float at w"]),
        (lambda at: rj.save(at / "x", step), TypeError, ["must be an array", "function"]),
        (
            lambda at: rj.save(at / "x", {"w": np.array([None])}),
            TypeError,
            ["array of numbers", "objects at w"],
        ),
        (
            lambda at: rj.save(at / "x", {"w": jax.ShapeDtypeStruct((2,), "float32")}),
            TypeError,
            ["must have its numbers", "w"],
        ),
        (
            lambda at: jax.jit(lambda w: rj.save(at / "x", {"w": w}))(1.0),
            TypeError,
            ["must have its numbers", "outside of jit"],
        ),
    ],
)
def test_what_cannot_be_saved_or_loaded_is_refused(call, error, words, tmp_path):
    says = refused(lambda: call(tmp_path), error)
    for word in words:
        assert word in says
    assert not os.listdir(tmp_path)
