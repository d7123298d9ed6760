"""Finite-time Lyapunov exponents by window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_lyapunov import STEPS, jacobians
from test_reference import FEATURES, network
from test_singular_values import inputs, linear

import oracles_spectra
import rnn_jax as rj
from refusing import refused

NAME = "lstm_coupled_peephole"


@pytest.mark.parametrize(("window", "warmup", "k"), [(10, 0, None), (7, 8, 3), (60, 0, 2)])
def test_each_window_is_the_loop_in_plain_numpy(window, warmup, k):
    net = network(NAME)
    found = rj.local_lyapunov_exponents(
        net.cell, inputs(STEPS), net.carry, window=window, k=k, warmup=warmup
    )
    growth, _ = oracles_spectra.lyapunov_growth(jacobians(NAME), k, warmup)
    growth = growth[:, np.argsort(-growth.sum(axis=0), kind="stable")]
    count = (STEPS - warmup) // window
    expected = [growth[n * window : (n + 1) * window].mean(axis=0) for n in range(count)]
    np.testing.assert_allclose(np.asarray(found.exponents), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.ends, warmup + window * np.arange(1, count + 1))
    assert (found.window, found.start) == (window, warmup)


def test_their_mean_is_the_spectrum():
    net, xs = network(NAME), inputs(STEPS)
    found = rj.local_lyapunov_exponents(net.cell, xs, net.carry, window=5, warmup=10)
    spectrum = rj.lyapunov_exponents(net.cell, xs, net.carry, warmup=10)
    np.testing.assert_allclose(found.mean, spectrum.exponents, rtol=0, atol=1e-13)
    # The rest that fills no window is left out of both.
    cut = rj.local_lyapunov_exponents(net.cell, xs, net.carry, window=7, k=1)
    shorter = rj.lyapunov_exponents(net.cell, xs[:56], net.carry, k=1)
    np.testing.assert_allclose(cut.mean, shorter.exponents, rtol=0, atol=1e-13)


def test_a_cell_whose_gain_changes_shows_where():
    """h' = e^{x_t} h: the local exponent is the mean of x over its window, and nothing else."""

    def step(h, x):
        h = h * jnp.exp(x)
        return h, h

    xs = np.repeat([0.5, -2.0, 0.1, -0.3], 25)[:, None]
    found = rj.local_lyapunov_exponents(step, xs, np.ones(1), window=25)
    np.testing.assert_allclose(found.exponents[:, 0], [0.5, -2.0, 0.1, -0.3], rtol=1e-12)


def test_windows_of_covariant_vectors():
    net = network(NAME)
    found = rj.covariant_lyapunov_vectors(net.cell, inputs(STEPS), net.carry, k=2, warmup=4, tail=6)
    local, growth = found.finite_time(10), np.asarray(found.local_exponents)
    np.testing.assert_allclose(local.exponents, growth.reshape(5, 10, 2).mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(local.mean, found.exponents, rtol=1e-12)
    assert (local.start, local.window) == (4, 10)


def test_only_the_window_in_which_a_direction_is_lost_is_minus_infinity():
    As = np.random.default_rng(0).normal(size=(40, 3, 3))
    As[23, 1] = 0.0
    xs = As.reshape(40, 9)
    found = np.asarray(rj.local_lyapunov_exponents(linear(3), xs, np.zeros(3), window=10).exponents)
    lost = np.zeros((4, 3), bool)
    lost[2, 2] = True
    np.testing.assert_array_equal(np.isneginf(found), lost)
    assert np.isfinite(found[~lost]).all()


def test_batches_programs_and_derivatives():
    net = network("gru_reset_before")
    batch = jnp.asarray(np.stack([inputs(12, seed) for seed in range(3)]))

    def measure(xs):
        return rj.local_lyapunov_exponents(net.cell, xs, net.carry, window=4, k=2)

    mapped = jax.jit(jax.vmap(measure))(batch)
    assert mapped.exponents.shape == (3, 3, 2)
    for index, xs in enumerate(batch):
        np.testing.assert_allclose(mapped.exponents[index], measure(xs).exponents, atol=1e-10)
        np.testing.assert_allclose(mapped.mean[index], measure(xs).mean, atol=1e-10)

    def last(xs):
        return measure(xs).exponents[-1, 0]

    direction = jnp.asarray(np.random.default_rng(1).normal(size=(12, FEATURES)))
    slope = jnp.sum(jax.grad(last)(batch[0]) * direction)
    width = 1e-5
    change = last(batch[0] + width * direction) - last(batch[0] - width * direction)
    np.testing.assert_allclose(slope, change / (2 * width), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"window": 0}, ValueError, ["window must be at least 1", "got 0"]),
        ({"window": 7}, ValueError, ["window must be at most 6", "got 7"]),
        ({"window": 3, "warmup": 4}, ValueError, ["window must be at most 2", "got 3"]),
        ({"window": 2.0}, TypeError, ["window must be a whole number", "2.0"]),
        ({"window": 2, "warmup": 6}, ValueError, ["warmup must be at most 5", "got 6"]),
        ({"window": 2, "k": 4}, ValueError, ["S = 3", "got 4"]),
    ],
)
def test_a_wrong_option_is_named_with_what_arrived(options, error, says):
    cell = rj.SimpleRNNCell(FEATURES, 3, rngs=nnx.Rngs(0))
    measure = functools.partial(rj.local_lyapunov_exponents, cell, inputs(6))
    refused(lambda: measure(**options), error, *says)
