"""Mean-field theory against closed forms, mpmath, published numbers and the instrument."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.initializers import (
    critical_gain,
    fixed_point_variance,
    gaussian_mean,
    susceptibility,
)


def expectation(function, variance):
    """E f(√q z) by adaptive quadrature."""
    root = mpmath.sqrt(variance)
    return mpmath.quad(
        lambda z: function(root * z) * mpmath.npdf(z), [-12, -6, -2, -0.5, 0.5, 2, 6, 12]
    )


MPMATH = {
    "tanh": (mpmath.tanh, lambda u: mpmath.sech(u) ** 2),
    "sigmoid": (
        lambda u: 1 / (1 + mpmath.exp(-u)),
        lambda u: mpmath.exp(-u) / (1 + mpmath.exp(-u)) ** 2,
    ),
    "sin": (mpmath.sin, mpmath.cos),
}


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        ("tanh", 1.0),
        ("identity", 1.0),
        ("relu", np.sqrt(2)),
        ("leaky_relu", np.sqrt(2 / (1 + 0.01**2))),
        (rj.leaky_relu(0.3), np.sqrt(2 / (1 + 0.3**2))),
        ("sin", 1.0),
        ("elu", 1.0),
        ("gelu", 2.0),
        (lambda u: 3 * jnp.tanh(u / 2), 2 / 3),
    ],
)
def test_a_network_without_biases_and_inputs_is_critical_where_the_slopes_at_rest_say(
    activation, gain
):
    assert critical_gain(activation) == pytest.approx(gain, rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "source"), [("tanh", 0.5), ("tanh", 1e-3), ("sigmoid", 0.0), ("sin", 0.2)]
)
def test_at_the_critical_gain_chi_is_one_at_the_fixed_point_by_mpmath(activation, source):
    phi, slope = MPMATH[activation]
    gain = critical_gain(activation, bias_variance=source)
    q = fixed_point_variance(gain, activation, source)
    assert q == pytest.approx(
        float(gain**2 * expectation(lambda u: phi(u) ** 2, q) + source), rel=1e-12
    )
    assert float(gain**2 * expectation(lambda u: slope(u) ** 2, q)) == pytest.approx(1, abs=1e-12)
    assert susceptibility(gain, activation, source) == pytest.approx(1, abs=1e-12)
    # Biases and inputs count together.
    assert critical_gain(activation, source / 2, source / 2) == pytest.approx(gain, rel=1e-12)


@pytest.mark.parametrize("variance", [1e-6, 0.3, 4.0, 250.0])
def test_means_are_those_of_mpmath(variance):
    assert gaussian_mean(lambda u: np.tanh(u) ** 2, variance) == pytest.approx(
        float(expectation(lambda u: mpmath.tanh(u) ** 2, variance)), rel=1e-12
    )


def test_means_of_polynomials_and_of_several_variances_are_exact():
    variances = np.array([0.0, 0.25, 9.0])
    np.testing.assert_allclose(gaussian_mean(lambda u: u**4, variances), 3 * variances**2)
    np.testing.assert_allclose(gaussian_mean(lambda u: np.maximum(u, 0) ** 2, 9.0), 4.5)


def test_published_numbers():
    """Chen, Pennington and Schoenholz (2018): tanh with noisy inputs, and the minimalRNN."""
    for drive, expected in ((0.46, 0.9766), (1.0, 0.9659)):
        chi = susceptibility(1.0, "tanh", 0.025**2 * drive)
        assert chi == pytest.approx(expected, abs=5e-5)

    def sigmoid(u):
        return 1 / (1 + np.exp(-u))

    sigma_w, sigma_v, drive, square = 6.88, 1.39, 0.46, 0.3
    for _ in range(300):
        q = sigma_w**2 * square + sigma_v**2 * drive
        kept = gaussian_mean(lambda u: sigmoid(u) ** 2, q)
        square = gaussian_mean(lambda u: sigmoid(-u) ** 2, q) * drive / (1 - kept)
    slope = gaussian_mean(lambda u: (sigmoid(u) * sigmoid(-u)) ** 2, q)
    assert q == pytest.approx(15.94, abs=0.01)
    assert kept + sigma_w**2 * slope * (square + drive) == pytest.approx(0.9989, abs=2e-4)


def test_variance_without_a_fixed_point_is_infinite_and_at_rest_zero():
    assert fixed_point_variance(1.5, "relu", 0.1) == np.inf
    assert fixed_point_variance(0.9, "tanh") == 0.0
    assert fixed_point_variance(1.0, "relu", 0.1) == pytest.approx(0.2, rel=1e-9)
    assert susceptibility(1.5, "relu", 0.1) == pytest.approx(1.5**2 / 2, rel=1e-12)


def test_the_measured_squared_singular_values_of_a_wide_network_are_one_in_the_mean():
    H, T, start = 256, 24, 8
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, 16)))
    chi = {}
    for init in ("critical(tanh, input_variance=0.5)", "gaussian(1.0)"):
        cell = rj.SimpleRNNCell(
            16,
            H,
            kernel_init=rj.initializers.normal((0.5 / 16) ** 0.5),
            recurrent_kernel_init=init,
            rngs=nnx.Rngs(3),
        )
        steps = rj.linearize(cell, xs).state_jacobians[start:]
        chi[init] = float((steps**2).sum(axis=(1, 2)).mean() / H)
    measured, at_gain_one = chi.values()
    # Of 256 units and 16 steps: about 2 % by seed.
    assert measured == pytest.approx(1, abs=0.04)
    assert at_gain_one == pytest.approx(susceptibility(1.0, "tanh", 0.5), abs=0.04)
    assert at_gain_one < 0.6


def test_it_is_computed_in_float64_while_something_else_is_traced_in_float32():
    @jax.jit
    def draw(key):
        return rj.initializers.critical("softsign", 0.3)(key, (3, 3), jnp.float32)

    expected = critical_gain(lambda u: u / (1 + jnp.abs(u)), 0.3)
    with jax.enable_x64(False):
        drawn = draw(jax.random.key(0))
        assert critical_gain("softsign", 0.3) == pytest.approx(expected, rel=1e-12)
    assert drawn.dtype == jnp.float32


@table(
    grows=(lambda: critical_gain("relu", 0.5), ValueError, "a critical gain needs", "relu", "0.5"),
    softplus=(lambda: critical_gain("softplus"), ValueError, "fixed point", "got softplus", "Pass"),
    below=(lambda: critical_gain("tanh", -1), ValueError, "bias_variance must be", "got -1"),
    nan=(
        lambda: critical_gain("tanh", 0, float("nan")),
        ValueError,
        "input_variance must be finite",
        "got nan",
    ),
    name=(lambda: critical_gain("tan"), ValueError, "activation must be one of", "'tan'"),
    gain=(
        lambda: fixed_point_variance(-1, "tanh"),
        ValueError,
        "gain must be at least 0",
        "got -1",
    ),
    source=(
        lambda: susceptibility(1, "tanh", float("nan")),
        ValueError,
        "source_variance must be finite",
        "got nan",
    ),
    flat=(lambda: critical_gain(jnp.sign), ValueError, "a critical gain needs", "sign"),
)
def test_what_has_no_critical_gain_is_refused(call, error, words):
    refuses(call, error, *words)
