"""Matrices of a given structure or spectrum: what was asked for, measured by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax import initializers
from rnn_jax.initializers.hippo import hippo_eigenvectors

KEY = jax.random.key(7)


def drawn(initializer, size, dtype=jnp.float64, key=KEY):
    return np.asarray(initializer(key, (size, size), dtype), np.float64)


@pytest.mark.parametrize(
    ("init", "mean", "variance"),
    [
        (initializers.gaussian(1.5), 0, 1.5**2 / 100),
        (initializers.gaussian(0.0), 0, 0),
        (initializers.critical("relu"), 0, 2 / 100),
        (initializers.normal(0.3), 0, 0.09),
        (initializers.uniform(-1.0, 3.0), 1, 16 / 12),
        (initializers.constant(0.25), 0.25, 0),
        (initializers.variance_scaling(1.0, "fan_in", "uniform"), 0, 1 / 100),
    ],
)
def test_entries_have_the_moments_asked_for(init, mean, variance):
    # 12 000 entries: a relative error of the variance of about 1.3 %.
    values = np.asarray(init(KEY, (100, 120), jnp.float64))
    assert abs(values.mean() - mean) <= 5 * np.sqrt(variance / values.size)
    assert abs(values.var() - variance) <= 0.06 * variance
    if variance:
        assert np.unique(values).size == values.size


def test_a_wide_gaussian_matrix_has_the_gain_as_spectral_radius():
    radius = np.abs(np.linalg.eigvals(drawn(initializers.gaussian(1.5), 300))).max()
    assert radius == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize(
    ("size", "density", "radius"), [(3, 0.01, 0.5), (60, 0.1, 0.95), (1, 1, 2)]
)
def test_a_sparse_matrix_has_the_radius_and_as_many_weights_to_each_unit(
    size, density, radius, dtype
):
    matrix = drawn(initializers.sparse(density, radius), size, dtype)
    modulus = np.abs(np.linalg.eigvals(matrix)).max()
    assert modulus == pytest.approx(radius, rel=1e-6)
    assert np.all((matrix != 0).sum(axis=0) == max(1, round(density * size)))
    if size == 60:
        values = matrix[matrix != 0]
        assert np.abs(values.mean()) < 0.15 * np.abs(values).max()
        assert values.std() / np.abs(values).max() == pytest.approx(1 / np.sqrt(3), rel=0.1)


def test_a_sparse_matrix_is_the_same_under_jit_and_for_several_keys_at_once():
    init = initializers.sparse(0.3, 0.8)
    keys = jax.random.split(KEY, 2)
    several = jax.jit(jax.vmap(lambda key: init(key, (5, 5), jnp.float64)))(keys)
    for one, key in zip(several, keys, strict=True):
        np.testing.assert_allclose(one, drawn(init, 5, key=key), rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "r_min", "r_max"), [(1, 0.5, 0.9), (6, 0.5, 0.9), (6, 1.0, 1.0), (7, 0.0, 1.0)]
)
def test_a_ring_is_normal_with_eigenvalues_on_the_ring(size, r_min, r_max):
    matrix = drawn(initializers.ring(r_min, r_max), size)
    moduli = np.abs(np.linalg.eigvals(matrix))
    assert np.all((moduli > r_min - 1e-12) & (moduli < r_max + 1e-12))
    np.testing.assert_allclose(matrix @ matrix.T, matrix.T @ matrix, atol=1e-13)
    np.testing.assert_allclose(
        np.sort(moduli), np.sort(np.linalg.svd(matrix, compute_uv=False)), atol=1e-12
    )
    if size > 1:
        assert np.count_nonzero(np.abs(matrix) > 1e-6) > size + 1


def test_a_ring_is_filled_evenly_by_area_and_phase():
    # 300 pairs: |λ|² uniform in [r_min², r_max²], phases uniform in [0, max_phase].
    eigenvalues = np.linalg.eigvals(drawn(initializers.ring(0.6, 0.9, 1.2), 600))
    upper = eigenvalues[eigenvalues.imag > 0]
    shares = (np.abs(upper) ** 2 - 0.36) / (0.81 - 0.36)
    for values in (shares, np.angle(upper) / 1.2):
        quantiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
        np.testing.assert_allclose(quantiles, [0, 0.25, 0.5, 0.75, 1], atol=0.1)


def test_the_ring_of_the_lru_may_be_a_circle():
    values = rj.LRUCell(2, 3, r_min=0.9, r_max=0.9, rngs=nnx.Rngs(0)).eigenvalues()
    np.testing.assert_allclose(np.hypot(*np.asarray(values)), 0.9, rtol=1e-12)


@pytest.mark.parametrize("size", [5, 6])
def test_henaff_turns_planes_and_is_the_exponential_of_its_skew_matrix(size):
    matrix, skew = (
        drawn(init, size) for init in (initializers.henaff(), initializers.skew_henaff())
    )
    np.testing.assert_allclose(matrix, scipy.linalg.expm(skew), atol=1e-14)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-14)
    np.testing.assert_array_equal(skew, -skew.T)
    assert np.count_nonzero(skew) == 2 * (size // 2)
    angles = np.diag(drawn(initializers.skew_henaff(), 2000), 1)[::2]
    np.testing.assert_allclose(
        np.quantile(angles, [0, 0.25, 0.5, 0.75, 1]) / np.pi, [-1, -0.5, 0, 0.5, 1], atol=0.06
    )


def test_the_cayley_transform_of_the_skew_cayley_matrix_turns_by_less_than_a_quarter():
    skew = drawn(initializers.skew_cayley(), 400)
    eye = np.eye(400)
    angles = np.angle(np.linalg.eigvals(np.linalg.solve(eye + skew, eye - skew)))
    np.testing.assert_allclose(
        np.quantile(angles[angles > 0] / np.pi, [0, 0.5, 1]), [0, 0.25, 0.5], atol=0.06
    )


def test_the_matrix_of_hippo_legs_is_that_of_its_formula():
    expected = [
        [
            -np.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1.0) if n == k else 0.0
            for k in range(4)
        ]
        for n in range(4)
    ]
    np.testing.assert_allclose(initializers.legs_matrix(4), expected, rtol=1e-15)


def test_hippo_is_held_over_a_step_and_forgets_at_its_eigenvalues():
    H, step = 6, 0.05
    matrix = drawn(initializers.hippo(step), H)
    eigenvalues = np.sort(np.linalg.eigvals(matrix).real)[::-1]
    np.testing.assert_allclose(eigenvalues, np.exp(-step * np.arange(1, H + 1)), rtol=1e-10)
    # x' = A x solved by many small steps, from the right side as cells multiply.
    x = np.random.default_rng(0).normal(size=H)
    y = x
    for _ in range(4000):
        y = y + step / 4000 * initializers.legs_matrix(H) @ y
    np.testing.assert_allclose(x @ matrix, y, rtol=1e-3)


def test_s5_starts_at_the_eigenvalues_of_the_normal_part():
    pairs = 3
    p = np.sqrt(np.arange(2 * pairs) + 0.5)
    normal = initializers.legs_matrix(2 * pairs) + np.outer(p, p)
    np.testing.assert_allclose(normal @ normal.T, normal.T @ normal, atol=1e-12)
    eigenvalues = np.linalg.eigvals(normal)
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-12)
    phases, vectors = hippo_eigenvectors(pairs)
    np.testing.assert_allclose(np.sort(eigenvalues.imag)[pairs:], phases, rtol=1e-10)
    np.testing.assert_allclose(normal @ vectors, vectors * (-0.5 + 1j * phases), atol=1e-12)
    cell = rj.S5Cell(2, pairs, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(cell.rate[...], [[-0.5] * pairs, phases], rtol=1e-12)


def test_a_network_of_the_unit_ring_keeps_the_norm_of_its_gradients():
    cell = rj.SimpleRNNCell(
        2, 9, activation="identity", recurrent_kernel_init="ring", rngs=nnx.Rngs(0)
    )
    jacobian = np.linalg.matrix_power(np.asarray(cell.recurrent_kernel[...]), 500)
    np.testing.assert_allclose(np.linalg.svd(jacobian, compute_uv=False), 1, rtol=1e-10)


def filled(initializer, *shape):
    return lambda: initializers.initialize("kernel_init", initializer, KEY, shape, jnp.float64)


@table(
    sparse=(filled(initializers.sparse(), 2, 3), ValueError, "(2, 3)", "sparse", "square matrices"),
    ring=(filled(initializers.ring(), 2, 3), ValueError, "(2, 3)", "ring", "square", "Pass"),
    hippo=(filled(initializers.hippo(), 2, 3), ValueError, "hippo fills square", "(2, 3)"),
    henaff=(filled(initializers.henaff(), 3, 2), ValueError, "henaff fills square", "(3, 2)"),
    vector=(filled(initializers.gaussian(), 3), ValueError, "gaussian fills matrices", "(3,)"),
    density=(lambda: initializers.sparse(0.0), ValueError, "density must be above 0", "0", "Pass"),
    radius=(lambda: initializers.sparse(0.1, -1), ValueError, "radius must be", "got -1", "Pass"),
    ring_order=(lambda: initializers.ring(0.9, 0.8), ValueError, "r_min <= r_max", "0.9 and 0.8"),
    phase=(lambda: initializers.ring(0.1, 0.8, 7), ValueError, "max_phase must", "got 7", "Pass"),
    step=(lambda: initializers.hippo(0.0), ValueError, "step must be above 0", "got 0", "Pass"),
    uniform=(lambda: initializers.uniform(1, 0), ValueError, "must be low <= high", "1 and 0"),
    scale=(lambda: initializers.orthogonal("2"), TypeError, "scale must be a number", "'2'"),
)
def test_what_cannot_be_filled_is_refused(call, error, words):
    refuses(call, error, *words)


def test_a_reservoir_without_an_eigenvalue_to_scale_is_refused(monkeypatch):
    monkeypatch.setattr(np.linalg, "eigvals", lambda matrix: np.zeros(matrix.shape[0]))
    refuses(filled(initializers.sparse(), 4, 4), ValueError, "sparse needs", "4 rows", "Pass a den")
