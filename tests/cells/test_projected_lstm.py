"""An LSTM that projects its hidden state to another size: h' = (o ∘ tanh c') W_p.

That its step, its derivatives and its claims are the published ones is swept over with all other
cells (`lstm_projection` in the zoo, of equal sizes); here the sizes differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo
from refusing import refuses
from rnn_jax.cells.claims import claim, makes_claim
from rnn_jax.cells.structure import fused_form

IN, H, P, T, B = 3, 5, 2, 4, 2
XS = np.random.default_rng(0).normal(size=(B, T, IN))
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def projected(seed=0, **options):
    cell = rj.LSTMCell(IN, H, projection=P, rngs=nnx.Rngs(seed), **options)
    return zoo.randomised(cell, seed)


def test_the_carry_is_c_of_the_cell_and_h_of_the_projection():
    cell = projected()
    c, h = cell.initialize_carry((B, IN))
    assert (c.shape, h.shape) == ((B, H), (B, P))
    assert (cell.hidden_features, cell.output_features, cell.projection) == (H, P, P)
    assert cell.recurrent_kernel.shape == (P, 4 * H)
    assert cell.projection_kernel.shape == (H, P)
    (c, h), y = cell((c, h), jnp.asarray(XS[:, 0]))
    assert (c.shape, h.shape, y.shape) == ((B, H), (B, P), (B, P))
    assert rj.LSTMCell(IN, H, rngs=nnx.Rngs(0)).output_features == H


@pytest.mark.parametrize("form", [{}, {"peephole": True}, {"coupled": True, "peephole": True}])
def test_the_whole_sequence_and_its_derivatives_are_those_of_the_equations(form):
    cell = projected(2, **form)
    twin, start = zoo.oracle(cell), np.random.default_rng(1).normal(size=H + P)
    carry = tuple(jnp.split(jnp.asarray(start), [H]))
    carries, ys = oracles.run(twin.step, XS[0], start)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, XS[0])
    found = rj.linearize(cell, XS[0], carry)
    np.testing.assert_allclose(found.carries, carries, **CLOSE)
    np.testing.assert_allclose(found.outputs, ys, **CLOSE)
    np.testing.assert_allclose(found.state_jacobians, As, **CLOSE)
    np.testing.assert_allclose(found.input_jacobians, Bs, **CLOSE)
    assert found.output_rows == (H, H + P)

    def loss(cell):
        return jnp.sum(jnp.sin(rj.unroll(cell, jnp.asarray(XS[0]), carry)[1]))

    by_step = [np.zeros(H + P)]
    for A, y in zip(As[::-1], ys[::-1], strict=True):
        total = by_step[-1] + np.concatenate([np.zeros(H), np.cos(y)])
        by_step[-1] = total
        by_step.append(A.T @ total)
    totals = by_step[-2::-1]
    shares = [twin.gradient(c, x, t) for c, x, t in zip(carries[:-1], XS[0], totals, strict=True)]
    gradient = zoo.weights_of(jax.grad(loss)(cell))
    for name, value in gradient.items():
        np.testing.assert_allclose(value, sum(share[name] for share in shares), **CLOSE)
    assert "projection_kernel" in gradient


def test_it_tells_of_itself_what_holds_with_a_projection_between():
    cell = projected()
    assert fused_form(cell) is None
    assert not makes_claim(cell, "diagonal_part")
    carry, x = cell.initialize_carry((IN,)), jnp.asarray(XS[0, 0])
    assert claim(cell, "gates")(carry, x)["forget"].shape == (H,)
    assert claim(cell, "memory_path")(carry, x)["c"].shape == (H,)


def test_a_batch_in_pieces_with_lengths_is_the_row_as_a_whole():
    cell, lengths = projected(), jnp.asarray([T, 3])
    last, ys = rj.unroll(cell, XS, lengths=lengths)
    carry, first = rj.unroll(cell, XS[:, :2])
    end, second = rj.unroll(cell, XS[:, 2:], carry, lengths=lengths - 2)
    np.testing.assert_allclose(ys, jnp.concatenate([first, second], axis=1), **CLOSE)
    for one, other in zip(last, end, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def test_products_of_bfloat16_are_added_up_in_the_type_of_the_carry():
    cell = projected(dtype=jnp.bfloat16, carry_dtype=jnp.float32)
    carry, y = cell(cell.initialize_carry((IN,)), jnp.asarray(XS[0, 0], jnp.bfloat16))
    assert {part.dtype for part in (*carry, y)} == {jnp.dtype(jnp.float32)}


def test_what_it_refuses():
    words = ("projection must be at least 1", "got 0", "Pass a positive int")
    refuses(lambda: rj.LSTMCell(IN, H, projection=0, rngs=nnx.Rngs(0)), ValueError, *words)
    words = ("projection must be a whole number", "True", "Pass an int")
    refuses(lambda: rj.LSTMCell(IN, H, projection=True, rngs=nnx.Rngs(0)), TypeError, *words)
    wrong = jnp.zeros(H), jnp.zeros(H)
    words = (
        "carry must be (c, h), c of shape (5,), h of shape (2,)",
        "got ((5,), (5,))",
        "initialize_carry",
    )
    refuses(lambda: projected()(wrong, jnp.ones(IN)), ValueError, *words)
    words = ("must consist of square blocks", "projects 5 features to 2", "Leave the penalty out")
    refuses(lambda: rj.orthogonality_penalty(projected()), ValueError, *words)
    words = ("RecurrentDropout needs a cell whose weights", "projection", "Build an LSTMCell")
    refuses(lambda: rj.RecurrentDropout(projected(), 0.1), TypeError, *words)
