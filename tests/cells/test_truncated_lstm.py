"""An LSTM with the gradient of 1997: nothing comes back in time but along the cell state.

Its values are those of the cell with the whole gradient, which is swept over with all other cells.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.cells.structure import fused_form
from rnn_jax.gradients.fixed_points.enclosures import formula_of

IN, H, T = 3, 4, 6
XS = np.random.default_rng(0).normal(size=(T, IN))
FORMS = {
    "classical": {},
    "1997": {"forget_gate": False},
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "projection": {"projection": 2},
}
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def built(name="1997", truncated=True):
    cell = rj.LSTMCell(IN, H, truncated=truncated, rngs=nnx.Rngs(0), **FORMS[name])
    return zoo.randomised(cell, 0)


@pytest.mark.parametrize("name", FORMS)
def test_values_are_those_of_the_whole_gradient(name):
    (carry, ys), (other, others) = (
        rj.unroll(built(name, truncated), jnp.asarray(XS)) for truncated in (True, False)
    )
    np.testing.assert_allclose(ys, others, **CLOSE)
    for part, twin in zip(carry, other, strict=True):
        np.testing.assert_allclose(part, twin, **CLOSE)


@jax.jit
def path_and_carry(cell, carry, x):
    return cell.memory_path(carry, x)["c"], cell(carry, x)[0]


@pytest.mark.parametrize("name", FORMS)
def test_a_step_hands_on_the_forget_gate_and_nothing_else(name):
    cell = built(name)
    found = rj.linearize(cell, jnp.asarray(XS))
    carry = cell.initialize_carry((IN,))
    for x, jacobian in zip(jnp.asarray(XS), found.state_jacobians, strict=True):
        kept, carry = path_and_carry(cell, carry, x)
        np.testing.assert_allclose(jacobian[:H, :H], np.diag(kept), **CLOSE)
        np.testing.assert_array_equal(jacobian[:, H:], 0)
    whole = rj.linearize(built(name, truncated=False), jnp.asarray(XS))
    assert np.abs(whole.state_jacobians[1][:H, H:]).max() > 1e-2


def test_the_weights_gradient_is_the_learning_rule_of_1997():
    """∂c_j/∂w grows by the step's own term, whatever earlier outputs had to do with w."""
    cell = built()
    kernel, recurrent, bias = (np.asarray(p[...]) for p in zoo.parameters_of(cell).values())
    weights = np.concatenate([recurrent, kernel, bias[None]])
    c, h, traces = np.zeros(H), np.zeros(H), np.zeros((2, H + IN + 1, H))
    for x in XS:
        seen = np.concatenate([h, x, [1]])
        i, g, o = np.split(seen @ weights, 3)
        i, g, o = 1 / (1 + np.exp(-i)), np.tanh(g), 1 / (1 + np.exp(-o))
        traces += np.outer(seen, [g * i * (1 - i), i * (1 - g**2)]).reshape(-1, 2, H).swapaxes(0, 1)
        c = c + i * g
        h = o * np.tanh(c)
    error = np.cos(h)
    into_c = error * o * (1 - np.tanh(c) ** 2)
    into_o = np.outer(seen, error * np.tanh(c) * o * (1 - o))
    expected = np.concatenate([traces[0] * into_c, traces[1] * into_c, into_o], axis=1)

    def loss(cell):
        return jnp.sum(jnp.sin(rj.unroll(cell, jnp.asarray(XS))[1][-1]))

    found = zoo.parameters_of(jax.grad(loss)(cell))
    joined = [found[name][...] for name in ("recurrent_kernel", "kernel")]
    joined.append(found["bias"][...][None])
    np.testing.assert_allclose(np.concatenate(joined), expected, **CLOSE)


def test_without_a_forget_gate_a_gradient_comes_back_over_any_time_as_it_is():
    def last(c):
        return rj.unroll(built(), jnp.asarray(XS), (c, jnp.zeros(H)))[0][0]

    np.testing.assert_array_equal(jax.jacrev(last)(jnp.ones(H)), np.eye(H))


def test_what_would_have_another_derivative_is_not_claimed():
    assert fused_form(built("classical")) is None
    assert fused_form(built("classical", truncated=False)) is not None
    assert formula_of(built("classical"), jnp.zeros(IN)) is None
    cell = built("classical")
    cell.truncated = False  # What the trained network does, whole.
    assert fused_form(cell) is not None


def test_a_flag_that_is_no_bool_is_refused():
    with pytest.raises(TypeError, match=r"^truncated must be .*; got 1"):
        rj.LSTMCell(IN, H, truncated=1, rngs=nnx.Rngs(0))
