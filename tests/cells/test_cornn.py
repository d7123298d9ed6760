"""Networks of oscillators: their equations, initial weights, and what they claim of gradients."""

import jax
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
from rnn_jax.cells import CoRNNCell, UnICORNNCell

CORNN = ("kernel", "recurrent_kernel", "bias")


def cornn(seed=0, **options):
    return noisy(CoRNNCell(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def unicornn(seed=0, **options):
    return noisy(UnICORNNCell(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def cornn_equations(w, carry, x, xp, dt=0.3, gamma=1.7, epsilon=0.9):
    y, z = carry
    force = xp.tanh(x @ w["kernel"] + xp.concatenate([y, z]) @ w["recurrent_kernel"] + w["bias"])
    z = z + dt * (force - gamma * y - epsilon * z)
    y = y + dt * z
    return (y, z), y


def unicornn_equations(w, carry, x, xp, dt=0.4, alpha=2.3):
    y, z = carry
    step = dt / (1 + xp.exp(-w["time_scale"]))
    pull = xp.tanh(w["recurrent_kernel"] * y + x @ w["kernel"] + w["bias"]) + alpha * y
    z = z - step * pull
    y = y + step * z
    return (y, z), y


def test_cornn_follows_its_equations():
    assert_follows(cornn(time_step=0.3, gamma=1.7, epsilon=0.9), cornn_equations)


def test_unicornn_follows_its_equations():
    assert_follows(unicornn(time_step=0.4, alpha=2.3), unicornn_equations)


def test_initial_weights_are_those_of_the_papers():
    inputs, size = 3, 200
    cell = CoRNNCell(inputs, size, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(inputs + 2 * size)
    assert cell.recurrent_kernel.shape == (2 * size, size)
    for name in CORNN:
        assert_uniform(getattr(cell, name)[...], -bound, bound)
    cell = UnICORNNCell(inputs, size, rngs=nnx.Rngs(0))
    assert_uniform(cell.kernel[...], -np.sqrt(6 / (65 * inputs)), np.sqrt(6 / (65 * inputs)))
    assert_uniform(cell.recurrent_kernel[...], 0, 1)
    assert_uniform(cell.time_scale[...], -0.1, 0.1)
    assert not np.any(cell.bias[...])


def assert_uniform(values, low, high):
    values = np.asarray(values).ravel()
    width = high - low
    assert low <= values.min() < low + 0.05 * width
    assert high - 0.05 * width < values.max() <= high
    error = width / np.sqrt(12 * values.size)
    assert abs(values.mean() - (low + high) / 2) < 4 * error
    assert abs(values.std() * np.sqrt(12) / width - 1) < 4 / np.sqrt(2 * values.size)


@pytest.mark.parametrize("time_step", [0.01, 0.1, 0.5])
def test_no_step_of_cornn_stretches_more_than_its_bound(time_step):
    cell = cornn(time_step=time_step, gamma=1.0, epsilon=1.0)
    carry, xs = example(cell)
    found = np.asarray(rj.linearize(cell, xs, carry).state_jacobians)
    np.testing.assert_allclose(found, jacobians_by_calls(cell, xs, carry), **CLOSE)
    norm = np.abs(np.asarray(cell.recurrent_kernel[...])).sum(0).max()
    r = abs(1 - time_step) + time_step * (1 + norm)
    assert np.abs(found).sum(2).max() <= max(r, 1 + time_step * r) * (1 + 1e-12)
    # The identity and terms of order Δt.
    assert np.abs(found - np.eye(2 * H)).sum(2).max() <= time_step * (2 + norm + r)


def test_each_unit_of_unicornn_keeps_volume_and_can_be_undone():
    cell = unicornn()
    carry, xs = example(cell)
    found = np.asarray(rj.linearize(cell, xs, carry).state_jacobians)
    np.testing.assert_allclose(found, jacobians_by_calls(cell, xs, carry), rtol=1e-11, atol=1e-12)
    blocks = found.reshape(-1, 2, H, 2, H)
    across = blocks * (1 - np.eye(H)[:, None, :])
    assert not np.any(across)
    own = np.einsum("tpiqi->tipq", blocks)
    np.testing.assert_allclose(np.linalg.det(own), 1.0, rtol=1e-11)

    (y, z), _ = cell(carry, xs[0])
    step = cell.time_step * jax.nn.sigmoid(cell.time_scale[...])
    y = y - step * z
    pull = jnp.tanh(cell.recurrent_kernel[...] * y + cell.project(xs[0])) + cell.alpha * y
    np.testing.assert_allclose(y, carry[0], **CLOSE)
    np.testing.assert_allclose(z + step * pull, carry[1], **CLOSE)


@pytest.mark.parametrize("make", [CoRNNCell, UnICORNNCell])
def test_products_of_bfloat16_are_kept_in_the_type_of_the_carry(make):
    cell = make(IN, H, dtype=jnp.bfloat16, carry_dtype=jnp.float32, rngs=nnx.Rngs(0))
    carry = cell.initialize_carry((IN,))
    (y, z), out = cell(carry, jnp.ones(IN, jnp.bfloat16))
    assert {y.dtype, z.dtype, out.dtype} == {jnp.dtype(jnp.float32)}


@table(
    no_step=(
        lambda: CoRNNCell(IN, H, time_step=0.0, rngs=nnx.Rngs(0)),
        ValueError,
        "time_step must be above 0",
        "got 0",
        "Pass a positive float",
    ),
    negative_damping=(
        lambda: CoRNNCell(IN, H, epsilon=-1, rngs=nnx.Rngs(0)),
        ValueError,
        "epsilon must be at least 0",
        "got -1",
        "Pass 0.0",
    ),
    gamma_no_number=(
        lambda: CoRNNCell(IN, H, gamma="2", rngs=nnx.Rngs(0)),
        TypeError,
        "gamma must be a number",
        "'2'",
        "Pass a float",
    ),
    alpha=(
        lambda: UnICORNNCell(IN, H, alpha=-0.5, rngs=nnx.Rngs(0)),
        ValueError,
        "alpha must be at least 0",
        "-0.5",
        "Pass 0.0",
    ),
    vector=(
        lambda: UnICORNNCell(IN, H, time_scale_init="orthogonal", rngs=nnx.Rngs(0)),
        ValueError,
        "time_scale_init must be an initialiser of a few numbers for each unit",
        "got 'orthogonal'",
        "Pass one of",
    ),
    carry=(
        lambda: cornn()(jnp.zeros(H), jnp.ones(IN)),
        ValueError,
        "carry must be (y, z)",
        "got (3,)",
        "initialize_carry",
    ),
)
def test_what_they_refuse(call, error, words):
    refuses(call, error, *words)
