"""The analytic bound holds on every trajectory and is met where theory says so."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from rnn_jax.activations import ACTIVATIONS

T, FEATURES, H = 7, 2, 4


def with_weights(activation, *, recurrent_kernel, kernel=None, bias=None):
    recurrent_kernel = jnp.asarray(recurrent_kernel)
    size = recurrent_kernel.shape[0]
    cell = rj.SimpleRNNCell(FEATURES, size, activation=activation, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = recurrent_kernel
    if kernel is not None:
        cell.kernel[...] = jnp.asarray(kernel)
    if bias is not None:
        cell.bias[...] = jnp.asarray(bias)
    return cell


def by_lag(table):
    """The entries of a (T, T) table for each lag."""
    return [np.diagonal(table, -lag) for lag in range(len(table))]


# Slopes of at most a quarter, of both signs, and past one; those of all activations are below.
@pytest.mark.parametrize("activation", ["sigmoid", "sin", "gelu"])
@hypothesis.given(
    seed=st.integers(0, 2**31),
    gain=st.floats(0.01, 4.0),
    drive=st.sampled_from([0.0, 0.3, 3.0]),
)
def test_bound_holds_on_random_trajectories(activation, seed, gain, drive):
    rng = np.random.default_rng(seed)
    cell = with_weights(
        activation,
        recurrent_kernel=gain * rng.normal(size=(H, H)) / np.sqrt(H),
        kernel=rng.normal(size=(FEATURES, H)),
        bias=rng.normal(size=H),
    )
    xs = jnp.asarray(drive * rng.normal(size=(T, FEATURES)))
    carry = jnp.asarray(rng.normal(size=H))
    norms = np.asarray(rj.jacobian_log_norms(cell, xs, carry, wrt="state", norm="spectral"))
    bound = np.asarray(rj.jacobian_log_bound(cell, T))
    for lag, values in enumerate(by_lag(norms)):
        assert (values <= bound[lag] + 1e-9 * max(1.0, abs(bound[lag]))).all()


@pytest.mark.parametrize("gain", [0.3, 1.0, 2.5])
def test_linear_network_with_orthogonal_kernel_meets_the_bound(gain):
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(H, H)))[0]
    cell = with_weights("identity", recurrent_kernel=gain * orthogonal)
    norms = rj.jacobian_log_norms(cell, jnp.ones((T, FEATURES)), wrt="state", norm="spectral")
    bound = np.asarray(rj.jacobian_log_bound(cell, T))
    np.testing.assert_allclose(bound, np.arange(T) * np.log(gain), atol=1e-12)
    for lag, values in enumerate(by_lag(np.asarray(norms))):
        np.testing.assert_allclose(values, bound[lag], atol=1e-12)


@pytest.mark.parametrize(("activation", "rest"), [("tanh", 0.0), ("sigmoid", 0.5), ("sin", 0.0)])
def test_bound_is_met_at_rest_where_the_slope_is_largest(activation, rest):
    # Held at pre-activation 0, where the slope is its sup; a symmetric kernel has norms that
    # multiply.
    kernel = np.random.default_rng(1).normal(size=(H, H))
    kernel = kernel + kernel.T
    bias = -rest * kernel.sum(axis=0)
    cell = with_weights(activation, recurrent_kernel=kernel, bias=bias)
    carry = jnp.full(H, rest)
    norms = rj.jacobian_log_norms(
        cell, jnp.zeros((T, FEATURES)), carry, wrt="state", norm="spectral"
    )
    bound = np.asarray(rj.jacobian_log_bound(cell, T))
    # Rounding moves an unstable fixed point by itself, so only the first lags are held to it.
    np.testing.assert_allclose(np.asarray(norms)[:4, 0], bound[:4], atol=1e-9)
    slope = rj.activation_slope_range(activation)[1]
    sigma = np.abs(np.linalg.eigvalsh(kernel)).max()
    np.testing.assert_allclose(bound, np.arange(T) * np.log(slope * sigma), atol=1e-12)


def test_zero_kernel_bounds_by_exactly_zero():
    cell = with_weights("tanh", recurrent_kernel=np.zeros((H, H)))
    bound = np.asarray(rj.jacobian_log_bound(cell, T))
    assert bound[0] == 0
    assert np.isneginf(bound[1:]).all()
    norms = np.asarray(
        rj.jacobian_log_norms(cell, jnp.ones((T, FEATURES)), wrt="state", norm="spectral")
    )
    assert np.isneginf(norms[~np.eye(T, dtype=bool)]).all()
    assert np.abs(np.diag(norms)).max() < 1e-15


def test_bound_under_jit_and_for_a_single_lag():
    cell = with_weights("sigmoid", recurrent_kernel=np.eye(H))
    eager = rj.jacobian_log_bound(cell, T)
    jitted = jax.jit(rj.jacobian_log_bound, static_argnums=1)(cell, T)
    np.testing.assert_allclose(np.asarray(jitted), np.asarray(eager), rtol=1e-15)
    np.testing.assert_array_equal(np.asarray(rj.jacobian_log_bound(cell, 1)), [0.0])


def test_bound_of_an_activation_that_states_its_slopes():
    steep = rj.Activation("steep", lambda x: jnp.tanh(-3 * x), slope_range=(-3.0, 0.0))
    cell = with_weights(steep, recurrent_kernel=np.eye(H))
    np.testing.assert_allclose(
        np.asarray(rj.jacobian_log_bound(cell, 3)), np.log(3.0) * np.arange(3), rtol=1e-15
    )


def test_the_bound_of_a_flow_holds_in_its_own_units():
    cell = with_weights("sigmoid", recurrent_kernel=np.random.default_rng(3).normal(size=(H, H)))
    xs = jnp.asarray(np.random.default_rng(4).normal(size=(3, T, FEATURES)))
    flow = rj.gradient_flow(cell, xs, measures="bound")
    largest = np.asarray(flow.by_lag("max"))
    assert (largest <= np.asarray(flow.bound) + 1e-12).all()


# Dense where functions bend, and far out where slopes reach their limits.
FAR = np.array([1e2, 1e3, 1e4])
GRID = np.concatenate([np.linspace(-12, 12, 20001), FAR, -FAR])


@pytest.mark.parametrize(
    "activation",
    [*sorted(ACTIVATIONS), *(rj.leaky_relu(alpha) for alpha in (-0.5, 0.0, 0.3, 2.0))],
    ids=lambda a: a if isinstance(a, str) else a.name,
)
def test_slope_ranges_are_those_of_automatic_differentiation(activation):
    function = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    slopes = np.asarray(jax.vmap(jax.grad(function))(jnp.asarray(GRID)))
    low, high = rj.activation_slope_range(activation)
    assert slopes.min() >= low - 1e-14
    assert slopes.max() <= high + 1e-14
    # Approached: the closed range is no wider than it has to be.
    np.testing.assert_allclose([slopes.min(), slopes.max()], [low, high], atol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [(jax.nn.sigmoid, (0.0, 0.25)), (jnp.tanh, (0.0, 1.0)), (jax.nn.relu, (0.0, 1.0))],
)
def test_slope_ranges_of_the_functions_that_names_stand_for(function, expected):
    assert rj.activation_slope_range(function) == expected
