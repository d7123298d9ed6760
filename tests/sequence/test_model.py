"""`SequenceModel` against NumPy: oracles stacked by hand, and a dense layer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo

IN, H, OUT, T, B = 3, 4, 2, 5, 4
XS = np.random.default_rng(0).normal(size=(B, T, IN))
LENGTHS = [T, 1, 3, 0]


def layers(seed=0):
    return [
        zoo.CELLS["lstm_peephole"](IN, H, seed),
        zoo.CELLS["gru_reset_after"](H, H, seed + 1),
    ]


def model(readout, seed=0):
    built = rj.SequenceModel(layers(seed), OUT, readout=readout, rngs=nnx.Rngs(seed))
    built.bias[...] = jnp.asarray([0.3, -0.7])
    return built


def hidden(built, xs):
    """The top layer's outputs (T, H) for one sequence, layer by layer."""
    for cell in built.cells:
        carry = zoo.flat(cell.initialize_carry((cell.in_features,)))
        _, xs = oracles.run(zoo.oracle(cell).step, xs, carry)
    return xs


def dense(built, hs):
    return hs @ np.asarray(built.kernel[...]) + np.asarray(built.bias[...])


@jax.jit
def apply(built, xs, lengths=None):
    return built(xs, lengths=lengths)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_last_reads_the_last_valid_step_of_the_stack(lengths):
    built = model("last")
    outputs = apply(built, XS, None if lengths is None else jnp.asarray(lengths))
    for row, xs in enumerate(XS):
        stop = T if lengths is None else lengths[row]
        # An empty sequence has no state to read: what is left is the bias.
        h = hidden(built, xs[:stop])[-1] if stop else np.zeros(H)
        np.testing.assert_allclose(outputs[row], dense(built, h), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_all_reads_every_step_of_the_stack(lengths):
    built = model("all")
    outputs = apply(built, XS, None if lengths is None else jnp.asarray(lengths))
    for row, xs in enumerate(XS):
        stop = T if lengths is None else lengths[row]
        hs = np.zeros((T, H))
        if stop:
            hs[:stop] = hidden(built, xs[:stop])
        np.testing.assert_allclose(outputs[row], dense(built, hs), rtol=1e-12, atol=1e-13)


def test_padding_is_not_seen_by_any_layer():
    built, lengths = model("last"), jnp.asarray(LENGTHS)
    spoilt = XS.copy()
    for row, length in enumerate(LENGTHS):
        spoilt[row, length:] = np.nan

    @jax.jit
    def value_and_grad(xs):
        return jax.value_and_grad(
            lambda built, xs: jnp.sum(jnp.sin(built(xs, lengths=lengths))), (0, 1)
        )(built, xs)

    clean, dirty = value_and_grad(XS), value_and_grad(spoilt)
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (clean, dirty)))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(dirty[1][1][row, length:], 0.0)


def test_the_readout_gradient_is_that_of_least_squares():
    built = model("last")
    targets = np.random.default_rng(1).normal(size=(B, OUT))
    gradient = jax.jit(jax.grad(lambda built: 0.5 * jnp.sum((built(XS) - targets) ** 2)))(built)
    hs = np.stack([hidden(built, xs)[-1] for xs in XS])
    errors = dense(built, hs) - targets
    np.testing.assert_allclose(gradient.kernel[...], hs.T @ errors, rtol=1e-11)
    np.testing.assert_allclose(gradient.bias[...], errors.sum(axis=0), rtol=1e-11)
    # The bottom layer learns through the one above it.
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient.cells[0]))


def test_one_cell_is_a_stack_of_one_and_leading_axes_are_free():
    cell = zoo.CELLS["simple_tanh"](IN, H, 0)
    alone = rj.SequenceModel(cell, OUT, rngs=nnx.Rngs(1))
    listed = rj.SequenceModel([cell], OUT, rngs=nnx.Rngs(1))
    assert jax.tree.structure(alone) == jax.tree.structure(listed)
    outputs = apply(alone, XS)
    np.testing.assert_array_equal(apply(listed, XS), outputs)
    np.testing.assert_allclose(apply(alone, XS[0]), outputs[0], rtol=1e-12)
    folded = apply(alone, XS.reshape(2, 2, T, IN))
    np.testing.assert_allclose(folded.reshape(B, OUT), outputs, rtol=1e-12)


def test_models_of_one_structure_compile_once_and_stack_into_an_ensemble():
    models = [model("last", seed) for seed in range(3)]
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(built, xs):
        return built(xs)

    outputs = [run(built, XS) for built in models]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    together = jax.jit(jax.vmap(lambda built: built(XS)))(stacked)
    np.testing.assert_allclose(together, np.stack(outputs), rtol=1e-11, atol=1e-13)
    assert not np.allclose(outputs[0], outputs[1])


def test_lengths_out_of_range_under_jit_make_that_row_nan():
    outputs = np.asarray(apply(model("last"), XS, jnp.asarray([T, 1, T + 1, 0])))
    np.testing.assert_array_equal(np.isnan(outputs).all(axis=1), [False, False, True, False])


def test_the_readout_has_the_type_of_the_cells():
    cell = rj.GRUCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    built = rj.SequenceModel(cell, OUT, rngs=nnx.Rngs(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built)} == {"float32"}
    assert apply(built, XS.astype(np.float32)).dtype == jnp.float32


def test_the_readout_starts_from_the_initialiser_asked_for_and_a_zero_bias():
    cell = zoo.CELLS["simple_tanh"](IN, H, 0)
    built = rj.SequenceModel(cell, OUT, kernel_init="ones", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(built.kernel[...], np.ones((H, OUT)))
    np.testing.assert_array_equal(built.bias[...], np.zeros(OUT))
