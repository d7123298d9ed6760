"""The exact and plain oracles of `oracles_spectra`, held to closed forms and to NumPy."""

import numpy as np
import pytest
from test_singular_values import rotated_diagonal

import oracles_spectra


def test_exact_oracle_on_products_with_a_closed_form():
    logs = np.log([0.5, 0.5, 1e-3, 1e-9])
    As = np.broadcast_to(np.diag(np.exp(logs)), (300, 4, 4))
    np.testing.assert_allclose(oracles_spectra.log_singular_values(As), 300 * logs, rtol=1e-12)
    As = rotated_diagonal(np.random.default_rng(0), logs, 300)
    np.testing.assert_allclose(oracles_spectra.log_singular_values(As), 300 * logs, atol=1e-4)
    As = np.random.default_rng(1).normal(size=(200, 6, 6)) * np.logspace(0, -8, 6)
    got = oracles_spectra.log_singular_values(As)
    assert got[0] - got[-1] > 1000
    np.testing.assert_allclose(got.sum(), np.linalg.slogdet(As)[1].sum(), rtol=1e-12)
    np.testing.assert_allclose(
        got[-1], -oracles_spectra.log_singular_values(np.linalg.inv(As)[::-1])[0], rtol=1e-9
    )


def test_exact_oracle_on_what_numpy_can_decompose():
    As = np.random.default_rng(2).normal(size=(3, 7, 7))
    plain = np.linalg.svd(As[2] @ As[1] @ As[0], compute_uv=False)
    np.testing.assert_allclose(oracles_spectra.log_singular_values(As), np.log(plain), atol=1e-12)
    As[1, :, [2, 4]] = As[1, :, [0, 1]] * 2
    assert oracles_spectra.exact_rank(As) == 5
    assert oracles_spectra.exact_rank(np.zeros((2, 3, 3))) == 0


def test_exact_oracle_where_every_digit_but_the_last_cancels():
    # Two columns that differ in the last bit alone: rank two, and σ_2 = |det| / σ_1 exactly.
    A = np.array([[[1.0, 1.0], [1.0, np.nextafter(1.0, 2.0)]]])
    assert oracles_spectra.exact_rank(A) == 2
    expected = [np.log(2.0), np.log(np.finfo(float).eps / 2)]
    np.testing.assert_allclose(oracles_spectra.log_singular_values(A), expected, atol=1e-15, rtol=0)
    A[0, 1, 1] = 1.0
    np.testing.assert_array_equal(oracles_spectra.log_singular_values(A)[1], -np.inf)


def test_growth_of_the_plain_loop_is_that_of_volumes():
    # Σ_{i≤k} ln R_ii is the log of the k-volume that A_T ⋯ A_1 makes of the first k axes.
    As = np.random.default_rng(0).normal(size=(7, 4, 4))
    product = np.linalg.multi_dot(As[::-1])
    growth, steps = oracles_spectra.lyapunov_growth(As, interval=3)
    np.testing.assert_array_equal(steps, [3, 3, 1])
    for k in (1, 2, 3, 4):
        volume = np.log(np.linalg.svd(product[:, :k], compute_uv=False)).sum()
        np.testing.assert_allclose(growth[:, :k].sum(), volume, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("exponents", "size", "dimension"),
    [
        ((0.4192, -1.6229), 2, 1.2583),  # Hénon
        ((0.9056, 0.0, -14.5723), 3, 2.0621),  # Lorenz
        ((-0.1, -0.2), 2, 0.0),
        ((0.1, 0.2), 2, 2.0),
        ((0.1, 0.2), 3, np.nan),
    ],
)
def test_dimension_of_published_spectra(exponents, size, dimension):
    got = oracles_spectra.kaplan_yorke(exponents, size)
    assert got == pytest.approx(dimension, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.7])
def test_means_of_an_autoregressive_series_scatter_by_their_standard_error(rho):
    series = oracles_spectra.AR1(mean=0.3, rho=rho, scale=0.2)
    means = series.sample(np.random.default_rng(0), 4000, 50).mean(axis=1)
    exact = series.standard_error(50)
    # The standard deviation of n values is known to 1 / √(2 n), their mean to σ / √n.
    np.testing.assert_allclose(means.std(), exact, rtol=4 / np.sqrt(8000))
    np.testing.assert_allclose(means.mean(), 0.3, atol=4 * exact / np.sqrt(4000))


def test_gaussian_products_in_the_plain_loop():
    As = 0.5 * np.random.default_rng(0).normal(size=(4000, 3, 3))
    mean = oracles_spectra.lyapunov_growth(As)[0].mean(axis=0)
    errors = oracles_spectra.gaussian_standard_errors(3, 4000)
    assert (np.abs(mean - oracles_spectra.gaussian_exponents(3, 0.5)) < 4 * errors).all()
