"""Finite-time Lyapunov exponents by window."""

import functools

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


@pytest.mark.parametrize(("window", "warmup", "k"), [(10, 0, None), (7, 8, 3)])
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
    found = rj.local_lyapunov_exponents(net.cell, xs, net.carry, window=4, k=3, warmup=8)
    spectrum = rj.lyapunov_exponents(net.cell, xs, net.carry, k=3, warmup=8)
    np.testing.assert_allclose(found.mean, spectrum.exponents, rtol=0, atol=1e-13)
    lin = rj.linearize(net.cell, xs, net.carry)
    again = rj.local_lyapunov_exponents(lin, window=4, k=3, warmup=8)
    np.testing.assert_allclose(again.exponents, found.exponents, rtol=0, atol=1e-9)
    refused(
        lambda: rj.local_lyapunov_exponents(lin, xs, window=4), TypeError, "stands for the cell"
    )


def test_a_cell_whose_gain_changes_shows_where():
    """h' = e^{x_t} h: the local exponent is the mean of x over its window, and nothing else."""

    def step(h, x):
        h = h * jnp.exp(x[0])
        return h, h

    xs = np.repeat([0.5, -2.0, 0.1, -0.3], 25)[:, None, None]
    found = rj.local_lyapunov_exponents(step, xs, np.ones(1), feature_axes=2, window=25)
    np.testing.assert_allclose(found.exponents[:, 0], [0.5, -2.0, 0.1, -0.3], rtol=1e-12)


def test_only_the_window_in_which_a_direction_is_lost_is_minus_infinity():
    As = np.random.default_rng(0).normal(size=(40, 3, 3))
    As[23, 1] = 0.0
    xs = As.reshape(40, 9)
    found = np.asarray(rj.local_lyapunov_exponents(linear(3), xs, np.zeros(3), window=10).exponents)
    lost = np.zeros((4, 3), bool)
    lost[2, 2] = True
    np.testing.assert_array_equal(np.isneginf(found), lost)
    assert np.isfinite(found[~lost]).all()


def test_a_batch_of_them_has_a_mean_for_each():
    table = np.random.default_rng(0).normal(size=(2, 3, 4))
    local = rj.LocalLyapunovExponents(jnp.asarray(table), window=5, start=10)
    np.testing.assert_allclose(local.mean, table.mean(axis=1), rtol=1e-14)
    np.testing.assert_array_equal(local.ends, [15, 20, 25])


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
