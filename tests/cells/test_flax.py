"""Our cells inside Flax, and against Flax's own cells with the same weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import rnn_jax as rj
import zoo

IN, H, T, B = 3, 4, 6, 2
NAMES = ["simple_relu", "lstm_peephole", "gru_reset_before"]
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))


def weights_for_flax(cell):
    """{gate: (W, U, b)} of one of our cells."""
    weights = zoo.weights_of(cell)
    fused = weights["kernel"], weights["recurrent_kernel"], weights["bias"]
    parts = [np.split(w, len(cell.blocks), axis=-1) for w in fused]
    return dict(zip(cell.blocks, zip(*parts, strict=True), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_nnx_rnn_runs_our_cells_to_the_same_values_and_gradients(name):
    cell = zoo.CELLS[name](IN, H, 4)

    def by_unroll(cell, xs):
        carry, ys = rj.unroll(cell, xs)
        return jnp.sum(jnp.sin(ys)), (carry, ys)

    def by_flax(cell, xs):
        carry, ys = nnx.RNN(cell, return_carry=True)(xs)
        return jnp.sum(jnp.sin(ys)), (carry, ys)

    (_, ours), gradient = jax.jit(jax.value_and_grad(by_unroll, (0, 1), has_aux=True))(cell, XS)
    (_, theirs), expected = jax.jit(jax.value_and_grad(by_flax, (0, 1), has_aux=True))(cell, XS)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(
        jax.tree.leaves(gradient), jax.tree.leaves(expected), rtol=1e-11, atol=1e-13
    )


def test_nnx_rnn_in_reverse_and_with_lengths_agrees_with_unroll():
    cell = zoo.CELLS["lstm"](IN, H, 4)
    theirs = nnx.RNN(cell, return_carry=True, reverse=True, keep_order=True)(XS)
    chex.assert_trees_all_close(rj.unroll(cell, XS, reverse=True), theirs, rtol=1e-12, atol=1e-13)
    lengths = jnp.asarray([2, T])
    carry, ys = nnx.RNN(cell, return_carry=True)(XS, seq_lengths=lengths)
    ours_carry, ours_ys = rj.unroll(cell, XS, lengths=lengths)
    chex.assert_trees_all_close(ours_carry, carry, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ours_ys[0, :2], ys[0, :2], rtol=1e-12)
    np.testing.assert_allclose(ours_ys[1], ys[1], rtol=1e-12)


def test_nnx_bidirectional_takes_our_cells():
    one, other = (zoo.CELLS["gru_reset_after"](IN, H, seed) for seed in (0, 1))
    both = nnx.Bidirectional(nnx.RNN(one), nnx.RNN(other))(XS)
    forward, backward = rj.unroll(one, XS)[1], rj.unroll(other, XS, reverse=True)[1]
    np.testing.assert_allclose(both, jnp.concatenate([forward, backward], axis=-1), rtol=1e-12)


def test_split_and_merge_give_the_cell_back():
    cell = zoo.CELLS["lstm_coupled_peephole"](IN, H, 0)
    graph, state = nnx.split(cell)
    again = nnx.merge(graph, state)
    assert jax.tree.structure(again) == jax.tree.structure(cell)
    np.testing.assert_array_equal(rj.unroll(again, XS)[1], rj.unroll(cell, XS)[1])


def nnx_simple(cell):
    twin = nnx.SimpleCell(IN, H, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    W, U, b = weights_for_flax(cell)["hidden"]
    twin.dense_i.kernel[...], twin.dense_i.bias[...] = jnp.asarray(W), jnp.asarray(b)
    twin.dense_h.kernel[...] = jnp.asarray(U)
    return twin


def nnx_lstm(cell):
    twin = nnx.LSTMCell(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    names = {"input": "i", "forget": "f", "candidate": "g", "output": "o"}
    for gate, (W, U, b) in weights_for_flax(cell).items():
        letter = names[gate]
        getattr(twin, "if_" if letter == "f" else f"i{letter}").kernel[...] = jnp.asarray(W)
        hidden = getattr(twin, f"h{letter}")
        hidden.kernel[...], hidden.bias[...] = jnp.asarray(U), jnp.asarray(b)
    return twin


def nnx_optimized_lstm(cell):
    twin = nnx.OptimizedLSTMCell(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    twin.dense_i.kernel[...] = cell.kernel[...]
    twin.dense_h.kernel[...], twin.dense_h.bias[...] = cell.recurrent_kernel[...], cell.bias[...]
    return twin


def nnx_gru(cell):
    # Flax's has no bias inside the reset product.
    cell.candidate_recurrent_bias[...] = jnp.zeros(H)
    twin = nnx.GRUCell(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    twin.dense_i.kernel[...], twin.dense_i.bias[...] = cell.kernel[...], cell.bias[...]
    twin.dense_h.kernel[...] = cell.recurrent_kernel[...]
    return twin


def linen_gru(cell):
    params = {}
    for gate, (W, U, b) in weights_for_flax(cell).items():
        letter = {"reset": "r", "update": "z", "candidate": "n"}[gate]
        params[f"i{letter}"] = {"kernel": jnp.asarray(W), "bias": jnp.asarray(b)}
        params[f"h{letter}"] = {"kernel": jnp.asarray(U)}
    params["hn"]["bias"] = cell.candidate_recurrent_bias[...]
    twin = linen.GRUCell(H, param_dtype=jnp.float64)
    return jax.tree_util.Partial(twin.apply, {"params": params})


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("simple_tanh", nnx_simple),
        ("lstm", nnx_lstm),
        ("lstm", nnx_optimized_lstm),
        ("gru_reset_after", nnx_gru),
        ("gru_reset_after", linen_gru),
    ],
)
def test_flax_cells_with_the_same_weights_give_the_same_sequence(name, twin):
    cell = zoo.CELLS[name](IN, H, 5)
    other = twin(cell)
    carry = zoo.random_carry(cell, 1, B)
    chex.assert_trees_all_close(
        rj.unroll(cell, XS, carry), rj.unroll(other, XS, carry), rtol=1e-12, atol=1e-13
    )


def flax_twin(name, cell, **activations):
    """Flax's cell of this kind with the weights of ours."""
    twin = {"lstm": nnx_lstm, "gru_reset_after": nnx_gru}[name](cell)
    twin.gate_fn, twin.activation_fn = activations["gate_fn"], activations["activation_fn"]
    return twin


ACTIVATIONS = {
    "relu_and_elu": (jax.nn.relu, jax.nn.elu),
    "softmax": (jax.nn.softmax, jnp.sin),
    "flax": (nnx.sigmoid, nnx.tanh),
}


@pytest.mark.parametrize(
    ("name", "kind"), [*(("lstm", kind) for kind in ACTIVATIONS), ("gru_reset_after", "softmax")]
)
def test_gates_and_values_of_any_activation_are_flaxs(name, kind):
    gate_fn, activation_fn = ACTIVATIONS[kind]
    make = rj.LSTMCell if name == "lstm" else rj.GRUCell
    options = {"gate_fn": gate_fn, "activation_fn": activation_fn}
    cell = make(IN, H, **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    other = flax_twin(name, cell, **options)

    chex.assert_trees_all_close(rj.unroll(cell, XS), rj.unroll(other, XS), rtol=1e-12, atol=1e-13)
    assert (cell.fused_form() is None) == (kind != "flax")
    # The instrument measures it as it does Flax's, which makes no claims.
    found, expected = (rj.state_jacobian(c, XS[0]) for c in (cell, other))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    gates = cell.gates(cell.initialize_carry((IN,)), XS[0, 0])
    assert set(gates) == ({"input", "forget", "output"} if name == "lstm" else {"reset", "update"})


@pytest.mark.parametrize("make", [rj.LSTMCell, rj.GRUCell])
def test_activations_by_name_or_function_are_one(make):
    def built(**activations):
        return make(IN, H, **activations, param_dtype=jnp.float64, rngs=nnx.Rngs(0))

    plain = built()
    for gate_fn, activation_fn in (("sigmoid", "tanh"), (jax.nn.sigmoid, jnp.tanh)):
        cell = built(gate_fn=gate_fn, activation_fn=activation_fn)
        assert cell.fused_form() is not None
        assert getattr(cell, "diagonal_part", None) == getattr(plain, "diagonal_part", None)
        carry = zoo.random_carry(cell, 1, B)
        chex.assert_trees_all_equal(cell(carry, XS[:, 0]), plain(carry, XS[:, 0]))
    other = built(gate_fn="relu", activation_fn=jax.nn.softmax)
    assert other.fused_form() is None
    assert other.diagonal_part is None
    # What is set afterwards counts as well.
    plain.activation_fn = jax.nn.softmax
    assert (plain.fused_form(), plain.diagonal_part) == (None, None)
    for option in ("gate_fn", "activation_fn"):
        with pytest.raises(ValueError, match=f"{option} must be one of .*'tanh'.*; got 'tanhh'"):
            built(**{option: "tanhh"})
        with pytest.raises(TypeError, match=f"{option} must be a name or a callable; got 3"):
            built(**{option: 3})
