"""The antisymmetric network: its equations, initial weights, and its eigenvalues."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    H,
    assert_follows,
    example,
    jacobians_by_calls,
    noisy,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells import AntisymmetricRNNCell


def antisymmetric(seed=0, **options):
    return noisy(AntisymmetricRNNCell(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def equations(w, carry, x, xp, epsilon=0.3, gamma=0.2):
    h = carry
    m = w["recurrent_kernel"] - w["recurrent_kernel"].T - gamma * xp.eye(H)
    h = h + epsilon * xp.tanh(x @ w["kernel"] + h @ m + w["bias"])
    return h, h


def gated_equations(w, carry, x, xp, epsilon=0.3, gamma=0.2):
    h = carry
    m = w["recurrent_kernel"] - w["recurrent_kernel"].T - gamma * xp.eye(H)
    candidate = xp.tanh(x @ w["kernel"][:, :H] + h @ m + w["bias"][:H])
    gate = 1 / (1 + xp.exp(-(x @ w["kernel"][:, H:] + h @ m + w["bias"][H:])))
    h = h + epsilon * gate * candidate
    return h, h


@pytest.mark.parametrize("gated", [False, True])
def test_it_follows_its_equations(gated):
    cell = antisymmetric(gated=gated, epsilon=0.3, gamma=0.2)
    assert_follows(cell, gated_equations if gated else equations)


def test_initial_weights_are_those_of_the_paper():
    inputs, size = 50, 200
    cell = AntisymmetricRNNCell(inputs, size, gated=True, rngs=nnx.Rngs(0))
    assert cell.kernel.shape == (inputs, 2 * size)
    assert cell.recurrent_kernel.shape == (size, size)
    for values, variance in (
        (cell.kernel[...], 1 / inputs),
        (cell.recurrent_kernel[...], 1 / size),
    ):
        values = np.asarray(values).ravel() / np.sqrt(variance)
        error = 1 / np.sqrt(values.size)
        assert abs(values.mean()) < 4 * error
        assert abs(values.var() - 1) < 4 * np.sqrt(2) * error
        assert abs((values**4).mean() - 3) < 4 * np.sqrt(96) * error
    assert not np.any(cell.bias[...])


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_eigenvalues_of_a_step_lie_on_the_line_of_one_and_gamma_moves_them_left(gamma):
    cell = antisymmetric(epsilon=0.1, gamma=gamma)
    carry, xs = example(cell)
    found = rj.linearize(cell, xs, carry).state_jacobians
    np.testing.assert_allclose(found, jacobians_by_calls(cell, xs, carry), **CLOSE)
    eigenvalues = np.linalg.eigvals(found)
    assert np.abs(eigenvalues.imag).max() > 0.01
    if gamma:
        assert eigenvalues.real.max() < 1
    else:
        np.testing.assert_allclose(eigenvalues.real, 1.0, rtol=1e-12)
    # Where all slopes are 1, at rest, they are exactly those of I + εM.
    m = np.asarray(cell.transition_kernel())
    np.testing.assert_allclose(m + m.T, -2 * gamma * np.eye(H), atol=1e-15)
    cell.bias[...] = 0 * cell.bias[...]
    at_rest = rj.linearize(cell, 0 * xs[:1], 0 * carry).state_jacobians[0]
    np.testing.assert_allclose(at_rest, np.eye(H) + 0.1 * m.T, **CLOSE)


@pytest.mark.parametrize("gated", [False, True])
def test_products_of_bfloat16_are_kept_in_the_type_of_the_carry(gated):
    types = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32}
    cell = AntisymmetricRNNCell(IN, H, gated=gated, rngs=nnx.Rngs(0), **types)
    h, out = cell(cell.initialize_carry((IN,)), jnp.ones(IN, jnp.bfloat16))
    assert {h.dtype, out.dtype} == {jnp.dtype(jnp.float32)}


@table(
    epsilon=(
        lambda: AntisymmetricRNNCell(IN, H, epsilon=0, rngs=nnx.Rngs(0)),
        ValueError,
        "epsilon must be above 0",
        "got 0",
        "Pass a positive float",
    ),
    gamma=(
        lambda: AntisymmetricRNNCell(IN, H, gamma=-0.1, rngs=nnx.Rngs(0)),
        ValueError,
        "gamma must be at least 0",
        "got -0.1",
        "Pass 0.0",
    ),
    gated=(
        lambda: AntisymmetricRNNCell(IN, H, gated="yes", rngs=nnx.Rngs(0)),
        TypeError,
        "gated must be True or False",
        "'yes'",
        "Pass a bool",
    ),
    initializer=(
        lambda: AntisymmetricRNNCell(IN, H, recurrent_kernel_init="ortho", rngs=nnx.Rngs(0)),
        ValueError,
        "recurrent_kernel_init must be one of",
        "got 'ortho'",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
