"""Forget bias and chrono: which gates they set in which cell, and what that does to memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table

# By cell: its options, and the sign of the bias with which each block keeps the state.
CELLS = {
    "lstm": (rj.LSTMCell, {}, {"forget": 1, "input": -1}),
    "coupled": (rj.LSTMCell, {"coupled": True}, {"forget": 1}),
    "layer_norm_lstm": (rj.LayerNormLSTMCell, {}, {"forget": 1, "input": -1}),
    "gru": (rj.GRUCell, {}, {"update": 1}),
    "layer_norm_gru": (rj.LayerNormGRUCell, {}, {"update": 1}),
    "mgu": (rj.MGUCell, {}, {"forget": -1}),
    "ugrnn": (rj.UGRNNCell, {}, {"update": 1}),
    "minimal_rnn": (rj.MinimalRNNCell, {}, {"update": 1}),
    "min_gru": (rj.MinGRUCell, {"use_bias": True}, {"update": -1}),
    "min_lstm": (rj.MinLSTMCell, {"use_bias": True}, {"forget": 1, "input": -1}),
}


def biases(cell):
    """Of each block, (H,)."""
    return dict(
        zip(cell.blocks, np.split(np.asarray(cell.bias[...]), len(cell.blocks)), strict=True)
    )


@pytest.mark.parametrize("name", CELLS)
def test_chrono_sets_the_gates_that_keep_the_state_and_no_other_bias(name):
    make, options, signs = CELLS[name]
    H, low, high = 400, 2, 50
    cell = make(1, H, bias_init=f"chrono({low}, {high})", **options, rngs=nnx.Rngs(0))
    found = biases(cell)
    kept = [sign * found.pop(block) for block, sign in signs.items()]
    steps = np.exp(kept[0])
    np.testing.assert_allclose(
        np.quantile(steps, [0, 0.25, 0.5, 0.75, 1]), np.linspace(low, high - 1, 5), atol=4
    )
    for other in kept[1:]:  # b_i = −b_f, unit by unit.
        np.testing.assert_array_equal(other, kept[0])
    for rest in found.values():
        np.testing.assert_array_equal(rest, 0)


@pytest.mark.parametrize("name", CELLS)
def test_a_forget_bias_by_name_sets_the_first_of_them(name):
    make, options, signs = CELLS[name]
    found = biases(make(1, 3, bias_init="forget_bias(2.5)", **options, rngs=nnx.Rngs(0)))
    first, sign = next(iter(signs.items()))
    np.testing.assert_array_equal(found.pop(first), sign * 2.5)
    for rest in found.values():
        np.testing.assert_array_equal(rest, 0)


@pytest.mark.parametrize("name", sorted(set(CELLS) - {"layer_norm_lstm", "layer_norm_gru"}))
def test_the_larger_the_bias_the_longer_the_cell_remembers(name):
    """Which sign keeps the state is read off the cell itself, without weights."""
    make, options, _ = CELLS[name]
    if make is not rj.MinimalRNNCell:
        options = options | {"kernel_init": "zeros"}
    if not issubclass(make, (rj.MinGRUCell, rj.MinLSTMCell)):
        options = options | {"recurrent_kernel_init": "zeros"}
    norms = []
    for steps in (1.0, np.exp(3.0)):
        init = rj.initializers.chrono(steps, steps + 1)
        cell = make(1, 2, bias_init=init, **options, rngs=nnx.Rngs(0))
        start = jax.tree.map(lambda part: part + 0.1, cell.initialize_carry((1,)))
        step = rj.linearize(cell, jnp.zeros((1, 1)), start).state_jacobians[0]
        norms.append(np.abs(np.linalg.eigvals(step)).max())
    assert norms[0] == pytest.approx(0.5, abs=0.05)
    assert norms[1] == pytest.approx(1 / (1 + np.exp(-3)), abs=0.05)


def test_chrono_of_an_lstm_keeps_what_is_in_the_cell_for_as_many_steps():
    # With zero weights ∏ f = (1 − 1/(1 + τ))^t: e^{-1} after about τ steps.
    cell = rj.LSTMCell(
        1,
        5,
        kernel_init="zeros",
        recurrent_kernel_init="zeros",
        bias_init="chrono(9, 10)",
        rngs=nnx.Rngs(0),
    )
    gates = cell.gates(cell.initialize_carry((1,)), jnp.zeros(1))
    np.testing.assert_allclose(gates["forget"], 0.9, rtol=1e-12)
    np.testing.assert_allclose(gates["input"], 0.1, rtol=1e-12)


def test_fast_grnn_has_its_gate_set():
    cell = rj.FastGRNNCell(1, 3, bias_init="forget_bias(2)", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(cell.gate_bias[...], 2)
    np.testing.assert_array_equal(cell.bias[...], 0)


def test_it_takes_the_place_of_a_cells_own_forget_bias_alone():
    cell = rj.LSTMCell(1, 3, bias_init="chrono(4, 5)", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(biases(cell)["forget"], np.log(4), rtol=1e-12)
    added = rj.LSTMCell(1, 3, bias_init="constant(0.5)", forget_bias=2.0, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(biases(added)["forget"], 2.5)


def test_half_types_are_drawn_as_float32_is():
    init = rj.initializers.chrono(1, 200)
    drawn = [
        biases(rj.GRUCell(1, 50, bias_init=init, param_dtype=dtype, rngs=nnx.Rngs(0)))["update"]
        for dtype in (jnp.bfloat16, jnp.float32)
    ]
    np.testing.assert_allclose(drawn[0].astype(np.float32), drawn[1], rtol=2**-8)


@table(
    simple=(
        lambda: rj.SimpleRNNCell(1, 2, bias_init="chrono(1, 9)", rngs=nnx.Rngs(0)),
        ValueError,
        "bias_init must give",
        "chrono sets the bias of the gate that keeps",
        "Pass",
    ),
    of_1997=(
        lambda: rj.LSTMCell(1, 2, forget_gate=False, bias_init="chrono(1, 9)", rngs=nnx.Rngs(0)),
        ValueError,
        "bias_init must give",
        "chrono sets",
    ),
    cfc=(
        lambda: rj.CfCCell(1, 2, bias_init="forget_bias", rngs=nnx.Rngs(0)),
        ValueError,
        "bias_init must give",
        "forget_bias sets",
    ),
    both=(
        lambda: rj.LSTMCell(1, 2, forget_bias=2, bias_init="chrono(1, 9)", rngs=nnx.Rngs(0)),
        ValueError,
        "forget_bias must be left out",
        "got forget_bias=2",
        "chrono(1, 9)",
        "Drop one",
    ),
    order=(
        lambda: rj.initializers.chrono(9, 9),
        ValueError,
        "must be 0 < t_min",
        "9 and 9",
        "Pass",
    ),
    number=(lambda: rj.initializers.chrono(1, "9"), TypeError, "t_max must be a number", "'9'"),
)
def test_what_has_no_such_gate_is_refused(call, error, words):
    refuses(call, error, *words)
