"""sLSTM and mLSTM: equations without the stabiliser, initial weights, claims about gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from state_spaces import H, assert_keeps_its_types, assert_refuses_bad_calls, build, carry_of, xs_of
from transcribed import CLOSE, IN, assert_follows, sigmoid

import rnn_jax as rj
from rnn_jax.cells import MLSTMCell, SLSTMCell


def slstm(w, carry, x, xp):
    """Without the stabiliser: c and n as they are, e^m c and e^m n of the cell."""
    c, n, m, h = carry
    heads, width, _ = w["recurrent_kernel"].shape
    pre = [
        x @ w["kernel"][:, k * H : (k + 1) * H] + w["bias"][k * H : (k + 1) * H] for k in range(4)
    ]
    for k in range(4):
        r = w["recurrent_kernel"][:, :, k * width : (k + 1) * width]
        parts = [h[a * width : (a + 1) * width] @ r[a] for a in range(heads)]
        pre[k] = pre[k] + xp.concatenate(parts)
    i, f = xp.exp(pre[0]), sigmoid(pre[1], xp)
    after_m = xp.maximum(pre[0], m + xp.log(f))
    c = f * c * xp.exp(m) + i * xp.tanh(pre[2])
    n = f * n * xp.exp(m) + i
    h = sigmoid(pre[3], xp) * c / n
    return (c * xp.exp(-after_m), n * xp.exp(-after_m), after_m, h), h


def mlstm(w, carry, x, xp):
    """Likewise without the stabiliser."""
    c, n, m = carry
    heads, d = n.shape
    z = x @ w["kernel"] + w["bias"]
    q, k, v = (z[j * H : (j + 1) * H].reshape(heads, d) for j in range(3))
    o = sigmoid(z[3 * H : 4 * H], xp)
    u_i, f = z[4 * H : 4 * H + heads], sigmoid(z[4 * H + heads :], xp)
    after_m = xp.maximum(u_i, m + xp.log(f))
    cs, ns, ys = [], [], []
    for a in range(heads):
        key = k[a] / math.sqrt(d)
        c_a = f[a] * c[a] * xp.exp(m[a]) + xp.exp(u_i[a]) * xp.outer(key, v[a])
        n_a = f[a] * n[a] * xp.exp(m[a]) + xp.exp(u_i[a]) * key
        floor = xp.maximum(xp.abs(n_a @ q[a]), 1.0) + 1e-6 * xp.exp(after_m[a])
        ys.append(c_a.T @ q[a] / floor)
        cs.append(c_a * xp.exp(-after_m[a]))
        ns.append(n_a * xp.exp(-after_m[a]))
    y = o * xp.concatenate(ys)
    return (xp.stack(cs), xp.stack(ns), after_m), y


MAKERS = {
    "slstm": (SLSTMCell, {}, slstm),
    "slstm_heads": (SLSTMCell, {"num_heads": 2}, slstm),
    "mlstm_heads": (MLSTMCell, {"num_heads": 2}, mlstm),
}
ONE_OF_EACH = ("slstm_heads", "mlstm_heads")


def built(name):
    make, options, _ = MAKERS[name]
    return build(make, **options)


def what_is_seen(carry, xp):
    """The stabiliser of an sLSTM cannot be seen, only what it stands for."""
    if len(carry) < 4:
        return carry
    c, n, m, h = carry
    return c * xp.exp(m), n * xp.exp(m), h


# One head is a number of heads.
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_they_follow_their_equations(name):
    make, options, equations = MAKERS[name]
    cell = build(make, **options)
    assert_follows(cell, equations, carry_of(cell), what_is_seen)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_they_keep_their_types_and_refuse_bad_calls(name):
    make, options, _ = MAKERS[name]
    cell = build(make, **options)
    assert_keeps_its_types(make, **options)
    assert_refuses_bad_calls(cell)


def test_slstm_starts_with_forget_biases_along_a_power():
    cell = SLSTMCell(300, 200, num_heads=2, depth=0.5, rngs=nnx.Rngs(0))
    assert not cell.recurrent_kernel[...].any()
    bias = np.asarray(cell.bias[...]).reshape(4, 2, 100)
    expected = 5 - 12 * (np.arange(100) / 99) ** (0.3 + 1.3 * 0.5)
    np.testing.assert_allclose(bias[1], np.stack([expected] * 2), **CLOSE)
    assert not bias[[0, 2, 3]].any()
    np.testing.assert_allclose(cell.kernel[...].var(), 2 / (5 * 300), rtol=0.05)


def test_mlstm_starts_with_gates_that_see_no_input():
    cell = MLSTMCell(300, 256, num_heads=128, rngs=nnx.Rngs(0))
    kernel, bias = np.asarray(cell.kernel[...]), np.asarray(cell.bias[...])
    assert not kernel[:, 4 * 256 :].any()
    assert not bias[: 4 * 256].any()
    np.testing.assert_allclose(kernel[:, : 4 * 256].var(), 2 / (5 * 300), rtol=0.05)
    np.testing.assert_allclose(bias[-128:], np.linspace(3, 6, 128), rtol=1e-6)
    np.testing.assert_allclose(bias[4 * 256 : -128].std(), 0.1, rtol=0.25)


def test_slstm_reads_nothing_but_the_ratio():
    cell, x = built("slstm"), xs_of()[0]
    c, n, m, h = carry_of(cell)
    along = (c, n, -jnp.ones_like(m), jnp.zeros_like(h))
    moved = jax.jvp(lambda carry: cell(carry, x)[1], ((c, n, m, h),), (along,))[1]
    np.testing.assert_allclose(moved, 0, atol=1e-13)


def test_mlstm_hands_its_memory_on_with_its_forget_gates():
    cell, xs = built("mlstm_heads"), xs_of(steps=20)
    carry = carry_of(cell)

    def memory(c):
        (c, _, m), _ = rj.unroll(cell, xs, (c, *carry[1:]))
        return c * jnp.exp(m)[:, None, None]

    along = jnp.ones_like(carry[0])
    moved = jax.jvp(memory, (carry[0],), (along,))[1]
    u_f = np.asarray(jax.vmap(cell.project)(xs))[:, -2:]
    expected = np.exp(carry[2]) * np.prod(1 / (1 + np.exp(-u_f)), axis=0)
    np.testing.assert_allclose(
        moved, np.broadcast_to(expected[:, None, None], moved.shape), rtol=1e-11
    )


BAD = [
    (SLSTMCell, {"num_heads": 3}, ValueError, "num_heads must divide"),
    (SLSTMCell, {"depth": 2}, ValueError, "depth must lie in"),
    (MLSTMCell, {"num_heads": 0}, ValueError, "num_heads must be at least 1"),
    (MLSTMCell, {"param_dtype": int}, TypeError, "param_dtype must be a floating-point type"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD)
def test_bad_arguments_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make(IN, H, **{"rngs": nnx.Rngs(0), **options})
