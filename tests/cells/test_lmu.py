"""Legendre memory unit: its equations, its memory, its initial weights."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from state_spaces import H, assert_keeps_its_types, assert_refuses_bad_calls, build, carry_of
from transcribed import CLOSE, IN, assert_follows

import rnn_jax as rj
from rnn_jax.cells import LMUCell
from rnn_jax.cells.lmu import legendre_memory


def lmu(w, carry, x, xp, theta=5.0):
    m, h = carry
    d = m.shape[0]
    a, b = np.zeros((d, d)), np.zeros(d)
    for i in range(d):
        b[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(d):
            a[i, j] = (2 * i + 1) / theta * (-1 if i < j else (-1.0) ** (i - j + 1))
    values, vectors = np.linalg.eig(a)
    held = (vectors * np.exp(values)) @ np.linalg.inv(vectors)
    driven = np.linalg.solve(a, (held.real - np.eye(d)) @ b)
    e_x, w_x = w["kernel"][:, 0], w["kernel"][:, 1:]
    e_h, w_h = w["recurrent_kernel"][:, 0], w["recurrent_kernel"][:, 1:]
    u = x @ e_x + h @ e_h + m @ w["memory_encoder"][:, 0]
    m = held.real @ m + driven * u
    h = xp.tanh(x @ w_x + h @ w_h + m @ w["memory_kernel"])
    return (m, h), h


MAKERS = {
    "lmu": (LMUCell, {"memory_features": 3, "theta": 5.0}, lmu),
}
ONE_OF_EACH = ("lmu",)


@pytest.mark.parametrize("name", MAKERS)
def test_they_follow_their_equations(name):
    make, options, equations = MAKERS[name]
    cell = build(make, **options)
    assert_follows(cell, equations, carry_of(cell))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_they_keep_their_types_and_refuse_bad_calls(name):
    make, options, _ = MAKERS[name]
    cell = build(make, **options)
    assert_keeps_its_types(make, **options)
    assert_refuses_bad_calls(cell)


def test_lmu_remembers_a_window():
    """Σ m_i is what was written θ steps ago; the memory's own Jacobian is Ā."""
    theta, order, steps = 50.0, 12, 300
    cell = LMUCell(1, 2, memory_features=order, theta=theta, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = 0 * cell.recurrent_kernel[...]
    cell.kernel[...] = cell.kernel[...].at[0, 0].set(1.0)
    time = np.arange(steps)
    signal = np.sin(2 * np.pi * time / 60)
    _, _, (m, _) = rj.unroll(cell, jnp.asarray(signal)[:, None], return_carries=True)
    decoded = np.asarray(m).sum(axis=1)
    # A zero-order hold is late by half a step.
    np.testing.assert_allclose(
        decoded[150:], np.sin(2 * np.pi * (time[150:] - theta + 0.5) / 60), atol=0.02
    )
    found = rj.linearize(cell, jnp.asarray(signal)[:3, None]).state_jacobians[:, :order, :order]
    a, _ = legendre_memory(order, theta)
    np.testing.assert_allclose(found, np.broadcast_to(a, found.shape), **CLOSE)
    assert np.abs(np.linalg.eigvals(a)).max() < 1


def test_lmu_weights_start_as_in_the_paper():
    cell = LMUCell(300, 200, memory_features=100, rngs=nnx.Rngs(0))
    assert not cell.memory_encoder[...].any()
    for kernel, rows in ((cell.kernel, 300), (cell.recurrent_kernel, 200)):
        encoder, rest = kernel[...][:, 0], kernel[...][:, 1:]
        assert np.abs(encoder).max() <= math.sqrt(3 / rows)
        np.testing.assert_allclose(encoder.var(), 1 / rows, rtol=0.25)
        np.testing.assert_allclose(rest.var(), 2 / (rows + 200), rtol=0.05)


BAD = [
    (LMUCell, {"theta": 0}, ValueError, "theta must be above 0"),
    (LMUCell, {"memory_features": 0}, ValueError, "memory_features must be at least 1"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), BAD)
def test_bad_arguments_are_refused(make, options, error, message):
    with pytest.raises(error, match=message):
        make(IN, H, **{"rngs": nnx.Rngs(0), **options})
