"""A model run in pieces is the model run at once: values, carries and gradients."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo

IN, H, T, B, CUT, TOKENS = 3, 3, 5, 2, 2, 7
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(B, T, IN))
WORDS = RNG.integers(0, TOKENS, size=(B, T))
MASK = np.array([[True, False, True, True, False], [False, True, True, False, True]])
RESETS = np.array([[False, False, True, False, False], [True, False, True, False, True]])


def foreign(size, seed):
    cell, carry = zoo.build("dict_readout", size, H, seed)
    return rj.as_cell(cell, initial_carry=carry, in_features=size)


def learned(size, seed):
    init = nnx.initializers.normal(1.0)
    cell = zoo.CELLS["lstm"](size, H, seed)
    return rj.LearnedCarry(cell, carry_init=init, rngs=nnx.Rngs(seed))


def model(*cells, **options):
    return rj.SequenceModel(list(cells), 2, readout="all", rngs=nnx.Rngs(0), **options)


def stack(**options):
    return lambda: model(learned(IN, 0), zoo.CELLS["gru_reset_before"](H, H, 1), **options)


MODELS = {
    "plain": stack(),
    "residual_and_norm": stack(layer_norm=True, residual=True),
    "embedding": stack(embedding=TOKENS),
    "foreign": lambda: model(foreign(IN, 0), learned(2, 1)),
    "zoneout": lambda: model(rj.Zoneout(zoo.build("nnx_lstm", IN, H, 0)[0], 0.3), embedding=TOKENS),
    "no_readout": lambda: rj.SequenceModel([learned(IN, 0)], readout="all"),
}


@functools.cache
def built_once(name):
    """A model, not to be changed."""
    return MODELS[name]()


def inputs(built):
    return XS if built.embedding is None else WORDS


def whole(built, xs, **marks):
    return built(xs, return_carry=True, **marks)


@jax.jit
def step(built, carry, x):
    return built.step(carry, x)


def by_step(built, xs):
    carry, outputs = built.initialize_carry((B,)), []
    for x in np.moveaxis(xs, 1, 0):
        carry, y = step(built, carry, x)
        outputs.append(y)
    return carry, np.stack(outputs, 1)


def in_chunks(built, xs, **marks):
    carry, outputs = None, []
    for piece in (slice(0, CUT), slice(CUT, T)):
        part = {name: value[:, piece] for name, value in marks.items()}
        carry, ys = built(xs[:, piece], carry=carry, return_carry=True, **part)
        outputs.append(ys)
    return carry, jnp.concatenate(outputs, 1)


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_the_whole_sequence(name):
    built = built_once(name)
    xs = inputs(built)
    expected = jax.jit(whole)(built, xs)
    chex.assert_trees_all_close(by_step(built, xs), expected, **CLOSE)
    # From nothing, a step starts a sequence as a call does.
    _, first = built.step(None, xs[0, 0])
    np.testing.assert_allclose(first, expected[1][0, 0], **CLOSE)


@pytest.mark.parametrize(
    ("name", "marks"),
    [("plain", {}), *((name, {"mask": MASK, "resets": RESETS}) for name in MODELS)],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_chunks_are_the_whole_sequence_in_values_and_gradients(name, marks):
    built = built_once(name)
    xs = inputs(built)

    def loss(run, built):
        carry, ys = run(built, xs, **marks)
        leaves = jax.tree.leaves(carry)
        return sum(jnp.sum(jnp.cos(leaf)) for leaf in leaves) + jnp.sum(jnp.sin(ys)), (carry, ys)

    @jax.jit
    def both(built):
        grad = functools.partial(jax.value_and_grad, has_aux=True, allow_int=True)
        runs = (whole, in_chunks)
        return [grad(functools.partial(loss, run))(built) for run in runs]

    found = both(built)
    # Of a cell's own random key there is no gradient.
    at_once, in_pieces = ([a for a in jax.tree.leaves(t) if a.dtype == float] for t in found)
    chex.assert_trees_all_close(in_pieces, at_once, **CLOSE)
    assert all(np.all(np.isfinite(leaf)) for leaf in at_once)


def test_the_last_readout_and_lengths_of_each_piece():
    built = rj.SequenceModel(learned(IN, 0), 2, rngs=nnx.Rngs(0))
    assert built.step(None, XS[0, 0])[1].shape == (2,)
    lengths = np.array([T, 3])
    expected = built(XS, lengths=lengths)
    carry, _ = built(XS[:, :CUT], return_carry=True)
    pieces = built(XS[:, CUT:], carry=carry, lengths=lengths - CUT)
    np.testing.assert_allclose(pieces, expected, **CLOSE)


def test_training_on_pieces_sends_no_gradient_to_the_piece_before():
    built = rj.SequenceModel(learned(IN, 0), 2, readout="all", rngs=nnx.Rngs(0))

    def loss(built, carry):
        carry, ys = built(XS[:, CUT:], carry=carry, return_carry=True, truncate=T)
        return jnp.sum(jnp.sin(ys))

    carry, _ = built(XS[:, :CUT], return_carry=True)
    by_carry = jax.grad(loss, 1)(built, carry)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(by_carry))


def test_an_initial_carry_takes_the_type_that_steps_keep():
    cell = rj.LSTMCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    built = rj.SequenceModel(cell)
    assert {leaf.dtype for leaf in jax.tree.leaves(built.initialize_carry())} == {
        jnp.dtype("float32")
    }
    with jax.numpy_dtype_promotion("standard"):
        carry = built.initialize_carry((B,), float)
        assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float64")}
        carry, first = built.step(carry, XS[:, 0])
        np.testing.assert_allclose(first, built(XS[:, :1]), rtol=1e-6)


# Tokens.


def test_an_embedding_is_a_table_of_vectors():
    built = stack(embedding=TOKENS)()
    plain = stack()()
    plain.kernel[...], plain.bias[...] = built.kernel[...], built.bias[...]
    vectors = np.asarray(built.embedding.table[...])[WORDS]
    call = jax.jit(lambda built, xs, **marks: built(xs, **marks))
    expected = call(plain, vectors)
    np.testing.assert_allclose(call(built, WORDS), expected, **CLOSE)
    np.testing.assert_allclose(call(built, WORDS.astype(np.uint8)), expected, **CLOSE)
    # Of what padding holds nothing is seen, and a number out of range is found where it counts.
    spoilt = np.where(MASK, WORDS, -1)
    np.testing.assert_array_equal(call(built, spoilt, mask=MASK), call(built, WORDS, mask=MASK))
    late = WORDS.copy()
    late[0, 3] = TOKENS
    found = call(built, late)
    lost = np.zeros((B, T), bool)
    lost[0, 3:] = True
    np.testing.assert_array_equal(np.isnan(found), np.stack([lost, lost], -1))
    gradient = jax.jit(jax.grad(lambda built: jnp.sum(jnp.sin(built(WORDS[:1])))))(built)
    used = np.isin(np.arange(TOKENS), WORDS[0])
    assert np.array_equal(np.any(gradient.embedding.table[...] != 0, axis=1), used)
